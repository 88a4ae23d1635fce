//! How sure a difference is on the held-out text itself: a paired bootstrap over evaluation windows.
//!
//! Two arms are scored on the same windows. For every window the sums of each arm are averaged over its seeds; windows are then
//! drawn with replacement, for both arms alike, and the difference of the arms is computed anew from what was drawn. The middle
//! 95 % of 10,000 such differences is the interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993). It covers
//! another draw of text of the same kind, for the very runs that were made; Welch's interval covers other seeds on the very text.
//! Windows that follow each other are alike, so many of them are put together into at most [`BLOCKS`] neighbourhoods.

use kiln_train::{WINDOWS_VERSION, WindowScores};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::figures::read_json;
use crate::results::Measure;
use crate::statistics::CONFIDENCE;
use crate::{CompareError, Figures, Layout};

/// Draws of windows.
const DRAWS: usize = 10_000;
/// Neighbourhoods of windows that are drawn from, at most.
const BLOCKS: usize = 2048;
/// The draws are the same every time.
const SEED: u64 = 1979;
/// Sums of windows and the mean of the final record are added up in another order.
const AGREE: f64 = 1e-5;

/// An arm's windows, averaged over its seeds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scored {
    /// Sums of the measure, by window.
    sums: Vec<f64>,
    tokens: Vec<f64>,
}

/// Reads the windows of an arm's runs; none if one of the runs left none.
///
/// # Errors
/// [`CompareError::BadFile`] for a file that is damaged, of another layout, or not of its run.
pub(crate) fn scored(
    layout: &Layout,
    runs: &[&Figures],
    measure: Measure,
) -> Result<Option<Scored>, CompareError> {
    let mut all: Option<Scored> = None;
    for run in runs {
        let Some(own) = of_run(layout, run, measure)? else {
            return Ok(None);
        };
        let Some(sum) = &mut all else {
            all = Some(own);
            continue;
        };
        // Windows of other lengths are other windows: nothing pairs them.
        if sum.tokens != own.tokens {
            return Ok(None);
        }
        let pairs = sum.sums.iter_mut().zip(own.sums);
        pairs.for_each(|(sum, own)| *sum += own);
    }
    if let Some(all) = &mut all {
        all.sums
            .iter_mut()
            .for_each(|sum| *sum /= runs.len() as f64);
    }
    Ok(all)
}

fn of_run(
    layout: &Layout,
    run: &Figures,
    measure: Measure,
) -> Result<Option<Scored>, CompareError> {
    let path = layout
        .out
        .join("runs")
        .join(&run.folder)
        .join("windows.json");
    if !path.is_file() {
        return Ok(None);
    }
    let bad = |why: String| CompareError::BadFile {
        path: path.clone(),
        why,
    };
    let file: WindowScores = read_json(&path)?;
    if file.version != WINDOWS_VERSION {
        let found = file.version;
        return Err(bad(format!(
            "its layout version is {found}, and this Kiln reads {WINDOWS_VERSION}"
        )));
    }
    let windows = file.validation;
    let count = windows.tokens.len();
    // Nobody looks for the likeliest token of an n-gram model.
    let is_counted = !windows.correct.is_empty() || measure == Measure::Accuracy;
    if windows.nats.len() != count || (is_counted && windows.correct.len() != count) {
        return Err(bad("its lists are not of one length".into()));
    }
    let counts = |counts: &[u64]| -> Vec<f64> { counts.iter().map(|n| *n as f64).collect() };
    let nats = |factor: f64| -> Vec<f64> {
        let nats = windows.nats.iter().map(|nats| f64::from(*nats));
        nats.map(|nats| nats * factor).collect()
    };
    let sums = match measure {
        Measure::Accuracy => counts(&windows.correct),
        Measure::NatsPerToken => nats(1.0),
        // Bits per byte are nats a token in another unit, one factor for the whole split.
        Measure::BitsPerByte => nats(measure.of(run) / run.validation_loss),
    };
    let scored = Scored {
        sums,
        tokens: counts(&windows.tokens),
    };
    let (found, said) = (scored.mean(), measure.of(run));
    if (found - said).abs() > AGREE * said.abs() {
        let unit = measure.unit();
        return Err(bad(format!(
            "its windows have {found} {unit}, and metrics.jsonl says {said}: it is of another run"
        )));
    }
    Ok(Some(scored))
}

impl Scored {
    fn mean(&self) -> f64 {
        self.sums.iter().sum::<f64>() / self.tokens.iter().sum::<f64>()
    }
}

/// The 95 % interval of the arm's mean less the first's; none where their windows are not the same, or are fewer than two.
pub(crate) fn interval(arm: &Scored, first: &Scored) -> Option<[f64; 2]> {
    if arm.tokens != first.tokens || arm.tokens.len() < 2 {
        return None;
    }
    let block = arm.tokens.len().div_ceil(BLOCKS);
    let differences = arm.sums.iter().zip(&first.sums).map(|(a, b)| a - b);
    let differences: Vec<f64> = differences.collect();
    let sum = |values: &[f64]| -> Vec<f64> {
        let blocks = values.chunks(block);
        blocks.map(|values| values.iter().sum()).collect()
    };
    let pairs = sum(&differences).into_iter().zip(sum(&arm.tokens));
    let pairs: Vec<(f64, f64)> = pairs.collect();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut drawn: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let (mut difference, mut tokens) = (0.0, 0.0);
            for _ in 0..pairs.len() {
                let pair = pairs[random.random_range(0..pairs.len())];
                difference += pair.0;
                tokens += pair.1;
            }
            difference / tokens
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let outside = ((1.0 - CONFIDENCE) / 2.0 * DRAWS as f64) as usize;
    let (low, high) = (drawn[outside], drawn[DRAWS - 1 - outside]);
    (low.is_finite() && high.is_finite()).then_some([low, high])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;

    fn even(sums: Vec<f64>) -> Scored {
        let tokens = vec![1.0; sums.len()];
        Scored { sums, tokens }
    }

    /// Of 400 windows whose differences are +1 and -1 in turn but for a shift, the mean has a standard error of 1/20.
    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        let first = even((0..400).map(|at| f64::from(at % 7)).collect());
        let arm = first.sums.iter().enumerate().map(|(at, sum)| {
            let sign = if at % 2 == 0 { 1.0 } else { -1.0 };
            sum + 0.3 + sign
        });
        let arm = even(arm.collect());
        let [low, high] = interval(&arm, &first).unwrap();
        let half = 1.96 / 20.0;
        assert!((low - (0.3 - half)).abs() < 0.01, "{low}");
        assert!((high - (0.3 + half)).abs() < 0.01, "{high}");
        assert_eq!(
            interval(&arm, &first),
            Some([low, high]),
            "the same every time"
        );
        // What both arms find hard is no doubt about their difference.
        let shifted = even(first.sums.iter().map(|sum| sum - 0.5).collect());
        let [low, high] = interval(&shifted, &first).unwrap();
        assert!((low + 0.5).abs() < 1e-9 && (high + 0.5).abs() < 1e-9);
    }

    #[test]
    fn other_windows_are_not_paired() {
        let first = even(vec![1.0; 4]);
        let mut other = first.clone();
        other.tokens[3] = 2.0;
        assert_eq!(interval(&other, &first), None);
        assert_eq!(interval(&even(vec![1.0]), &even(vec![2.0])), None);
    }

    #[test]
    fn many_windows_are_fast() {
        let noise = |at: usize| ((at * 7919) % 1000) as f64;
        let first = even((0..200_000).map(noise).collect());
        let arm = even((0..200_000).map(|at| noise(at + 1)).collect());
        let start = Instant::now();
        interval(&arm, &first).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn windows_are_averaged_over_seeds_and_held_against_the_run() {
        let root = tempfile::tempdir().unwrap();
        let mut layout = layout("seeds = [7, 8]", &["a"]);
        layout.out = root.path().into();
        let runs: Vec<_> = layout.all().map(|run| figures(&layout, run, 2.0)).collect();
        let of: Vec<_> = runs.iter().collect();
        let read = || scored(&layout, &of, Measure::NatsPerToken);
        let write = |run: &Figures, text: &str| {
            let folder = layout.out.join("runs").join(&run.folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("windows.json"), text).unwrap();
        };
        let text = |nats: &str| {
            format!(
                r#"{{"version": 1, "validation": {{"nats": {nats}, "tokens": [4, 1], "correct": [3, 0]}}, "test": null}}"#
            )
        };
        write(of[0], &text("[7.0, 3.0]"));
        assert_eq!(read().unwrap(), None, "one run has none");
        write(of[1], &text("[9.0, 1.0]"));
        let found = read().unwrap().unwrap();
        assert_eq!((found.sums, found.tokens), (vec![8.0, 2.0], vec![4.0, 1.0]));
        for (text, message) in [
            (
                text("[9.0, 9.0]"),
                "its windows have 3.6 nats/token, and metrics.jsonl says 2",
            ),
            (text("[9.0]"), "its lists are not of one length"),
            (
                text("[9.0, 1.0]").replace("\"version\": 1", "\"version\": 2"),
                "its layout version is 2, and",
            ),
            ("{".into(), "windows.json is not usable: "),
        ] {
            write(of[1], &text);
            let error = read().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
