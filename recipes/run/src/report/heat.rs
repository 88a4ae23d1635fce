//! A map of values over two axes, as a table whose cells are shaded.

use super::html::escape;
use crate::format;

/// Values by row and column. Every cell shows its number, so that the shade only helps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatMap {
    /// What it shows.
    pub title: String,
    /// What rows and columns are: "arm, by sequence length".
    pub axes: String,
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// Names of the rows, with one value a column.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
    /// The values without shade and in full shade.
    pub range: (f64, f64),
    /// A remark below it; empty for none.
    pub note: String,
}

impl HeatMap {
    pub(super) fn html(&self) -> String {
        let label = escape(&self.title);
        let mut out = format!(
            "<div class=\"card\"><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">\
             <table class=\"heat\">\n<caption>{label}</caption>\n<thead><tr><th scope=\"col\">{}</th>",
            escape(&self.axes)
        );
        for column in &self.columns {
            let column = escape(column);
            out.push_str(&format!("<th scope=\"col\" class=\"number\">{column}</th>"));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for (name, values) in &self.rows {
            let name = escape(name);
            out.push_str(&format!("<tr><th scope=\"row\">{name}</th>"));
            let cells = values.iter().map(|value| self.cell(*value));
            cells.for_each(|cell| out.push_str(&cell));
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody>\n</table></div>\n");
        if !self.note.is_empty() {
            let note = escape(&self.note);
            out.push_str(&format!("<p class=\"note\">{note}</p>\n"));
        }
        out.push_str("</div>\n");
        out
    }

    fn cell(&self, value: Option<f64>) -> String {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return format!("<td class=\"number\">{}</td>", format::NONE);
        };
        let (from, to) = self.range;
        let share = ((value - from) / (to - from)).clamp(0.0, 1.0);
        // Both ends of the range alike: nothing to shade.
        let shade = if share.is_finite() {
            100.0 * share
        } else {
            0.0
        };
        format!(
            "<td class=\"number\" style=\"--v:{shade:.0}%\">{}</td>",
            format::number(value)
        )
    }
}
