//! Gradients with the activations of one block at a time: forward keeps the residual stream between blocks alone, backward computes
//! every block again from it (sublinear memory cost, arXiv 1604.06174, with segments of one block).
//!
//! Cost: one more forward pass of the blocks, so about a third more operations. Kept are `n_layers + 1` tensors `[batch, seq, d_model]`
//! and what one block keeps, where the plain way keeps that of all blocks.
//!
//! The first pass is made without autodiff, for Burn keeps what a graph has saved until something is differentiated in it, also where
//! its tensors are gone. So nothing is dropped in it, and models with dropout are refused.

use burn::module::Module;
use burn::tensor::{Gradients, Int, Tensor};
use kiln_zoo::{LanguageModel, ModelError};

/// A forward pass without its graph.
pub(crate) struct Stream {
    tokens: Tensor<2, Int>,
    /// The residual stream before every block and after the last, each `[batch, seq, d_model]`, without autodiff.
    between: Vec<Tensor<3>>,
}

impl Stream {
    /// The forward pass of a model on a device with autodiff.
    ///
    /// # Errors
    /// Those of the model.
    pub fn new(model: &LanguageModel, tokens: Tensor<2, Int>) -> Result<Self, ModelError> {
        let model = model.valid();
        let mut between = vec![model.embedded(tokens.clone().inner())?];
        for block in 0..model.blocks.len() {
            let next = model.block(block, between[block].clone());
            between.push(next);
        }
        Ok(Self { tokens, between })
    }

    /// The residual stream after the last block, to take the gradient of.
    pub fn last(&mut self) -> Tensor<3> {
        self.pop()
    }

    fn pop(&mut self) -> Tensor<3> {
        let x = self.between.pop().expect("one for each block and one more");
        Tensor::from_inner(x).require_grad()
    }

    /// From the gradient of the last, `[batch, seq, d_model]`, those of all parameters, a part of the model at a time.
    ///
    /// # Errors
    /// Those of the model.
    pub fn backward(
        mut self,
        model: &dyn Fn() -> LanguageModel,
        gradient: Tensor<3>,
        found: &mut dyn FnMut(Gradients),
    ) -> Result<(), ModelError> {
        let mut gradient = gradient;
        for block in (0..self.between.len()).rev() {
            let x = self.pop();
            let mut grads = pull_back(model().block(block, x.clone()), gradient);
            gradient = x
                .grad_remove(&mut grads)
                .expect("a block's input has a gradient, for the residual stream passes it");
            found(grads);
        }
        found(pull_back(model().embedded(self.tokens)?, gradient));
        Ok(())
    }
}

/// All gradients behind y, from that of y.
fn pull_back(y: Tensor<3>, gradient: Tensor<3>) -> Gradients {
    (y * Tensor::from_inner(gradient)).sum().backward()
}
