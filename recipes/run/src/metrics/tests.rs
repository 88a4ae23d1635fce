use proptest::prelude::*;

use super::*;

fn record(step: u64, kind: Kind, values: &[(&str, f64)]) -> Record {
    let values = values
        .iter()
        .map(|(name, value)| (name.to_string(), *value))
        .collect();
    Record {
        step,
        tokens: step * 64,
        time_s: step as f64 / 8.0,
        kind,
        values,
        text: None,
    }
}

#[test]
fn a_line_is_a_flat_json_object() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut writer = MetricsWriter::create(&path).unwrap();
    writer
        .append(&record(
            2,
            Kind::Train,
            &[("loss", 1.5), ("grad_norm", f64::NAN)],
        ))
        .unwrap();
    writer
        .append(&Record {
            text: Some("resumed".into()),
            ..record(3, Kind::Event, &[])
        })
        .unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "{\"step\":2,\"tokens\":128,\"time_s\":0.25,\"kind\":\"train\",\"values\":{\"grad_norm\":\"NaN\",\"loss\":1.5}}\n\
         {\"step\":3,\"tokens\":192,\"time_s\":0.375,\"kind\":\"event\",\"text\":\"resumed\"}\n"
    );
    assert!(
        MetricsWriter::create(&path).is_err(),
        "an existing file is not overwritten"
    );
}

#[test]
fn what_is_no_number_survives() {
    let values = [
        ("a", f64::NAN),
        ("b", f64::INFINITY),
        ("c", f64::NEG_INFINITY),
        ("d", 0.1),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    MetricsWriter::create(&path)
        .unwrap()
        .append(&record(1, Kind::Eval, &values))
        .unwrap();
    let back = &read(&path).unwrap()[0].values;
    assert!(back["a"].is_nan());
    assert_eq!(
        (back["b"], back["c"], back["d"]),
        (f64::INFINITY, f64::NEG_INFINITY, 0.1)
    );
    fs::write(
        &path,
        "{\"step\":1,\"tokens\":1,\"time_s\":1,\"kind\":\"final\",\"values\":{\"x\":null}}\n",
    )
    .unwrap();
    assert!(read(&path).unwrap()[0].values["x"].is_nan());
}

#[test]
fn resume_drops_later_records_and_a_torn_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let mut writer = MetricsWriter::create(&path).unwrap();
    (1..=9).for_each(|step| {
        writer
            .append(&record(step, Kind::Train, &[("loss", 1.0)]))
            .unwrap()
    });
    drop(writer);
    let mut contents = fs::read(&path).unwrap();
    contents.extend_from_slice(b"{\"step\":10,\"tok");
    fs::write(&path, contents).unwrap();
    assert_eq!(read(&path).unwrap().len(), 9);

    let mut writer = MetricsWriter::resume(&path, 5).unwrap();
    writer.append(&record(6, Kind::Eval, &[])).unwrap();
    let steps: Vec<u64> = read(&path)
        .unwrap()
        .iter()
        .map(|record| record.step)
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn resume_without_a_file_starts_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    MetricsWriter::resume(&path, 5)
        .unwrap()
        .append(&record(6, Kind::Train, &[]))
        .unwrap();
    assert_eq!(read(&path).unwrap().len(), 1);
}

#[test]
fn a_bad_line_in_the_middle_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let good = serde_json::to_string(&record(1, Kind::Train, &[])).unwrap();
    fs::write(&path, format!("{good}\nnonsense\n{good}\n")).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.contains("m, line 2: ") && error.ends_with("remove the line, or restore the file"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Cut the file anywhere: every whole line is still read, and resuming leaves a file that reads
    /// back whole.
    #[test]
    fn a_file_cut_anywhere_can_be_resumed(cut in 0usize..700, step in 0u64..8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let mut writer = MetricsWriter::create(&path).unwrap();
        (1..=7).for_each(|step| writer.append(&record(step, Kind::Train, &[("loss", 1.25)])).unwrap());
        let contents = fs::read(&path).unwrap();
        let contents = &contents[..cut.min(contents.len())];
        fs::write(&path, contents).unwrap();
        let whole = contents.iter().filter(|byte| **byte == b'\n').count();
        let read_back = read(&path).unwrap().len();
        prop_assert!(read_back == whole || read_back == whole + 1);
        drop(MetricsWriter::resume(&path, step).unwrap());
        prop_assert_eq!(read(&path).unwrap().len(), read_back.min(step as usize));
        prop_assert!(fs::read(&path).unwrap().last().is_none_or(|byte| *byte == b'\n'));
    }
}
