//! How long a piece of work takes, within a budget.

use std::time::Instant;

use crate::Spread;

/// Repetitions after warm-up, unless one of them takes longer than its whole share of the budget and is not [`SHORT`].
const LEAST: usize = 3;

/// Seconds of work that is always repeated.
const SHORT: f64 = 0.5;

/// More repetitions than this say nothing new.
const MOST: usize = 1000;

/// Seconds that are left, and the parts they are for. A part that takes less than its share leaves the rest to later ones.
pub(crate) struct Budget {
    start: Instant,
    seconds: f64,
    parts: usize,
}

impl Budget {
    pub fn new(seconds: f64, parts: usize) -> Self {
        Self {
            start: Instant::now(),
            seconds,
            parts,
        }
    }

    /// Whether nothing is left.
    pub fn is_used_up(&self) -> bool {
        self.start.elapsed().as_secs_f64() >= self.seconds
    }

    /// Seconds for the next part.
    pub fn share(&mut self) -> f64 {
        let left = (self.seconds - self.start.elapsed().as_secs_f64()).max(0.0);
        let parts = self.parts.max(1);
        self.parts = parts - 1;
        left / parts as f64
    }

    /// Gives up parts that will not be measured.
    pub fn skip(&mut self, parts: usize) {
        self.parts = self.parts.saturating_sub(parts);
    }
}

/// Repeats `work`, which ends when the device is done, for about `share` seconds, once more than counted to warm up.
/// `before` is called between warm-up and the first repetition that counts.
pub(crate) fn repeat<E>(
    share: f64,
    mut work: impl FnMut() -> Result<f64, E>,
    before: impl FnOnce(),
) -> Result<Vec<f64>, E> {
    let start = Instant::now();
    work()?;
    let least = match start.elapsed().as_secs_f64() > share.max(SHORT) {
        true => 1,
        false => LEAST,
    };
    before();
    let mut times = Vec::new();
    while times.len() < least || (times.len() < MOST && start.elapsed().as_secs_f64() < share) {
        times.push(work()?);
    }
    Ok(times)
}

impl Spread {
    /// Median and quartiles, linear between neighbours (Hyndman and Fan 1996, definition 7); none of no times.
    pub fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let quantile = |share: f64| {
            let at = share * last as f64;
            let (below, rest) = (at.floor() as usize, at.fract());
            let above = (below + 1).min(last);
            sorted[below] + rest * (sorted[above] - sorted[below])
        };
        Some(Self {
            median: quantile(0.5),
            lower_quartile: quantile(0.25),
            upper_quartile: quantile(0.75),
            repeats: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn quartiles_by_hand() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        let found = [spread.lower_quartile, spread.median, spread.upper_quartile];
        assert_eq!((found, spread.repeats), ([1.75, 2.5, 3.25], 4));
        let spread = Spread::of(&[5.0]).unwrap();
        assert_eq!([spread.lower_quartile, spread.upper_quartile], [5.0, 5.0]);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_share_bounds_repetitions_from_both_sides() {
        let count = |share: f64, seconds: f64| {
            let mut warm = false;
            let work = || {
                sleep(Duration::from_secs_f64(seconds));
                Ok::<_, ()>(seconds)
            };
            let times = repeat(share, work, || warm = true).unwrap();
            assert!(warm);
            times.len()
        };
        assert_eq!(count(0.0, 0.001), LEAST, "short work is repeated");
        assert_eq!(
            count(0.1, SHORT + 0.01),
            1,
            "the warm-up alone takes longer"
        );
        assert_eq!(count(0.004, 0.003), LEAST);
        assert!((4..40).contains(&count(0.2, 0.005)));
        assert_eq!(count(60.0, 0.0), MOST);
    }

    #[test]
    fn an_error_ends_it() {
        let mut left = 2;
        let work = || {
            left -= 1;
            if left == 0 { Err("enough") } else { Ok(1.0) }
        };
        assert_eq!(repeat(1.0, work, || ()), Err("enough"));
    }

    #[test]
    fn what_a_part_leaves_goes_to_the_rest() {
        let mut budget = Budget::new(100.0, 4);
        assert!((24.9..=25.0).contains(&budget.share()));
        assert!((33.2..=33.4).contains(&budget.share()));
        budget.skip(1);
        assert!((99.8..=100.0).contains(&budget.share()) && !budget.is_used_up());
        assert!(Budget::new(0.0, 1).is_used_up());
    }
}
