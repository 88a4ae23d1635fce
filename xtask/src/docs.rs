//! `cargo xtask docs`: the API documentation, the book, and checks of the book that need no mdbook.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::backend::Backend;
use crate::kiln;
use crate::probe::is_installed;
use crate::workspace::{Workspace, execute, files};

/// What is done about the pages that follow from committed results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// They are written anew.
    Write,
    /// Stale ones are an error: what is committed must be what readers see.
    Check,
}

/// Where committed results and their pages are.
const LEADERBOARD: [&str; 4] = ["leaderboard", "docs/results", "--out", "docs/src/results"];

pub fn run(workspace: &Workspace, pages: Pages) -> Result<(), Error> {
    kiln::build(workspace, Backend::Flex)?;
    let mut leaderboard = kiln::command(workspace, Backend::Flex);
    leaderboard.current_dir(&workspace.root).args(LEADERBOARD);
    if pages == Pages::Check {
        leaderboard.arg("--check");
    }
    execute(&mut leaderboard)?;
    let mut problems = check_summary(&workspace.root);
    problems.extend(check_links(&workspace.root));
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        return Err(Error::Failed(format!(
            "{} problems in the documentation",
            problems.len()
        )));
    }
    println!("book: every page is listed, every relative link resolves");

    let mut flags = env::var("RUSTDOCFLAGS").unwrap_or_default();
    flags.push_str(" -Dwarnings");
    let mut cargo = workspace.cargo(Backend::Flex);
    // The release profile shares the dependencies' metadata with `clippy --release`.
    cargo
        .args(["doc", "--release", "--no-deps", "--workspace"])
        .env("RUSTDOCFLAGS", flags.trim());
    execute(&mut cargo)?;

    if is_installed("mdbook") {
        let book = workspace.target(Backend::Flex).join("book");
        let mut mdbook = Command::new("mdbook");
        execute(
            mdbook
                .current_dir(&workspace.root)
                .args(["build", "docs", "--dest-dir"])
                .arg(book),
        )
    } else {
        println!("book: not built, mdbook is not installed (`cargo install mdbook`)");
        Ok(())
    }
}

/// Pages that the book's summary does not list, and listed pages that do not exist.
fn check_summary(root: &Path) -> Vec<String> {
    let Ok(summary) = fs::read_to_string(root.join("docs/src/SUMMARY.md")) else {
        return vec!["docs/src/SUMMARY.md: missing".into()];
    };
    let listed: BTreeSet<PathBuf> = links(&summary)
        .into_iter()
        .filter_map(|(_, link)| relative_file(&link))
        .map(|link| normal(Path::new(&link)))
        .collect();
    let pages: BTreeSet<PathBuf> = files(&root.join("docs/src"), "", &[])
        .into_iter()
        .filter(|page| is_markdown(page) && page != Path::new("SUMMARY.md"))
        .collect();
    let unlisted = pages.difference(&listed);
    let absent = listed.difference(&pages);
    unlisted
        .map(|page| format!("docs/src/{}: not listed in SUMMARY.md", page.display()))
        .chain(absent.map(|page| {
            format!(
                "docs/src/SUMMARY.md: lists {}, which does not exist",
                page.display()
            )
        }))
        .collect()
}

/// Relative links in the README files and the book that lead nowhere.
fn check_links(root: &Path) -> Vec<String> {
    let mut problems = vec![];
    for page in files(root, "", &["target", ".git", "runs", "node_modules"]) {
        let is_readme = page.file_name().is_some_and(|name| name == "README.md");
        if !is_markdown(&page) || !(is_readme || page.starts_with("docs")) {
            continue;
        }
        let text = fs::read_to_string(root.join(&page)).unwrap_or_default();
        let folder = root
            .join(&page)
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        for (line, link) in links(&text) {
            if let Some(file) = relative_file(&link)
                && !folder.join(&file).exists()
            {
                problems.push(format!("{}:{line}: broken link `{link}`", page.display()));
            }
        }
    }
    problems
}

fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// The file part of a link within the repository; none for web addresses and anchors.
fn relative_file(link: &str) -> Option<String> {
    let file = link.split(['#', '?']).next().unwrap_or_default();
    let scheme = file.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric())
    });
    (!file.is_empty() && !scheme && !file.starts_with("//")).then(|| file.replace("%20", " "))
}

/// The path without `.` and resolvable `..` parts.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => _ = normal.pop(),
            part => normal.push(part),
        }
    }
    normal
}

/// The targets of `[text](target)` and `[label]: target` with their line numbers; code is left out.
fn links(markdown: &str) -> Vec<(usize, String)> {
    let mut found = vec![];
    let mut in_fence = false;
    for (index, line) in markdown.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            in_fence = !in_fence;
        } else if !in_fence {
            let text = without_code_spans(line);
            let targets = text.split("](").skip(1).filter_map(inline_target);
            found.extend(targets.map(|target| (index + 1, target)));
            found.extend(reference_target(&text).map(|target| (index + 1, target)));
        }
    }
    found
}

/// What stands between `](` and the closing bracket, without a title.
fn inline_target(rest: &str) -> Option<String> {
    let target = rest.split_once(')')?.0.trim();
    let target = match target.strip_prefix('<') {
        Some(bracketed) => bracketed.split_once('>')?.0,
        None => target.split_whitespace().next()?,
    };
    Some(target.to_owned())
}

fn reference_target(line: &str) -> Option<String> {
    let (label, target) = line.trim_start().strip_prefix('[')?.split_once("]: ")?;
    let is_footnote = label.starts_with('^');
    target
        .split_whitespace()
        .next()
        .filter(|_| !is_footnote)
        .map(str::to_owned)
}

fn without_code_spans(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        // An odd part lies between two backticks, unless its closing one is missing.
        if index % 2 == 0 || index + 1 == parts.len() {
            text.push_str(part);
        }
    }
    text
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
    fn links_are_found_outside_code() {
        let text = "see [a](a.md#x) and ![b](<b c.png>)\n`[no](no.md)`\n```\n[no](no.md)\n```\n[r]: r.md \"title\"\n[^1]: note\n";
        let expected = [(1, "a.md#x"), (1, "b c.png"), (6, "r.md")];
        assert_eq!(
            links(text),
            expected.map(|(line, link)| (line, link.to_owned()))
        );
    }

    #[test]
    fn only_files_of_the_repository_are_checked() {
        for link in ["https://burn.dev", "mailto:a@b.c", "#anchor", "//host/x"] {
            assert_eq!(relative_file(link), None, "{link}");
        }
        assert_eq!(relative_file("../a.md#x").as_deref(), Some("../a.md"));
    }

    #[test]
    fn a_complete_book_passes() {
        let root = tree(&[
            ("README.md", "[book](docs/src/guide/run.md)"),
            (
                "docs/src/SUMMARY.md",
                "# Summary\n- [Run](./guide/run.md)\n- [Draft]()\n",
            ),
            (
                "docs/src/guide/run.md",
                "[up](../SUMMARY.md) [web](https://burn.dev)",
            ),
        ]);
        assert!(check_summary(root.path()).is_empty());
        assert!(check_links(root.path()).is_empty());
    }

    #[test]
    fn unlisted_absent_and_broken_are_reported() {
        let root = tree(&[
            ("README.md", "\n[gone](docs/gone.md)"),
            ("docs/src/SUMMARY.md", "- [Gone](gone.md)"),
            ("docs/src/alone.md", ""),
        ]);
        assert_eq!(
            check_summary(root.path()),
            [
                "docs/src/alone.md: not listed in SUMMARY.md",
                "docs/src/SUMMARY.md: lists gone.md, which does not exist",
            ]
        );
        assert_eq!(
            check_links(root.path()),
            [
                "README.md:2: broken link `docs/gone.md`",
                "docs/src/SUMMARY.md:1: broken link `gone.md`",
            ]
        );
    }

    #[test]
    fn a_book_without_summary_is_reported() {
        assert_eq!(
            check_summary(tree(&[]).path()),
            ["docs/src/SUMMARY.md: missing"]
        );
    }
}
