//! Initial weights, drawn on the host.
//!
//! Weights come from ChaCha8 on the host and not from the device's generator, so that one seed gives the same
//! model on every backend and in every process; comparisons between backends and resumed runs rest on it.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::linear::Linear;

/// The source of a model's initial weights; the order of draws is the order of construction.
pub struct InitRng(ChaCha8Rng);

impl InitRng {
    /// A generator whose draws depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// `count` draws from a normal distribution of mean 0 and standard deviation `std` (Box-Muller).
    pub fn normal(&mut self, count: usize, std: f64) -> Vec<f32> {
        (0..count)
            .map(|_| {
                // 1 - u lies in (0, 1], so the logarithm is finite.
                let radius = (-2.0 * (1.0 - self.0.random::<f64>()).ln()).sqrt();
                let angle = std::f64::consts::TAU * self.0.random::<f64>();
                (std * radius * angle.cos()) as f32
            })
            .collect()
    }

    /// `count` draws uniform in `low..high`.
    pub fn uniform(&mut self, count: usize, low: f64, high: f64) -> Vec<f32> {
        (0..count)
            .map(|_| (low + (high - low) * self.0.random::<f64>()) as f32)
            .collect()
    }

    /// A trainable matrix `[rows, cols]` with normal entries.
    pub fn matrix(
        &mut self,
        rows: usize,
        cols: usize,
        std: f64,
        device: &Device,
    ) -> Param<Tensor<2>> {
        let data = TensorData::new(self.normal(rows * cols, std), [rows, cols]);
        Param::from_data(data, device)
    }

    /// A linear layer `[d_input, d_output]` with normal weights and, if asked for, a zero bias.
    pub fn linear(
        &mut self,
        d_input: usize,
        d_output: usize,
        bias: bool,
        std: f64,
        device: &Device,
    ) -> Linear {
        let weight = self.matrix(d_input, d_output, std, device);
        Linear::new(weight, bias.then(|| constant(d_output, 0.0, device)))
    }
}

/// A trainable vector of equal entries.
pub(crate) fn constant(len: usize, value: f32, device: &Device) -> Param<Tensor<1>> {
    Param::from_data(TensorData::new(vec![value; len], [len]), device)
}

/// Enums whose variants say how weights are held. They are no part of a path: weights keep their id in another form.
const FORMS: [&str; 4] = ["Enum:Weight", "Enum:Matrix", "Enum:Embedding", "Enum:Rows"];

/// Gives every parameter an id that is a function of its path in the module.
///
/// Burn draws ids at random and keys optimizer state by them; with ids that follow from the path, a new process
/// that builds the same model finds its saved optimizer state again.
pub fn stable_param_ids<M: Module>(module: M) -> M {
    module.map(&mut StableIds::default())
}

#[derive(Default)]
struct StableIds {
    path: Vec<String>,
}

impl StableIds {
    /// FNV-1a over the path; 64 bits over a few hundred names, and never the zero id.
    fn id(&self) -> ParamId {
        let hash = self
            .path
            .join(".")
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        ParamId::from(hash.max(1))
    }
}

impl ModuleMapper for StableIds {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !FORMS.contains(&container) {
            self.path.push(name.to_string());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !FORMS.contains(&container) {
            self.path.pop();
        }
    }

    fn map_float<const D: usize>(&mut self, mut param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.id = self.id();
        param
    }

    fn map_int<const D: usize>(
        &mut self,
        mut param: Param<Tensor<D, Int>>,
    ) -> Param<Tensor<D, Int>> {
        param.id = self.id();
        param
    }

    fn map_bool<const D: usize>(
        &mut self,
        mut param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        param.id = self.id();
        param
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_has_the_asked_moments() {
        let draws = InitRng::new(7).normal(200_000, 0.5);
        let mean = draws.iter().map(|&x| f64::from(x)).sum::<f64>() / draws.len() as f64;
        let var = draws.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / draws.len() as f64;
        // Standard errors: 0.0011 for the mean, 0.0008 for the variance.
        assert!(mean.abs() < 0.005, "mean {mean}");
        assert!((var - 0.25).abs() < 0.004, "variance {var}");
    }

    /// Checkpoints hold the moments of optimizers under these ids, so they must stay what they are: FNV-1a of `0.weight` and `0.bias`.
    #[test]
    fn ids_follow_from_paths_without_the_form_of_weights() {
        let (rng, device) = (&mut InitRng::new(1), Device::flex());
        let layers = stable_param_ids(vec![rng.linear(2, 3, true, 1.0, &device)]);
        let bias = layers[0].bias.as_ref().map(|bias| bias.id);
        assert_eq!(
            layers[0].weight_id(),
            Some(ParamId::from(0x7da8_902a_ccdf_89ef))
        );
        assert_eq!(bias, Some(ParamId::from(0xd8b3_a523_a03e_96fa)));
    }

    #[test]
    fn a_seed_is_a_model() {
        assert_eq!(
            InitRng::new(3).normal(16, 1.0),
            InitRng::new(3).normal(16, 1.0)
        );
        assert_ne!(
            InitRng::new(3).normal(16, 1.0),
            InitRng::new(4).normal(16, 1.0)
        );
    }
}
