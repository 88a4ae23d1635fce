//! Renders a report of made-up numbers, to look at the page: `cargo run -p kiln-run --example
//! report -- OUT.html`.

use std::path::PathBuf;

use kiln_run::report::{Chart, Report, Sample, Series, Style, Table};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("usage: report OUT.html")?;
    let text = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(a, b)| (a.to_string(), b.to_string()))
            .collect::<Vec<_>>()
    };
    let report = Report {
        title: "An example, not a result".into(),
        subtitle: "Made-up numbers that show every part of a report: curves, references, gaps, outliers, tables, text.".into(),
        highlights: text(&[
            ("Validation loss", "1.482"),
            ("Bits per byte", "2.138"),
            ("Throughput", "18.7k tok/s"),
            ("Training time", "12m03s"),
        ]),
        facts: text(&[
            ("Recipe", "example"),
            ("Parameters", "1.20M"),
            ("Tokens", "20.5M"),
            ("Seed", "1234"),
            ("Backend", "flex"),
            ("Processor", "Example CPU @ 2.00GHz"),
            ("Commit", "0123456789abcdef0123456789abcdef01234567"),
            ("Command", "kiln train example --set train.steps=5000 --set model.layers=6"),
        ]),
        charts: vec![losses(), throughput(), frontier()],
        tables: vec![table()],
        samples: vec![Sample {
            title: "Step 5000, temperature 0.8".into(),
            prompt: "ROMEO:".into(),
            text: "\nBut soft, what <light> through yonder window breaks?\nIt is the east & \"Juliet\" is the sun.".into(),
        }],
        ..Report::default()
    };
    report.write(&path)?;
    Ok(())
}

fn wave(step: f64) -> f64 {
    (step * 0.73).sin() * (step * 0.19).cos() * (step * 2.31).sin()
}

fn losses() -> Chart {
    let decay = |floor: f64, pace: f64, step: f64| {
        floor + 2.2 * (-step / pace).exp() + 0.6 * (-step / (pace * 8.0)).exp()
    };
    let raw = |floor, pace, seed: f64| {
        let at = move |i: i32| decay(floor, pace, f64::from(i)) + 0.09 * wave(f64::from(i) + seed);
        (0..5000)
            .step_by(2)
            .map(|i| (f64::from(i), if i == 0 { 24.0 } else { at(i) }))
            .collect::<Vec<_>>()
    };
    let eval = |floor, pace| {
        let steps = (0..=20).map(|i| f64::from(i) * 250.0);
        steps
            .map(|s| {
                (
                    s,
                    if s == 1500.0 {
                        f64::NAN
                    } else {
                        decay(floor, pace, s) + 0.04
                    },
                )
            })
            .collect::<Vec<_>>()
    };
    Chart {
        title: "Loss".into(),
        x_label: "step".into(),
        y_label: "cross entropy, nats per token".into(),
        series: vec![
            Series::new("ResNet-BK, training", raw(1.44, 420.0, 0.0))
                .style(Style::Faint)
                .color(0),
            Series::new("ResNet-BK", eval(1.44, 420.0)).color(0),
            Series::new("Transformer, training", raw(1.47, 600.0, 71.0))
                .style(Style::Faint)
                .color(1),
            Series::new("Transformer", eval(1.47, 600.0)).color(1),
            Series::new("Gated DeltaNet", eval(1.455, 500.0))
                .color(2)
                .style(Style::Dashed),
        ],
        references: vec![("bigram entropy".into(), 2.45), ("uniform".into(), 44.17)],
        ..Chart::default()
    }
}

fn throughput() -> Chart {
    let points = (0..300)
        .map(|i| (f64::from(i) * 16.0, 18_700.0 + 900.0 * wave(f64::from(i))))
        .collect();
    Chart {
        title: "Throughput".into(),
        x_label: "step".into(),
        y_label: "training tokens per second".into(),
        series: vec![Series::new("tokens per second", points)],
        ..Chart::default()
    }
}

fn frontier() -> Chart {
    let point = |name: &str, parameters, loss| {
        Series::new(name, vec![(parameters, loss)]).style(Style::Points)
    };
    Chart {
        title: "Loss by size".into(),
        x_label: "parameters".into(),
        y_label: "validation loss, nats per token".into(),
        series: vec![
            point("ResNet-BK small", 1.2e6, 1.61),
            point("ResNet-BK base", 1.0e7, 1.48),
            point("Transformer small", 1.3e6, 1.608),
            point("Transformer base", 1.1e7, 1.50),
            point("distilled", 3.1e6, 1.53),
            Series::new(
                "fitted power law",
                vec![(1e6, 1.63), (3e6, 1.555), (1e7, 1.49), (2e7, 1.462)],
            )
            .style(Style::Dotted),
        ],
        log_x: true,
        log_y: false,
        ..Chart::default()
    }
}

fn table() -> Table {
    let rows = [
        ["ResNet-BK", "1.20M", "1.482", "18.7k", "✓"],
        ["Transformer", "1.30M", "1.503", "21.2k", "✓"],
        ["Gated DeltaNet", "1.24M", "1.495", "–", "✗"],
    ];
    Table {
        title: "Models at equal tokens".into(),
        columns: [
            "Model",
            "Parameters",
            "Loss",
            "Tokens per second",
            "Reached target",
        ]
        .map(String::from)
        .to_vec(),
        rows: rows
            .iter()
            .map(|row| row.map(String::from).to_vec())
            .collect(),
        best: Some(0),
        note: "cargo xtask compare example".into(),
        ..Table::default()
    }
}
