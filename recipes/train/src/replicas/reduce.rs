//! Adding up gradients over replicas.

use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::Meeting;
use super::meeting::Offer;
use crate::device::Backend;
use crate::{DeviceError, OpenDevice, TrainError};

/// Tensors of fewer elements travel together: one of a norm's size takes the time of a message, not of its bytes.
const SMALL: usize = 1 << 16;

/// Adds tensors up over the replicas of a model.
pub(crate) trait AllReduce: Send {
    /// The sum of all replicas' tensors in each place, on the device of the own ones and the same to the bit for all replicas.
    ///
    /// # Errors
    /// The failure of another replica; tensors that differ in length between replicas.
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, TrainError>;
}

/// A replica's share of an update.
#[derive(Clone, Copy)]
pub(crate) struct Share<'a> {
    /// Target tokens of all shares.
    pub tokens: usize,
    /// What adds up over them.
    pub reduce: &'a dyn AllReduce,
}

impl Share<'_> {
    /// Gradients and `sums` added up over all replicas. A replica without targets has no gradient, and brings zeros.
    ///
    /// # Errors
    /// As [`AllReduce::sum`].
    pub fn add_up<M: Module>(
        &self,
        model: &M,
        mut grads: GradientsParams,
        sums: Tensor<1>,
    ) -> Result<(GradientsParams, Tensor<1>), TrainError> {
        let mut taken = Take {
            zeros: grads.is_empty(),
            grads: &mut grads,
            tensors: vec![sums.cast(FloatDType::F32)],
            had: Vec::new(),
        };
        model.visit(&mut taken);
        let Take { tensors, had, .. } = taken;
        let mut summed = self.reduce.sum(tensors)?.into_iter();
        let sums = summed.next().ok_or(TrainError::Lengths)?;
        let mut put = Put {
            had: had.into_iter().peekable(),
            summed: &mut summed,
            grads: GradientsParams::new(),
        };
        model.visit(&mut put);
        Ok((put.grads, sums))
    }
}

/// Takes the gradients of a model, flat, in the order of its parameters.
struct Take<'a> {
    grads: &'a mut GradientsParams,
    /// Whether there are none, and zeros stand for them.
    zeros: bool,
    tensors: Vec<Tensor<1>>,
    had: Vec<ParamId>,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = match self.zeros {
            false => self.grads.remove::<D>(param.id),
            true => {
                let value = param.val();
                let is_trained = value.is_require_grad();
                is_trained.then(|| value.inner().zeros_like())
            }
        };
        if let Some(grad) = grad {
            let len = grad.shape().num_elements();
            self.had.push(param.id);
            self.tensors.push(grad.reshape([len]).cast(FloatDType::F32));
        }
    }
}

/// Gives the sums their shapes.
struct Put<'a> {
    /// Parameters that have a gradient, in their order.
    had: std::iter::Peekable<std::vec::IntoIter<ParamId>>,
    summed: &'a mut std::vec::IntoIter<Tensor<1>>,
    grads: GradientsParams,
}

impl ModuleVisitor for Put<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.had.next_if_eq(&param.id).is_some()
            && let Some(sum) = self.summed.next()
        {
            let dims: [usize; D] = param.shape().dims();
            self.grads.register(param.id, sum.reshape(dims));
        }
    }
}

/// Adds up where it can be done without the host: Burn's collective operations on CUDA, which NCCL does.
struct Collective {
    meeting: Arc<Meeting>,
    rank: usize,
    devices: Vec<Device>,
}

impl AllReduce for Collective {
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, TrainError> {
        let lengths: Vec<usize> = tensors.iter().map(length).collect();
        let offers = self
            .meeting
            .exchange(self.rank, Offer::Lengths(lengths.clone()))?;
        if offers.iter().any(|offer| *offer != offers[self.rank]) {
            return Err(TrainError::Lengths);
        }
        let (small, large): (Vec<_>, Vec<_>) = tensors
            .into_iter()
            .partition(|tensor| length(tensor) < SMALL);
        let queue = (!small.is_empty()).then(|| Tensor::cat(small, 0));
        // All are under way before the first is waited for, which the device does and the host does not.
        let begun: Vec<_> = queue
            .into_iter()
            .chain(large)
            .map(|tensor| all_reduce(tensor, ReduceOperation::Sum, self.devices.clone()))
            .collect();
        let mut done = begun.into_iter().map(|begun| begun.resolve());
        let small = match lengths.iter().any(|len| *len < SMALL) {
            true => done.next(),
            false => None,
        };
        let mut at = 0;
        let in_place = lengths.into_iter().map(|len| match (len < SMALL, &small) {
            (true, Some(small)) => {
                at += len;
                Some(small.clone().narrow(0, at - len, len))
            }
            _ => done.next(),
        });
        in_place
            .collect::<Option<Vec<_>>>()
            .ok_or(TrainError::Lengths)
    }
}

/// Adds up in memory of the host, in the order of ranks: for devices without transport between them, and replicas on one processor.
struct ThroughHost {
    meeting: Arc<Meeting>,
    rank: usize,
}

impl AllReduce for ThroughHost {
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, TrainError> {
        let shapes: Vec<_> = tensors
            .iter()
            .map(|tensor| (length(tensor), tensor.device()))
            .collect();
        let own: Vec<f32> = tensors
            .into_iter()
            .flat_map(|tensor| tensor.into_data().iter::<f32>().collect::<Vec<_>>())
            .collect();
        let len = own.len();
        let offers = self
            .meeting
            .exchange(self.rank, Offer::Values(Arc::new(own)))?;
        let mut sums = vec![0.0; len];
        for offer in offers.iter() {
            match offer {
                Offer::Values(values) if values.len() == len => {
                    let pairs = sums.iter_mut().zip(values.iter());
                    pairs.for_each(|(sum, value)| *sum += value);
                }
                _ => return Err(TrainError::Lengths),
            }
        }
        let mut rest = sums.as_slice();
        let tensors = shapes.into_iter().map(|(len, device)| {
            let (values, more) = rest.split_at(len);
            rest = more;
            Tensor::from_data(TensorData::new(values.to_vec(), [len]), &device)
        });
        Ok(tensors.collect())
    }
}

fn length(tensor: &Tensor<1>) -> usize {
    tensor.shape().num_elements()
}

/// Whether devices are CUDA's, all of them.
fn are_cuda(devices: &[OpenDevice]) -> bool {
    let is_cuda = |device: &OpenDevice| {
        let name = device.name.split(':').next().unwrap_or_default();
        name.parse() == Ok(Backend::Cuda)
    };
    !devices.is_empty() && devices.iter().all(is_cuda)
}

/// What adds up on device `rank` of `devices`.
pub(super) fn reducer(
    meeting: &Arc<Meeting>,
    devices: &[OpenDevice],
    rank: usize,
) -> Box<dyn AllReduce> {
    let meeting = Arc::clone(meeting);
    match are_cuda(devices) {
        true => Box::new(Collective {
            meeting,
            rank,
            devices: devices.iter().map(|open| open.device.clone()).collect(),
        }),
        false => Box::new(ThroughHost { meeting, rank }),
    }
}

/// Refuses devices of CUDA where its library of collective operations is not there: it is loaded when it is first called, and a
/// device would only say that it lost a result.
pub(super) fn check_transport(devices: &[OpenDevice]) -> Result<(), DeviceError> {
    match are_cuda(devices) && !crate::device::has_nccl() {
        true => Err(DeviceError::NoNccl),
        false => Ok(()),
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::thread;

    use super::*;

    fn values(tensor: &Tensor<1>) -> Vec<f32> {
        tensor.clone().into_data().iter::<f32>().collect()
    }

    /// Sums of three replicas, whose rounding depends on the order, are one and the same for all of them.
    #[test]
    fn sums_are_equal_to_the_bit() {
        let meeting = Arc::new(Meeting::new(3));
        let threads: Vec<_> = (0..3)
            .map(|rank| {
                let meeting = Arc::clone(&meeting);
                thread::spawn(move || {
                    let device = Device::flex();
                    let tensor = |len: usize, seed: f32| {
                        let values = (0..len).map(|i| (seed + i as f32).sin() / 3.0);
                        let data = TensorData::new(values.collect::<Vec<_>>(), [len]);
                        Tensor::<1>::from_data(data, &device)
                    };
                    let own = vec![tensor(5, rank as f32), tensor(1, 7.0), tensor(300, 0.1)];
                    let host = ThroughHost { meeting, rank };
                    let sums = host.sum(own.clone()).unwrap();
                    (own, sums)
                })
            })
            .collect();
        let all: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
        for place in 0..3 {
            let first = values(&all[0].1[place]);
            for (_, sums) in &all {
                assert_eq!(values(&sums[place]), first);
            }
            for (at, sum) in first.iter().enumerate() {
                let exact: f64 = all
                    .iter()
                    .map(|(own, _)| f64::from(values(&own[place])[at]))
                    .sum();
                assert!((f64::from(*sum) - exact).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn tensors_that_differ_are_refused() {
        let meeting = Arc::new(Meeting::new(2));
        let threads = [3, 4].map(|len| {
            let meeting = Arc::clone(&meeting);
            thread::spawn(move || {
                let rank = len - 3;
                let host = ThroughHost { meeting, rank };
                host.sum(vec![Tensor::ones([len], &Device::flex())])
                    .map(|_| ())
            })
        });
        for thread in threads {
            let error = thread.join().unwrap().unwrap_err();
            assert!(matches!(error, TrainError::Lengths), "{error}");
        }
    }

    #[test]
    fn devices_are_known_by_their_names() {
        let device = |name: &str| OpenDevice {
            device: Device::flex(),
            name: name.into(),
        };
        assert!(are_cuda(&[device("cuda"), device("cuda:1")]));
        assert!(!are_cuda(&[device("flex"), device("flex")]));
    }
}
