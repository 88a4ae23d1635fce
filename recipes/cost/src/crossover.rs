//! From which length on one model is cheaper than another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Cost, RowCost};

/// What is compared over lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// Seconds of the whole prompt.
    Prefill,
    /// Seconds of a step.
    Decode,
    /// Bytes of the state of a sequence.
    State,
    /// The most bytes of memory while all of that was done, weights included.
    Peak,
}

/// Where the first of two models is cheaper than the second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crossover {
    /// From this length on, between two measured ones.
    From(f64),
    /// At every length from this one on, the least that was measured.
    Everywhere(usize),
    /// At the greatest length, this one, it is not.
    NoneUpTo(usize),
    /// No length was measured of both.
    Unknown,
}

impl Figure {
    /// All of them.
    pub const ALL: [Figure; 4] = [Figure::Prefill, Figure::Decode, Figure::State, Figure::Peak];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Prefill => "prefill",
            Figure::Decode => "decoding",
            Figure::State => "state",
            Figure::Peak => "peak memory",
        }
    }

    /// A row's, in seconds or bytes.
    pub fn of(self, row: &RowCost) -> Option<f64> {
        match self {
            Figure::Prefill => row.prefill.map(|pace| pace.seconds.median),
            Figure::Decode => row.decode.map(|pace| pace.seconds.median),
            Figure::State => row.state_bytes.map(|bytes| bytes as f64),
            Figure::Peak => row.peak_memory_bytes.map(|bytes| bytes as f64),
        }
    }

    /// The figure over the measured lengths of a batch, shortest first.
    pub fn curve(self, cost: &Cost, batch: usize) -> Vec<(usize, f64)> {
        let rows = cost.rows.iter().filter(|row| row.batch == batch);
        let mut points: Vec<(usize, f64)> = rows
            .filter_map(|row| Some((row.length, self.of(row.outcome.measured()?)?)))
            .collect();
        points.sort_by_key(|(length, _)| *length);
        points
    }
}

/// The length from which on `first` stays below `second`, over the lengths that both have; both are ordered by length.
///
/// Between two lengths the logarithm of the ratio is taken as linear in the logarithm of the length, which is exact for powers.
/// A length where the curves touch again later does not count: only the last crossing does.
pub fn crossover(first: &[(usize, f64)], second: &[(usize, f64)]) -> Crossover {
    let ratios: Vec<(usize, f64)> = first
        .iter()
        .filter_map(|&(length, own)| {
            let (_, other) = second.iter().find(|(at, _)| *at == length)?;
            Some((length, (own / other).ln()))
        })
        .filter(|(_, ratio)| !ratio.is_nan())
        .collect();
    let (Some(&(least, _)), Some(&(greatest, _))) = (ratios.first(), ratios.last()) else {
        return Crossover::Unknown;
    };
    match ratios.iter().rposition(|(_, ratio)| *ratio >= 0.0) {
        None => Crossover::Everywhere(least),
        Some(last) if last + 1 == ratios.len() => Crossover::NoneUpTo(greatest),
        Some(last) => Crossover::From(between(ratios[last], ratios[last + 1])),
    }
}

/// Where a logarithm of a ratio that is at least zero at the first length and below it at the second is zero.
fn between((from, above): (usize, f64), (to, below): (usize, f64)) -> f64 {
    let (from, to) = (from as f64, to as f64);
    match above / (above - below) {
        share if above.is_finite() && below.is_finite() => from * (to / from).powf(share),
        // Something that costs nothing is infinitely cheaper, from where it was measured.
        _ => to,
    }
}

impl Crossover {
    /// Where a chart shows it: between two measured lengths only.
    pub fn place(self) -> Option<f64> {
        match self {
            Self::From(length) => Some(length),
            Self::Everywhere(_) | Self::NoneUpTo(_) | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Crossover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(length) => write!(f, "from {length:.0} on"),
            Self::Everywhere(length) => write!(f, "at every length, from {length} on"),
            Self::NoneUpTo(length) => write!(f, "none up to {length}"),
            Self::Unknown => f.write_str("not measured"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::testing::{cost, row};

    /// `scale * length^power` at some lengths.
    fn power(scale: f64, power: f64, lengths: &[usize]) -> Vec<(usize, f64)> {
        let value = |&length: &usize| (length, scale * (length as f64).powf(power));
        lengths.iter().map(value).collect()
    }

    #[test]
    fn powers_cross_where_algebra_says() {
        let lengths = [64, 256, 1024, 4096];
        // 500 n = n^2 at n = 500, between two measured lengths.
        let (linear, square) = (power(500.0, 1.0, &lengths), power(1.0, 2.0, &lengths));
        let Crossover::From(found) = crossover(&linear, &square) else {
            panic!("{:?}", crossover(&linear, &square));
        };
        assert!((found - 500.0).abs() < 1e-6, "{found}");
        assert_eq!(crossover(&square, &linear), Crossover::NoneUpTo(4096));
        // Equal at a measured length: cheaper from there on.
        let linear = power(256.0, 1.0, &lengths);
        let Crossover::From(found) = crossover(&linear, &square) else {
            panic!("{:?}", crossover(&linear, &square));
        };
        assert!((found - 256.0).abs() < 1e-6, "{found}");
    }

    #[test]
    fn without_a_crossing_it_says_which_side() {
        let lengths = [64, 256, 1024];
        let (less, more) = (power(1.0, 1.0, &lengths), power(2.0, 1.0, &lengths));
        assert_eq!(crossover(&less, &more), Crossover::Everywhere(64));
        assert_eq!(crossover(&more, &less), Crossover::NoneUpTo(1024));
        assert_eq!(crossover(&less, &less), Crossover::NoneUpTo(1024));
        assert_eq!(crossover(&less, &[]), Crossover::Unknown);
        assert_eq!(
            crossover(&less, &power(2.0, 1.0, &[65])),
            Crossover::Unknown
        );
    }

    #[test]
    fn only_the_last_of_several_crossings_counts() {
        let first = [(1, 1.0), (10, 3.0), (100, 1.0)];
        let second = [(1, 2.0), (10, 2.0), (100, 2.0)];
        let Crossover::From(found) = crossover(&first, &second) else {
            panic!("{:?}", crossover(&first, &second));
        };
        assert!((10.0..100.0).contains(&found), "{found}");
        // Lengths that one of them lacks do not count.
        let found = crossover(&first, &[(1, 2.0), (100, 2.0), (1000, 0.5)]);
        assert_eq!(found, Crossover::Everywhere(1));
        // A mixer without state.
        let free = crossover(&[(1, 5.0), (10, 0.0)], &[(1, 1.0), (10, 1.0)]);
        assert_eq!(free, Crossover::From(10.0));
    }

    #[test]
    fn curves_are_one_batch_by_length() {
        let rows = vec![
            row(1, 1024, [2.0, 0.5], 4096),
            row(8, 64, [9.0, 9.0], 1),
            row(1, 64, [0.25, 0.25], 256),
        ];
        let cost = cost("a", rows);
        assert_eq!(Figure::Prefill.curve(&cost, 1), [(64, 0.25), (1024, 2.0)]);
        assert_eq!(Figure::Decode.curve(&cost, 1), [(64, 0.25), (1024, 0.5)]);
        assert_eq!(Figure::State.curve(&cost, 1), [(64, 256.0), (1024, 4096.0)]);
    }

    #[test]
    fn what_a_reader_reads() {
        for (found, text) in [
            (Crossover::From(1234.4), "from 1234 on"),
            (Crossover::Everywhere(64), "at every length, from 64 on"),
            (Crossover::NoneUpTo(16384), "none up to 16384"),
            (Crossover::Unknown, "not measured"),
        ] {
            assert_eq!(found.to_string(), text);
            assert_eq!(found.place().is_some(), text.starts_with("from"));
        }
    }
}
