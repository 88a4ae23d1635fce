//! The frame of a plot: how much room there is and which values it spans.

use super::chart::{Chart, Series, Style, measure};
use super::scale::{Axis, Point, SMALLEST, is_drawable, robust_range};

/// Size of the drawing, in pixels of its own.
pub(super) const WIDTH: f64 = 880.0;
pub(super) const HEIGHT: f64 = 330.0;

const LEFT: f64 = 52.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;

/// Width of a character of a label in pixels, on average, rounded up.
pub(super) const CHARACTER: f64 = 7.3;

/// Characters of a label in the right margin at most.
pub(super) const LABEL: usize = 24;

/// Both axes of a chart.
pub(super) struct Frame {
    pub x: Axis,
    pub y: Axis,
    /// Whether there is nothing to draw.
    pub empty: bool,
}

impl Frame {
    pub fn of(chart: &Chart) -> Self {
        let points: Vec<Point> = chart
            .series
            .iter()
            .flat_map(Series::finite)
            .filter(|(x, _)| !chart.log_x || *x >= SMALLEST)
            .collect();
        let (from, to) = horizontal(&points, chart.log_x);
        let x = Axis {
            from,
            to,
            start: LEFT,
            end: WIDTH - margin(chart),
            log: chart.log_x,
        };
        let (from, to) = vertical(chart);
        let y = Axis {
            from,
            to,
            start: HEIGHT - BOTTOM,
            end: TOP,
            log: chart.log_y,
        };
        Self {
            x,
            y,
            empty: points.is_empty(),
        }
    }
}

/// A single curve needs no name, so its label is its last value.
pub(super) fn margin_text(chart: &Chart, series: &Series) -> String {
    match chart.series.len() {
        1 => series
            .finite()
            .next_back()
            .map(|(_, y)| measure(y))
            .unwrap_or_default(),
        _ => series.name.clone(),
    }
}

/// Room for the labels on the right, in pixels.
fn margin(chart: &Chart) -> f64 {
    let curves = chart
        .series
        .iter()
        .filter(|series| !matches!(series.style, Style::Faint | Style::Points));
    let texts = curves
        .map(|series| margin_text(chart, series))
        .chain(chart.references.iter().map(|(name, _)| name.clone()));
    let longest = texts
        .map(|text| text.chars().count().min(LABEL))
        .max()
        .unwrap_or(0);
    24.0 + longest as f64 * CHARACTER
}

fn horizontal(points: &[Point], log: bool) -> (f64, f64) {
    let (mut from, to) = extent(points.iter().map(|point| point.0)).unwrap_or((0.0, 1.0));
    if !log && from > 0.0 && from < 0.1 * to {
        from = 0.0;
    }
    let (from, to) = match same(from, to) {
        false => (from, to),
        true if log => (from / 2.0, to * 2.0),
        true => (from - 0.5 * size(from), to + 0.5 * size(to)),
    };
    // A mark on the very edge would be cut in half.
    let markers = points.len() <= 16 && from != 0.0;
    match (markers, log) {
        (false, _) => (from, to),
        (true, true) => (from / (to / from).powf(0.04), to * (to / from).powf(0.04)),
        (true, false) => (from - 0.02 * (to - from), to + 0.02 * (to - from)),
    }
}

/// The curves' robust ranges together, with the references that do not stretch them more than
/// twofold; on a logarithmic axis all of it in decades.
fn vertical(chart: &Chart) -> (f64, f64) {
    let height = |y: f64| if chart.log_y { y.log10() } else { y };
    let ranges = chart.series.iter().filter_map(|series| {
        let drawn = series
            .finite()
            .filter(|(x, _)| !chart.log_x || *x >= SMALLEST);
        robust_range(&drawn.map(|(_, y)| height(y)).collect::<Vec<_>>())
    });
    let bands = chart.series.iter().flat_map(|series| &series.band);
    let drawable =
        bands.filter(|(x, low, high)| is_drawable(&(*x, *low)) && is_drawable(&(*x, *high)));
    let edges = drawable.flat_map(|(_, low, high)| [height(*low), height(*high)]);
    let edges: Vec<f64> = edges.collect();
    let ranges = ranges.chain(robust_range(&edges));
    let (low, high) = extent(ranges.flat_map(|(low, high)| [low, high])).unwrap_or((0.0, 1.0));
    let span = if same(low, high) {
        size(high)
    } else {
        high - low
    };
    // What has no place on a logarithmic axis is no number there, and never near.
    let near = chart.references.iter().map(|(_, value)| height(*value));
    let near = near.filter(|value| *value >= low - span && *value <= high + span);
    let (low, high) = extent(near.chain([low, high])).unwrap_or((low, high));
    let padding = if same(low, high) {
        0.5 * span
    } else {
        0.06 * (high - low)
    };
    // Room below zero for a measure that has none would be a lie.
    let from = if low >= 0.0 && !chart.log_y {
        (low - padding).max(0.0)
    } else {
        low - padding
    };
    match chart.log_y {
        true => (10f64.powf(from), 10f64.powf(high + padding)),
        false => (from, high + padding),
    }
}

/// Whether two values are too close for ticks between them to be told apart.
fn same(low: f64, high: f64) -> bool {
    high - low <= 1e-9 * low.abs().max(high.abs()).max(SMALLEST)
}

/// What to widen a range of one value by.
fn size(value: f64) -> f64 {
    if value.abs() < 1e-3 { 1.0 } else { value.abs() }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
    })
}
