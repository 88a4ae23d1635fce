//! What the records of a run say, one figure at a time.

use std::collections::BTreeMap;

use kiln_run::{Kind, Record};
use kiln_train::CONTEXT_KEY;

use crate::statistics::Summary;

/// One measure of the training records, in order.
pub(super) fn series(records: &[Record], name: &str) -> Vec<f64> {
    let train = records.iter().filter(|record| record.kind == Kind::Train);
    train
        .filter_map(|record| record.values.get(name).copied())
        .collect()
}

/// Mean of one measure of the training records, of those that are finite: a probe whose gradient is zero or not finite has no
/// angle.
pub(super) fn finite_mean(records: &[Record], name: &str) -> Option<f64> {
    let mut values = series(records, name);
    values.retain(|value| value.is_finite());
    Summary::of(&values).map(|summary| summary.mean)
}

/// The most memory that was noted, that of the device where it tells.
pub(super) fn peak_memory(records: &[Record]) -> Option<u64> {
    let most = |name| series(records, name).into_iter().reduce(f64::max);
    let peak = most("device_memory_bytes").or_else(|| most("memory_bytes"))?;
    Some(peak as u64)
}

/// Joules of all training records; none if one of them has none, as then nobody knows the sum.
pub(super) fn energy(records: &[Record]) -> Option<f64> {
    let train = records.iter().filter(|record| record.kind == Kind::Train);
    let noted = train.filter(|record| record.values.contains_key("tokens_per_s"));
    let joules: Option<Vec<f64>> = noted
        .map(|record| record.values.get("energy_j").copied())
        .collect();
    joules
        .filter(|all| !all.is_empty())
        .map(|all| all.iter().sum())
}

/// Losses against context of a final record.
pub(super) fn contexts(last: &Record) -> BTreeMap<u64, f64> {
    let values = last.values.iter().filter_map(|(name, loss)| {
        let length = name.strip_prefix(CONTEXT_KEY)?.parse().ok()?;
        Some((length, *loss))
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_run::metrics;
    use std::fs;

    #[test]
    fn energy_is_known_where_every_record_has_some() {
        let record = |values: &[(&str, f64)]| Record {
            step: 1,
            tokens: 1,
            time_s: 1.0,
            kind: Kind::Train,
            values: values
                .iter()
                .map(|(name, value)| (name.to_string(), *value))
                .collect(),
            text: None,
        };
        let noted = [
            ("tokens_per_s", 1.0),
            ("energy_j", 2.5),
            ("memory_bytes", 7.0),
        ];
        let probe = record(&[("gradient_cosine", 1.0)]);
        let both = [record(&noted), probe.clone(), record(&noted)];
        assert_eq!((energy(&both), peak_memory(&both)), (Some(5.0), Some(7)));
        let on_device = record(&[("tokens_per_s", 1.0), ("device_memory_bytes", 3.0)]);
        let some = [record(&noted), on_device];
        assert_eq!((energy(&some), peak_memory(&some)), (None, Some(3)));
        assert_eq!((energy(&[probe]), peak_memory(&[])), (None, None));
    }

    #[test]
    fn a_cosine_that_is_not_finite_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |kind: &str, value: &str| {
            format!(
                "{{\"step\":1,\"tokens\":1,\"time_s\":1.0,\"kind\":\"{kind}\",\"values\":{{\"gradient_cosine\":{value}}}}}\n"
            )
        };
        let lines = [
            line("train", "0.5"),
            line("train", "\"NaN\""),
            line("train", "0.7"),
            line("train", "\"inf\""),
            line("eval", "0.1"),
        ];
        fs::write(&path, lines.concat()).unwrap();
        let records = metrics::read(&path).unwrap();
        assert_eq!(records.len(), 5);
        assert!((finite_mean(&records, "gradient_cosine").unwrap() - 0.6).abs() < 1e-15);
        assert_eq!(finite_mean(&records[1..2], "gradient_cosine"), None);
        assert_eq!(finite_mean(&records, "another"), None);
    }
}
