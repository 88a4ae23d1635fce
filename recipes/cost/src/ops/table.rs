//! The table of the catalogue for a terminal.

use kiln_run::format;
use kiln_run::report::Table;

use super::{OpCost, OpFigures, OpsCost, Pass};
use crate::Outcome;

/// One row an operation and pass.
pub fn table(cost: &OpsCost) -> Table {
    let sizes = match cost.quick {
        true => " at small sizes, where times say little",
        false => "",
    };
    let columns = [
        "operation",
        "shape",
        "type",
        "pass",
        "median",
        "quartiles",
        "GB/s",
        "TFLOP/s",
    ];
    Table {
        title: format!("Operations on {}{sizes}", cost.backend),
        columns: columns.map(String::from).to_vec(),
        rows: cost.operations.iter().map(row).collect(),
        ..Table::default()
    }
}

fn row(cost: &OpCost) -> Vec<String> {
    let pass = match cost.pass {
        Pass::Forward => "forward",
        Pass::Both => "with gradients",
    };
    let mut row = vec![
        cost.name.clone(),
        cost.shape.clone(),
        cost.precision.name().into(),
        pass.into(),
    ];
    match &cost.figures {
        Outcome::Measured(figures) => row.extend(cells(figures)),
        Outcome::Failed { reason } | Outcome::LeftOut { reason } => {
            row.push(reason.clone());
            row.extend([(); 3].map(|()| format::NONE.into()));
        }
    }
    row
}

fn cells(figures: &OpFigures) -> [String; 4] {
    let spread = &figures.seconds;
    let [median, low, high] = [spread.median, spread.lower_quartile, spread.upper_quartile]
        .map(|seconds| format!("{:.3}", 1e3 * seconds));
    let rate = figures.tflop_per_s;
    [
        format!("{median} ms"),
        format!("{low} to {high}"),
        format!("{:.1}", figures.gb_per_s),
        rate.map_or(format::NONE.into(), |rate| format!("{rate:.3}")),
    ]
}
