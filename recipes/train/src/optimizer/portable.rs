//! Optimizers whose saved state is read by the processor.
//!
//! Burn reads an optimizer's state onto the default device of the build, and moves it at the next step to where the gradient is. In
//! a build with CUDA the default device is a GPU, whatever trains: without a driver reading panicked, and with one it took up the
//! GPU's memory for nothing.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor};

/// An optimizer with the records of `O`, read by the processor in builds that compute on it.
#[derive(Clone, Debug)]
pub(crate) struct Portable<O>(pub O);

/// The state of `O`.
#[derive(Clone, Debug)]
pub(crate) struct PortableState<S>(S);

impl<S: RecordState> RecordState for PortableState<S> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        self.0.state_flatten(prefix, out);
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        S::state_unflatten(prefix, src, &reading_device(device)).map(Self)
    }
}

/// Where state is read: the processor; the given device in builds without its backend, which cannot train there either.
fn reading_device(given: &Device) -> Device {
    #[cfg(feature = "flex")]
    let (device, _) = (Device::flex(), given);
    #[cfg(not(feature = "flex"))]
    let device = given.clone();
    device
}

impl<O: Optimizer> Optimizer for Portable<O> {
    type State<const D: usize> = PortableState<O::State<D>>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let state = state.map(|PortableState(state)| state);
        let (tensor, state) = self.0.step(lr, tensor, grad, state);
        (tensor, state.map(PortableState))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        PortableState(O::to_device(state.0, device))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::optim::{AdamWState, AdaptiveMomentumState};

    use super::*;

    /// The device that Burn names is not where state is read: a device that tracks gradients stands for a GPU without a driver.
    #[test]
    fn state_is_read_by_the_processor_whatever_the_build_prefers() {
        let processor = Device::flex();
        let moment = |x: f32| Tensor::<2>::full([2, 3], x, &processor);
        let momentum = AdaptiveMomentumState::new(7, moment(0.5), moment(0.25));
        let mut sink = StateSink::default();
        PortableState(AdamWState::new(momentum)).state_flatten("1", &mut sink);
        let mut source = StateSource::new(sink.scalars.into_iter().collect());
        for (name, data) in sink.tensors {
            source.insert_tensor(name, data);
        }
        let preferred = Device::flex().autodiff();
        let read = PortableState::<AdamWState<2>>::state_unflatten("1", &mut source, &preferred);
        let AdaptiveMomentumState {
            time,
            moment_1,
            moment_2,
            ..
        } = read.expect("all leaves are there").0.momentum;
        assert_eq!(time, 7);
        for (moment, expected) in [(moment_1, 0.5), (moment_2, 0.25)] {
            assert!(
                !moment.device().is_autodiff(),
                "read onto the device that was given"
            );
            let values: Vec<f32> = moment.into_data().iter::<f32>().collect();
            assert_eq!(values, [expected; 6]);
        }
    }
}
