//! `cargo xtask tidy`: the architecture's rules that a reviewer should not have to check by eye.
//!
//! Each rule is a function over a root folder that returns what breaks it, as `path:line: message`.

mod imports;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::workspace::{LAYERS, Workspace, crates, files, list, read_toml};

/// What the top level may hold.
const TOP_LEVEL: [&str; 16] = [
    ".cargo",
    ".ci",
    ".git",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "backends",
    "clippy.toml",
    "datasets",
    "docs",
    "models",
    "recipes",
    "rustfmt.toml",
    "runs",
    "target",
];
/// A source file longer than this has to be split.
const MAX_LINES: usize = 600;
/// A source file longer than this is mentioned.
const LONG_LINES: usize = 400;
const BURN: &str = "=0.22.1";
/// Folders that hold nothing of ours.
const SKIPPED: [&str; 4] = ["target", ".git", "runs", "node_modules"];
/// Larger files are data.
const MAX_TEXT: u64 = 1 << 20;

pub fn run(workspace: &Workspace) -> Result<(), Error> {
    let root = &workspace.root;
    let crates = crates(root)?;
    let mut problems = top_level(root);
    problems.extend(imports::check(
        &read_toml(&root.join("Cargo.toml"))?,
        &crates,
        BURN,
    ));
    for krate in &crates {
        problems.extend(crate_doc(root, &krate.dir));
    }
    problems.extend(book_headers(root));
    let mut notes = vec![];
    for path in sources(root) {
        let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
        let lines = text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!(
                "{}: {lines} lines, at most {MAX_LINES}",
                path.display()
            ));
        } else if lines > LONG_LINES {
            notes.push(format!(
                "{}: {lines} lines, consider splitting it",
                path.display()
            ));
        }
        problems.extend(unfinished(&path, &text));
        problems.extend(reads_the_world(&path, &text));
    }
    problems.extend(absolute_paths(root));

    for note in &notes {
        println!("note: {note}");
    }
    for problem in &problems {
        println!("{problem}");
    }
    match problems.len() {
        0 => {
            println!(
                "tidy: {} crates, {} sources, no problem",
                crates.len(),
                sources(root).len()
            );
            Ok(())
        }
        count => Err(Error::Failed(format!("tidy found {count} problem(s)"))),
    }
}

/// The Rust files of all crates.
fn sources(root: &Path) -> Vec<PathBuf> {
    let all = LAYERS.iter().flat_map(|layer| files(root, layer, &SKIPPED));
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The top level holds what the architecture lists, and no report, log or scratch file.
fn top_level(root: &Path) -> Vec<String> {
    let names = list(root)
        .into_iter()
        .map(|name| name.to_string_lossy().into_owned());
    names
        .filter(|name| {
            !TOP_LEVEL.contains(&name.as_str()) && name != "xtask" && !name.starts_with("LICENSE")
        })
        .map(|name| format!("{name}: not allowed at the top level"))
        .collect()
}

/// A crate's root file starts with its documentation.
fn crate_doc(root: &Path, dir: &Path) -> Option<String> {
    let path = ["src/lib.rs", "src/main.rs"].map(|file| dir.join(file));
    let Some(path) = path.into_iter().find(|path| root.join(path).is_file()) else {
        return Some(format!(
            "{}: neither src/lib.rs nor src/main.rs",
            dir.display()
        ));
    };
    let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
    let documented = text.trim_start().starts_with("//!");
    (!documented).then(|| format!("{}:1: starts without a `//!` doc", path.display()))
}

/// A recipe heads with its expected result, hardware and time.
fn book_headers(root: &Path) -> Vec<String> {
    let recipes = files(root, "recipes/book", &[]).into_iter();
    recipes
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .filter(|path| {
            let text = fs::read_to_string(root.join(path)).unwrap_or_default();
            !text.trim_start().starts_with('#')
        })
        .map(|path| format!("{}:1: starts without a comment header", path.display()))
        .collect()
}

/// No placeholder macros, and no reminder without the issue that tracks it.
fn unfinished(path: &Path, text: &str) -> Vec<String> {
    let source = source::split(text);
    let mut problems = vec![];
    for (index, line) in source.code.lines().enumerate() {
        for name in ["todo!", "unimplemented!", "dbg!"] {
            if source::has_word(line, name) {
                problems.push(format!("{}:{}: `{name}`", path.display(), index + 1));
            }
        }
    }
    for (index, line) in source.comments.lines().enumerate() {
        for name in ["TODO", "FIXME"] {
            if source::has_word(line, name) && !has_issue(line) {
                let place = format!("{}:{}", path.display(), index + 1);
                problems.push(format!(
                    "{place}: `{name}` without an issue, write `{name}(#12)`"
                ));
            }
        }
    }
    problems
}

/// Whether the line names an issue as `(#12)`.
fn has_issue(line: &str) -> bool {
    line.split("(#").skip(1).any(|rest| {
        rest.split_once(')').is_some_and(|(issue, _)| {
            !issue.is_empty() && issue.chars().all(|c| c.is_ascii_digit())
        })
    })
}

/// Models and backends read no file and no environment, and print nothing; their tests may.
fn reads_the_world(path: &Path, text: &str) -> Vec<String> {
    let pure = path.starts_with("models") || path.starts_with("backends");
    let is_test = |part: &str| ["tests", "tests.rs", "benches", "examples"].contains(&part);
    if !pure || path.iter().any(|part| is_test(&part.to_string_lossy())) {
        return vec![];
    }
    let code = source::without_tests(&source::split(text).code);
    let mut problems = vec![];
    for (index, line) in code.lines().enumerate() {
        let forbidden = [
            "std::fs",
            "std::env",
            "fs::read",
            "fs::write",
            "env::var",
            "File::open",
            "File::create",
            "OpenOptions",
            "println!",
            "print!",
            "eprintln!",
            "eprint!",
        ];
        let found = forbidden
            .into_iter()
            .find(|name| source::has_word(line, name));
        let imported = line.split_once("std::{").and_then(|(_, list)| {
            ["fs", "env"]
                .into_iter()
                .find(|name| source::has_word(list, name))
        });
        if let Some(name) = found.or(imported) {
            problems.push(format!(
                "{}:{}: `{name}`: models and backends touch no file, environment or terminal",
                path.display(),
                index + 1
            ));
        }
    }
    problems
}

/// A path of one machine means nothing on another.
fn absolute_paths(root: &Path) -> Vec<String> {
    let personal = ["root", "home", "Users", "work"].map(|folder| format!("/{folder}/"));
    let mut problems = vec![];
    for path in files(root, "", &SKIPPED) {
        let full = root.join(&path);
        let is_small = fs::metadata(&full).is_ok_and(|file| file.len() <= MAX_TEXT);
        let Some(text) = is_small.then(|| fs::read_to_string(&full).ok()).flatten() else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(folder) = personal.iter().find(|folder| starts_a_path(line, folder)) {
                let place = format!("{}:{}", path.display(), index + 1);
                problems.push(format!("{place}: absolute path below `{folder}`"));
            }
        }
    }
    problems
}

/// Whether `folder` begins a path in the line, rather than being inside a longer one or a web address.
fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.~/}>*$".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_report_at_the_top_level_is_refused() {
        let root = tree(&[
            ("LICENSE-MIT", ""),
            ("xtask/a", ""),
            ("models/a", ""),
            ("REPORT.md", ""),
        ]);
        assert_eq!(
            top_level(root.path()),
            ["REPORT.md: not allowed at the top level"]
        );
    }

    #[test]
    fn crates_start_with_their_doc() {
        let root = tree(&[
            ("a/src/lib.rs", "//! Doc.\n"),
            ("b/src/main.rs", "fn main() {}"),
        ]);
        assert_eq!(crate_doc(root.path(), Path::new("a")), None);
        let missing = crate_doc(root.path(), Path::new("b")).unwrap();
        assert_eq!(missing, "b/src/main.rs:1: starts without a `//!` doc");
        assert!(
            crate_doc(root.path(), Path::new("c"))
                .unwrap()
                .contains("neither")
        );
    }

    #[test]
    fn recipes_start_with_a_header() {
        let root = tree(&[
            ("recipes/book/a.toml", "# A\nx = 1"),
            ("recipes/book/b/c.toml", "x = 1"),
        ]);
        let expected = ["recipes/book/b/c.toml:1: starts without a comment header"];
        assert_eq!(book_headers(root.path()), expected);
    }

    #[test]
    fn placeholders_and_untracked_reminders_are_refused() {
        let text = "fn f() { todo!() }\n// TODO later\n// TODO(#12) later\nlet s = \"dbg!(TODO)\";\n// FIXME(now)\n";
        assert_eq!(
            unfinished(Path::new("a.rs"), text),
            [
                "a.rs:1: `todo!`",
                "a.rs:2: `TODO` without an issue, write `TODO(#12)`",
                "a.rs:5: `FIXME` without an issue, write `FIXME(#12)`",
            ]
        );
    }

    #[test]
    fn models_touch_no_file_environment_or_terminal() {
        let text = "\
use std::fs;
use std::{env, fmt};
// std::fs in a comment
fn f() { println!(\"std::env\") }
#[cfg(test)]
mod tests {
    use std::fs;
}
fn g() { File::open(p) }
";
        let found = reads_the_world(Path::new("models/a/src/lib.rs"), text);
        let at: Vec<_> = found
            .iter()
            .map(|p| p.split(": models").next().unwrap())
            .collect();
        assert_eq!(
            at,
            [
                "models/a/src/lib.rs:1: `std::fs`",
                "models/a/src/lib.rs:2: `env`",
                "models/a/src/lib.rs:4: `println!`",
                "models/a/src/lib.rs:9: `File::open`",
            ]
        );
        assert!(reads_the_world(Path::new("models/a/tests/golden.rs"), text).is_empty());
        assert!(reads_the_world(Path::new("recipes/run/src/lib.rs"), text).is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        let text = format!(
            "ok: https://a.b/{0}/c $X/{0}/d docs/{0}/e\nbad: `/{0}/x`\n",
            "work"
        );
        let root = tree(&[("docs/a.md", &text), ("target/b.md", &text)]);
        let found = absolute_paths(root.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("docs/a.md:2: absolute path"),
            "{found:?}"
        );
    }
}
