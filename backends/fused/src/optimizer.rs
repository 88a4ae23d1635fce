//! AdamW in one pass over each parameter.

use burn::{
    optim::{AdamWState, AdaptiveMomentumState, LearningRate, Optimizer},
    tensor::{Device, Tensor},
};

/// AdamW (arXiv 1711.05101), with the state and the records of Burn's.
///
/// ```text
/// m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
/// p <- (1 - rate decay) p - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
/// ```
///
/// On Flex parameters and moments are updated in place, in one pass of about 15 operations and seven tensors of memory
/// traffic an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rates of the moments, b1 and b2.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The factors of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    pub betas: [f32; 2],
    /// `1 - b1` and `1 - b2`.
    pub shares: [f32; 2],
    /// `rate / (1 - b1^t)`
    pub rate: f32,
    /// `1 / (1 - b2^t)`
    pub correction: f32,
    pub epsilon: f32,
    /// `1 - rate decay`
    pub keep: f32,
}

impl AdamW {
    fn factors(&self, learning_rate: f64, time: usize) -> Factors {
        let grown = |beta: f64| 1.0 - beta.powf(time as f64);
        let [beta_1, beta_2] = self.betas;
        Factors {
            betas: [beta_1 as f32, beta_2 as f32],
            shares: [(1.0 - beta_1) as f32, (1.0 - beta_2) as f32],
            rate: (learning_rate / grown(beta_1)) as f32,
            correction: (1.0 / grown(beta_2)) as f32,
            epsilon: self.epsilon as f32,
            keep: (1.0 - learning_rate * self.weight_decay) as f32,
        }
    }
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let AdaptiveMomentumState {
            time,
            moment_1,
            moment_2,
            ..
        } = match state {
            Some(state) => state.momentum,
            None => AdaptiveMomentumState::new(0, grad.zeros_like(), grad.zeros_like()),
        };
        let factors = self.factors(lr, time + 1);
        let [tensor, moment_1, moment_2] = update(factors, [tensor, moment_1, moment_2], grad);
        let momentum = AdaptiveMomentumState::new(time + 1, moment_1, moment_2);
        (tensor, Some(AdamWState::new(momentum)))
    }

    fn to_device<const D: usize>(mut state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

/// Parameter and moments after the step.
fn update<const D: usize>(
    factors: Factors,
    values: [Tensor<D>; 3],
    grad: Tensor<D>,
) -> [Tensor<D>; 3] {
    #[cfg(feature = "flex")]
    if values.iter().all(crate::ops::fused) && crate::ops::fused(&grad) {
        return crate::flex::adamw(factors, values, grad);
    }
    reference(factors, values, grad)
}

/// The equations in plain tensor operations.
fn reference<const D: usize>(
    factors: Factors,
    [tensor, moment_1, moment_2]: [Tensor<D>; 3],
    grad: Tensor<D>,
) -> [Tensor<D>; 3] {
    let [beta_1, beta_2] = factors.betas;
    let [share_1, share_2] = factors.shares;
    let moment_1 = moment_1 * beta_1 + grad.clone() * share_1;
    let moment_2 = moment_2 * beta_2 + grad.square() * share_2;
    let denominator = (moment_2.clone() * factors.correction).sqrt() + factors.epsilon;
    let tensor = tensor * factors.keep - moment_1.clone() / denominator * factors.rate;
    [tensor, moment_1, moment_2]
}
