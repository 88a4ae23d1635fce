//! What the report draws and `results.json` leaves out: curves, samples and recipes, from the run folders.

use std::collections::BTreeMap;
use std::fs;

use kiln_run::report::Series;
use kiln_run::{FileError, Kind, RunFolder, metrics};

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

/// The run's resolved recipe.
///
/// # Errors
/// A folder that was taken away since its figures were read.
pub(crate) fn recipe(layout: &Layout, run: &Figures) -> Result<String, CompareError> {
    let path = folder(layout, run)?.recipe();
    Ok(fs::read_to_string(&path).map_err(FileError::io("read", &path))?)
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
    }
}
