//! One update by several devices: each has a replica of the model, and its share of every batch.
//!
//! Data parallel training as PyTorch's `DistributedDataParallel` does it (Li et al., arXiv 2006.15704), within one process: a thread
//! a device. Every replica divides its loss by the target tokens of the whole batch, so that the sum of the gradients is the gradient
//! of one device, however unevenly targets are spread. Norm, clipping and the step follow from that sum on every replica, which
//! makes the same update of the same weights to the bit; that is asserted at every checkpoint.
//!
//! Rank 0 runs the loop of the trainer: it deals batches, evaluates, writes. The others wait for jobs. All of them meet on the host
//! before a collective operation is begun, so that one that failed leaves nobody waiting for it on a device.

mod meeting;
mod reduce;
mod supervise;

use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kiln_backbone::seed_dropout;
use kiln_loader::TokenBatch;
use kiln_run::Checkpoint;
use kiln_zoo::LanguageModel;
use rustc_hash::FxHasher;

use crate::batch_loss::Loss;
use crate::learner::{Learner, Rates, Update};
use crate::objective::mix;
use crate::recipe::TrainRecipe;
use crate::setup::Setup;
use crate::{OpenDevice, TrainError};

pub(crate) use meeting::Meeting;
pub(crate) use reduce::Share;
pub(crate) use supervise::supervise;

use meeting::Offer;
use reduce::{AllReduce, reducer};
use supervise::words_of;

/// Refuses recipes that these devices cannot train together; one device trains any.
///
/// # Errors
/// [`TrainError::Setting`] for a batch that does not divide, or a teacher; a device error where nothing adds up between devices.
pub fn check_shared(recipe: &TrainRecipe, devices: &[OpenDevice]) -> Result<(), TrainError> {
    let (batch, count) = (recipe.train.batch, devices.len());
    if count < 2 {
        return Ok(());
    }
    if !batch.is_multiple_of(count) {
        let (less, more) = (batch - batch % count, batch.next_multiple_of(count));
        let nearest = match less {
            0 => format!("{more}"),
            _ => format!("{less} or {more}"),
        };
        let why = format!(
            "{count} devices share its sequences evenly: set it to {nearest}, or take another number of --devices"
        );
        return Err(TrainError::setting("train.batch", batch, why));
    }
    if let Some(distill) = &recipe.distill {
        let why = "a teacher answers one device: train without --devices, or without [distill]";
        let teacher = distill.teacher.display();
        return Err(TrainError::setting("distill.teacher", teacher, why));
    }
    if let Some(prune) = &recipe.prune
        && prune.measured_on().is_some()
    {
        let why = "weights are measured on one device, and others would find other ones by rounding: train without --devices, or take `magnitude`";
        return Err(TrainError::setting("prune.method", "snip", why));
    }
    Ok(reduce::check_transport(devices)?)
}

/// What rank 0 asks of another replica.
enum Job {
    /// An update with its share of the batches.
    Update(Work),
    /// A word on its weights.
    Compare,
}

/// A replica's part of an update.
struct Work {
    batches: Vec<TokenBatch>,
    /// Target tokens of all parts.
    tokens: usize,
    rates: Rates,
    /// Seed of the step's dropout.
    seed: u64,
    /// Whether the memory of the device is to be noted.
    noted: bool,
}

/// Rank 0's view of the replicas.
pub(crate) struct Team {
    meeting: Arc<Meeting>,
    jobs: Vec<Sender<Job>>,
    reduce: Box<dyn AllReduce>,
    /// Bytes that each device's allocator has reserved; 0 where nobody tells.
    memory: Arc<[AtomicU64]>,
}

impl Team {
    /// Starts the other replicas on threads of `scope`, each with the weights of `checkpoint`, or those that the run starts with.
    pub fn start<'scope, 'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        setup: &'env Setup,
        devices: &'env [OpenDevice],
        meeting: &Arc<Meeting>,
        checkpoint: Option<&'env Checkpoint>,
    ) -> Self {
        let memory: Arc<[AtomicU64]> = devices.iter().map(|_| AtomicU64::new(0)).collect();
        let jobs = (1..devices.len()).map(|rank| {
            let (sender, jobs) = channel();
            let replica = Replica {
                rank,
                device: &devices[rank].device,
                meeting: Arc::clone(meeting),
                reduce: reducer(meeting, devices, rank),
                memory: Arc::clone(&memory),
            };
            let name = devices[rank].name.as_str();
            scope.spawn(move || replica.serve(name, setup, checkpoint, jobs));
            sender
        });
        Self {
            jobs: jobs.collect(),
            meeting: Arc::clone(meeting),
            reduce: reducer(meeting, devices, 0),
            memory,
        }
    }

    /// [`Learner::update`] by all replicas.
    ///
    /// # Errors
    /// Those of any of them.
    pub fn update(
        &self,
        learner: Learner,
        batches: &[TokenBatch],
        rates: Rates,
        device: &Device,
        (seed, noted): (u64, bool),
    ) -> Result<(Learner, Update), TrainError> {
        let tokens = batches.iter().map(TokenBatch::num_tokens).sum();
        let count = self.jobs.len() + 1;
        let part = |rank| {
            batches
                .iter()
                .map(|batch| share(batch, rank, count))
                .collect()
        };
        for (jobs, rank) in self.jobs.iter().zip(1..) {
            let work = Work {
                batches: part(rank),
                tokens,
                rates,
                seed,
                noted,
            };
            // A replica that is not there any more has said why.
            if jobs.send(Job::Update(work)).is_err() {
                return Err(self.meeting.failure());
            }
        }
        if noted {
            note_memory(&self.memory[0], device);
        }
        let share = Share {
            tokens,
            reduce: &*self.reduce,
        };
        let own: Vec<TokenBatch> = part(0);
        let loss = &mut Loss::CrossEntropy;
        let done = learner.update_shared(&own, loss, rates, device, Some(share));
        done.inspect_err(|_| self.meeting.leave())
    }

    /// Whether the weights of all replicas are equal to the bit.
    ///
    /// # Errors
    /// [`TrainError::Drift`] naming the first device whose weights differ.
    pub fn check_equal(&self, learner: &Learner, step: u64) -> Result<(), TrainError> {
        for jobs in &self.jobs {
            if jobs.send(Job::Compare).is_err() {
                return Err(self.meeting.failure());
            }
        }
        let offers = self
            .meeting
            .exchange(0, Offer::Weights(hash(&learner.model)))?;
        match (1..)
            .zip(&offers[1..])
            .find(|(_, other)| **other != offers[0])
        {
            None => Ok(()),
            Some((rank, _)) => Err(TrainError::Drift { rank, step }),
        }
    }

    /// Bytes that the allocator of each device has reserved, where it tells.
    pub fn memory(&self) -> Vec<Option<u64>> {
        let known = |bytes: &AtomicU64| Some(bytes.load(Ordering::Relaxed)).filter(|it| *it > 0);
        self.memory.iter().map(known).collect()
    }

    /// Seeds the dropout of rank 0.
    pub fn reseed(&self, seed: u64) {
        seed_dropout(Some(mix(&[seed, 0])));
    }
}

/// However rank 0 ends, nobody waits for it.
impl Drop for Team {
    fn drop(&mut self) {
        if thread::panicking() {
            self.meeting.leave();
        }
    }
}

/// Any replica but rank 0.
struct Replica<'a> {
    rank: usize,
    device: &'a Device,
    meeting: Arc<Meeting>,
    reduce: Box<dyn AllReduce>,
    memory: Arc<[AtomicU64]>,
}

impl Replica<'_> {
    /// Does jobs until there are no more; a failure is left at the meeting.
    fn serve(
        &self,
        name: &str,
        setup: &Setup,
        checkpoint: Option<&Checkpoint>,
        jobs: Receiver<Job>,
    ) {
        let work = || self.work(setup, checkpoint, jobs);
        let done = catch_unwind(AssertUnwindSafe(work));
        let failed = match done {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(payload) => TrainError::Replica {
                device: name.into(),
                why: words_of(&*payload),
            },
        };
        self.meeting.fail(failed);
    }

    fn work(
        &self,
        setup: &Setup,
        checkpoint: Option<&Checkpoint>,
        jobs: Receiver<Job>,
    ) -> Result<(), TrainError> {
        let training = self.device.clone().autodiff();
        let mut learner = setup.replica(checkpoint, self.device)?;
        for job in jobs {
            match job {
                Job::Update(work) => learner = self.update(learner, work, &training)?,
                Job::Compare => {
                    let own = Offer::Weights(hash(&learner.model));
                    self.meeting.exchange(self.rank, own)?;
                }
            }
        }
        Ok(())
    }

    fn update(
        &self,
        learner: Learner,
        work: Work,
        training: &Device,
    ) -> Result<Learner, TrainError> {
        if work.noted {
            note_memory(&self.memory[self.rank], self.device);
        }
        seed_dropout(Some(mix(&[work.seed, self.rank as u64])));
        let share = Share {
            tokens: work.tokens,
            reduce: &*self.reduce,
        };
        let loss = &mut Loss::CrossEntropy;
        let done = learner.update_shared(&work.batches, loss, work.rates, training, Some(share));
        Ok(done?.0)
    }
}

fn note_memory(place: &AtomicU64, device: &Device) {
    place.store(reserved(device).unwrap_or(0), Ordering::Relaxed);
}

/// Bytes that the allocator of a device has reserved, if it tells.
pub(crate) fn reserved(device: &Device) -> Option<u64> {
    Some(device.memory_pool_usage()?.bytes_reserved)
}

/// The lanes of a batch that one of `count` replicas works on.
fn share(batch: &TokenBatch, rank: usize, count: usize) -> TokenBatch {
    let lanes = batch.batch / count;
    let at = rank * lanes * batch.seq..(rank + 1) * lanes * batch.seq;
    TokenBatch {
        batch: lanes,
        seq: batch.seq,
        inputs: batch.inputs[at.clone()].to_vec(),
        targets: batch.targets[at.clone()].to_vec(),
        mask: batch.mask[at].to_vec(),
    }
}

/// A number that tells weights apart that differ in one bit; not against malice.
fn hash(model: &LanguageModel) -> u64 {
    struct Bits(FxHasher);
    impl ModuleVisitor for Bits {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.write(param.val().into_data().as_bytes());
        }
    }
    let mut bits = Bits(FxHasher::default());
    model.visit(&mut bits);
    bits.0.finish()
}

#[cfg(all(test, feature = "flex"))]
#[allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]
mod tests;
