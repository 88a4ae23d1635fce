//! What a run folder says about its run, and whether it is the run that the study asks for.

mod origin;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use kiln_run::hardware::Provenance;
use kiln_run::{FileError, Kind, RunFolder, metrics};
use kiln_train::{Resolved, read_resolved, recipe_difference};
use serde::{Deserialize, Deserializer, Serialize};

use crate::statistics::median;
use crate::study::Difference;
use crate::{CompareError, Layout, RunId};
use origin::Origin;
use records::{contexts, energy, finite_mean, peak_memory, series};

/// Records of throughput that are left out at the start: caches fill and kernels are tuned there.
const WARM_UP: usize = 1;

/// The figures of one finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The task, where the study has several.
    pub task: Option<String>,
    /// The arm.
    pub arm: String,
    /// The point of its grid.
    pub point: String,
    /// The seed.
    pub seed: u64,
    /// The run's folder, below `runs`.
    pub folder: PathBuf,
    /// Validation loss of the best weights at the end of the run, nats a token.
    #[serde(deserialize_with = "number_or_nan")]
    pub validation_loss: f64,
    /// The same in bits per byte, on text.
    pub validation_bits_per_byte: Option<f64>,
    /// The same as perplexity per word.
    #[serde(default)]
    pub validation_word_perplexity: Option<f64>,
    /// Share of the validation split's target tokens whose likeliest prediction is right.
    pub validation_accuracy: Option<f64>,
    /// Test loss, where the corpus has a test split.
    pub test_loss: Option<f64>,
    /// The same in bits per byte.
    pub test_bits_per_byte: Option<f64>,
    /// The same as perplexity per word.
    #[serde(default)]
    pub test_word_perplexity: Option<f64>,
    /// Accuracy on the test split.
    pub test_accuracy: Option<f64>,
    /// Share of the validation split's targets where run and teacher score the same token highest, where there is a teacher.
    #[serde(default)]
    pub teacher_agreement: Option<f64>,
    /// Mean KL(teacher || run) on the validation split, nats a token.
    #[serde(default)]
    pub teacher_kl: Option<f64>,
    /// Bigram baseline on the validation split in bits per byte, for next-token models.
    pub bigram_bits_per_byte: Option<f64>,
    /// Step of the best weights.
    pub best_step: u64,
    /// Steps made.
    pub steps: u64,
    /// Target tokens trained on.
    pub tokens: u64,
    /// Parameters, frozen ones included.
    pub parameters: u64,
    /// Updates left out for a loss or gradient that was not finite.
    pub skipped: u64,
    /// Median time of an update, in seconds; none if no throughput was logged.
    pub step_seconds: Option<f64>,
    /// Median training tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Seconds of training, with evaluations and checkpoints, over all resumes.
    pub seconds: f64,
    /// Operations of all steps.
    #[serde(default)]
    pub flops: Option<f64>,
    /// Bytes of the model's weights and configuration, or of an n-gram model's counts.
    #[serde(default)]
    pub model_bytes: Option<u64>,
    /// Bytes of generation state of one sequence of the trained length.
    #[serde(default)]
    pub state_bytes: Option<u64>,
    /// The most memory that a training record noted, bytes: reserved by the device's allocator, or resident in the process.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// Joules that the whole device used while training, where it tells.
    #[serde(default)]
    pub energy_joules: Option<f64>,
    /// Mean cosine between the recipe's gradient and the exact one, where it was probed.
    pub gradient_cosine: Option<f64>,
    /// The same over the weights of the potentials alone.
    pub gradient_cosine_potential: Option<f64>,
    /// SHA-256 of the corpus.
    pub corpus: String,
    /// SHA-256 of the tokenizer.
    pub tokenizer: String,
    /// SHA-256 of the model's weights.
    #[serde(default)]
    pub weights: Option<String>,
    /// SHA-256 of the weights that it was compressed of.
    #[serde(default)]
    pub original: Option<String>,
    /// Validation loss by the most tokens that a target sees, nats a token, where the recipe asks for that. Results have its means.
    #[serde(skip)]
    pub contexts: BTreeMap<u64, f64>,
    /// Where and from what it was made.
    #[serde(skip)]
    pub provenance: Option<Provenance>,
}

/// Reads a run's figures; none if there is no such run or it has not reached its end.
///
/// # Errors
/// [`CompareError::AnotherRun`] if the folder's recipe is not the study's, also where the run has not reached its end: to resume
/// it would make a run of neither study. Damaged files.
pub fn read(layout: &Layout, run: RunId) -> Result<Option<Figures>, CompareError> {
    let path = layout.folder(run);
    let Ok(folder) = RunFolder::open(&path) else {
        return Ok(None);
    };
    check_recipe(layout, run, &folder)?;
    let Some(origin) = Origin::of(layout, run, &folder)? else {
        return Ok(None);
    };
    let records = metrics::read(&folder.metrics())?;
    let Some(last) = records.iter().rfind(|record| record.kind == Kind::Final) else {
        return Ok(None);
    };
    let value = |name: &str| last.values.get(name).copied();
    let needed = |name: &str| {
        value(name).ok_or_else(|| CompareError::BadFile {
            path: folder.metrics(),
            why: format!("its final record has no `{name}`"),
        })
    };
    needed(layout.measure(run.cell).key())?;
    let rates = series(&records, "tokens_per_s");
    let rate = median(&rates[WARM_UP.min(rates.len().saturating_sub(1))..]);
    let tokens_per_step = last.tokens as f64 / last.step as f64;
    Ok(Some(Figures {
        task: layout.task_of(run.cell).name.clone(),
        arm: layout.cells[run.cell].name.clone(),
        point: layout.point(run).name.clone(),
        seed: run.seed,
        folder: layout.place(run),
        validation_loss: needed("validation_loss")?,
        validation_bits_per_byte: value("validation_bits_per_byte"),
        validation_word_perplexity: value("validation_word_perplexity"),
        validation_accuracy: value("validation_accuracy"),
        test_loss: value("test_loss"),
        test_bits_per_byte: value("test_bits_per_byte"),
        test_word_perplexity: value("test_word_perplexity"),
        test_accuracy: value("test_accuracy"),
        teacher_agreement: value("validation_teacher_agreement"),
        teacher_kl: value("validation_teacher_kl"),
        bigram_bits_per_byte: value("bigram_bits_per_byte"),
        best_step: needed("best_step")? as u64,
        steps: last.step,
        tokens: last.tokens,
        parameters: needed("params")? as u64,
        skipped: series(&records, "skipped").last().map_or(0, |n| *n as u64),
        step_seconds: rate.map(|rate| tokens_per_step / rate),
        tokens_per_second: rate,
        seconds: last.time_s,
        flops: value("flops"),
        model_bytes: origin.bytes,
        state_bytes: value("state_bytes").map(|bytes| bytes as u64),
        peak_memory_bytes: peak_memory(&records),
        energy_joules: energy(&records),
        gradient_cosine: finite_mean(&records, "gradient_cosine"),
        gradient_cosine_potential: finite_mean(&records, "gradient_cosine_potential"),
        contexts: contexts(last),
        corpus: origin.corpus,
        tokenizer: origin.tokenizer,
        weights: origin.weights,
        original: origin.original,
        provenance: Some(read_json(&folder.provenance())?),
    }))
}

/// Whether a run ended because its loss or gradient was not finite, by the records in its folder.
///
/// # Errors
/// A damaged metrics file.
pub fn has_diverged(layout: &Layout, run: RunId) -> Result<bool, CompareError> {
    let path = layout.folder(run).join("metrics.jsonl");
    if !path.is_file() {
        return Ok(false);
    }
    let allowed = layout.recipe(run).value.train.max_skipped;
    Ok(kiln_train::has_diverged(&metrics::read(&path)?, allowed))
}

/// JSON has no number that is not finite: it is written as `null`.
pub(crate) fn number_or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, CompareError> {
    let text = fs::read(path).map_err(FileError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| CompareError::BadFile {
        path: path.into(),
        why: error.to_string(),
    })
}

/// Refuses a folder whose run was made with other settings than the study's. What does not change the result may differ: the
/// description, the sample, the log and checkpoints.
fn check_recipe(layout: &Layout, run: RunId, folder: &RunFolder) -> Result<(), CompareError> {
    let may_differ = [
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_at",
        "gradient_probe_every",
    ];
    let found = read_resolved(folder)?;
    let mut recipe = layout.recipe(run);
    // A teacher that was trained anew makes another run; on a machine that does not have it, nothing can be said.
    recipe.value.note_weights_found();
    let wanted = Resolved::new(recipe, found.tokenizer_vocab())?;
    match recipe_difference(&found, &wanted, &may_differ)? {
        None => Ok(()),
        Some((key, found, wanted)) => Err(CompareError::AnotherRun {
            path: folder.path().into(),
            key,
            found,
            wanted,
        }),
    }
}

/// Refuses runs of one task on different text or tokenizers under one name: `rust-deps` changes with every lock file.
///
/// # Errors
/// [`CompareError::AnotherText`] naming both folders.
pub fn check_data<'a>(
    layout: &Layout,
    all: impl IntoIterator<Item = &'a Figures>,
) -> Result<(), CompareError> {
    let strict = layout.tasks.iter().filter(|t| !t.allows(Difference::Data));
    let strict: BTreeSet<_> = strict.map(|task| &task.name).collect();
    let mut firsts = BTreeMap::new();
    for figures in all {
        if !strict.contains(&figures.task) {
            continue;
        }
        let first = *firsts.entry(&figures.task).or_insert(figures);
        for (what, a, b) in [
            ("text", &first.corpus, &figures.corpus),
            ("tokenizers", &first.tokenizer, &figures.tokenizer),
        ] {
            if a != b {
                return Err(CompareError::AnotherText {
                    what,
                    folders: [first.folder.clone(), figures.folder.clone()],
                    values: [a.clone(), b.clone()],
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use kiln_run::hardware::Hardware;

    /// Figures of a run that scored `loss` in both units.
    pub(crate) fn figures(layout: &Layout, run: RunId, loss: f64) -> Figures {
        Figures {
            task: layout.task_of(run.cell).name.clone(),
            arm: layout.cells[run.cell].name.clone(),
            point: layout.point(run).name.clone(),
            seed: run.seed,
            folder: layout.place(run),
            validation_loss: loss,
            validation_bits_per_byte: Some(loss),
            validation_word_perplexity: None,
            validation_accuracy: None,
            test_loss: None,
            test_bits_per_byte: None,
            test_word_perplexity: None,
            test_accuracy: None,
            teacher_agreement: None,
            teacher_kl: None,
            bigram_bits_per_byte: None,
            best_step: 10,
            steps: 10,
            tokens: 160,
            parameters: 1000,
            skipped: 0,
            step_seconds: Some(0.5),
            tokens_per_second: Some(32.0),
            seconds: 6.0,
            flops: None,
            model_bytes: None,
            state_bytes: None,
            peak_memory_bytes: None,
            energy_joules: None,
            gradient_cosine: None,
            gradient_cosine_potential: None,
            contexts: BTreeMap::new(),
            corpus: "c".into(),
            tokenizer: "t".into(),
            weights: None,
            original: None,
            provenance: Some(Provenance {
                kiln: "0.1.0".into(),
                versions: Default::default(),
                commit: None,
                hardware: Hardware::detect(Some("flex".into())),
                command: vec!["kiln".into()],
                seed: run.seed,
                started: "2026-01-01T00:00:00Z".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::testing::layout;

    #[test]
    fn other_text_under_the_same_name_is_refused() {
        let arms = ["a", "b"];
        let ids = [0, 1].map(|arm| RunId {
            cell: arm,
            point: 0,
            seed: 1,
        });
        let strict = layout("seeds = [1]", &arms);
        let mut all = ids.map(|run| testing::figures(&strict, run, 1.0));
        check_data(&strict, &all).unwrap();
        all[1].tokenizer = "u".into();
        assert_eq!(
            check_data(&strict, &all).unwrap_err().to_string(),
            "a/default/seed-1 and b/default/seed-1 were trained on different tokenizers (t against u); \
             run both against the same data, or write allow = [\"data\"] into the study"
        );
        check_data(&layout("seeds = [1]\nallow = ['data']", &arms), &all).unwrap();
    }
}
