//! From numbers to places on paper: ranges that an outlier cannot spoil, round ticks, fewer points
//! with the same silhouette.

/// A point of a curve. A `y` that is not finite is a gap.
pub(super) type Point = (f64, f64);

/// Values of a larger size are gaps: their differences would overflow. A diverged loss ends there.
const LARGEST: f64 = 1e100;

/// Smaller values have no place on a logarithmic axis.
pub(super) const SMALLEST: f64 = 1e-100;

/// More points than this are thinned: twice the pixels of a chart show no more.
const MANY: usize = 1000;

/// One axis: a range of values laid on a range of pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub from: f64,
    pub to: f64,
    pub start: f64,
    pub end: f64,
    pub log: bool,
}

impl Axis {
    /// The pixel of a value.
    pub fn place(&self, value: f64) -> f64 {
        let (from, to, value) = if self.log {
            (self.from.log10(), self.to.log10(), value.log10())
        } else {
            (self.from, self.to, value)
        };
        self.start + (value - from) / (to - from) * (self.end - self.start)
    }

    pub fn holds(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    /// Round values inside of the range, about `count` of them, with their labels.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let decades = if self.log {
            (self.to / self.from).log10()
        } else {
            0.0
        };
        // Below half a decade round values of a logarithmic axis are too few.
        if decades < 0.5 {
            return linear_ticks(self.from, self.to, count);
        }
        let every = (decades / count as f64).ceil() as i32;
        let powers = self.from.log10().ceil() as i32..=self.to.log10().floor() as i32;
        let mut values: Vec<f64> = powers
            .filter(|power| power.rem_euclid(every) == 0)
            .map(|p| 10f64.powi(p))
            .collect();
        if decades < 2.5 {
            let between: Vec<f64> = (self.from.log10().floor() as i32
                ..=self.to.log10().ceil() as i32)
                .flat_map(|power| [2.0, 5.0].map(|factor| factor * 10f64.powi(power)))
                .collect();
            values.extend(between.into_iter().filter(|value| self.holds(*value)));
            values.sort_by(f64::total_cmp);
        }
        values
            .into_iter()
            .map(|value| (value, label(value, value, value)))
            .collect()
    }
}

fn linear_ticks(from: f64, to: f64, count: usize) -> Vec<(f64, String)> {
    let raw = (to - from) / count.max(1) as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    // The round step whose number of ticks comes nearest to `count`, as a ratio.
    let distance = |step: f64| (step / raw).ln().abs();
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
    let nearest = steps
        .into_iter()
        .min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let step = nearest.unwrap_or(raw);
    // By counting, not by adding up: 0.1 + 0.1 + 0.1 is not 0.3.
    let (first, last) = (
        (from / step - 1e-9).ceil() as i64,
        (to / step + 1e-9).floor() as i64,
    );
    let largest = from.abs().max(to.abs());
    (first..=last)
        .map(|index| {
            (
                index as f64 * step,
                label(index as f64 * step, step, largest),
            )
        })
        .collect()
}

/// A tick's label: as many decimals as its step needs, in thousands or millions where the axis is
/// long.
fn label(value: f64, step: f64, largest: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e13).contains(&largest) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let (unit, scale) = match largest {
        l if l >= 1e12 => ("T", 1e12),
        l if l >= 1e9 => ("G", 1e9),
        l if l >= 1e6 => ("M", 1e6),
        l if l >= 1e4 => ("k", 1e3),
        _ => ("", 1.0),
    };
    let decimals = (-(step / scale).log10() - 1e-9).ceil().clamp(0.0, 9.0) as usize;
    format!("{:.decimals$}{unit}", value / scale)
}

/// Whether both coordinates are numbers of a size that can be drawn.
pub(super) fn is_drawable((x, y): &Point) -> bool {
    x.abs() <= LARGEST && y.abs() <= LARGEST
}

/// The range of one curve, its rare outliers left out: a first loss of 11 must not flatten what
/// follows.
///
/// The middle 96 % of the values, or all but the largest and the smallest of few, are its core;
/// what lies within twice the core's height of it belongs to the range.
pub(super) fn robust_range(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted: Vec<f64> = values
        .iter()
        .copied()
        .filter(|value| value.is_finite())
        .collect();
    sorted.sort_by(f64::total_cmp);
    let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
    if sorted.len() < 5 {
        return Some((lowest, highest));
    }
    let outside = ((sorted.len() as f64 * 0.02) as usize).max(1);
    let (low, high) = (sorted[outside], sorted[sorted.len() - 1 - outside]);
    let core = high - low;
    let far = |distance: f64| core > 0.0 && distance > 2.0 * core;
    let from = if far(low - lowest) {
        low - 0.1 * core
    } else {
        lowest
    };
    let to = if far(highest - high) {
        high + 0.1 * core
    } else {
        highest
    };
    Some((from, to))
}

/// Unbroken pieces of a curve, each thinned to the lowest and highest point of every `bucket` of x
/// pixels.
pub(super) fn pieces(points: &[Point], x: &Axis, bucket: f64) -> Vec<Vec<Point>> {
    let drawable = |point: &Point| is_drawable(point) && (!x.log || point.0 >= SMALLEST);
    let pieces = points
        .split(|point| !drawable(point))
        .filter(|piece| !piece.is_empty());
    if points.len() <= MANY {
        return pieces.map(<[Point]>::to_vec).collect();
    }
    pieces.map(|piece| thin(piece, x, bucket)).collect()
}

fn thin(piece: &[Point], x: &Axis, bucket: f64) -> Vec<Point> {
    let number = |point: &Point| (x.place(point.0) / bucket).floor();
    let mut kept = vec![piece[0]];
    for group in piece.chunk_by(|a, b| number(a) == number(b)) {
        let extreme = |sign: f64| {
            (0..group.len()).min_by(|a, b| (sign * group[*a].1).total_cmp(&(sign * group[*b].1)))
        };
        if let (Some(low), Some(high)) = (extreme(1.0), extreme(-1.0)) {
            kept.push(group[low.min(high)]);
            kept.push(group[low.max(high)]);
        }
    }
    kept.push(piece[piece.len() - 1]);
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn axis(from: f64, to: f64, log: bool) -> Axis {
        Axis {
            from,
            to,
            start: 0.0,
            end: 800.0,
            log,
        }
    }

    fn labels(from: f64, to: f64, log: bool) -> Vec<String> {
        axis(from, to, log)
            .ticks(5)
            .into_iter()
            .map(|(_, label)| label)
            .collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            labels(0.0, 5000.0, false),
            ["0", "1000", "2000", "3000", "4000", "5000"]
        );
        assert_eq!(
            labels(1.32, 2.41, false),
            ["1.4", "1.6", "1.8", "2.0", "2.2", "2.4"]
        );
        assert_eq!(
            labels(0.0, 60_000.0, false),
            ["0", "10k", "20k", "30k", "40k", "50k", "60k"]
        );
        assert_eq!(
            labels(-1.0, 1.0, false),
            ["-1.0", "-0.5", "0", "0.5", "1.0"]
        );
        assert_eq!(
            labels(0.0, 6e-4, false),
            ["0", "1e-4", "2e-4", "3e-4", "4e-4", "5e-4", "6e-4"]
        );
        assert_eq!(labels(1.0, 1e6, true), ["1", "100", "10k", "1M"]);
        assert_eq!(labels(1e-3, 8e-3, true), ["0.001", "0.002", "0.005"]);
        assert_eq!(labels(1e6, 2e7, true), ["1M", "2M", "5M", "10M", "20M"]);
    }

    #[test]
    fn a_spike_is_left_out_and_a_slope_is_not() {
        let slope: Vec<f64> = (0..100)
            .map(|i| 4.0 * (-f64::from(i) / 30.0).exp())
            .collect();
        assert_eq!(robust_range(&slope).unwrap().1, 4.0);
        let mut spike = slope.clone();
        spike[0] = 400.0;
        assert!(robust_range(&spike).unwrap().1 < 5.0);
        assert_eq!(robust_range(&[f64::NAN]), None);
        assert_eq!(
            robust_range(&[2.0, 2.0, 2.0, 2.0, 2.0, 9.0]),
            Some((2.0, 9.0))
        );
    }

    #[test]
    fn gaps_split_a_curve() {
        let points = [
            (0.0, 1.0),
            (1.0, f64::NAN),
            (2.0, 1.0),
            (3.0, 2.0),
            (4.0, f64::INFINITY),
        ];
        let lengths: Vec<usize> = pieces(&points, &axis(0.0, 4.0, false), 2.0)
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(lengths, [1, 2]);
        assert_eq!(
            pieces(&[(0.0, 1.0), (5.0, 1.0)], &axis(1.0, 5.0, true), 2.0),
            [[(5.0, 1.0)]]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn thinning_keeps_ends_and_extremes(seed in any::<u64>(), count in 1001usize..5000) {
            let noise = |i: usize| (seed.wrapping_mul(i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64;
            let points: Vec<Point> = (0..count).map(|i| (i as f64, noise(i))).collect();
            let thinned = pieces(&points, &axis(0.0, count as f64, false), 2.0).concat();
            let bound = |points: &[Point], sign: f64| points.iter().map(|p| sign * p.1).fold(f64::INFINITY, f64::min);
            prop_assert!(thinned.len() <= 2 * 401 + 2);
            prop_assert_eq!((thinned[0], thinned.last()), (points[0], points.last()));
            prop_assert_eq!(bound(&thinned, 1.0), bound(&points, 1.0));
            prop_assert_eq!(bound(&thinned, -1.0), bound(&points, -1.0));
        }

        #[test]
        fn ticks_stay_inside(from in -1e6f64..1e6, span in 1e-6f64..1e9) {
            let axis = axis(from, from + span, false);
            let ticks = axis.ticks(5);
            prop_assert!((3..=9).contains(&ticks.len()), "{:?}", ticks);
            prop_assert!(ticks.iter().all(|(v, _)| *v >= from - span * 1e-6 && *v <= from + span * 1.000_001));
        }
    }
}
