//! What can be wrong with a recipe, in words that name the place and the remedy.

use std::path::PathBuf;

use crate::error::FileError;

/// A recipe that cannot be used as it stands.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// No recipe of this name.
    #[error(
        "no recipe `{name}` in {book}{guess}",
        book = book.display(), guess = guess(nearest, known, "recipes")
    )]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        book: PathBuf,
        /// The names closest to it, best first.
        nearest: Vec<String>,
        /// All names there are.
        known: Vec<String>,
    },
    /// A file or folder that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that is not TOML.
    #[error("{path} is not valid TOML:\n{source}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: toml::de::Error,
    },
    /// `extends` is there and is not a string.
    #[error("`extends` in {path} is not a string; write extends = \"name\"", path = path.display())]
    BadExtends {
        /// The file.
        path: PathBuf,
    },
    /// `extends` names a recipe that is not there.
    #[error(
        "{path} extends `{name}`, which is not there{guess}",
        path = path.display(), guess = guess(nearest, &[], "")
    )]
    UnknownBase {
        /// The file with the `extends`.
        path: PathBuf,
        /// What it names.
        name: String,
        /// The names closest to it, best first.
        nearest: Vec<String>,
    },
    /// A recipe that extends itself in the end.
    #[error("recipes extend each other in a circle: {}", chain.join(" -> "))]
    Cycle {
        /// The names on the way, the first again at the end.
        chain: Vec<String>,
    },
    /// A `--set` that is not `a.b=c`.
    #[error("--set {text}: {reason}; write --set table.key=value")]
    BadOverride {
        /// The argument.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A `--set a.b=c` where `a` is a plain value.
    #[error("--set {text}: `{path}` is {kind}, not a table, so it has no keys to set")]
    NotATable {
        /// The argument.
        text: String,
        /// The dotted path that is no table.
        path: String,
        /// The TOML type that is there.
        kind: &'static str,
    },
    /// A key that the schema does not know.
    #[error("unknown key `{key}` in {origin}{guess}", guess = guess(nearest, valid, "keys"))]
    UnknownKey {
        /// The dotted path of the key.
        key: String,
        /// The file or the `--set` that states it.
        origin: String,
        /// The valid keys closest to it, best first.
        nearest: Vec<String>,
        /// All keys that are valid in its place, where known.
        valid: Vec<String>,
    },
    /// A key that the schema needs.
    #[error("missing key `{key}` in {origin}; add it there")]
    MissingKey {
        /// The dotted path of the key.
        key: String,
        /// The file that should state it.
        origin: String,
    },
    /// A value of the wrong type, or outside of a closed choice.
    #[error("bad value for `{key}` in {origin}: {reason}{guess}", guess = guess(nearest, &[], ""))]
    BadValue {
        /// The dotted path of the key.
        key: String,
        /// The file or the `--set` that states it.
        origin: String,
        /// What was expected and what was found.
        reason: String,
        /// The valid values closest to it, for a closed choice.
        nearest: Vec<String>,
    },
    /// A value that TOML cannot hold.
    #[error("the recipe cannot be written as TOML: {0}")]
    NotToml(toml::ser::Error),
}

/// The tail of a message: "; did you mean `a` or `b`? valid keys: ...".
fn guess(nearest: &[String], all: &[String], what: &str) -> String {
    let mut text = String::new();
    if !nearest.is_empty() {
        let ticked: Vec<String> = nearest.iter().map(|name| format!("`{name}`")).collect();
        text.push_str(&format!("; did you mean {}?", ticked.join(" or ")));
    }
    if !all.is_empty() {
        let joint = if nearest.is_empty() { ";" } else { "" };
        text.push_str(&format!("{joint} valid {what}: {}", all.join(", ")));
    }
    text
}

/// The candidates close enough to `word` to be what was meant, best first, two at most.
pub(crate) fn nearest(word: &str, candidates: &[String]) -> Vec<String> {
    let mut scored: Vec<(f64, &String)> = candidates
        .iter()
        .map(|candidate| {
            // A transposition or a dropped letter scores by distance; `lr` for `lr_min` scores by
            // its shared beginning.
            let score = strsim::normalized_damerau_levenshtein(word, candidate)
                .max(strsim::jaro_winkler(word, candidate) - 0.25);
            (score, candidate)
        })
        .filter(|(score, _)| *score >= 0.5)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = scored.first().map_or(0.0, |(score, _)| *score);
    scored
        .into_iter()
        .take_while(|(score, _)| best - score < 0.1)
        .take(2)
        .map(|(_, name)| name.clone())
        .collect()
}
