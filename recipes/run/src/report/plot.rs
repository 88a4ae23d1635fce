//! The plot of a chart as inline SVG: axes, grid, curves, labels, tooltips.

use super::chart::{self, Chart, Series, Style, measure};
use super::frame::{Frame, HEIGHT, LABEL, WIDTH, margin_text};
use super::html::{escape, shorten};
use super::labels::{Label, beside_points, in_margin};
use super::marks;
use super::scale::{Axis, Point, SMALLEST, is_drawable, pieces};
use super::vertical;
use crate::format;

/// Points of a curve that answer to the mouse, at most; more than that and they lie under each
/// other.
const TOOLTIPS: usize = 60;

/// Marks of a curve of many points that are seen, about.
const SEEN: usize = 8;

/// A chart with its axes settled.
pub(super) struct Plot<'a> {
    chart: &'a Chart,
    x: Axis,
    y: Axis,
    empty: bool,
}

impl<'a> Plot<'a> {
    pub fn new(chart: &'a Chart) -> Self {
        let Frame { x, y, empty } = Frame::of(chart);
        Self { chart, x, y, empty }
    }

    /// The SVG. `summary` is escaped.
    pub fn svg(&self, id: usize, summary: &str) -> String {
        let title = escape(&self.chart.title);
        let mut out = format!(
            "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-labelledby=\"t{id} d{id}\">\
             <title id=\"t{id}\">{title}</title><desc id=\"d{id}\">{summary}</desc>"
        );
        if self.empty {
            let (x, y) = (WIDTH / 2.0, HEIGHT / 2.0);
            out.push_str(&format!(
                "<text class=\"axis middle\" x=\"{x}\" y=\"{y}\">no data</text></svg>"
            ));
            return out;
        }
        self.axes(&mut out);
        let (left, top) = (self.x.start - 4.0, self.y.end - 4.0);
        let (width, height) = (self.x.end - left + 4.0, self.y.start - top + 1.0);
        out.push_str(&format!(
            "<clipPath id=\"c{id}\"><rect x=\"{left}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\"/></clipPath>\
             <g clip-path=\"url(#c{id})\">"
        ));
        self.references(&mut out);
        vertical::lines(&mut out, self.chart, &self.x, &self.y);
        for (place, series) in self.chart.series.iter().enumerate() {
            self.band(&mut out, place, series);
        }
        for (place, series) in self.chart.series.iter().enumerate() {
            self.curve(&mut out, place, series);
        }
        out.push_str("</g>");
        self.labels(&mut out);
        vertical::labels(&mut out, self.chart, &self.x, &self.y);
        out.push_str("</svg>");
        out
    }

    /// What the plot leaves out, in words.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for series in &self.chart.series {
            let outside: Vec<Point> = series.finite().filter(|(_, y)| !self.y.holds(*y)).collect();
            let farthest = outside
                .iter()
                .max_by(|a, b| self.distance(a.1).total_cmp(&self.distance(b.1)));
            if let Some((x, y)) = farthest {
                let (count, points) = (
                    outside.len(),
                    if outside.len() == 1 {
                        "point"
                    } else {
                        "points"
                    },
                );
                let (y, x) = (measure(*y), format::count(*x));
                notes.push(format!(
                    "{}: {count} {points} outside of the frame, as far as {y} at {x}.",
                    series.name
                ));
            }
        }
        for (name, value) in self
            .chart
            .references
            .iter()
            .filter(|(_, value)| !self.y.holds(*value))
        {
            notes.push(format!(
                "The reference {name} ({}) lies outside of the frame.",
                measure(*value)
            ));
        }
        let verticals = self.chart.verticals.iter();
        for line in verticals.filter(|line| !self.x.holds(line.at)) {
            let at = chart::place(line.at);
            notes.push(format!("{} ({at}) lies outside of the frame.", line.name));
        }
        notes
    }

    fn distance(&self, value: f64) -> f64 {
        (value - self.y.to).max(self.y.from - value)
    }

    fn axes(&self, out: &mut String) {
        let (left, right, bottom) = (self.x.start, self.x.end, self.y.start);
        for (value, label) in self.y.ticks(5) {
            let y = self.y.place(value);
            out.push_str(&format!(
                "<path class=\"grid\" d=\"M{left} {y:.1}H{right:.1}\"/>\
                 <text class=\"axis end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                left - 8.0,
                y + 4.0
            ));
        }
        out.push_str(&format!(
            "<path class=\"base\" d=\"M{left} {bottom}H{right:.1}\"/>"
        ));
        for (value, label) in self.x.ticks(8) {
            let x = self.x.place(value);
            out.push_str(&format!(
                "<path class=\"base\" d=\"M{x:.1} {bottom}v4\"/>\
                 <text class=\"axis middle\" x=\"{x:.1}\" y=\"{}\">{label}</text>",
                bottom + 18.0
            ));
        }
        let middle = f64::midpoint(left, right);
        out.push_str(&format!(
            "<text class=\"name\" x=\"0\" y=\"14\">{}</text>\
             <text class=\"name middle\" x=\"{middle:.1}\" y=\"{}\">{}</text>",
            escape(&self.chart.y_label),
            HEIGHT - 6.0,
            escape(&self.chart.x_label)
        ));
    }

    fn references(&self, out: &mut String) {
        for (_, value) in self
            .chart
            .references
            .iter()
            .filter(|(_, value)| self.y.holds(*value))
        {
            let (left, right, y) = (self.x.start, self.x.end, self.y.place(*value));
            out.push_str(&format!(
                "<path class=\"reference\" d=\"M{left} {y:.1}H{right:.1}\"/>"
            ));
        }
    }

    /// Along the upper edge and back along the lower one.
    fn band(&self, out: &mut String, place: usize, series: &Series) {
        let inside = |(x, low, high): &&(f64, f64, f64)| {
            is_drawable(&(*x, *low)) && is_drawable(&(*x, *high)) && (!self.x.log || *x >= SMALLEST)
        };
        let band: Vec<_> = series.band.iter().filter(inside).collect();
        if band.len() < 2 {
            return;
        }
        let upper = band.iter().map(|(x, _, high)| (x, high));
        let lower = band.iter().rev().map(|(x, low, _)| (x, low));
        let corners = upper.chain(lower);
        let corner =
            |(x, y): (&f64, &f64)| format!("{:.1} {:.1}", self.x.place(*x), self.pixel(*y));
        let corners: Vec<_> = corners.map(corner).collect();
        let classes = series.classes(place);
        let color = classes.split(' ').next().unwrap_or_default();
        out.push_str(&format!(
            "<path class=\"band {color}\" d=\"M{}Z\"/>",
            corners.join("L")
        ));
    }

    fn curve(&self, out: &mut String, place: usize, series: &Series) {
        let pieces = pieces(&series.points, &self.x, 2.0);
        out.push_str(&format!("<g class=\"{}\">", series.classes(place)));
        if series.style != Style::Points {
            let mut path = String::new();
            for piece in pieces.iter().filter(|piece| piece.len() > 1) {
                for (index, (x, y)) in piece.iter().enumerate() {
                    let letter = if index == 0 { 'M' } else { 'L' };
                    path.push_str(&format!(
                        "{letter}{:.1} {:.1}",
                        self.x.place(*x),
                        self.pixel(*y)
                    ));
                }
            }
            if !path.is_empty() {
                out.push_str(&format!("<path d=\"{path}\"/>"));
            }
        }
        if series.style != Style::Faint {
            let lonely = pieces
                .iter()
                .filter(|piece| piece.len() == 1)
                .map(|piece| piece[0]);
            self.marks(out, series, &lonely.collect::<Vec<_>>());
        }
        out.push_str("</g>");
    }

    /// Dots that answer to the mouse: seen where points are few or alone, else only under the
    /// pointer.
    fn marks(&self, out: &mut String, series: &Series, lonely: &[Point]) {
        let inside: Vec<Point> = series
            .finite()
            .filter(|(x, y)| self.x.holds(*x) && self.y.holds(*y))
            .collect();
        let all = series.style == Style::Points || inside.len() <= 16;
        // Where points are many, some tell the curves apart, at other places in each.
        let seen = (inside.len() / SEEN).max(1);
        let first = series.mark.unwrap_or(0) * seen / SEEN;
        let limit = if series.style == Style::Points {
            usize::MAX
        } else {
            TOOLTIPS
        };
        let stride = inside.len().div_ceil(limit).max(1);
        for (index, point) in inside.iter().enumerate() {
            // Counted from the end, so that the last point is always among them.
            let alone = lonely.contains(point);
            let marked = series.mark.is_some() && index % seen == first % seen;
            if !(inside.len() - 1 - index).is_multiple_of(stride) && !alone && !marked {
                continue;
            }
            let shown = all || alone || marked;
            if let Some(mark) = series.mark {
                let class = if shown { "mark" } else { "mark hidden" };
                let (x, y) = (self.x.place(point.0), self.pixel(point.1));
                out.push_str(&marks::shape(
                    mark,
                    x,
                    y,
                    class,
                    &self.tooltip(series, *point),
                ));
                continue;
            }
            let class = if shown { "dot" } else { "dot hidden" };
            out.push_str(&format!(
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{}\">\
                 {}</circle>",
                self.x.place(point.0),
                self.pixel(point.1),
                if series.style == Style::Points {
                    "5"
                } else {
                    "3.5"
                },
                self.tooltip(series, *point)
            ));
        }
    }

    fn tooltip(&self, series: &Series, point: Point) -> String {
        format!(
            "<title>{}\n{}: {}\n{}: {}</title>",
            escape(&series.name),
            escape(&self.chart.x_label),
            chart::place(point.0),
            escape(&self.chart.y_label),
            measure(point.1)
        )
    }

    /// Far outside of the frame a pixel is cut off: renderers lose precision on coordinates of a
    /// million.
    fn pixel(&self, value: f64) -> f64 {
        self.y.place(value).clamp(-HEIGHT, 2.0 * HEIGHT)
    }

    /// Curves and references are named in the right margin, single points beside themselves.
    fn labels(&self, out: &mut String) {
        let mut margin = Vec::new();
        let mut points = Vec::new();
        for (place, series) in self.chart.series.iter().enumerate() {
            let last = series
                .finite()
                .next_back()
                .filter(|(x, y)| self.x.holds(*x) && self.y.holds(*y));
            let Some((x, y)) = last else { continue };
            let (x, y) = (self.x.place(x), self.pixel(y));
            let color = series
                .classes(place)
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_string();
            match series.style {
                Style::Faint => {}
                Style::Points if series.points.len() == 1 => {
                    points.push(Label::new(&series.name, color, x, y))
                }
                Style::Points => {}
                _ => margin.push(Label::new(
                    &shorten(&margin_text(self.chart, series), LABEL),
                    color,
                    x,
                    y,
                )),
            }
        }
        for (name, value) in self
            .chart
            .references
            .iter()
            .filter(|(_, value)| self.y.holds(*value))
        {
            margin.push(Label::new(
                &shorten(name, LABEL),
                "muted".into(),
                self.x.end,
                self.y.place(*value),
            ));
        }
        in_margin(&mut margin, self.x.end, self.y.end, self.y.start);
        beside_points(&mut points, self.x.start, self.x.end);
        margin
            .iter()
            .chain(&points)
            .for_each(|label| label.draw(out));
    }
}
