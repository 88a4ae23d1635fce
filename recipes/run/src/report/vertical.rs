//! Vertical lines of a chart and their names.

use super::chart::{Chart, Vertical};
use super::frame::CHARACTER;
use super::html::escape;
use super::scale::Axis;

/// From one line of text to the next, in pixels.
const LINE: f64 = 16.0;

/// The lines, to be drawn below the curves.
pub(super) fn lines(out: &mut String, chart: &Chart, x: &Axis, y: &Axis) {
    for line in inside(chart, x) {
        let (class, at) = (line.class(), x.place(line.at));
        let (top, bottom) = (y.end, y.start);
        out.push_str(&format!(
            "<path class=\"vertical {class}\" d=\"M{at:.1} {top}V{bottom}\"/>"
        ));
    }
}

/// Their names from the top down, each below those that it would lie on.
pub(super) fn labels(out: &mut String, chart: &Chart, x: &Axis, y: &Axis) {
    // Left and right edge and row of every name that has its place.
    let mut placed: Vec<(f64, f64, usize)> = Vec::new();
    for line in inside(chart, x) {
        let at = x.place(line.at);
        let width = line.name.chars().count() as f64 * CHARACTER;
        let ends = at + 6.0 + width > x.end;
        let (from, to) = match ends {
            true => (at - 6.0 - width, at - 6.0),
            false => (at + 6.0, at + 6.0 + width),
        };
        let is_free = |row: &usize| {
            let mut others = placed.iter().filter(|(.., other)| other == row);
            others.all(|(other_from, other_to, _)| to < *other_from || *other_to < from)
        };
        let row = (0..).find(is_free).unwrap_or(0);
        placed.push((from, to, row));
        let (class, end) = (line.class(), if ends { " end" } else { "" });
        let (text_x, text_y) = (
            if ends { at - 6.0 } else { at + 6.0 },
            y.end + 10.0 + row as f64 * LINE,
        );
        out.push_str(&format!(
            "<text class=\"label {class}{end}\" x=\"{text_x:.1}\" y=\"{text_y:.1}\">{}</text>",
            escape(&line.name)
        ));
    }
}

fn inside<'a>(chart: &'a Chart, x: &Axis) -> impl Iterator<Item = &'a Vertical> {
    let x = *x;
    chart.verticals.iter().filter(move |line| x.holds(line.at))
}
