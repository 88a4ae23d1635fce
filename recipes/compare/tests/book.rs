//! The studies of the book: every one reads, resolves and is fair.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_compare::fairness::{check, costs};
use kiln_compare::{Layout, study};
use kiln_train::known_vocab;

/// Tiny Shakespeare's characters: its text need not be here.
const CHARACTERS: usize = 65;

fn check_study(book: &Path, studies: &Path, name: &str) -> Layout {
    let loaded = study::load(studies, name).unwrap();
    assert!(!loaded.study.description.is_empty(), "{name}");
    let layout = Layout::new(loaded, book, Path::new("out")).unwrap();
    let costs = costs(&layout, &Device::flex(), &mut |recipe| {
        Ok(known_vocab(recipe)?.unwrap_or(CHARACTERS))
    });
    check(&layout.tasks, &costs.unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
    layout
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/src/guide/compare.md")).unwrap()
}

#[test]
fn every_study_resolves_and_is_fair() {
    let book = root().join("recipes/book");
    let studies = book.join("studies");
    let all = kiln_run::recipe::list(&studies).unwrap();
    assert!(all.iter().any(|study| study.name == "mixer-worth-char"));
    let page = page();
    for summary in all {
        let layout = check_study(&book, &studies, &summary.name);
        // The page's table ends each study's line with its number of runs.
        let start = format!("| `{}` |", summary.name);
        let line = page.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{start} is not on the page"));
        let runs = layout.total();
        assert!(line.ends_with(&format!("| {runs} |")), "{line}: {runs}");
    }
}

#[test]
fn the_example_of_the_page_is_fair() {
    let page = page();
    let (_, after) = page.split_once("```toml\n").unwrap();
    let (example, _) = after.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("example.toml"), example).unwrap();
    let layout = check_study(&root().join("recipes/book"), folder.path(), "example");
    let points: Vec<_> = layout.cells.iter().map(|cell| cell.points.len()).collect();
    assert!(
        points.len() > 1 && points.iter().all(|n| *n == points[0]),
        "{points:?}"
    );
}
