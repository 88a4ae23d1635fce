use super::*;
use crate::corpus::Corpus;
use std::fs;
use std::path::Path;

/// A registry folder with `crates` one-file-per-entry packages, whose family names are all different.
fn registry(root: &Path, crates: usize, files: &[(&str, String)]) -> Vec<Package> {
    let package = |index: usize| {
        let name = format!("crate{index}-core");
        let src_dir = root.join(format!("{name}-1.0.0/src"));
        for (file, text) in files {
            let path = src_dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("// {name}\n{text}")).unwrap();
        }
        Package {
            name,
            version: "1.0.0".into(),
            src_dir,
        }
    };
    (0..crates).map(package).collect()
}

fn corpus(packages: &[Package], max_bytes: u64) -> Corpus {
    Corpus::new(
        "rust-deps".into(),
        select(packages, max_bytes, &mut |_| {}).unwrap(),
    )
    .unwrap()
}

#[test]
fn the_same_packages_elsewhere_and_reordered_give_the_same_hash() {
    let files = [
        ("lib.rs", "fn a() {}".into()),
        ("b/c.rs", "fn c() {}\n".into()),
        ("x.txt", "no".into()),
    ];
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = corpus(&registry(one.path(), 60, &files), 1 << 20);
    let mut packages = registry(two.path(), 60, &files);
    packages.reverse();
    assert_eq!(first.hash(), corpus(&packages, 1 << 20).hash());
    assert_eq!(
        Split::ALL
            .iter()
            .map(|s| first.documents(*s).len())
            .sum::<usize>(),
        120
    );
    assert!(
        first
            .documents(Split::Train)
            .iter()
            .all(|d| !d.name.contains(&*one.path().to_string_lossy()))
    );
}

#[test]
fn a_family_is_in_one_split() {
    for (a, b) in [
        ("serde", "serde_derive"),
        ("burn-core", "burn-nn"),
        ("wgpu", "wgpu-hal"),
    ] {
        assert_eq!(split_of(a), split_of(b));
    }
    let count = |split| {
        (0..2000)
            .filter(|i| split_of(&format!("f{i}")) == split)
            .count()
    };
    assert!(
        (1740..1860).contains(&count(Split::Train)),
        "{}",
        count(Split::Train)
    );
    assert!(
        (60..140).contains(&count(Split::Test)),
        "{}",
        count(Split::Test)
    );
}

#[test]
fn duplicates_binaries_and_giants_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let packages = registry(folder.path(), 60, &[("lib.rs", "fn a() {}".into())]);
    for package in &packages {
        fs::write(package.src_dir.join("licence.rs"), "the same everywhere").unwrap();
        fs::write(
            package.src_dir.join("big.rs"),
            "x".repeat(MAX_FILE_BYTES as usize + 1),
        )
        .unwrap();
        fs::write(package.src_dir.join("nul.rs"), b"a\0b").unwrap();
        fs::write(package.src_dir.join("latin.rs"), b"\xe9").unwrap();
    }
    let corpus = corpus(&packages, 64 << 20);
    let names: Vec<_> = Split::ALL
        .iter()
        .flat_map(|s| corpus.documents(*s))
        .map(|d| &d.name)
        .collect();
    assert_eq!(names.len(), 61);
    assert_eq!(
        names
            .iter()
            .filter(|name| name.ends_with("licence.rs"))
            .count(),
        1
    );
    assert!(
        corpus
            .documents(Split::Train)
            .iter()
            .all(|d| !d.name.ends_with("licence.rs"))
    );
}

#[test]
fn a_giant_crate_gets_no_more_than_its_share() {
    let folder = tempfile::tempdir().unwrap();
    let mut packages = registry(folder.path(), 60, &[("lib.rs", "x".repeat(1000))]);
    let giant = packages
        .iter_mut()
        .find(|p| split_of(&p.name) == Split::Train)
        .unwrap();
    for index in 0..100 {
        fs::write(
            giant.src_dir.join(format!("f{index}.rs")),
            format!("{index}{}", "y".repeat(1000)),
        )
        .unwrap();
    }
    let giant = giant.name.clone();
    let max_bytes = 70_000;
    let corpus = corpus(&packages, max_bytes);
    let train = corpus.documents(Split::Train);
    let of_giant = train.iter().filter(|d| d.name.starts_with(&giant)).count();
    let others: HashSet<_> = train
        .iter()
        .filter_map(|d| d.name.split('/').next())
        .collect();
    assert_eq!(
        others.len(),
        packages
            .iter()
            .filter(|p| split_of(&p.name) == Split::Train)
            .count()
    );
    assert!((2..20).contains(&of_giant), "{of_giant}");
    assert!(corpus.total_bytes() <= max_bytes);
}

#[test]
fn a_large_file_does_not_fill_a_small_split() {
    let folder = tempfile::tempdir().unwrap();
    let large = "x".repeat(SMALL_FILE_BYTES as usize);
    let files = [("lib.rs", "fn a() {}".into()), ("large.rs", large)];
    let corpus = corpus(&registry(folder.path(), 60, &files), 1 << 20);
    let has_large = |split| {
        corpus
            .documents(split)
            .iter()
            .any(|d| d.name.ends_with("large.rs"))
    };
    assert_eq!(Split::ALL.map(has_large), [true, false, false]);
}

/// The promise of the corpus: it needs nothing but the workspace itself.
#[test]
fn the_real_workspace_fills_every_split_the_same_twice() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let load = || {
        let packages = crate::corpus::discover::packages(&manifest, &mut |_| {}).unwrap();
        corpus(&packages, 2 << 20)
    };
    let first = load();
    assert_eq!(first.hash(), load().hash());
    for (split, minimum) in [
        (Split::Train, 1_000_000),
        (Split::Validation, 50_000),
        (Split::Test, 50_000),
    ] {
        assert!(
            first.bytes(split) > minimum,
            "{split}: {}",
            first.bytes(split)
        );
        assert!(first.documents(split).len() >= 16, "{split}");
    }
    assert!(first.total_bytes() <= 2 << 20);
}
