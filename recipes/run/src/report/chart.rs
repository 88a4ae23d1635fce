//! A chart as the caller states it, and the figure around its plot: title, legend, notes, a summary
//! for those who cannot see it.

use std::borrow::Cow;

use super::frame::{HEIGHT, WIDTH};
use super::html::escape;
use super::marks;
use super::plot::Plot;
use super::scale::{SMALLEST, is_drawable};
use crate::format;

/// How plots look, in the page and by themselves.
pub(super) const STYLE: &str = include_str!("chart.css");

/// Colours of the style sheet; later series take them again, dashed.
pub(super) const COLORS: usize = 8;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// A line.
    #[default]
    Solid,
    /// A dashed line, for the second of a pair: training beside validation.
    Dashed,
    /// A dotted line.
    Dotted,
    /// A thin pale line, for raw values behind their average. It has no label of its own in the
    /// plot.
    Faint,
    /// Points without a line, each named in the plot when it is the only one of its series.
    Points,
}

/// One curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points in the order they are joined. A `y` that is not finite makes a gap.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: Style,
    /// Which colour it has, counted from 0; its place among the series unless stated. Series that
    /// belong together share one.
    pub color: Option<usize>,
    /// Its number among things that several charts of a page show, counted from 0. It gives colour, dashes and the shape of
    /// marks, so that things are told apart without colour and look alike in every chart.
    pub mark: Option<usize>,
    /// A shaded band, as (x, low, high) in order: what the points are the middle of.
    pub band: Vec<(f64, f64, f64)>,
}

/// A vertical line with its name beside its upper end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vertical {
    /// What it says.
    pub name: String,
    /// Its place on the horizontal axis.
    pub at: f64,
    /// Colour of the series that it belongs to, counted from 0; that of references unless stated.
    pub color: Option<usize>,
}

impl Vertical {
    /// Its class in the style sheet.
    pub(super) fn class(&self) -> String {
        match self.color {
            Some(color) => format!("s{}", color % COLORS),
            None => "muted".into(),
        }
    }
}

/// A chart of curves over a common axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub x_label: String,
    /// Name and unit of the vertical axis.
    pub y_label: String,
    /// The curves.
    pub series: Vec<Series>,
    /// Horizontal lines to compare with, by name.
    pub references: Vec<(String, f64)>,
    /// Vertical lines: where something begins.
    pub verticals: Vec<Vertical>,
    /// Whether the horizontal axis is logarithmic. Points at or below zero are then left out.
    pub log_x: bool,
    /// Whether the vertical axis is logarithmic. Points at or below zero are then gaps.
    pub log_y: bool,
    /// Whether the legend leaves the last value of each curve out, where it is not the one that counts.
    pub plain_legend: bool,
}

impl Series {
    /// A solid line in the next colour.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.into(),
            points,
            ..Self::default()
        }
    }

    /// The same in another style.
    pub fn style(self, style: Style) -> Self {
        Self { style, ..self }
    }

    /// The same in another colour, counted from 0.
    pub fn color(self, color: usize) -> Self {
        Self {
            color: Some(color),
            ..self
        }
    }

    /// The same with a number that gives its colour, dashes and marks.
    pub fn mark(self, mark: usize) -> Self {
        Self {
            mark: Some(mark),
            ..self
        }
    }

    /// The same over a band of (x, low, high).
    pub fn band(self, band: Vec<(f64, f64, f64)>) -> Self {
        Self { band, ..self }
    }

    /// Its classes in the style sheet, at this place among the series.
    pub(super) fn classes(&self, place: usize) -> String {
        let color = self.color.or(self.mark).unwrap_or(place);
        if let (Some(mark), Style::Solid) = (self.mark, self.style) {
            return format!("s{} solid {}", color % COLORS, marks::dash(mark));
        }
        let style = match self.style {
            Style::Solid if color >= COLORS => "dashed",
            Style::Solid => "solid",
            Style::Dashed => "dashed",
            Style::Dotted => "dotted",
            Style::Faint => "faint",
            Style::Points => "points",
        };
        format!("s{} {style}", color % COLORS)
    }

    pub(super) fn finite(&self) -> impl DoubleEndedIterator<Item = (f64, f64)> + '_ {
        self.points.iter().copied().filter(is_drawable)
    }

    /// "loss: 200 points, from 4.2 at 0 to 1.5 at 5000, lowest 1.4 at 4800".
    fn summary(&self) -> String {
        let at = |(x, y): (f64, f64)| format!("{} at {}", measure(y), place(x));
        match (
            self.finite().next(),
            self.finite().next_back(),
            self.finite().min_by(|a, b| a.1.total_cmp(&b.1)),
        ) {
            (Some(first), Some(last), Some(lowest)) => {
                let count = self.finite().count();
                format!(
                    "{}: {count} points, from {} to {}, lowest {}.",
                    self.name,
                    at(first),
                    at(last),
                    at(lowest)
                )
            }
            _ => format!("{}: no data.", self.name),
        }
    }
}

/// A place on the horizontal axis: a count of steps in three digits, a rate in its own.
pub(super) fn place(value: f64) -> String {
    match value.fract() == 0.0 {
        true => format::count(value),
        false => format::number(value),
    }
}

/// A value in the form of the ticks: in thousands from ten thousand on.
pub(super) fn measure(value: f64) -> String {
    if (1e4..1e13).contains(&value.abs()) {
        format::count(value)
    } else {
        format::number(value)
    }
}

impl Chart {
    /// The plot as an SVG file of its own, light and dark, with the title as its text for those who do not see it. Curves are named where
    /// they end; there is no legend.
    pub fn picture(&self) -> String {
        let drawn = self.drawn();
        let plot = Plot::new(&drawn).svg(0, &escape(&self.summary()));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">\n\
             <style>\n{STYLE}svg {{ font-family: system-ui, \"Liberation Sans\", Arial, sans-serif; }}\n</style>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"var(--card)\"/>\n{plot}\n</svg>\n"
        )
    }

    /// The chart as it is drawn.
    fn drawn(&self) -> Cow<'_, Self> {
        match self.log_y {
            true => Cow::Owned(self.positive()),
            false => Cow::Borrowed(self),
        }
    }

    /// What it shows, in words.
    fn summary(&self) -> String {
        let verticals = self.verticals.iter().map(|line| format!("{}.", line.name));
        let summaries = self.series.iter().map(Series::summary).chain(verticals);
        summaries.collect::<Vec<_>>().join(" ")
    }

    /// The figure. `id` must differ between the charts of a page.
    pub(super) fn figure(&self, id: usize) -> String {
        let drawn = self.drawn();
        let plot = Plot::new(&drawn);
        let mut out = format!(
            "<figure class=\"card\">\n<figcaption><h3>{}</h3>",
            escape(&self.title)
        );
        out.push_str(&self.legend());
        out.push_str("</figcaption>\n");
        out.push_str(&format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">",
            escape(&self.title)
        ));
        out.push_str(&plot.svg(id, &escape(&self.summary())));
        out.push_str("</div>\n");
        let notes = plot.notes();
        if !notes.is_empty() {
            out.push_str(&format!(
                "<p class=\"note\">{}</p>\n",
                escape(&notes.join(" "))
            ));
        }
        out.push_str("</figure>\n");
        out
    }

    /// The chart with gaps in place of what a logarithmic axis has no place for.
    fn positive(&self) -> Self {
        let mut chart = self.clone();
        for series in &mut chart.series {
            let points = series.points.iter_mut().map(|(_, y)| y);
            let edges = series
                .band
                .iter_mut()
                .flat_map(|(_, low, high)| [low, high]);
            for y in points.chain(edges).filter(|y| **y < SMALLEST) {
                *y = f64::NAN;
            }
        }
        chart
    }

    /// A single curve is named by the title, a single point in the plot.
    fn legend(&self) -> String {
        if self.series.len() < 2 {
            return String::new();
        }
        let mut out = String::from("<ul class=\"legend\">");
        let named = |series: &Series| series.style == Style::Points && series.points.len() == 1;
        for (place, series) in self
            .series
            .iter()
            .enumerate()
            .filter(|(_, series)| !named(series))
        {
            let line = "<path d=\"M1 5H21\"/>";
            let mark = match (series.mark, series.style) {
                (Some(mark), Style::Points) => marks::shape(mark, 11.0, 5.0, "mark", ""),
                (Some(mark), Style::Solid) => {
                    line.to_string() + &marks::shape(mark, 11.0, 5.0, "mark", "")
                }
                (_, Style::Points) => "<circle cx=\"11\" cy=\"5\" r=\"4\"/>".into(),
                _ => line.into(),
            };
            let classes = series.classes(place);
            let last = series
                .finite()
                .next_back()
                .map_or(format::NONE.into(), |(_, y)| measure(y));
            let last = match self.plain_legend {
                true => String::new(),
                false => format!(" <b>{last}</b>"),
            };
            out.push_str(&format!(
                "<li><svg class=\"swatch {classes}\" viewBox=\"0 0 22 10\" \
                 aria-hidden=\"true\">{mark}</svg>{}{last}</li>",
                escape(&series.name)
            ));
        }
        out.push_str("</ul>");
        out
    }
}
