//! Gradients with the activations of half a block at a time: forward keeps the residual stream between blocks alone, backward computes
//! every block again from it, first its MLP, in slices of the sequence, and then its mixer (sublinear memory cost, arXiv 1604.06174).
//!
//! Cost: one more forward pass of the blocks and another of their mixers. Kept are `n_layers + 2` tensors `[batch, seq, d_model]` and what
//! one mixer keeps, where the plain way keeps that of all blocks.
//!
//! The passes that keep nothing are made without autodiff, for Burn keeps what a graph has saved until something is differentiated in
//! it, also where its tensors are gone. So nothing is dropped in them, and models with dropout are refused.

use burn::module::Module;
use burn::tensor::{Gradients, Int, Tensor};
use kiln_zoo::{LanguageModel, ModelError};

/// Tokens whose activations in an MLP are held at a time: what a slice takes is far below what the stream itself takes, and its products
/// are as large as those of a usual batch.
const SLICE: usize = 1 << 16;

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
            let mixed = model.after_mixer(block, between[block].clone());
            let slices = slices(mixed, SLICE).into_iter();
            between.push(joined(slices.map(|x| model.after_mlp(block, x)).collect()));
        }
        Ok(Self { tokens, between })
    }

    /// The last of the residual stream that is not yet taken, to take the gradient of; at first, that after the last block.
    pub fn pop(&mut self) -> Tensor<3> {
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
            if model().blocks[block].has_mlp() {
                let mixed = model().valid().after_mixer(block, x.clone().inner());
                let mlp = |x| model().after_mlp(block, x);
                gradient = by_slices([mixed, gradient], SLICE, &mlp, found);
            }
            let mixed = model().after_mixer(block, x.clone());
            gradient = passed(&x, mixed, gradient, found);
        }
        found(pull_back(model().embedded(self.tokens)?, gradient));
        Ok(())
    }
}

/// Pieces of the sequence of about so many tokens in all lanes together, of `[batch, seq, d_model]`.
fn slices(x: Tensor<3>, tokens: usize) -> Vec<Tensor<3>> {
    let [batch, seq, _] = x.dims();
    match (tokens / batch).clamp(1, seq) {
        length if length == seq => vec![x],
        length => x.split(length, 1),
    }
}

/// The sequence of which they are [`slices`].
fn joined(mut slices: Vec<Tensor<3>>) -> Tensor<3> {
    match slices.len() {
        1 => slices.remove(0),
        _ => Tensor::cat(slices, 1),
    }
}

/// The gradient of `x` from that of what is computed from it for each position by itself, a slice of about so many tokens at a time.
fn by_slices(
    [x, gradient]: [Tensor<3>; 2],
    tokens: usize,
    compute: &dyn Fn(Tensor<3>) -> Tensor<3>,
    found: &mut dyn FnMut(Gradients),
) -> Tensor<3> {
    let pairs = slices(x, tokens).into_iter().zip(slices(gradient, tokens));
    let gradients = pairs.map(|(x, gradient)| {
        let x = Tensor::from_inner(x).require_grad();
        passed(&x, compute(x.clone()), gradient, found)
    });
    joined(gradients.collect())
}

/// The gradient of `x` from that of `y`, which is computed from it; those of parameters are found on the way.
fn passed(
    x: &Tensor<3>,
    y: Tensor<3>,
    gradient: Tensor<3>,
    found: &mut dyn FnMut(Gradients),
) -> Tensor<3> {
    let mut grads = pull_back(y, gradient);
    let gradient = x.grad_remove(&mut grads);
    found(grads);
    gradient.expect("the residual stream passes a gradient to where it comes from")
}

/// All gradients behind y, from that of y.
fn pull_back(y: Tensor<3>, gradient: Tensor<3>) -> Gradients {
    (y * Tensor::from_inner(gradient)).sum().backward()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, activation::gelu};

    use super::*;

    /// Slices, the last of which is shorter, have the gradient of the whole, at their places.
    #[test]
    fn slices_add_up_to_the_whole() {
        let device = Device::flex();
        let draw = |_| Tensor::<3>::random([2, 5, 3], Distribution::Default, &device);
        let [x, gradient] = [0, 1].map(draw);
        let device = device.autodiff();
        let weight = Tensor::<3>::random([1, 1, 3], Distribution::Default, &device).require_grad();
        let run = |tokens| {
            let (mut passes, mut of_weight) = (0, Tensor::zeros([1, 1, 3], &device).inner());
            let mut found = |grads: Gradients| {
                passes += 1;
                of_weight = of_weight.clone() + weight.grad(&grads).unwrap();
            };
            let compute = |x: Tensor<3>| gelu(x) * weight.clone();
            let of_x = by_slices([x.clone(), gradient.clone()], tokens, &compute, &mut found);
            (passes, of_x.into_data(), of_weight.into_data())
        };
        let (passes, of_x, of_weight) = run(usize::MAX);
        assert_eq!(passes, 1);
        for (tokens, expected) in [(4, 3), (1, 5), (9, 2)] {
            let (passes, sliced_x, sliced_weight) = run(tokens);
            assert_eq!(passes, expected);
            sliced_x.assert_eq(&of_x, true);
            sliced_weight.assert_approx_eq::<f32>(&of_weight, Default::default());
        }
    }
}
