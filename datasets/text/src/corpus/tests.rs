use super::*;

fn document(name: &str, text: &str) -> Document {
    Document {
        name: name.into(),
        text: text.into(),
    }
}

#[test]
fn names_parse_and_print() {
    for name in ["rust-deps", "tiny-shakespeare", "text:some/folder"] {
        assert_eq!(name.parse::<CorpusSource>().unwrap().to_string(), name);
    }
    for name in ["", "text:", "shakespeare"] {
        let error = name.parse::<CorpusSource>().unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("unknown corpus `{name}`"))
        );
    }
}

#[test]
fn documents_are_joined_by_a_line_feed() {
    let train = vec![
        document("a", "1"),
        document("empty", ""),
        document("b", "2\n"),
        document("c", "3"),
    ];
    let corpus = Corpus::new("x".into(), [train, vec![document("v", "4")], vec![]]).unwrap();
    let texts: Vec<_> = corpus
        .documents(Split::Train)
        .iter()
        .map(|d| d.text.as_str())
        .collect();
    assert_eq!(texts, ["1\n", "2\n", "3"]);
    assert_eq!((corpus.bytes(Split::Train), corpus.total_bytes()), (5, 6));
}

#[test]
fn the_hash_covers_split_name_and_content() {
    let hash = |train: &str, name: &str, test: &str| {
        let test = if test.is_empty() {
            vec![]
        } else {
            vec![document("t", test)]
        };
        Corpus::new(
            "x".into(),
            [vec![document(name, train)], vec![document("v", "v")], test],
        )
        .unwrap()
        .hash()
    };
    let base = hash("a", "n", "");
    assert_eq!(base, hash("a", "n", ""));
    assert!(
        [hash("b", "n", ""), hash("a", "m", ""), hash("a", "n", "t")]
            .iter()
            .all(|other| *other != base)
    );
}

#[test]
fn empty_splits_are_errors_except_test() {
    let error = Corpus::new("x".into(), [vec![], vec![], vec![]]).unwrap_err();
    assert!(matches!(error, DataError::EmptyCorpus { split: None, .. }));
    let error = Corpus::new("x".into(), [vec![document("a", "a")], vec![], vec![]]).unwrap_err();
    assert!(matches!(
        error,
        DataError::EmptyCorpus {
            split: Some(Split::Validation),
            ..
        }
    ));
}
