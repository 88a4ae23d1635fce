//! The figures of a training step, as a file.

use std::path::Path;

use kiln_run::atomic_write;
use kiln_run::hardware::Provenance;
use kiln_train::Phase;
use kiln_zoo::Precision;
use serde::{Deserialize, Serialize};

use super::operations::Operations;
use crate::CostError;

/// Layout version of [`StepCost`].
pub const STEP_VERSION: u32 = 2;

/// Where the time of a training step goes, on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepCost {
    /// [`STEP_VERSION`].
    pub version: u32,
    /// The recipe.
    pub name: String,
    /// The backend and the number of its device: "flex", "cuda:1".
    pub backend: String,
    /// Machine, threads, versions, commit, command line and the moment the measurement began; its seed is the weights'.
    pub provenance: Provenance,
    /// What is computed in.
    pub precision: Precision,
    /// Numbers in the model's parameters.
    pub parameters: u64,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Sequences of one forward pass.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Forward passes of one step.
    pub accumulate: usize,
    /// Operations of a step: three times the forward ones (Kaplan et al., arXiv 2001.08361), which are counted off the model.
    pub flops_per_step: f64,
    /// What comes before steps are steady.
    pub warm_up: WarmUp,
    /// Steps as training makes them.
    pub throughput: Throughput,
    /// A step in its parts.
    pub profile: Profile,
    /// A step in its operations; none on a device whose kernels are not launched by CubeCL.
    pub operations: Option<Operations>,
    /// The most memory in use, as the device's allocator or the system says.
    pub peak_memory_bytes: Option<u64>,
    /// The allocator's pools, of a device that has some.
    pub pools: Vec<Pool>,
}

/// The first steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// Seconds of the very first step: kernels are compiled and tuned in it.
    pub first_seconds: f64,
    /// Steps until they took the same time, the first included.
    pub steps: usize,
    /// Seconds of all of these.
    pub seconds: f64,
    /// Whether they did at all.
    pub steady: bool,
}

/// Steps without a wait between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    /// How many.
    pub steps: usize,
    /// Mean seconds of one.
    pub seconds_per_step: f64,
    /// Target tokens a second.
    pub tokens_per_second: f64,
    /// Operations a second, by [`StepCost::flops_per_step`].
    pub flops_per_second: f64,
}

/// Mean seconds of the parts of a step, with a wait for the device after each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Steps that were taken apart.
    pub steps: usize,
    /// Mean seconds of a whole step.
    pub seconds_per_step: f64,
    /// Its parts in their order, which add up to it.
    pub phases: Vec<PhaseCost>,
}

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseCost {
    /// Which.
    pub phase: Phase,
    /// Mean seconds a step, of all its forward passes together.
    pub seconds: f64,
}

/// One pool of an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages held.
    pub pages: u64,
    /// The most pages ever held.
    pub pages_peak: u64,
    /// The largest allocation it served, in bytes.
    pub largest: u64,
}

impl StepCost {
    /// Writes the file.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), CostError> {
        Ok(atomic_write(path, |out| {
            serde_json::to_writer_pretty(&mut *out, self).map_err(std::io::Error::from)
        })?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use kiln_run::hardware::Hardware;

    use super::super::operations::{Ceilings, tests::recording};
    use super::*;

    /// Figures that nobody measured.
    pub fn cost() -> StepCost {
        let hardware = Hardware::detect(Some("cuda".into()));
        StepCost {
            version: STEP_VERSION,
            name: "toy".into(),
            backend: "cuda".into(),
            provenance: Provenance::gather(".".as_ref(), hardware, BTreeMap::new(), 1),
            precision: Precision::Bf16,
            parameters: 1000,
            vocab: 16,
            batch: 2,
            seq: 8,
            accumulate: 1,
            flops_per_step: 4e9,
            warm_up: WarmUp {
                first_seconds: 2.0,
                steps: 4,
                seconds: 3.0,
                steady: true,
            },
            throughput: Throughput {
                steps: 20,
                seconds_per_step: 190e-6,
                tokens_per_second: 16.0 / 190e-6,
                flops_per_second: 2e13,
            },
            profile: Profile {
                steps: 10,
                seconds_per_step: 1e-3,
                phases: vec![PhaseCost {
                    phase: Phase::Forward,
                    seconds: 1e-3,
                }],
            },
            operations: Some(Operations {
                ceilings: Some(Ceilings {
                    product_rows: 8192,
                    flops_per_second: 8e13,
                    pass_bytes: 1 << 27,
                    bytes_per_second: 2e12,
                }),
                ..Operations::of(&recording(), 2)
            }),
            peak_memory_bytes: None,
            pools: Vec::new(),
        }
    }

    #[test]
    fn a_file_holds_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step.json");
        let mut cost = cost();
        for operations in [cost.operations.take(), None] {
            cost.operations = operations;
            cost.write(&path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let read: StepCost = serde_json::from_str(&text).unwrap();
            assert_eq!(read, cost);
        }
    }
}
