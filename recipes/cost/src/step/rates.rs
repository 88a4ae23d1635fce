//! The tables of a step's operations: where the device's time goes, its most expensive kernels, and rates beside what it reaches.

use kiln_run::format;
use kiln_run::report::Table;

use super::StepCost;
use super::family::{Family, short_name};
use super::operations::{Ceilings, FamilyCost, Operations};
use super::table::{milliseconds, table};

/// Signs of a kernel's name in a table.
const NAME_SIGNS: usize = 64;

/// By operation, by kernel, and rates.
pub(super) fn tables(cost: &StepCost, operations: &Operations) -> Vec<Table> {
    let mut tables = vec![by_operation(cost, operations), by_kernel(operations)];
    if let Some(ceilings) = &operations.ceilings {
        tables.push(rates(cost, operations, ceilings));
    }
    tables
}

fn by_operation(cost: &StepCost, operations: &Operations) -> Table {
    let whole = operations.times.map(|times| times.seconds_per_step);
    let row = |name: &str, launches: Option<f64>, seconds: Option<f64>| {
        [
            name.into(),
            launches.map_or(String::new(), count),
            seconds.map_or(format::NONE.into(), milliseconds),
            share(seconds, whole),
        ]
    };
    let families = operations.families.iter();
    let mut rows: Vec<_> = families
        .map(|of| row(of.family.name(), Some(of.launches), of.seconds))
        .collect();
    if let Some(times) = operations.times {
        rows.push(row("idle", None, Some(times.idle)));
    }
    rows.push(row("whole step", Some(operations.launches), whole));
    let title = format!(
        "Where the device's time goes, mean of {} steps with an event around every launch",
        operations.steps
    );
    let columns = ["operation", "launches", "time", "share"];
    Table {
        note: remark(cost, operations),
        ..table(title, columns, rows)
    }
}

fn remark(cost: &StepCost, operations: &Operations) -> String {
    let unrecorded = milliseconds(cost.throughput.seconds_per_step);
    match operations.times {
        None => {
            "The device has no clock that kernels are timed with: their launches are counted alone."
                .into()
        }
        Some(_) if operations.untimed > 0.0 => format!(
            "Without events the step takes {unrecorded}. {} of its launches have no time.",
            count(operations.untimed)
        ),
        Some(_) => format!("Without events the step takes {unrecorded}."),
    }
}

fn by_kernel(operations: &Operations) -> Table {
    let whole = operations.times.map(|times| times.seconds_per_step);
    let kernels = operations.kernels.iter();
    let rows = kernels.map(|cost| {
        let none = || format::NONE.to_owned();
        let total = cost.mean_and_total.map(|[_, total]| total);
        [
            shortened(&short_name(&cost.kernel)),
            cost.family.name().into(),
            count(cost.launches),
            cost.mean_and_total
                .map_or_else(none, |[mean, _]| format!("{:.1}", 1e6 * mean)),
            total.map_or_else(none, milliseconds),
            share(total, whole),
        ]
    });
    let columns = [
        "kernel",
        "operation",
        "launches",
        "mean, us",
        "time",
        "share",
    ];
    table(
        "The most expensive kernels of a step".into(),
        columns,
        rows.collect(),
    )
}

fn rates(cost: &StepCost, operations: &Operations, ceilings: &Ceilings) -> Table {
    let mut rows = vec![
        [
            format!(
                "product of {rows} x {rows} matrices, {}",
                cost.precision.name(),
                rows = ceilings.product_rows
            ),
            flops(ceilings.flops_per_second),
            "ceiling".into(),
        ],
        [
            format!("one pass over {}", format::bytes(ceilings.pass_bytes)),
            bytes(ceilings.bytes_per_second),
            "ceiling".into(),
        ],
        [
            "whole step, operations by formula".into(),
            flops(cost.throughput.flops_per_second),
            format!(
                "{} (MFU)",
                format::percent(cost.throughput.flops_per_second / ceilings.flops_per_second)
            ),
        ],
    ];
    for of in &operations.families {
        rows.extend(family_rates(of, ceilings));
    }
    let linear = operations
        .families
        .iter()
        .find(|of| of.family == Family::Linear);
    let explained = linear.map(|of| of.flops / cost.flops_per_step);
    Table {
        note: explained.map_or(String::new(), |share| {
            format!(
                "Linear layers are {} of a step's operations by formula.",
                format::percent(share)
            )
        }),
        ..table("Rates".into(), ["what", "rate", "of its ceiling"], rows)
    }
}

/// What a family computes and moves a second, if it counts that.
fn family_rates(of: &FamilyCost, ceilings: &Ceilings) -> Vec<[String; 3]> {
    let Some(seconds) = of.seconds.filter(|seconds| *seconds > 0.0) else {
        return Vec::new();
    };
    let name = of.family.name();
    let row = |what: &str, rate: f64, ceiling: f64, words: fn(f64) -> String| {
        [
            format!("{name}, {what}"),
            words(rate),
            format::percent(rate / ceiling),
        ]
    };
    let mut rows = Vec::new();
    if of.flops > 0.0 {
        let rate = of.flops / seconds;
        rows.push(row("operations", rate, ceilings.flops_per_second, flops));
    }
    if of.bytes > 0.0 {
        let rate = of.bytes / seconds;
        rows.push(row("bytes", rate, ceilings.bytes_per_second, bytes));
    }
    rows
}

fn share(seconds: Option<f64>, whole: Option<f64>) -> String {
    let share = seconds.zip(whole).map(|(part, whole)| part / whole);
    share.map_or(format::NONE.into(), format::percent)
}

/// A mean of whole numbers.
fn count(mean: f64) -> String {
    match mean.fract() == 0.0 {
        true => format!("{mean:.0}"),
        false => format!("{mean:.1}"),
    }
}

fn flops(rate: f64) -> String {
    format!("{:.3} TFLOP/s", rate / 1e12)
}

fn bytes(rate: f64) -> String {
    format!("{:.1} GB/s", rate / 1e9)
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_SIGNS) {
        None => name.into(),
        Some((at, _)) => format!("{}…", &name[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::figures::tests::cost;

    fn text(cost: &StepCost) -> String {
        let operations = cost.operations.as_ref().unwrap();
        let texts: Vec<_> = tables(cost, operations).iter().map(Table::text).collect();
        texts.join("\n")
    }

    #[test]
    fn operations_kernels_and_rates_are_told() {
        assert_eq!(
            text(&cost()),
            "\
Where the device's time goes, mean of 2 steps with an event around every launch
operation               launches     time  share
linear layers                1.5  0.11 ms    55%
clipping and optimizer       0.5  0.03 ms    12%
Burn's own, the rest         0.5  0.03 ms    15%
idle                              0.04 ms    18%
whole step                   2.5  0.20 ms   100%
Without events the step takes 0.19 ms.

The most expensive kernels of a step
kernel                    operation               launches  mean, us     time  share
cuBLASLt 8 x 8 x 8, BF16  linear layers                  1     100.0  0.10 ms    50%
Cast<f32>                 Burn's own, the rest         0.5      60.0  0.03 ms    15%
U<f32>                    clipping and optimizer       0.5      50.0  0.03 ms    12%
Cast<f32>                 linear layers                0.5      20.0  0.01 ms     5%

Rates
what                                             rate  of its ceiling
product of 8192 x 8192 matrices, bf16  80.000 TFLOP/s  ceiling
one pass over 128.0 MiB                   2000.0 GB/s  ceiling
whole step, operations by formula      20.000 TFLOP/s  25% (MFU)
linear layers, operations              27.273 TFLOP/s  34%
linear layers, bytes                         9.1 GB/s  0.45%
clipping and optimizer, bytes              800.0 GB/s  40%
Linear layers are 75% of a step's operations by formula.
"
        );
    }

    #[test]
    fn a_device_without_a_clock_is_said_to_have_none() {
        let mut cost = cost();
        let operations = cost.operations.as_mut().unwrap();
        (operations.times, operations.ceilings) = (None, None);
        operations
            .families
            .iter_mut()
            .for_each(|of| of.seconds = None);
        operations
            .kernels
            .iter_mut()
            .for_each(|of| of.mean_and_total = None);
        let text = text(&cost);
        assert!(
            text.contains("The device has no clock that kernels are timed with"),
            "{text}"
        );
        assert!(
            text.contains("clipping and optimizer       0.5     –      –"),
            "{text}"
        );
        assert!(
            !text.contains("idle") && !text.contains("ceiling"),
            "{text}"
        );
    }

    #[test]
    fn launches_without_a_time_are_told() {
        let mut cost = cost();
        cost.operations.as_mut().unwrap().untimed = 1.5;
        let text = text(&cost);
        assert!(
            text.contains("takes 0.19 ms. 1.5 of its launches have no time."),
            "{text}"
        );
    }

    #[test]
    fn long_names_are_cut() {
        let name = "é".repeat(NAME_SIGNS);
        assert_eq!(shortened(&name), name);
        assert_eq!(shortened(&format!("{name}x")), format!("{name}…"));
    }
}
