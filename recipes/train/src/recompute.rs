//! Gradients with the activations of one block at a time: forward keeps the residual stream between blocks alone, backward computes
//! every block again from it (sublinear memory cost, arXiv 1604.06174, with segments of one block).
//!
//! Cost: one more forward pass of the blocks, so about a third more operations. Kept are `n_layers + 1` tensors `[batch, seq, d_model]`
//! and what one block keeps, where the plain way keeps that of all blocks.

use burn::tensor::{Device, Gradients, Int, Tensor};
use kiln_backbone::reseed;
use kiln_zoo::{LanguageModel, ModelError};

use crate::objective::mix;

/// A forward pass without its graph.
pub(crate) struct Stream {
    tokens: Tensor<2, Int>,
    /// The residual stream before every block and after the last, each `[batch, seq, d_model]`, without autodiff.
    between: Vec<Tensor<3>>,
    /// What dropout of embedding and blocks follows from.
    seed: u64,
    device: Device,
}

impl Stream {
    /// The forward pass of a model on a device with autodiff.
    ///
    /// # Errors
    /// Those of the model.
    pub fn new(
        model: &LanguageModel,
        tokens: Tensor<2, Int>,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let device = tokens.device();
        let mut stream = Self {
            tokens,
            between: Vec::with_capacity(model.blocks.len() + 1),
            seed,
            device,
        };
        stream.reseed(model.blocks.len());
        let mut x = model.embedded(stream.tokens.clone())?.inner();
        for block in 0..model.blocks.len() {
            stream.reseed(block);
            let next = model.block(block, Tensor::from_inner(x.clone())).inner();
            stream.between.push(x);
            x = next;
        }
        stream.between.push(x);
        Ok(stream)
    }

    /// What a part draws follows from its number, so that it draws the same when it is computed again.
    fn reseed(&self, part: usize) {
        reseed(&self.device, mix(&[self.seed, part as u64]));
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
            self.reseed(block);
            let mut grads = pull_back(model().block(block, x.clone()), gradient);
            gradient = x
                .grad_remove(&mut grads)
                .expect("a block's input has a gradient, for the residual stream passes it");
            found(grads);
        }
        let model = model();
        self.reseed(model.blocks.len());
        found(pull_back(model.embedded(self.tokens)?, gradient));
        Ok(())
    }
}

/// All gradients behind y, from that of y.
fn pull_back(y: Tensor<3>, gradient: Tensor<3>) -> Gradients {
    (y * Tensor::from_inner(gradient)).sum().backward()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::optim::{GradientsAccumulator, GradientsParams};
    use burn::tensor::TensorData;
    use kiln_zoo::ModelConfig;

    use super::*;

    /// All gradients, in the order of the parameters.
    struct Found<'a>(&'a GradientsParams, Vec<Vec<f32>>);

    impl ModuleVisitor for Found<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = self.0.get::<D>(param.id);
            let grad = grad.map(|grad| grad.into_data().iter::<f32>().collect());
            self.1.push(grad.unwrap_or_default());
        }
    }

    fn all(model: &LanguageModel, grads: &GradientsParams) -> Vec<Vec<f32>> {
        let mut found = Found(grads, vec![]);
        model.visit(&mut found);
        found.1
    }

    /// With dropout, the gradients are those of one graph over the whole model that draws the same masks.
    #[test]
    fn blocks_draw_the_same_again() {
        let mut config = ModelConfig::preset("transformer-tiny").unwrap_or_else(|| unreachable!());
        config.backbone.vocab_size = 17;
        config.backbone.dropout = 0.3;
        let device = Device::flex().autodiff();
        let model = config.init(3, &device);
        let model = model.unwrap_or_else(|error| panic!("{error}"));
        let ids: Vec<i32> = (0..24).map(|i| i * 5 % 17).collect();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 12]), &device);

        let stream = Stream::new(&model, tokens.clone(), 5);
        let mut stream = stream.unwrap_or_else(|error| panic!("{error}"));
        let last = stream.last();
        let count = last.shape().num_elements();
        let slopes: Vec<f32> = (0..count).map(|at| (at as f32 * 0.7).sin()).collect();
        let slopes = Tensor::<3>::from_data(
            TensorData::new(slopes, last.dims()),
            &device.clone().inner(),
        );
        let mut sum = GradientsAccumulator::new();
        let parts = stream.backward(&|| model.clone(), slopes.clone(), &mut |grads| {
            sum.accumulate(&model, GradientsParams::from_grads(grads, &model));
        });
        parts.unwrap_or_else(|error| panic!("{error}"));
        let found = all(&model, &sum.grads());

        let draws = |part: usize| reseed(&device, mix(&[5, part as u64]));
        draws(model.blocks.len());
        let mut x = model
            .embedded(tokens)
            .unwrap_or_else(|error| panic!("{error}"));
        for block in 0..model.blocks.len() {
            draws(block);
            x = model.block(block, x);
        }
        assert_eq!(last.into_data(), x.clone().into_data());
        let whole = pull_back(x, slopes);
        let whole = all(&model, &GradientsParams::from_grads(whole, &model));
        let mut compared = 0;
        for (found, whole) in found.iter().zip(&whole) {
            assert_eq!(found.len(), whole.len());
            let largest = whole.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            for (a, b) in found.iter().zip(whole) {
                assert!((a - b).abs() <= 1e-5 * largest, "{a} {b}");
                compared += 1;
            }
        }
        assert!(compared > 1000, "{compared}");
    }
}
