//! What arms cost, beside their quality.

use kiln_cost::{Cost, Crossover, Figure, Row, crossover};
use kiln_zoo::Precision;
use serde::{Deserialize, Serialize};

use super::ArmResult;

/// What an arm's chosen model costs on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostResult {
    /// Where it was measured.
    pub bench: Bench,
    /// By batch and length, in the order of measurement.
    pub rows: Vec<CostRow>,
    /// From which length on it is cheaper than the reference; none for the reference itself, and where that was measured elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crossovers: Vec<CrossoverResult>,
}

/// What has to be equal for two measurements to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// The backend and the number of its device.
    pub backend: String,
    /// What the model computes in.
    pub precision: Precision,
    /// The processor, where the system tells.
    pub processor: Option<String>,
    /// The device, where the backend tells.
    pub device: Option<String>,
    /// Threads of the processor.
    pub threads: usize,
}

/// One batch at one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostRow {
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of each before decoding.
    pub length: usize,
    /// Median seconds of the whole prompt over its length.
    pub prefill_seconds_per_token: Option<f64>,
    /// Median seconds of a step, which is a token more for every sequence.
    pub decode_seconds_per_token: Option<f64>,
    /// Bytes of the state of one sequence.
    pub state_bytes: Option<u64>,
    /// Most memory meanwhile, weights included.
    pub peak_memory_bytes: Option<u64>,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// From which length on an arm is cheaper than the reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossoverResult {
    /// The reference.
    pub than: String,
    /// Sequences side by side.
    pub batch: usize,
    /// What is compared.
    pub figure: Figure,
    /// Where.
    pub found: Crossover,
}

impl CostResult {
    pub(super) fn new(cost: &Cost) -> Self {
        let hardware = &cost.provenance.hardware;
        Self {
            bench: Bench {
                backend: cost.backend.clone(),
                precision: cost.precision,
                processor: hardware.processor.clone(),
                device: hardware.device.clone(),
                threads: hardware.threads.unwrap_or(hardware.cores),
            },
            rows: cost.rows.iter().map(CostRow::new).collect(),
            crossovers: Vec::new(),
        }
    }

    /// The batches that were measured, each once.
    pub fn batches(&self) -> Vec<usize> {
        let mut batches: Vec<_> = self.rows.iter().map(|row| row.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        batches
    }

    /// A figure over the lengths of a batch, shortest first; times are those of a token.
    pub fn curve(&self, figure: Figure, batch: usize) -> Vec<(usize, f64)> {
        let rows = self.rows.iter().filter(|row| row.batch == batch);
        let mut points: Vec<_> = rows
            .filter_map(|row| Some((row.length, row.value(figure)?)))
            .collect();
        points.sort_by_key(|(length, _)| *length);
        points
    }

    /// The crossover of a figure at a batch.
    pub fn crossover(&self, figure: Figure, batch: usize) -> Option<&CrossoverResult> {
        let is_it = |found: &&CrossoverResult| (found.figure, found.batch) == (figure, batch);
        self.crossovers.iter().find(is_it)
    }
}

impl CostRow {
    fn new(row: &Row) -> Self {
        let found = row.outcome.measured();
        let value = |figure: Figure| found.and_then(|found| figure.of(found));
        let bytes = |figure| value(figure).map(|bytes| bytes as u64);
        Self {
            batch: row.batch,
            length: row.length,
            prefill_seconds_per_token: value(Figure::Prefill)
                .map(|seconds| seconds / row.length as f64),
            decode_seconds_per_token: value(Figure::Decode),
            state_bytes: bytes(Figure::State),
            peak_memory_bytes: bytes(Figure::Peak),
            reason: row.outcome.reason().map(String::from),
        }
    }

    /// Seconds of a token, or bytes.
    pub fn value(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Prefill => self.prefill_seconds_per_token,
            Figure::Decode => self.decode_seconds_per_token,
            Figure::State => self.state_bytes.map(|bytes| bytes as f64),
            Figure::Peak => self.peak_memory_bytes.map(|bytes| bytes as f64),
        }
    }
}

/// Holds every arm against the reference: the one of that name, or the first that was measured.
pub(super) fn compare(arms: &mut [ArmResult], reference: Option<&str>) {
    let is_reference = |arm: &&ArmResult| match reference {
        Some(name) => arm.name == name,
        None => true,
    };
    let measured = arms.iter().filter(|arm| arm.cost.is_some());
    let Some((than, first)) = measured
        .filter(is_reference)
        .find_map(|arm| Some((arm.name.clone(), arm.cost.clone()?)))
    else {
        return;
    };
    for arm in arms.iter_mut().filter(|arm| arm.name != than) {
        let Some(cost) = arm.cost.as_mut().filter(|cost| cost.bench == first.bench) else {
            continue;
        };
        let mut crossovers = Vec::new();
        for batch in cost.batches() {
            for figure in Figure::ALL {
                let curves = [&*cost, &first].map(|cost| cost.curve(figure, batch));
                crossovers.push(CrossoverResult {
                    than: than.clone(),
                    batch,
                    figure,
                    found: crossover(&curves[0], &curves[1]),
                });
            }
        }
        cost.crossovers = crossovers;
    }
}
