//! The examples of one split of a task.

use std::sync::Arc;

use kiln_loader::random::random;
use kiln_loader::{Lane, Split, Windows};

use crate::{TaskConfig, TaskError};

/// Examples without end: more than any run can draw, with room for a loader's arithmetic.
const ENDLESS: u64 = 1 << 62;

/// The examples of a split, as windows for a loader: each place is one example.
#[derive(Debug)]
pub struct TaskSet {
    config: TaskConfig,
    split: Split,
    seq: usize,
}

impl TaskSet {
    /// The examples of a split.
    ///
    /// # Errors
    /// Those of [`TaskConfig::validate`].
    pub fn new(config: &TaskConfig, split: Split) -> Result<Arc<Self>, TaskError> {
        config.validate()?;
        Ok(Arc::new(Self {
            seq: config.seq()?,
            config: config.clone(),
            split,
        }))
    }
}

impl Windows for TaskSet {
    fn seq(&self) -> usize {
        self.seq
    }

    fn places(&self) -> u64 {
        match (self.split, self.config.train_examples) {
            (Split::Train, 0) => ENDLESS,
            (Split::Train, examples) => examples,
            (Split::Validation | Split::Test, _) => self.config.held_out_examples,
        }
    }

    fn stride(&self) -> u64 {
        1
    }

    fn read(&self, place: u64, lane: Lane<'_>) {
        let mut rng = random(self.config.seed, self.split as u8, 0, place);
        // `new` found the generator.
        if let Ok(generator) = self.config.generator() {
            generator.draw(&mut rng, self.split, lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;
    use kiln_loader::{Loader, LoaderConfig, Order};

    fn all() -> Vec<TaskConfig> {
        let base = TaskConfig::default;
        vec![
            TaskConfig {
                compression: Some(Default::default()),
                ..base()
            },
            TaskConfig {
                mqar: Some(Default::default()),
                ..base()
            },
            TaskConfig {
                recall: Some(Default::default()),
                ..base()
            },
            TaskConfig {
                recall: Some(Recall::noisy()),
                ..base()
            },
            TaskConfig {
                fuzzy_recall: Some(Default::default()),
                ..base()
            },
            TaskConfig {
                selective_copying: Some(Default::default()),
                ..base()
            },
            TaskConfig {
                memorization: Some(Default::default()),
                ..base()
            },
            TaskConfig {
                induction_heads: Some(Default::default()),
                ..base()
            },
            TaskConfig {
                list_ops: Some(Default::default()),
                ..base()
            },
        ]
    }

    /// Ids are below the vocabulary, something counts in every example, and an example is a function of its number.
    #[test]
    fn every_task_keeps_its_promises() {
        for config in all() {
            let name = config.name().unwrap();
            let vocab = config.vocab_size().unwrap() as u32;
            let batch = |split, order| {
                let settings = LoaderConfig {
                    batch: 50,
                    order,
                    seed: 3,
                };
                let set = TaskSet::new(&config, split).unwrap();
                Loader::new(set, settings).unwrap().next_batch().unwrap()
            };
            for split in [Split::Train, Split::Validation, Split::Test] {
                let drawn = batch(split, Order::Crops);
                let ids = drawn.inputs.iter().chain(&drawn.targets);
                assert!(ids.clone().all(|id| *id < vocab), "{name}: {:?}", ids.max());
                for lane in drawn.mask.chunks(drawn.seq) {
                    assert!(lane.contains(&true), "{name} {split:?}");
                }
                assert_eq!(drawn, batch(split, Order::Crops), "{name}");
            }
            let held_out =
                [Split::Validation, Split::Test].map(|split| batch(split, Order::Sequential));
            assert_ne!(held_out[0], held_out[1], "{name}");
        }
    }

    #[test]
    fn every_task_can_be_had_at_another_length() {
        for task in all() {
            let other = task.clone().with_seq(1001 + task.seq().unwrap() % 2);
            assert_eq!(other.seq().unwrap(), 1001 + task.seq().unwrap() % 2);
            assert_ne!(other, task);
        }
    }

    #[test]
    fn places_are_examples() {
        let config = TaskConfig {
            train_examples: 7,
            held_out_examples: 5,
            mqar: Some(Default::default()),
            ..Default::default()
        };
        let places = |config: &TaskConfig, split| TaskSet::new(config, split).unwrap().places();
        assert_eq!(places(&config, Split::Train), 7);
        assert_eq!(places(&config, Split::Test), 5);
        assert_eq!(TaskSet::new(&config, Split::Test).unwrap().sweep(), 5);
        let endless = TaskConfig {
            train_examples: 0,
            ..config
        };
        assert_eq!(places(&endless, Split::Train), ENDLESS);
    }
}
