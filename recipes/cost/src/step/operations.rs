//! From a recording of steps to what their operations cost.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use kiln_profile::Recording;
use serde::{Deserialize, Serialize};

use super::family::Family;

/// Kernels that are told one by one.
const TOLD_KERNELS: usize = 16;

/// Where the time of the device goes, by operation: means of steps whose every launch was timed on the device's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operations {
    /// Steps that were recorded.
    pub steps: usize,
    /// Launches of a step.
    pub launches: f64,
    /// Launches of a step that the device gave no time for.
    pub untimed: f64,
    /// Times of a step; none where the device has no clock of its own.
    pub times: Option<Times>,
    /// What was launched, by operation, those with no launch left out.
    pub families: Vec<FamilyCost>,
    /// The kernels that take most of the time, or are launched most where there are no times.
    pub kernels: Vec<KernelCost>,
    /// Rates that the device reaches, measured right after the steps.
    pub ceilings: Option<Ceilings>,
}

/// Mean seconds of a step on the device's clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// From its first kernel to the next step's: recorded, and so a little longer than a step that is not.
    pub seconds_per_step: f64,
    /// In which at least one kernel ran.
    pub busy: f64,
    /// Between kernels.
    pub idle: f64,
}

/// What one family of kernels costs a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilyCost {
    /// Which.
    pub family: Family,
    /// Launches.
    pub launches: f64,
    /// Seconds in which they ran; none where the device has no clock of its own.
    pub seconds: Option<f64>,
    /// Floating-point operations, of those that count them.
    pub flops: f64,
    /// Bytes to be read and written, of those that count them.
    pub bytes: f64,
}

/// What one kernel costs a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelCost {
    /// Its name, in full.
    pub kernel: String,
    /// What it belongs to.
    pub family: Family,
    /// Launches.
    pub launches: f64,
    /// Seconds of one launch, on average, and of all of a step.
    pub mean_and_total: Option<[f64; 2]>,
}

/// Rates that the device reaches with one operation at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// Rows of the square matrices that were multiplied in the recipe's precision, as linear layers are.
    pub product_rows: usize,
    /// Floating-point operations a second of that product.
    pub flops_per_second: f64,
    /// Bytes that one elementwise pass over a large tensor read, and wrote.
    pub pass_bytes: u64,
    /// Bytes a second of that pass, read and written.
    pub bytes_per_second: f64,
}

/// Sums over launches.
#[derive(Clone, Copy, Default)]
struct Sum {
    launches: usize,
    time: Duration,
}

impl Sum {
    fn add(&mut self, time: Duration) {
        self.launches += 1;
        self.time += time;
    }
}

impl Operations {
    /// The costs of steps that were recorded together.
    pub fn of(recording: &Recording, steps: usize) -> Self {
        let per_step = |sum: f64| sum / steps as f64;
        let has_clock = recording.device_clock;
        let mut families: BTreeMap<Family, Sum> = BTreeMap::new();
        let mut kernels: BTreeMap<(&str, Family), Sum> = BTreeMap::new();
        let mut owners: Vec<Option<Family>> = vec![None; recording.operations.len()];
        for launch in &recording.launches {
            let operation = launch.operation.map(|at| recording.operations[at].name);
            let family = Family::of(&launch.kernel, operation);
            if let Some(at) = launch.operation {
                owners[at].get_or_insert(family);
            }
            let time = launch.span.map_or(Duration::ZERO, |span| span.length());
            families.entry(family).or_default().add(time);
            let kernel = (launch.kernel.as_str(), family);
            kernels.entry(kernel).or_default().add(time);
        }
        let counted = |of: Family| {
            let operations = recording.operations.iter().zip(&owners);
            let own = operations.filter(|(_, owner)| **owner == Some(of));
            own.fold([0.0, 0.0], |[flops, bytes], (operation, _)| {
                [flops + operation.flops, bytes + operation.bytes]
            })
        };
        let families = families.into_iter().map(|(family, sum)| {
            let [flops, bytes] = counted(family).map(per_step);
            FamilyCost {
                family,
                launches: per_step(sum.launches as f64),
                seconds: has_clock.then(|| per_step(sum.time.as_secs_f64())),
                flops,
                bytes,
            }
        });
        let untimed = recording
            .launches
            .iter()
            .filter(|launch| launch.span.is_none());
        Self {
            steps,
            launches: per_step(recording.launches.len() as f64),
            untimed: per_step(untimed.count() as f64),
            times: times(recording, steps),
            families: families.collect(),
            kernels: most_expensive(kernels, has_clock, steps),
            ceilings: None,
        }
    }
}

fn times(recording: &Recording, steps: usize) -> Option<Times> {
    let extent = recording.extent()?.length().as_secs_f64() / steps as f64;
    let busy = recording.busy().as_secs_f64() / steps as f64;
    Some(Times {
        seconds_per_step: extent,
        busy,
        idle: extent - busy,
    })
}

fn most_expensive(
    kernels: BTreeMap<(&str, Family), Sum>,
    has_clock: bool,
    steps: usize,
) -> Vec<KernelCost> {
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by_key(|(_, sum)| Reverse((sum.time, sum.launches)));
    kernels.truncate(TOLD_KERNELS);
    let told = kernels.into_iter().map(|((kernel, family), sum)| {
        let seconds = sum.time.as_secs_f64();
        KernelCost {
            kernel: kernel.into(),
            family,
            launches: sum.launches as f64 / steps as f64,
            mean_and_total: has_clock
                .then(|| [seconds / sum.launches as f64, seconds / steps as f64]),
        }
    });
    told.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kiln_profile::{Launch, Operation, Span};

    /// Two steps: two products, of one operation each, an update and two kernels of Burn's, with a gap of 30 us and one of 40.
    pub fn recording() -> Recording {
        let launch = |kernel: &str, operation, [start, end]: [u64; 2]| Launch {
            kernel: kernel.into(),
            operation,
            span: Some(Span {
                start: Duration::from_micros(1000 + start),
                end: Duration::from_micros(1000 + end),
            }),
        };
        let product = |rows: usize| Operation {
            name: kiln_matmul::OPERATION,
            flops: 2e9 * rows as f64,
            bytes: 1e6,
        };
        let update = Operation {
            name: "AdamW",
            flops: 0.0,
            bytes: 4e7,
        };
        Recording {
            launches: vec![
                launch("cuBLASLt 8 x 8 x 8, BF16", Some(0), [0, 100]),
                launch("burn::cast::Cast<f32>", Some(1), [100, 120]),
                launch("cuBLASLt 8 x 8 x 8, BF16", Some(1), [150, 250]),
                launch(
                    "kiln_fused::cube::update::update_adamw::U<f32>",
                    Some(2),
                    [250, 300],
                ),
                launch("burn::cast::Cast<f32>", None, [340, 400]),
            ],
            operations: vec![product(1), product(2), update],
            device_clock: true,
        }
    }

    #[test]
    fn families_kernels_and_gaps_add_up_to_the_step() {
        let found = Operations::of(&recording(), 2);
        assert_eq!((found.launches, found.untimed), (2.5, 0.0));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        let times = found.times.unwrap();
        assert!(close(times.seconds_per_step, 200e-6), "{times:?}");
        assert!(close(times.busy, 165e-6) && close(times.idle, 35e-6));
        let families: Vec<_> = found
            .families
            .iter()
            .map(|cost| (cost.family, cost.launches, cost.flops, cost.bytes))
            .collect();
        assert_eq!(
            families,
            [
                (Family::Linear, 1.5, 3e9, 1e6),
                (Family::Optimizer, 0.5, 0.0, 2e7),
                (Family::Burn, 0.5, 0.0, 0.0),
            ]
        );
        let seconds: f64 = found.families.iter().filter_map(|cost| cost.seconds).sum();
        assert!(close(seconds, times.busy));
        let kernels: Vec<_> = found
            .kernels
            .iter()
            .map(|cost| (cost.family, cost.launches, cost.mean_and_total.unwrap()[0]))
            .collect();
        assert_eq!(kernels[0].0, Family::Linear);
        assert!(close(kernels[0].2, 100e-6), "{kernels:?}");
        // The same kernel for two operations stays apart.
        assert_eq!(kernels.len(), 4);
        assert_eq!((kernels[1].0, kernels[3].0), (Family::Burn, Family::Linear));
    }

    #[test]
    fn without_a_clock_there_are_launches_and_no_times() {
        let mut recording = recording();
        recording.device_clock = false;
        recording
            .launches
            .iter_mut()
            .for_each(|launch| launch.span = None);
        let found = Operations::of(&recording, 2);
        assert_eq!((found.launches, found.untimed), (2.5, 2.5));
        assert_eq!(found.times, None);
        assert!(found.families.iter().all(|cost| cost.seconds.is_none()));
        assert!(
            found
                .kernels
                .iter()
                .all(|cost| cost.mean_and_total.is_none())
        );
        assert_eq!(found.kernels[0].launches, 1.0);
    }
}
