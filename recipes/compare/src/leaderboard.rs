//! Committed results as pages of the book: one page a study with pictures of quality against cost, and an index of all of them.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_run::report::Table;
use kiln_run::{FileError, atomic_write};

use crate::page::{markdown, rows};
use crate::report::charts;
use crate::results::{Results, TaskResult};
use crate::{CompareError, RESULTS_FILE};

/// The page that lists the others.
const INDEX: &str = "index.md";

/// A page or a picture on one: name of its file, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// `NAME.md`, `index.md` or `NAME.COST.svg`.
    pub file: String,
    /// Markdown or SVG.
    pub text: String,
}

/// The pages of every `NAME.json` in `folder`, by name, and the index before them.
///
/// # Errors
/// A folder that cannot be read, and those of [`Results::read`].
pub fn pages(folder: &Path) -> Result<Vec<Page>, CompareError> {
    let mut studies = Vec::new();
    for name in names(folder, "json")? {
        let results = Results::read(&folder.join(format!("{name}.json")))?;
        studies.push((name, results));
    }
    let index = Page {
        file: INDEX.into(),
        text: index(&studies),
    };
    let mut pages = vec![index];
    for (name, results) in &studies {
        let pictures = pictures(name, results);
        pages.push(Page {
            file: format!("{name}.md"),
            text: page(name, results, &pictures),
        });
        pages.extend(pictures.into_iter().map(|(_, picture)| picture));
    }
    Ok(pages)
}

/// Writes pages into `out`, and removes pages of studies that are no longer there.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(pages: &[Page], out: &Path) -> Result<(), CompareError> {
    fs::create_dir_all(out).map_err(FileError::io("create", out))?;
    for page in pages {
        atomic_write(&out.join(&page.file), |file| {
            file.write_all(page.text.as_bytes())
        })?;
    }
    for path in left_over(pages, out)? {
        fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
    }
    Ok(())
}

/// Refuses a folder whose pages are not these.
///
/// # Errors
/// [`CompareError::StalePages`] naming those that differ, are missing or are left over.
pub fn check(pages: &[Page], out: &Path) -> Result<(), CompareError> {
    let path = |page: &Page| out.join(&page.file);
    // A page that cannot be read is not what it should be either.
    let is_stale = |page: &&Page| fs::read_to_string(path(page)).ok().as_ref() != Some(&page.text);
    let mut stale: Vec<PathBuf> = pages.iter().filter(is_stale).map(path).collect();
    stale.extend(left_over(pages, out)?);
    match stale.is_empty() {
        true => Ok(()),
        false => Err(CompareError::StalePages { pages: stale }),
    }
}

fn left_over(pages: &[Page], out: &Path) -> Result<Vec<PathBuf>, CompareError> {
    if !out.is_dir() {
        return Ok(Vec::new());
    }
    let files = |extension: &'static str| -> Result<_, CompareError> {
        let names = names(out, extension)?.into_iter();
        Ok(names.map(move |name| format!("{name}.{extension}")))
    };
    let files = files("md")?.chain(files("svg")?);
    let unknown = files.filter(|file| pages.iter().all(|page| page.file != *file));
    Ok(unknown.map(|file| out.join(file)).collect())
}

/// Names of a folder's files with this extension, sorted.
fn names(folder: &Path, extension: &str) -> Result<Vec<String>, CompareError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(FileError::io("list", folder))? {
        let path = entry.map_err(FileError::io("list", folder))?.path();
        if path.extension().is_some_and(|found| found == extension)
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Quality against every cost in which arms differ but the time of training, with what each picture shows.
fn pictures(name: &str, results: &Results) -> Vec<(String, Page)> {
    let number = |arm: &str| {
        let mut arms = results.study.arm.iter();
        arms.position(|stated| stated.name == arm).unwrap_or(0)
    };
    let mut pictures = Vec::new();
    for task in &results.tasks {
        let arms: Vec<_> = task.arms.iter().map(|arm| number(&arm.name)).collect();
        let costs = charts::costs(task, &arms).into_iter();
        // Runs are timed as they were made, which may be beside others.
        for chart in costs.filter(|chart| chart.x_label != charts::STEP_TIME) {
            let of = task.name.iter().map(|name| format!("{name}."));
            let cost = chart
                .x_label
                .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            let shown = task.name.iter().map(|name| format!("Task {name}. "));
            let picture = Page {
                file: format!("{name}.{}{cost}.svg", of.collect::<String>()),
                text: chart.picture(),
            };
            let against = format!("Quality against {}", chart.x_label);
            let title = chart.title.replacen(charts::AGAINST, &against, 1);
            pictures.push((shown.collect::<String>() + &title, picture));
        }
    }
    pictures
}

fn page(name: &str, results: &Results, pictures: &[(String, Page)]) -> String {
    let source = format!(
        "<!-- Written by `kiln leaderboard` from {name}.json; `cargo xtask docs` writes it anew. -->\n\n"
    );
    let mut text = source + &markdown(results);
    if !pictures.is_empty() {
        text += "\n## Quality against cost\n";
    }
    for (shown, picture) in pictures {
        text += &format!("\n{shown}.\n\n![{shown}]({})\n", picture.file);
    }
    text
}

fn index(studies: &[(String, Results)]) -> String {
    let row = |(name, results): &(String, Results)| {
        vec![
            format!("[{name}]({name}.md)"),
            results.study.description.clone(),
            results.study.arm.len().to_string(),
            results.study.task.len().max(1).to_string(),
            results.study.seeds.len().to_string(),
            results.runs.len().to_string(),
            results
                .tasks
                .iter()
                .map(best)
                .collect::<Vec<_>>()
                .join("; "),
            // The day is enough.
            results.written.chars().take(10).collect(),
        ]
    };
    let table = Table {
        columns: [
            "study", "question", "arms", "tasks", "seeds", "runs", "best", "written",
        ]
        .map(String::from)
        .to_vec(),
        rows: studies.iter().map(row).collect(),
        ..Table::default()
    };
    format!(
        "<!-- Written by `kiln leaderboard`; `cargo xtask docs` writes it anew. -->\n\n# Studies\n\n\
         Every study whose `{RESULTS_FILE}` is committed in `docs/results`, each with its protocol, tables, machines and \
         commits; [Compare](../guide/compare.md) says how they come about. What they answer is told in [Results](../results.md).\n\n{}",
        rows(&table)
    )
}

/// `bk 1.6234 nats/token`, after the task's name where there are several.
fn best(task: &TaskResult) -> String {
    let best = task.best();
    let mean = |name: &str| {
        task.arm(name)?
            .measured(task.measure)
            .map(|found| found.mean)
    };
    let arm = task
        .arms
        .iter()
        .find(|arm| best.is_some() && mean(&arm.name) == best);
    let of = task
        .name
        .as_ref()
        .map_or(String::new(), |name| format!("{name}: "));
    match (arm, best) {
        (Some(arm), Some(best)) => format!("{of}{} {best:.4} {}", arm.name, task.measure.unit()),
        _ => format!("{of}incomplete"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;
    use crate::protocol::State;

    #[test]
    fn pages_follow_the_results_and_stale_ones_are_named() {
        let root = tempfile::tempdir().unwrap();
        let (folder, out) = (root.path().join("results"), root.path().join("pages"));
        let layout = layout("seeds = [7]\ndescription = 'which?'", &["a", "b"]);
        let mut state = State::default();
        for (run, loss) in layout.all().zip([2.0, 1.5]) {
            state.finished.insert(run, figures(&layout, run, loss));
        }
        let results = Results::new(&layout, &state, vec!["kiln".into()]).unwrap();
        results.write(&folder).unwrap();
        fs::rename(folder.join(RESULTS_FILE), folder.join("first.json")).unwrap();
        let made = pages(&folder).unwrap();
        let files: Vec<_> = made.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(
            files,
            ["index.md", "first.md"],
            "nothing tells their costs apart"
        );
        let line = "| [first](first.md) | which? | 2 | 1 | 1 | 2 | b 1.5000 nats/token |";
        assert!(made[0].text.contains(line), "{}", made[0].text);
        assert!(made[1].text.contains("## Against a\n"), "{}", made[1].text);

        let stale = |pages: &[Page]| match check(pages, &out) {
            Err(CompareError::StalePages { pages }) => pages,
            other => panic!("{other:?}"),
        };
        assert_eq!(stale(&made).len(), 2, "nothing is there yet");
        write(&made, &out).unwrap();
        check(&made, &out).unwrap();
        fs::write(out.join("first.md"), "edited").unwrap();
        fs::write(out.join("gone.md"), "").unwrap();
        assert_eq!(stale(&made), [out.join("first.md"), out.join("gone.md")]);
        write(&made, &out).unwrap();
        check(&made, &out).unwrap();

        // Arms of other sizes make a picture, which goes with its study.
        for figures in state.finished.values_mut().skip(1) {
            figures.parameters *= 3;
        }
        let results = Results::new(&layout, &state, vec!["kiln".into()]).unwrap();
        results.write(&folder).unwrap();
        fs::rename(folder.join(RESULTS_FILE), folder.join("sizes.json")).unwrap();
        let made = pages(&folder).unwrap();
        let picture = &made[made.len() - 1];
        assert_eq!(picture.file, "sizes.parameters.svg");
        assert!(picture.text.starts_with("<svg xmlns="), "{}", picture.text);
        let shown =
            "![Quality against parameters. On the Pareto front: a, b](sizes.parameters.svg)";
        assert!(made[made.len() - 2].text.contains(shown));
        assert_eq!(stale(&made).len(), 3);
        write(&made, &out).unwrap();
        fs::remove_file(folder.join("sizes.json")).unwrap();
        let made = pages(&folder).unwrap();
        let gone = ["sizes.md", "sizes.parameters.svg"].map(|name| out.join(name));
        assert_eq!(stale(&made)[1..], gone, "and the index");

        fs::write(folder.join("old.json"), "{\"version\": 1}").unwrap();
        let error = pages(&folder).unwrap_err().to_string();
        assert!(
            error.contains("old.json has layout version 1, and"),
            "{error}"
        );
    }
}
