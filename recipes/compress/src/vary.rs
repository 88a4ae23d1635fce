//! One compression with several values of some keys: what the size or the source of a calibration, a damping, a number of bits is worth.

use std::path::Path;

use kiln_run::report::{Chart, Part, Section, Series, Style, Table};
use kiln_run::{Report, format};
use serde::{Deserialize, Serialize};

use crate::CompressError;
use crate::figures::{self, COMPRESS_VERSION, Compression};
use crate::page;

/// The figures of all compressions.
const FIGURES: &str = "vary.json";
/// The page of all compressions.
const PAGE: &str = "report.html";

/// One value for each of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Keys and values, in the order in which they were given.
    pub values: Vec<(String, String)>,
    /// The folder of its compression: its number and the values.
    pub folder: String,
}

/// A setting and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Keys and values.
    pub values: Vec<(String, String)>,
    /// The figures of its compression.
    pub compression: Compression,
}

/// What is in `vary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Points {
    /// [`COMPRESS_VERSION`].
    pub version: u32,
    /// Every setting, the last key fastest.
    pub points: Vec<Point>,
}

impl Setting {
    /// Its values as the arguments of `--set`.
    pub fn overrides(&self) -> Vec<String> {
        let values = self.values.iter();
        values
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }
}

/// Every combination of the values of `KEY=A,B,C`, the last key fastest. A value may be empty.
///
/// # Errors
/// [`CompressError::Setting`] for an argument without a key or with one value only, and for a key that is given twice.
pub fn settings(arguments: &[String]) -> Result<Vec<Setting>, CompressError> {
    let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for (at, argument) in arguments.iter().enumerate() {
        let bad = |why: &str| CompressError::Setting {
            key: "--vary",
            value: argument.clone(),
            why: why.into(),
        };
        let (key, values) = argument.split_once('=').unwrap_or((argument, ""));
        let values: Vec<&str> = values.split(',').collect();
        let same = |other: &String| other.split_once('=').map(|(key, _)| key) == Some(key);
        if key.is_empty() || values.len() < 2 {
            return Err(bad(
                "must be a key and two or more values, such as calibration.windows=16,64,256; a single value goes to --set",
            ));
        }
        if arguments[..at].iter().any(same) {
            return Err(bad("must name another key than those before it"));
        }
        let with = |before: &Vec<(String, String)>| {
            let before = before.clone();
            let value = |value: &&str| {
                let own = (key.to_string(), value.to_string());
                before.iter().cloned().chain([own]).collect()
            };
            values.iter().map(value).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with).collect();
    }
    let digits = all.len().to_string().len();
    let setting = |(number, values): (usize, Vec<(String, String)>)| {
        let names = values.iter().map(|(_, value)| named(value));
        let names: Vec<String> = names.collect();
        Setting {
            folder: format!("{:0digits$}-{}", number + 1, names.join("-")),
            values,
        }
    };
    Ok(all.into_iter().enumerate().map(setting).collect())
}

/// A value as a part of a folder's name.
fn named(value: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let name: String = value
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    match name.is_empty() {
        true => "default".into(),
        false => name.chars().take(40).collect(),
    }
}

/// A row for every setting: its values, and the last stage beside the original.
pub fn table(points: &[Point]) -> Table {
    let Some(first) = points.first() else {
        return Table::default();
    };
    let keys = first.values.iter().map(|(key, _)| key.clone());
    let tokens = ["calibration tokens".to_string()];
    // The number of the stage and its name say the same in every row.
    let figures = page::stages(&first.compression).columns.into_iter().skip(2);
    let row = |point: &Point| {
        let (original, last) = (&point.compression.original, point.compression.last());
        let seen = point.compression.stages.iter();
        let seen: u64 = seen.map(|stage| stage.calibration_tokens).sum();
        let values = point.values.iter().map(|(_, value)| value.clone());
        values
            .chain([format::count(seen as f64)])
            .chain(page::row(last, original).into_iter().skip(2))
            .collect()
    };
    Table {
        title: "Settings".into(),
        columns: keys.chain(tokens).chain(figures).collect(),
        rows: points.iter().map(row).collect(),
        note: "Each row is the last stage of a compression of its own, scored on the same windows. ± is the 95 % interval over windows; \
               the time is that of the last stage."
            .into(),
        ..Table::default()
    }
}

/// Divergence from the original over the values of the first key, a curve for every combination of the others; none where the values are
/// no numbers.
fn chart(points: &[Point]) -> Option<Chart> {
    let (key, _) = points.first()?.values.first()?;
    let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for point in points {
        let (first, others) = point.values.split_first()?;
        let x: f64 = first.1.parse().ok().filter(|x: &f64| x.is_finite())?;
        let y = point.compression.last().quality.divergence;
        let names = others.iter().map(|(key, value)| format!("{key} {value}"));
        let name = names.collect::<Vec<_>>().join(", ");
        match series.iter_mut().find(|(other, _)| *other == name) {
            Some((_, all)) => all.push((x, y)),
            None => series.push((name, vec![(x, y)])),
        }
    }
    let positive = |(_, all): &(String, Vec<(f64, f64)>)| all.iter().all(|(x, _)| *x > 0.0);
    Some(Chart {
        title: format!("Divergence over {key}"),
        x_label: key.clone(),
        y_label: "KL from the original, nats a token".into(),
        log_x: series.iter().all(positive),
        series: series
            .into_iter()
            .map(|(name, all)| Series::new(name, all).style(Style::Points))
            .collect(),
        plain_legend: true,
        ..Chart::default()
    })
}

/// Writes `vary.json` and `report.html` into the folder of all settings.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(points: Vec<Point>, out: &Path) -> Result<(), CompressError> {
    let first = points.first().map(|point| &point.compression);
    let report = Report {
        title: first.map_or(String::new(), |first| {
            format!("{} in several settings: {}", first.name, first.recipe.from)
        }),
        subtitle: first.map_or(String::new(), |first| first.recipe.description.clone()),
        sections: vec![Section {
            title: "What every setting gives".into(),
            parts: [Part::Table(table(&points))]
                .into_iter()
                .chain(chart(&points).map(Part::Chart))
                .collect(),
        }],
        ..Report::default()
    };
    report.write(&out.join(PAGE))?;
    let points = Points {
        version: COMPRESS_VERSION,
        points,
    };
    Ok(figures::write(&points, &out.join(FIGURES))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(arguments: &[&str]) -> Result<Vec<Setting>, String> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        settings(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn every_combination_is_a_setting() {
        let found = given(&[
            "calibration.windows=16,64",
            "calibration.corpus=,text:/a/b.txt,c",
        ])
        .unwrap();
        assert_eq!(found.len(), 6);
        assert_eq!(
            found[0].overrides(),
            ["calibration.windows=16", "calibration.corpus="]
        );
        assert_eq!(found[0].folder, "1-16-default");
        assert_eq!(
            found[4].overrides(),
            ["calibration.windows=64", "calibration.corpus=text:/a/b.txt"]
        );
        assert_eq!(found[4].folder, "5-64-text__a_b.txt");
    }

    #[test]
    fn what_varies_nothing_is_refused() {
        for (arguments, message) in [
            (
                &["calibration.windows=16"][..],
                "a single value goes to --set",
            ),
            (
                &["calibration.windows"],
                "must be a key and two or more values",
            ),
            (&["=1,2"], "must be a key and two or more values"),
            (
                &["a=1,2", "a=3,4"],
                "must name another key than those before it",
            ),
        ] {
            let words = given(arguments).unwrap_err();
            assert!(words.contains(message), "{words}");
        }
    }
}
