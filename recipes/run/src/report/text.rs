//! A table for a terminal.

use super::Table;

/// Between columns.
const GAP: &str = "  ";

impl Table {
    /// The table as lines of text: names to the left, numbers to the right. Empty parts are left out.
    pub fn text(&self) -> String {
        let all = || [&self.columns].into_iter().chain(&self.rows);
        let count = all().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = all().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let columns: Vec<(usize, bool)> = (0..count)
            .map(|column| (width(column), self.is_numeric(column)))
            .collect();
        let line = |row: &Vec<String>| {
            let cells = columns
                .iter()
                .enumerate()
                .map(|(column, &(width, numeric))| {
                    let cell = row.get(column).map_or("", String::as_str);
                    match numeric {
                        true => format!("{cell:>width$}"),
                        false => format!("{cell:width$}"),
                    }
                });
            let text = cells.collect::<Vec<_>>().join(GAP);
            format!("{}\n", text.trim_end())
        };
        let head = (!self.columns.is_empty()).then(|| line(&self.columns));
        let words = |text: &String| (!text.is_empty()).then(|| format!("{text}\n"));
        words(&self.title)
            .into_iter()
            .chain(head)
            .chain(self.rows.iter().map(line))
            .chain(words(&self.note))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_left_and_numbers_right() {
        let cells = |row: [&str; 3]| row.map(String::from).to_vec();
        let table = Table {
            title: "speed".into(),
            columns: cells(["model", "tokens/s", "said"]),
            rows: vec![cells(["a", "1.5", "ok"]), cells(["longer", "12.25k", ""])],
            note: "three repeats".into(),
            ..Table::default()
        };
        assert_eq!(
            table.text(),
            "speed\nmodel   tokens/s  said\na            1.5  ok\nlonger    12.25k\nthree repeats\n"
        );
        assert_eq!(Table::default().text(), "");
    }
}
