//! Sections of a report in an order of the caller's.

use super::html::escape;
use super::{Chart, HeatMap, Sample, Table, pairs};

/// A heading and what stands below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What follows, in this order. A section of nothing is left out.
    pub parts: Vec<Part>,
}

/// A piece of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A paragraph.
    Text(String),
    /// Names with values.
    Facts(Vec<(String, String)>),
    /// Results.
    Table(Table),
    /// Curves or points.
    Chart(Chart),
    /// Values over two axes.
    HeatMap(HeatMap),
    /// Texts side by side.
    Samples(Vec<Sample>),
    /// A long table, to be opened.
    Folded(Table),
    /// A file or a command line, to be opened.
    Source {
        /// Its name.
        title: String,
        /// Its text.
        text: String,
    },
}

impl Section {
    /// `id` is the number of the next chart of the page.
    pub(super) fn html(&self, id: &mut usize) -> String {
        if self.parts.is_empty() {
            return String::new();
        }
        let title = escape(&self.title);
        let mut out = format!("<section>\n<h2>{title}</h2>\n");
        for part in &self.parts {
            out.push_str(&part.html(id));
        }
        out + "</section>\n"
    }
}

impl Part {
    fn html(&self, id: &mut usize) -> String {
        match self {
            Self::Text(text) => format!("<p class=\"text\">{}</p>\n", escape(text)),
            Self::Facts(facts) => {
                let mut out = String::new();
                pairs(&mut out, "facts card", facts);
                out
            }
            Self::Table(table) => table.html(),
            Self::Chart(chart) => {
                *id += 1;
                chart.figure(*id - 1)
            }
            Self::HeatMap(map) => map.html(),
            Self::Samples(samples) => {
                let all: String = samples.iter().map(Sample::html).collect();
                format!("<div class=\"samples\">\n{all}</div>\n")
            }
            Self::Folded(table) => {
                let (title, table) = (escape(&table.title), table.html());
                format!(
                    "<details class=\"card source\"><summary>{title}</summary>{table}</details>\n"
                )
            }
            Self::Source { title, text } => {
                let (title, text) = (escape(title), escape(text));
                format!(
                    "<details class=\"card source\"><summary>{title}</summary>\
                     <pre tabindex=\"0\">{text}</pre></details>\n"
                )
            }
        }
    }
}
