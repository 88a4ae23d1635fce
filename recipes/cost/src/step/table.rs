//! The tables of a step's time for a terminal.

use kiln_run::format;
use kiln_run::report::Table;
use kiln_train::Phase;

use super::{StepCost, rates};

/// Warm-up, throughput, the parts of a step, its operations where the device tells them, and memory.
pub fn tables(cost: &StepCost) -> Vec<Table> {
    let mut tables = vec![facts(cost), parts(cost)];
    if let Some(operations) = &cost.operations {
        tables.extend(rates::tables(cost, operations));
    }
    tables.push(memory(cost));
    tables
}

pub(super) fn table<const N: usize>(
    title: String,
    columns: [&str; N],
    rows: Vec<[String; N]>,
) -> Table {
    Table {
        title,
        columns: columns.map(String::from).to_vec(),
        rows: rows.into_iter().map(|row| row.to_vec()).collect(),
        ..Table::default()
    }
}

fn facts(cost: &StepCost) -> Table {
    let (warm, throughput) = (&cost.warm_up, &cost.throughput);
    let steady = match warm.steady {
        true => format!("steady after {} steps", warm.steps),
        false => format!("not steady after {} steps", warm.steps),
    };
    let shape = format!("{} x {} x {}", cost.accumulate, cost.batch, cost.seq);
    let rows = [
        ("parameters", format::count(cost.parameters as f64)),
        ("precision", cost.precision.name().into()),
        ("passes x sequences x tokens of a step", shape),
        ("vocabulary", cost.vocab.to_string()),
        ("first step", format::duration(warm.first_seconds)),
        (
            "warm-up",
            format!("{}, {steady}", format::duration(warm.seconds)),
        ),
        (
            "step, without waiting",
            milliseconds(throughput.seconds_per_step),
        ),
        ("tokens/s", format!("{:.0}", throughput.tokens_per_second)),
        (
            "operations of a step, by formula",
            format!("{:.3e}", cost.flops_per_step),
        ),
        (
            "TFLOP/s",
            format!("{:.3}", throughput.flops_per_second / 1e12),
        ),
    ];
    let rows = rows.map(|(name, value)| [name.into(), value]).into();
    let title = format!(
        "{} on {}, {} steps of random tokens",
        cost.name, cost.backend, throughput.steps
    );
    table(title, ["step", ""], rows)
}

fn parts(cost: &StepCost) -> Table {
    let profile = &cost.profile;
    let row = |name: &str, seconds: f64| {
        let share = format::percent(seconds / profile.seconds_per_step);
        [name.into(), milliseconds(seconds), share]
    };
    let parts = profile.phases.iter();
    let mut rows: Vec<_> = parts
        .map(|part| row(name(part.phase), part.seconds))
        .collect();
    rows.push(row("whole step", profile.seconds_per_step));
    let title = format!(
        "Where it goes, mean of {} steps that wait for the device after each part",
        profile.steps
    );
    table(title, ["part", "time", "share"], rows)
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Data => "data to the device",
        Phase::Forward => "forward and loss",
        Phase::Backward => "backward",
        Phase::Optimizer => "clipping and optimizer",
    }
}

fn memory(cost: &StepCost) -> Table {
    let peak = cost.peak_memory_bytes;
    let mut rows = vec![[
        "peak".into(),
        peak.map_or(format::NONE.into(), format::bytes),
    ]];
    rows.extend(cost.pools.iter().map(|pool| {
        let name = format!("pool with pages of {}", format::bytes(pool.page_size));
        let held = format!(
            "{} pages, at most {}; largest allocation {}",
            pool.pages,
            pool.pages_peak,
            format::bytes(pool.largest)
        );
        [name, held]
    }));
    table("Memory".into(), ["of the device", ""], rows)
}

pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", 1e3 * seconds)
}
