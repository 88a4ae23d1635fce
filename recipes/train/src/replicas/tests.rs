//! Updates by replicas without a run around them.

use burn::module::Module;
use kiln_zoo::ModelConfig;

use super::*;
use crate::OptimizerConfig;

const VOCAB: u64 = 32;
const SEQ: usize = 8;

/// Lanes of tokens without a pattern; lane i has `lengths[i]` targets.
fn batch(lengths: &[usize]) -> TokenBatch {
    let count = lengths.len() * SEQ;
    let token = |at: usize| (mix(&[at as u64]) % VOCAB) as u32;
    let counts = |at: usize| at % SEQ < lengths[at / SEQ];
    TokenBatch {
        batch: lengths.len(),
        seq: SEQ,
        inputs: (0..count).map(token).collect(),
        targets: (0..count).map(|at| token(at + 1)).collect(),
        mask: (0..count).map(counts).collect(),
    }
}

fn devices(count: usize) -> Vec<OpenDevice> {
    let opened = |_| OpenDevice {
        device: Device::flex(),
        name: "flex".into(),
    };
    (0..count).map(opened).collect()
}

fn learner(ahead: bool) -> Learner {
    let mut config = ModelConfig::preset("transformer-tiny").unwrap();
    config.backbone.vocab_size = VOCAB as usize;
    let model = config.init(11, &Device::flex().autodiff()).unwrap();
    let optimizer = OptimizerConfig::default().init(&model);
    let optimizer = if ahead { optimizer.ahead() } else { optimizer };
    Learner::new(model, optimizer)
}

const RATES: Rates = Rates {
    learning_rate: 1e-3,
    clip_norm: 0.5,
    pruned: None,
};

/// Losses and norms of some updates, and the hash of the weights after them, of every replica.
fn updates(batches: &[TokenBatch], count: usize, ahead: bool) -> Vec<(Vec<(f64, f64)>, u64)> {
    let meeting = Arc::new(Meeting::new(count));
    let devices = devices(count);
    let replica = |rank: usize| {
        let reduce = reducer(&meeting, &devices, rank);
        let own: Vec<_> = batches.iter().map(|all| share(all, rank, count)).collect();
        let tokens = batches.iter().map(TokenBatch::num_tokens).sum();
        let training = Device::flex().autodiff();
        let mut learner = learner(ahead);
        let mut told = Vec::new();
        for _ in 0..4 {
            let share = Share {
                tokens,
                reduce: &*reduce,
            };
            let loss = &mut Loss::CrossEntropy;
            let done = learner.update_shared(&own, loss, RATES, &training, Some(share));
            let (next, update) = done.unwrap();
            assert_eq!((update.tokens, update.skipped), (tokens as u64, None));
            told.push((update.loss, update.grad_norm));
            learner = next;
        }
        (told, hash(&learner.model))
    };
    thread::scope(|scope| {
        let replica = &replica;
        let ranks: Vec<_> = (0..count)
            .map(|rank| scope.spawn(move || replica(rank)))
            .collect();
        ranks.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

/// However targets are dealt, also to one replica alone; with the norm on the host and on the device.
#[test]
fn the_mean_is_over_the_targets_of_all() {
    for ahead in [false, true] {
        for lengths in [[8, 8, 8, 8], [8, 1, 3, 2], [5, 8, 0, 0], [0, 0, 0, 1]] {
            let batches = [batch(&lengths), batch(&[2, 3, 4, 5])];
            for batches in [&batches[..], &batches[..1]] {
                let alone = updates(batches, 1, ahead).swap_remove(0).0;
                let all = updates(batches, 2, ahead);
                assert_eq!(all[0], all[1], "{lengths:?}: replicas differ");
                for (found, expected) in all[0].0.iter().zip(&alone) {
                    let apart = |a: f64, b: f64| (a / b - 1.0).abs();
                    assert!(
                        apart(found.0, expected.0) < 1e-6 && apart(found.1, expected.1) < 1e-5,
                        "{lengths:?}: {found:?} for {expected:?}"
                    );
                }
            }
        }
    }
}

/// One bit of one weight is enough.
#[test]
fn weights_that_differ_are_told_apart() {
    let meeting = Arc::new(Meeting::new(2));
    let learner = learner(false);
    let own = hash(&learner.model);
    assert_eq!(own, hash(&learner.model.clone()));
    struct Flip;
    impl burn::module::ModuleMapper for Flip {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| {
                let (device, dims) = (tensor.device(), tensor.dims());
                let mut values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
                values[0] = f32::from_bits(values[0].to_bits() ^ 1);
                Tensor::from_data(burn::tensor::TensorData::new(values, dims), &device)
            })
        }
    }
    let other = hash(&learner.model.clone().map(&mut Flip));
    assert_ne!(own, other);
    let memory: Arc<[AtomicU64]> = (0..2).map(|_| AtomicU64::new(0)).collect();
    let (sender, jobs) = channel();
    let team = Team {
        reduce: reducer(&meeting, &devices(2), 0),
        meeting: Arc::clone(&meeting),
        jobs: vec![sender],
        memory,
    };
    let rank_1 = thread::spawn(move || {
        for hash in [own, other] {
            assert!(matches!(jobs.recv(), Ok(Job::Compare)));
            meeting.exchange(1, Offer::Weights(hash)).unwrap();
        }
    });
    assert!(team.check_equal(&learner, 7).is_ok());
    let error = team.check_equal(&learner, 8).unwrap_err();
    assert!(
        matches!(error, TrainError::Drift { rank: 1, step: 8 }),
        "{error}"
    );
    rank_1.join().unwrap();
    // Nobody is there any more.
    meeting_is_over(&team, &learner);
}

fn meeting_is_over(team: &Team, learner: &Learner) {
    team.meeting.fail(TrainError::Replica {
        device: "flex".into(),
        why: "out of memory".into(),
    });
    let error = team.check_equal(learner, 9).unwrap_err().to_string();
    assert!(error.contains("out of memory"), "{error}");
}

/// A replica that fails in the middle of an update ends that of the others, with its reason.
#[test]
fn a_failing_replica_ends_the_update() {
    let meeting = Arc::new(Meeting::new(2));
    let whole = batch(&[8, 8]);
    let (sender, jobs) = channel();
    let failing = {
        let meeting = Arc::clone(&meeting);
        thread::spawn(move || {
            assert!(matches!(jobs.recv(), Ok(Job::Update(_))));
            meeting.fail(TrainError::Replica {
                device: "cuda:1".into(),
                why: "out of memory".into(),
            });
        })
    };
    let team = Team {
        reduce: reducer(&meeting, &devices(2), 0),
        meeting,
        jobs: vec![sender],
        memory: (0..2).map(|_| AtomicU64::new(0)).collect(),
    };
    let training = Device::flex().autodiff();
    let done = team.update(learner(false), &[whole], RATES, &training, (1, false));
    let error = done.err().unwrap().to_string();
    assert!(
        error.contains("cuda:1") && error.contains("out of memory"),
        "{error}"
    );
    failing.join().unwrap();
}
