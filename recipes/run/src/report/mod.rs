//! The page that is left when a run is over: one HTML file, no script, no request, light and dark.
//!
//! Charts are inline SVG in a colour-blind-safe palette (after Okabe and Ito), told apart by labels
//! and dashes too, with a text summary each. All text is escaped: a language model writes anything.

mod chart;
mod frame;
mod heat;
mod html;
mod labels;
mod marks;
mod plot;
mod scale;
mod section;
mod text;
mod vertical;

use std::path::Path;

pub use chart::{Chart, Series, Style, Vertical};
pub use heat::HeatMap;
use html::escape;
pub use section::{Part, Section};

use crate::error::FileError;

/// Values longer than this take a line of their own among the facts.
const WIDE: usize = 34;

/// A table of results. A column whose every cell starts like a number is set to the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it compares.
    pub title: String,
    /// Heads of the columns, with units.
    pub columns: Vec<String>,
    /// Cells by row; the first of a row names it.
    pub rows: Vec<Vec<String>>,
    /// A row to point out, counted from 0.
    pub best: Option<usize>,
    /// Cells to point out, as (row, column) counted from 0.
    pub bold: Vec<(usize, usize)>,
    /// A remark below it: the command that measured it, say. Empty for none.
    pub note: String,
}

/// Text that the model wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Where it comes from: the step, the temperature.
    pub title: String,
    /// What the model was given.
    pub prompt: String,
    /// What it wrote after that.
    pub text: String,
}

/// The report of a run, or of a comparison of runs. Parts left empty are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The run.
    pub title: String,
    /// One sentence on it.
    pub subtitle: String,
    /// The few numbers that matter, as (name, value): they are set large.
    pub highlights: Vec<(String, String)>,
    /// Sections of the caller's, before all that follows.
    pub sections: Vec<Section>,
    /// Everything else that is known of the run, as (name, value).
    pub facts: Vec<(String, String)>,
    /// Curves.
    pub charts: Vec<Chart>,
    /// Results.
    pub tables: Vec<Table>,
    /// Text.
    pub samples: Vec<Sample>,
}

impl Report {
    /// The page as HTML.
    pub fn render(&self) -> String {
        let title = escape(&self.title);
        // Comparisons have tables of many columns.
        let wide = if self.sections.is_empty() {
            ""
        } else {
            " class=\"wide\""
        };
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <title>{title}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main{wide}>\n<header>\n<h1>{title}</h1>\n",
            chart::STYLE,
            include_str!("style.css")
        );
        if !self.subtitle.is_empty() {
            out.push_str(&format!(
                "<p class=\"subtitle\">{}</p>\n",
                escape(&self.subtitle)
            ));
        }
        out.push_str("</header>\n");
        pairs(&mut out, "highlights", &self.highlights);
        let mut id = self.charts.len();
        for section in &self.sections {
            out.push_str(&section.html(&mut id));
        }
        let charts = self
            .charts
            .iter()
            .enumerate()
            .map(|(id, chart)| chart.figure(id));
        section(&mut out, "Curves", charts);
        section(&mut out, "Results", self.tables.iter().map(Table::html));
        section(&mut out, "Samples", self.samples.iter().map(Sample::html));
        let mut facts = String::new();
        pairs(&mut facts, "facts card", &self.facts);
        section(
            &mut out,
            "Details",
            [facts].into_iter().filter(|facts| !facts.is_empty()),
        );
        out.push_str(&format!(
            "<footer>Written by Kiln {}.</footer>\n",
            env!("CARGO_PKG_VERSION")
        ));
        out.push_str("</main>\n</body>\n</html>\n");
        out
    }

    /// Renders the page into a file, atomically.
    ///
    /// # Errors
    /// See [`crate::atomic_write`].
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let page = self.render();
        crate::atomic_write(path, |out| out.write_all(page.as_bytes()))
    }
}

fn section(out: &mut String, title: &str, parts: impl Iterator<Item = String>) {
    let mut parts = parts.peekable();
    if parts.peek().is_some() {
        out.push_str(&format!("<section>\n<h2>{title}</h2>\n"));
        parts.for_each(|part| out.push_str(&part));
        out.push_str("</section>\n");
    }
}

fn pairs(out: &mut String, class: &str, pairs: &[(String, String)]) {
    if pairs.is_empty() {
        return;
    }
    out.push_str(&format!("<dl class=\"{class}\">\n"));
    for (name, value) in pairs {
        let wide = if value.chars().count() > WIDE {
            " class=\"wide\""
        } else {
            ""
        };
        out.push_str(&format!(
            "<div{wide}><dt>{}</dt><dd>{}</dd></div>\n",
            escape(name),
            escape(value)
        ));
    }
    out.push_str("</dl>\n");
}

impl Table {
    fn html(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(Vec::len)
            .chain([self.columns.len()])
            .max()
            .unwrap_or(0);
        let class: Vec<&str> = (0..width)
            .map(|column| {
                if self.is_numeric(column) {
                    " class=\"number\""
                } else {
                    ""
                }
            })
            .collect();
        let title = escape(&self.title);
        let mut out = format!(
            "<div class=\"card\"><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\"><table>\n\
             <caption>{title}</caption>\n"
        );
        out.push_str("<thead><tr>");
        for (column, class) in class.iter().enumerate() {
            let head = self
                .columns
                .get(column)
                .map(|text| escape(text))
                .unwrap_or_default();
            out.push_str(&format!("<th scope=\"col\"{class}>{head}</th>"));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for (index, row) in self.rows.iter().enumerate() {
            out.push_str(if self.best == Some(index) {
                "<tr class=\"best\">"
            } else {
                "<tr>"
            });
            for (column, class) in class.iter().enumerate() {
                let cell = row.get(column).map(|text| escape(text)).unwrap_or_default();
                let (open, close) = if column == 0 {
                    ("th scope=\"row\"", "th")
                } else {
                    ("td", "td")
                };
                let cell = match self.bold.contains(&(index, column)) {
                    true => format!("<strong>{cell}</strong>"),
                    false => cell,
                };
                out.push_str(&format!("<{open}{class}>{cell}</{close}>"));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody>\n</table></div>\n");
        if !self.note.is_empty() {
            out.push_str(&format!("<p class=\"note\">{}</p>\n", escape(&self.note)));
        }
        out.push_str("</div>\n");
        out
    }

    fn is_numeric(&self, column: usize) -> bool {
        let starts =
            |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || "+-−±–<>~≈×".contains(c));
        let mut cells = self
            .rows
            .iter()
            .filter_map(|row| row.get(column))
            .filter(|cell| !cell.is_empty())
            .peekable();
        column > 0 && cells.peek().is_some() && cells.all(|cell| starts(cell))
    }
}

impl Sample {
    fn html(&self) -> String {
        format!(
            "<article class=\"card sample\"><h3>{}</h3><pre tabindex=\"0\"><span class=\"prompt\">{}</span>{}</pre></article>\n",
            escape(&self.title),
            escape(&self.prompt),
            escape(&self.text)
        )
    }
}

#[cfg(test)]
mod tests;
