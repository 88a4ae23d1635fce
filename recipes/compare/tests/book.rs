//! The studies of the book: every one reads, resolves and is fair.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

use std::path::Path;

use burn::tensor::Device;
use kiln_compare::fairness::{check, costs};
use kiln_compare::{Layout, study};
use kiln_train::known_vocab;

/// Tiny Shakespeare's characters: its text need not be here.
const CHARACTERS: usize = 65;

#[test]
fn every_study_resolves_and_is_fair() {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../book");
    let studies = book.join("studies");
    let all = kiln_run::recipe::list(&studies).unwrap();
    assert!(all.iter().any(|study| study.name == "mixer-worth-char"));
    for summary in all {
        let name = summary.name;
        let loaded = study::load(&studies, &name).unwrap();
        assert!(!summary.description.is_empty(), "{name}");
        let layout = Layout::new(loaded, &book, Path::new("out")).unwrap();
        let costs = costs(&layout, &Device::flex(), &mut |recipe| {
            Ok(known_vocab(&recipe.data.tokenizer).unwrap_or(CHARACTERS))
        });
        check(&layout.study, &costs.unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
