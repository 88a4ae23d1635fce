//! The catalogue of operations that models are made of, each timed forward and with its gradients on one device.
//!
//! A figure is the median over runs. A run is several calls between two synchronisations with the device, so that launches of one
//! call overlap the work of the one before, as they do in training.

mod catalogue;
mod operation;
mod products;
mod recurrences;
mod rows;
mod table;
mod updates;

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use kiln_run::atomic_write;
use kiln_run::hardware::Provenance;
use kiln_train::{OpenDevice, TrainError};
use kiln_zoo::Precision;
use serde::{Deserialize, Serialize};

use crate::measure::outcome;
use crate::trouble::Trouble;
use crate::{CostError, Outcome, Spread};

use self::operation::Place;
pub use self::table::table;

/// Layout version of [`OpsCost`].
pub const OPS_VERSION: u32 = 1;

/// Calls of a run, fewer if they then take longer than [`LONG_RUN`] seconds.
const MOST_CALLS: usize = 16;
const LONG_RUN: f64 = 0.1;

/// How long a figure is worked on.
#[derive(Clone, Copy)]
struct Patience {
    most_runs: usize,
    /// Seconds after which a figure makes do with the runs it has, three at least.
    seconds: f64,
}

const WHOLE: Patience = Patience {
    most_runs: 31,
    seconds: 1.0,
};
const QUICK: Patience = Patience {
    most_runs: 5,
    seconds: 0.05,
};

/// What is timed, and where.
pub struct OpsBench<'a> {
    /// The device.
    pub device: &'a OpenDevice,
    /// What models would compute in; none is `bf16` on a device that runs behind the host and has it, and `f32` elsewhere.
    pub precision: Option<Precision>,
    /// Only operations whose names contain it.
    pub filter: Option<String>,
    /// Small shapes and few runs: whether everything runs, and not how fast.
    pub quick: bool,
    /// Where and with what it is done.
    pub provenance: Provenance,
}

/// Times of all operations, as a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpsCost {
    /// [`OPS_VERSION`].
    pub version: u32,
    /// The backend and the number of its device: "flex", "cuda:1".
    pub backend: String,
    /// Machine, threads, versions, commit, command line and the moment the measurement began.
    pub provenance: Provenance,
    /// Whether shapes are small and runs few.
    pub quick: bool,
    /// In the order of the catalogue.
    pub operations: Vec<OpCost>,
}

/// One operation in one pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpCost {
    /// Name of the operation.
    pub name: String,
    /// Its sizes, in words.
    pub shape: String,
    /// What its inputs are stored in.
    pub precision: Precision,
    /// Forward, or forward and backward.
    pub pass: Pass,
    /// The figures, or why there are none.
    pub figures: Outcome<OpFigures>,
}

/// What is timed of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// The value.
    Forward,
    /// The value and the gradients of all inputs.
    Both,
}

impl Pass {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Both];
}

/// Time of one call, and what that makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpFigures {
    /// Seconds of a call over runs.
    pub seconds: Spread,
    /// Multiplications and additions of a call by formula; none where memory is what counts.
    pub flops: Option<f64>,
    /// Bytes that move at least: inputs and outputs once in every pass.
    pub bytes: f64,
    /// Bytes a second, in units of 1e9.
    pub gb_per_s: f64,
    /// Operations a second, in units of 1e12.
    pub tflop_per_s: Option<f64>,
}

impl OpsCost {
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

/// Times the catalogue. An operation that fails, for want of memory for instance, is a row that says so.
///
/// # Errors
/// A precision that the device does not have; [`CostError::Setting`] where no operation has the name.
pub fn bench_ops(bench: OpsBench) -> Result<OpsCost, CostError> {
    let device = &bench.device.device;
    let runs_behind = kiln_fused::runs_behind(device);
    let precision = bench.precision.unwrap_or({
        let bf16 = runs_behind && device.supports_dtype(Precision::Bf16.dtype());
        if bf16 {
            Precision::Bf16
        } else {
            Precision::F32
        }
    });
    kiln_train::check_precision(device, precision).map_err(TrainError::from)?;
    let sizes = match (bench.quick, runs_behind) {
        (true, _) => catalogue::QUICK,
        (false, false) => catalogue::CPU,
        (false, true) => catalogue::GPU,
    };
    let mut entries = catalogue::entries(sizes);
    if let Some(filter) = &bench.filter {
        let names: Vec<_> = entries.iter().map(|entry| entry.name).collect();
        entries.retain(|entry| entry.name.contains(filter.as_str()));
        if entries.is_empty() {
            let why = format!(
                "no operation has that in its name; there are {}",
                listed(&names)
            );
            return Err(CostError::Setting {
                name: "filter",
                value: filter.clone(),
                why,
            });
        }
    }
    let place = Place {
        device: device.clone(),
        precision,
    };
    let patience = if bench.quick { QUICK } else { WHOLE };
    let mut operations = Vec::new();
    for entry in entries {
        for pass in Pass::ALL.into_iter().filter(|pass| entry.has(*pass)) {
            let figures = outcome(|| entry.measure(&place, pass, patience));
            operations.push(OpCost {
                name: entry.name.into(),
                shape: entry.shape.clone(),
                precision: entry.precision(precision),
                pass,
                figures,
            });
        }
    }
    Ok(OpsCost {
        version: OPS_VERSION,
        backend: bench.device.name.clone(),
        provenance: bench.provenance,
        quick: bench.quick,
        operations,
    })
}

/// Names without those that come again, as entries of one operation do.
fn listed(names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.dedup();
    names.join(", ")
}

/// Seconds of a call in every run. The first call compiles and tunes, and is not counted.
fn time(
    device: &Device,
    patience: Patience,
    call: &mut dyn FnMut() -> Result<(), Trouble>,
) -> Result<Vec<f64>, Trouble> {
    let sync = || {
        let synced = device.sync();
        synced.map_err(|error| Trouble::Device(error.to_string()))
    };
    let mut run = |calls: usize| {
        sync()?;
        let start = Instant::now();
        (0..calls).try_for_each(|_| call())?;
        sync()?;
        Ok::<_, Trouble>(start.elapsed().as_secs_f64() / calls as f64)
    };
    run(1)?;
    let once = run(2)?;
    let calls = ((LONG_RUN.min(patience.seconds) / once) as usize).clamp(1, MOST_CALLS);
    run(calls)?;
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3
        || times.len() < patience.most_runs && start.elapsed().as_secs_f64() < patience.seconds
    {
        times.push(run(calls)?);
    }
    Ok(times)
}
