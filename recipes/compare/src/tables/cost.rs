//! What arms cost, as tables.

use kiln_cost::Figure;
use kiln_run::format;
use kiln_run::report::Table;

use crate::results::{ArmResult, CostResult, CostRow, TaskResult};

/// What a model takes beside its quality, and what making it took; none where runs say nothing of it.
pub fn costs(task: &TaskResult) -> Option<Table> {
    task.arms
        .iter()
        .find_map(|arm| arm.model_bytes.or(arm.state_bytes))?;
    let none = || format::NONE.to_string();
    let row = |arm: &ArmResult| {
        let tokens = arm.tokens.filter(|tokens| *tokens > 0);
        let energy = arm.energy_joules.zip(tokens);
        let energy = energy.map(|(joules, tokens)| 1e3 * joules / tokens as f64);
        vec![
            arm.name.clone(),
            size(task, arm),
            arm.state_bytes.map_or_else(none, format::bytes),
            arm.flops.map_or_else(none, |flops| format!("{flops:.2e}")),
            arm.peak_memory_bytes
                .map_or_else(none, |bytes| format::bytes(bytes as u64)),
            energy.map_or_else(none, |joules| format!("{joules:.3} J")),
        ]
    };
    let columns = [
        "arm",
        "model on disk",
        "generation state",
        "operations",
        "peak memory in training",
        "energy of 1,000 tokens",
    ];
    let energy = match task.arms.iter().any(|arm| arm.energy_joules.is_some()) {
        true => "Energy is that of the whole device while training.",
        false => "No device of these runs tells its energy.",
    };
    Some(Table {
        title: "Costs".into(),
        columns: columns.map(String::from).to_vec(),
        rows: task.arms.iter().map(row).collect(),
        note: format!(
            "State is that of one sequence of the trained length. Memory is reserved by the device's allocator or, on a processor, \
             resident in the process, data and all. {energy}"
        ),
        ..Table::default()
    })
}

/// The model on disk, beside its original's size if it was compressed.
fn size(task: &TaskResult, arm: &ArmResult) -> String {
    let Some(bytes) = arm.model_bytes else {
        return format::NONE.into();
    };
    let original = arm.compressed_of.as_ref().and_then(|name| task.arm(name));
    let whole = original.and_then(|original| Some((&original.name, original.model_bytes?)));
    let own = format::bytes(bytes);
    match whole {
        Some((name, whole)) => format!("{own}, {:.3}x of {name}", bytes as f64 / whole as f64),
        None => own,
    }
}

/// What chosen models cost by batch and length; none where nothing was measured.
pub fn by_length(task: &TaskResult) -> Option<Table> {
    let measured = || {
        let arms = task.arms.iter();
        arms.filter_map(|arm| Some((arm, arm.cost.as_ref()?)))
    };
    let (_, first) = measured().next()?;
    let mut table = Table {
        title: "Costs by length".into(),
        columns: [
            "arm",
            "batch",
            "length",
            "prefill, ms a token",
            "decoding, ms a token",
            "state of a sequence",
            "peak memory",
        ]
        .map(String::from)
        .to_vec(),
        note: format!(
            "The chosen point's first seed, on {}. A token is one more for every sequence of the batch.",
            bench(first)
        ),
        ..Table::default()
    };
    for (arm, cost) in measured() {
        if cost.bench != first.bench {
            table.note += &format!(
                " {} was measured on {}: its times do not compare.",
                arm.name,
                bench(cost)
            );
        }
        for row in &cost.rows {
            table.rows.push(cells(&arm.name, row));
            if let Some(reason) = &row.reason {
                table.note += &format!(
                    " {}, batch {}, length {}: {reason}.",
                    arm.name, row.batch, row.length
                );
            }
        }
    }
    Some(table)
}

fn cells(arm: &str, row: &CostRow) -> Vec<String> {
    let shown = |figure: Figure| {
        let value = row.value(figure);
        value.map_or(format::NONE.to_string(), |value| match figure {
            Figure::Prefill | Figure::Decode => format::number(1e3 * value),
            Figure::State | Figure::Peak => format::bytes(value as u64),
        })
    };
    let names = [
        arm.to_string(),
        row.batch.to_string(),
        row.length.to_string(),
    ];
    names.into_iter().chain(Figure::ALL.map(shown)).collect()
}

/// `flex, f32, 2 threads of AMD EPYC`.
fn bench(cost: &CostResult) -> String {
    let bench = &cost.bench;
    let threads = format!("{} threads", bench.threads);
    let of = bench.processor.as_ref();
    let of = of.map_or(String::new(), |name| format!(" of {name}"));
    let precision = bench.precision.name();
    format!("{}, {precision}, {threads}{of}", bench.backend)
}

/// From which length on arms are cheaper than the reference; none where nothing was compared.
pub fn crossovers(task: &TaskResult) -> Option<Table> {
    let costs = || {
        let arms = task.arms.iter();
        arms.filter_map(|arm| Some((arm, arm.cost.as_ref()?)))
    };
    let than = costs().find_map(|(_, cost)| Some(&cost.crossovers.first()?.than))?;
    let rows = costs().flat_map(|(arm, cost)| {
        let found = |batch: usize| {
            let cells = Figure::ALL.map(|figure| {
                let found = cost.crossover(figure, batch);
                found.map_or(format::NONE.into(), |found| found.found.to_string())
            });
            let names = [arm.name.clone(), batch.to_string()];
            names.into_iter().chain(cells).collect::<Vec<String>>()
        };
        let batches = match cost.crossovers.is_empty() {
            true => Vec::new(),
            false => cost.batches(),
        };
        batches.into_iter().map(found).collect::<Vec<_>>()
    });
    let names = Figure::ALL.map(Figure::name).into_iter();
    Some(Table {
        title: format!("Where arms are cheaper than {than}, in tokens"),
        columns: ["arm", "batch"].into_iter().chain(names).map(String::from).collect(),
        rows: rows.collect(),
        note: "From the length on which an arm stays cheaper at every longer one that was measured of both. Between two lengths the \
               ratio is interpolated, both on logarithmic scales."
            .into(),
        ..Table::default()
    })
}
