//! Means over seeds, and whether two of them differ.
//!
//! The interval is Welch's: the difference of two means, plus and minus t times its standard error, with t the 97.5 % quantile of
//! Student's distribution at Welch and Satterthwaite's degrees of freedom. It assumes that losses over seeds are about normal, and
//! no equal variances. Arms with one seed have no interval.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The share that an interval covers.
pub const CONFIDENCE: f64 = 0.95;

/// A sample of runs that differ in their seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Runs.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Sample standard deviation, n - 1 in the denominator; none for a single run.
    pub sd: Option<f64>,
}

impl Summary {
    /// Mean and deviation of values; none of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { n, mean, sd })
    }
}

/// `1.7710 ± 0.0080`; a single run has no deviation.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.mean)?;
        self.sd.map_or(Ok(()), |sd| write!(f, " ± {sd:.4}"))
    }
}

/// How an arm stands against the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval is below zero where less is better, above it where more is.
    Better,
    /// The whole interval is on the other side of zero.
    Worse,
    /// The interval has zero in it.
    NotDistinguishable,
    /// The study has one seed.
    TooFewSeeds,
    /// Of the arm or of the first one, a grid is not decided, or a seed has no finite loss.
    Incomplete,
}

impl Verdict {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NotDistinguishable => "not distinguishable",
            Self::TooFewSeeds => "too few seeds",
            Self::Incomplete => "incomplete",
        }
    }
}

/// The difference of two means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Mean of the arm less the mean of the first; none where one of them is incomplete.
    pub difference: Option<f64>,
    /// The 95 % interval of that difference; none with fewer than two runs of either.
    pub interval: Option<[f64; 2]>,
    /// Degrees of freedom of the interval; none where both deviations are zero.
    pub degrees: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
    /// The 95 % interval of that difference over other text of the same kind, by a paired bootstrap over evaluation windows;
    /// none where a run of either left no sums of its windows.
    pub windows: Option<[f64; 2]>,
}

impl Comparison {
    /// Of arms that have no means yet.
    pub const INCOMPLETE: Self = Self {
        difference: None,
        interval: None,
        degrees: None,
        verdict: Verdict::Incomplete,
        windows: None,
    };
}

/// Compares an arm with the first.
pub fn compare(arm: &Summary, first: &Summary, more_is_better: bool) -> Comparison {
    let difference = arm.mean - first.mean;
    let (Some(sd_arm), Some(sd_first)) = (arm.sd, first.sd) else {
        return Comparison {
            difference: Some(difference),
            interval: None,
            degrees: None,
            verdict: Verdict::TooFewSeeds,
            windows: None,
        };
    };
    let (n_arm, n_first) = (arm.n as f64, first.n as f64);
    let (a, b) = (sd_arm.powi(2) / n_arm, sd_first.powi(2) / n_first);
    // Equal runs on every seed have no spread, and an interval of no width.
    let degrees = (a + b > 0.0)
        .then(|| (a + b).powi(2) / (a.powi(2) / (n_arm - 1.0) + b.powi(2) / (n_first - 1.0)));
    let half = degrees.map_or(0.0, |degrees| student_quantile(degrees) * (a + b).sqrt());
    let [low, high] = [difference - half, difference + half];
    let verdict = match (high < 0.0, low > 0.0) {
        (false, false) => Verdict::NotDistinguishable,
        (_, above) if above == more_is_better => Verdict::Better,
        _ => Verdict::Worse,
    };
    Comparison {
        difference: Some(difference),
        interval: Some([low, high]),
        degrees,
        verdict,
        windows: None,
    }
}

/// The t with P(|T| < t) = [`CONFIDENCE`] for Student's distribution of `degrees` >= 1 degrees of freedom.
///
/// With t = sqrt(degrees) tan(angle) the density is proportional to cos(angle)^(degrees - 1) over a quarter turn, so that the
/// quantile is where a running sum of it reaches its share.
pub fn student_quantile(degrees: f64) -> f64 {
    const CELLS: usize = 100_000;
    let width = std::f64::consts::FRAC_PI_2 / CELLS as f64;
    let density = |cell: usize| ((cell as f64 + 0.5) * width).cos().powf(degrees - 1.0);
    let wanted = CONFIDENCE * (0..CELLS).map(density).sum::<f64>();
    let mut sum = 0.0;
    let mut angle = 0.0;
    for cell in 0..CELLS {
        let next = density(cell);
        if sum + next >= wanted {
            angle = (cell as f64 + (wanted - sum) / next) * width;
            break;
        }
        sum += next;
    }
    degrees.sqrt() * angle.tan()
}

/// The middle value, or the mean of the two in the middle; none of no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        n if n % 2 == 1 => Some(sorted[n / 2]),
        n => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two-sided 95 % values of the printed tables, all their digits.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, t) in [
            (1.0, 12.706_205),
            (2.0, 4.302_653),
            (3.0, 3.182_446),
            (4.0, 2.776_445),
            (8.0, 2.306_004),
            (30.0, 2.042_272),
            (120.0, 1.979_930),
        ] {
            let found = student_quantile(degrees);
            assert!((found - t).abs() < 2e-6 * t, "{degrees}: {found}");
        }
    }

    #[test]
    fn means_and_deviations() {
        let summary = Summary::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((summary.n, summary.mean), (8, 5.0));
        assert!((summary.sd.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-15);
        assert_eq!(Summary::of(&[3.0]).unwrap().sd, None);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    /// a = [1, 2, 3, 4, 5] and b = [2, 4, 6, 8, 10] by hand: difference -3, variances 2.5 and 10, standard error sqrt(2.5),
    /// degrees 6.25 / (0.0625 + 1) = 5.882353; t there is 2.459 (between 2.4469 at 6 and 2.5706 at 5).
    #[test]
    fn welch_by_hand() {
        let a = Summary::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let b = Summary::of(&[2.0, 4.0, 6.0, 8.0, 10.0]).unwrap();
        let found = compare(&a, &b, false);
        assert!((found.degrees.unwrap() - 100.0 / 17.0).abs() < 1e-12);
        let [low, high] = found.interval.unwrap();
        let t = (high - low) / 2.0 / 2.5f64.sqrt();
        assert!(
            (found.difference.unwrap() + 3.0).abs() < 1e-15 && (t - 2.459).abs() < 2e-3,
            "{t}"
        );
        assert_eq!(found.verdict, Verdict::NotDistinguishable);
    }

    #[test]
    fn verdicts_follow_the_interval() {
        let of = |values: &[f64]| Summary::of(values).unwrap();
        let first = of(&[1.0, 1.1, 0.9]);
        let verdict = |values: &[f64]| compare(&of(values), &first, false).verdict;
        assert_eq!(verdict(&[0.1, 0.2, 0.0]), Verdict::Better);
        assert_eq!(verdict(&[2.1, 2.2, 2.0]), Verdict::Worse);
        assert_eq!(verdict(&[1.05, 1.15, 0.95]), Verdict::NotDistinguishable);
        assert_eq!(verdict(&[0.1]), Verdict::TooFewSeeds);
        let equal = compare(&of(&[1.0, 1.0]), &of(&[1.0, 1.0]), false);
        assert_eq!((equal.interval, equal.degrees), (Some([0.0, 0.0]), None));
        assert_eq!(equal.verdict, Verdict::NotDistinguishable);
        assert_eq!(
            compare(&of(&[1.0, 1.0]), &of(&[2.0, 2.0]), false).verdict,
            Verdict::Better
        );
        for (value, verdict) in [(0.1, Verdict::Worse), (2.1, Verdict::Better)] {
            let arm = of(&[value, value + 0.1, value - 0.1]);
            assert_eq!(compare(&arm, &first, true).verdict, verdict);
        }
        let equal = compare(&of(&[1.0, 1.0]), &of(&[1.0, 1.0]), true);
        assert_eq!(equal.verdict, Verdict::NotDistinguishable);
    }
}
