//! AdamW in one pass over each parameter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
/// On Flex and CubeCL backends parameters and moments are updated in place, in one pass of about 15 operations and seven tensors of
/// memory traffic an element. On the latter the gradient may be `f16` or `bf16`.
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
#[derive(Clone, Copy, Debug, PartialEq)]
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

impl AdamW {
    /// The optimizer for gradients that count as many times as `scale` says when it steps.
    pub fn scaled(self, scale: GradientScale) -> ScaledAdamW {
        ScaledAdamW { adamw: self, scale }
    }

    fn step_scaled<const D: usize>(
        &self,
        learning_rate: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
        scale: Option<Tensor<1>>,
        waiting: Option<&mut Waiting>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let AdaptiveMomentumState {
            time,
            moment_1,
            moment_2,
            ..
        } = match state {
            Some(state) => state.momentum,
            None => {
                // Moments have the type of the parameter: a gradient may be narrower.
                let zeros = tensor.zeros_like();
                AdaptiveMomentumState::new(0, zeros.clone(), zeros)
            }
        };
        let factors = self.factors(learning_rate, time + 1);
        let values = [tensor, moment_1, moment_2];
        let [tensor, moment_1, moment_2] = update(factors, values, grad, scale, waiting);
        let momentum = AdaptiveMomentumState::new(time + 1, moment_1, moment_2);
        (tensor, Some(AdamWState::new(momentum)))
    }
}

/// Parameters whose steps are taken together.
#[cfg(feature = "_cube")]
type Waiting = Vec<crate::cube::Waiting>;
/// Elsewhere each step is taken at once.
#[cfg(not(feature = "_cube"))]
#[derive(Clone, Debug, Default)]
struct Waiting;

/// A factor of all gradients of a step, which is set before the step and may be known to the device only: see
/// [`clip_factor`](crate::clip_factor). Clones share it. Without one, gradients count once.
///
/// Between [`begin`](Self::begin) and [`finish`](Self::finish) all but the largest parameters of all optimizers that share it are
/// gathered, and `finish` takes their steps in a few launches, where a device is given launches.
#[derive(Clone, Debug, Default)]
pub struct GradientScale(Arc<Mutex<Scaling>>);

#[derive(Clone, Debug, Default)]
struct Scaling {
    factor: Option<Tensor<1>>,
    /// Whether the step before left everything as it was.
    lost: bool,
    /// The parameters of the step that has begun.
    waiting: Option<Waiting>,
}

impl GradientScale {
    /// Sets the factor `[1]` of the steps that follow, or that there is none.
    pub fn set(&self, factor: Option<Tensor<1>>) {
        self.lock().factor = factor;
    }

    /// Notes whether the factor of the last step was not finite, once the host knows: the next step then has its number. Until it
    /// is noted, the step counts.
    pub fn note_lost(&self, lost: bool) {
        self.lock().lost = lost;
    }

    /// What was noted of the last step.
    pub fn is_lost(&self) -> bool {
        self.lock().lost
    }

    /// Begins a step: parameters wait until it is finished, and are not to be read before.
    pub fn begin(&self) {
        self.lock().waiting = Some(Default::default());
    }

    /// Takes the steps that wait. What was noted of the step before is behind it.
    pub fn finish(&self) {
        #[cfg_attr(
            not(feature = "_cube"),
            expect(unused_variables, reason = "nothing waits on these backends")
        )]
        let (waiting, factor) = {
            let mut scaling = self.lock();
            scaling.lost = false;
            (scaling.waiting.take(), scaling.factor.clone())
        };
        #[cfg(feature = "_cube")]
        crate::cube::step_waiting(waiting.unwrap_or_default(), factor);
    }

    fn lock(&self) -> MutexGuard<'_, Scaling> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`AdamW`] for gradients that count as many times as its scale says. Where that is not finite, parameters and moments stay as
/// they are.
#[derive(Clone, Debug)]
pub struct ScaledAdamW {
    adamw: AdamW,
    scale: GradientScale,
}

impl Optimizer for ScaledAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let mut scaling = self.scale.lock();
        let Scaling {
            factor,
            lost,
            waiting,
        } = &mut *scaling;
        let state = state.map(|mut state| {
            state.momentum.time = state.momentum.time.saturating_sub(usize::from(*lost));
            state
        });
        let (factor, waiting) = (factor.clone(), waiting.as_mut());
        self.adamw
            .step_scaled(lr, tensor, grad, state, factor, waiting)
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
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
        self.step_scaled(lr, tensor, grad, state, None, None)
    }

    fn to_device<const D: usize>(mut state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

/// Parameter and moments after the step; as they were, if the scale is not finite.
fn update<const D: usize>(
    factors: Factors,
    values: [Tensor<D>; 3],
    grad: Tensor<D>,
    scale: Option<Tensor<1>>,
    waiting: Option<&mut Waiting>,
) -> [Tensor<D>; 3] {
    #[cfg(feature = "flex")]
    if scale.is_none() && values.iter().all(crate::ops::on_flex) && crate::ops::on_flex(&grad) {
        return crate::flex::adamw(factors, values, grad);
    }
    #[cfg(feature = "_cube")]
    if values
        .iter()
        .all(|value| crate::ops::on_cube(value) && value.dtype() == burn::tensor::DType::F32)
        && crate::ops::on_cube(&grad)
    {
        return crate::cube::adamw(factors, values, grad, scale, waiting);
    }
    #[cfg(not(feature = "_cube"))]
    let _ = waiting;
    let grad = grad.cast(values[0].dtype());
    let Some(scale) = scale else {
        return reference(factors, values, grad);
    };
    let scale = scale.cast(values[0].dtype());
    let lost = (scale.clone() * 0.0).is_nan();
    let kept = values.clone();
    let mut new = reference(factors, values, grad * scale.unsqueeze::<D>()).into_iter();
    kept.map(|kept| match new.next() {
        Some(new) => new.mask_where(lost.clone().unsqueeze::<D>().expand(kept.shape()), kept),
        None => kept,
    })
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
