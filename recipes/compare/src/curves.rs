//! What the report draws and `results.json` leaves out: curves, samples and costs of decoding, from the run folders.

use std::collections::BTreeMap;
use std::fs;

use kiln_cost::Cost;
use kiln_run::report::Series;
use kiln_run::{Kind, RunFolder, metrics};

use crate::results::Measure;
use crate::{CompareError, Figures, Layout};

/// The curve of an arm over its seeds: mean, and a band from the least to the greatest of them, at the steps that all have.
///
/// # Errors
/// A damaged metrics file.
pub(crate) fn validation(
    layout: &Layout,
    runs: &[&Figures],
    measure: Measure,
    name: &str,
) -> Result<Series, CompareError> {
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for run in runs {
        let records = metrics::read(&folder(layout, run)?.metrics())?;
        let evaluations = records.iter().filter(|record| record.kind == Kind::Eval);
        for record in evaluations {
            // Accuracy may be counted at the end of a run only; its loss then tells how training went.
            let value = record.values.get(measure.key());
            if let Some(value) = value.filter(|value| value.is_finite()) {
                at.entry(record.step).or_default().push(*value);
            }
        }
    }
    at.retain(|_, values| values.len() == runs.len());
    let mut points = Vec::with_capacity(at.len());
    let mut band = Vec::with_capacity(at.len());
    for (step, values) in at {
        let (step, count) = (step as f64, values.len() as f64);
        points.push((step, values.iter().sum::<f64>() / count));
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        band.push((step, low, high));
    }
    Ok(Series::new(name, points).band(band))
}

/// What a run wrote at its end; none where it wrote nothing.
pub(crate) fn sample(layout: &Layout, run: &Figures) -> Result<Option<String>, CompareError> {
    let path = folder(layout, run)?.samples();
    // The sample is an ornament: a run without one, or of a model that cannot generate, is as good as any.
    Ok(fs::read_to_string(path)
        .ok()
        .filter(|text| !text.trim().is_empty()))
}

/// Median seconds of a decoding step of one sequence by the tokens before it, where `kiln cost` has measured one of the runs.
///
/// # Errors
/// A `cost.json` that cannot be read, or is of another layout.
pub(crate) fn decode_seconds(
    layout: &Layout,
    runs: &[&Figures],
) -> Result<BTreeMap<usize, f64>, CompareError> {
    for run in runs {
        let path = folder(layout, run)?.cost();
        if !path.is_file() {
            continue;
        }
        let cost = Cost::read(&path)?;
        let alone = cost.rows.iter().filter(|row| row.batch == 1);
        let measured = alone.filter_map(|row| {
            let decode = row.outcome.measured()?.decode?;
            Some((row.length, decode.seconds.median))
        });
        return Ok(measured.collect());
    }
    Ok(BTreeMap::new())
}

fn folder(layout: &Layout, run: &Figures) -> Result<RunFolder, CompareError> {
    let path = layout.out.join("runs").join(&run.folder);
    Ok(RunFolder::open(path).map_err(kiln_train::TrainError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;
    use kiln_cost::{
        COST_VERSION, Outcome, Pace, Parameters, Row, RowCost, Settings, Spread, Weights,
    };

    #[test]
    fn curves_are_means_where_every_seed_was_evaluated() {
        let root = tempfile::tempdir().unwrap();
        let mut layout = layout("seeds = [7, 8]", &["a"]);
        layout.out = root.path().into();
        let runs: Vec<_> = layout.all().map(|run| figures(&layout, run, 1.0)).collect();
        for (run, values) in runs.iter().zip([[4.0, 2.0, 1.0], [3.0, 1.0, f64::NAN]]) {
            let path = layout.out.join("runs").join(&run.folder);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("recipe.toml"), "").unwrap();
            let lines = values.iter().enumerate().map(|(step, value)| {
                let value = if value.is_nan() { "\"NaN\"".into() } else { value.to_string() };
                format!(
                    "{{\"step\":{step},\"tokens\":1,\"time_s\":1.0,\"kind\":\"eval\",\"values\":{{\"validation_loss\":{value}}}}}\n"
                )
            });
            fs::write(path.join("metrics.jsonl"), lines.collect::<String>()).unwrap();
        }
        let of: Vec<_> = runs.iter().collect();
        let series = validation(&layout, &of, Measure::NatsPerToken, "a").unwrap();
        assert_eq!(series.points, [(0.0, 3.5), (1.0, 1.5)]);
        assert_eq!(series.band, [(0.0, 3.0, 4.0), (1.0, 1.0, 2.0)]);
        let none = validation(&layout, &of, Measure::Accuracy, "a").unwrap();
        assert!(none.points.is_empty());

        assert!(sample(&layout, of[0]).unwrap().is_none());
        assert!(decode_seconds(&layout, &of).unwrap().is_empty());
        let too_long = Outcome::LeftOut {
            reason: "too long".into(),
        };
        let rows = [
            (1, 64, measured(0.5)),
            (8, 64, measured(9.0)),
            (1, 128, too_long),
        ];
        let mut cost = cost(of[1], rows);
        let path = folder(&layout, of[1]).unwrap().cost();
        cost.write(&path).unwrap();
        let found = decode_seconds(&layout, &of).unwrap();
        assert_eq!(found, BTreeMap::from([(64, 0.5)]));
        cost.version += 1;
        cost.write(&path).unwrap();
        assert!(decode_seconds(&layout, &of).is_err());
    }

    fn measured(median: f64) -> Outcome<RowCost> {
        let seconds = Spread {
            median,
            lower_quartile: median,
            upper_quartile: median,
            repeats: 3,
        };
        let pace = Pace {
            seconds,
            tokens_per_second: 1.0 / median,
            energy: None,
        };
        Outcome::Measured(RowCost {
            prefill: None,
            decode: Some(pace),
            forward: pace,
            state_bytes: None,
            counted_state_bytes: None,
            peak_memory_bytes: None,
        })
    }

    fn cost(run: &Figures, rows: [(usize, usize, Outcome<RowCost>); 3]) -> Cost {
        let row = |(batch, length, outcome)| Row {
            batch,
            length,
            outcome,
        };
        Cost {
            version: COST_VERSION,
            name: "a".into(),
            weights: Weights::Trained,
            backend: "flex".into(),
            precision: Default::default(),
            provenance: run.provenance.clone().unwrap(),
            settings: Settings {
                lengths: vec![64, 128],
                batches: vec![1, 8],
                seconds: 1.0,
            },
            parameters: Parameters {
                trainable: 1,
                all: 1,
            },
            weight_bytes: 4,
            files: None,
            training: Outcome::LeftOut {
                reason: "not asked for".into(),
            },
            rows: rows.map(row).into(),
        }
    }
}
