//! An n-gram model as a run: what counting the recipe's text predicts of the windows that its model would be scored on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kiln_loader::{Split, TokenBatch, Windows};
use kiln_run::hardware::{Hardware, Provenance};
use kiln_run::recipe::Recipe;
use kiln_run::{
    FileError, Kind, MetricsWriter, Mode, Record, RunFolder, View, atomic_write, format, metrics,
};
use kiln_text::{DataEnv, Ngram, TokenStore};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::contexts::{ContextScore, Contexts, Sliding};
use crate::data::{Data, Source};
use crate::evaluate::Score;
use crate::recipe::{ObjectiveKind, Resolved, TrainRecipe};
use crate::setup::evaluation_seed;
use crate::sweep::{Choice, walk};
use crate::windows::{WINDOWS_VERSION, WindowColumns, WindowScores};

/// Layout version of [`NgramRun`].
pub const NGRAM_VERSION: u32 = 1;
/// Bytes of an entry of the table, written down: its context, its token and its number, 32 bits each.
const ENTRY_BYTES: u64 = 12;
/// Windows that are scored at a time.
const BATCH: usize = 32;

/// A model to be counted.
pub struct NgramRequest<'a> {
    /// Data, windows and how many tokens there are; its model is not built.
    pub recipe: Recipe<TrainRecipe>,
    /// Tokens of the longest gram.
    pub order: usize,
    /// Run folder.
    pub out: PathBuf,
    /// Where data comes from.
    pub data: &'a DataEnv,
    /// Folder of the source, for its commit.
    pub source: &'a Path,
    /// Versions of what the binary was built with, by name.
    pub versions: BTreeMap<String, String>,
    /// Face of the progress view.
    pub view: Mode,
}

/// `ngram.json` of a run that counted: written last, so that a folder without it has not reached its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NgramRun {
    /// [`NGRAM_VERSION`].
    pub version: u32,
    /// Tokens of the longest gram that was asked for.
    pub order: usize,
    /// Tokens of the longest gram that is counted: fewer, where the table would not have fit into memory.
    pub counted_order: usize,
    /// Name of the corpus.
    pub corpus: String,
    /// SHA-256 of the corpus.
    pub corpus_hash: String,
    /// SHA-256 of the tokenizer.
    pub tokenizer: String,
    /// Tokens that were counted.
    pub tokens: u64,
    /// Counts that are kept: what it has in place of parameters.
    pub counts: u64,
    /// Bytes of all counts and contexts, written down.
    pub bytes: u64,
}

/// Counts a recipe's training text, as many of its tokens as the recipe trains on and each once, and scores its held-out windows:
/// every token from those before it in its window. The folder has the files of a run that a comparison reads.
///
/// # Errors
/// A task, masked tokens, an order of 0; text that cannot be had; a folder that holds another run or cannot be written.
pub fn count(request: NgramRequest<'_>) -> Result<NgramRun, TrainError> {
    let NgramRequest {
        recipe,
        order,
        out,
        data,
        source,
        versions,
        view,
    } = request;
    check(&recipe.value, order)?;
    let mut view = View::new(0, view);
    let cut_off = is_cut_off(&out)?;
    if !cut_off {
        RunFolder::check_free(&out)?;
    }
    let text = Source::open(&recipe.value, data, &mut view)?;
    let resolved = Resolved::new(recipe, text.vocab_size()?)?;
    let data = Data::new(text, resolved.seq)?;
    let folder = match cut_off {
        true => RunFolder::resume(&out)?,
        false => RunFolder::create(&out)?,
    };
    if folder.metrics().is_file() {
        let path = folder.metrics();
        std::fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
    }
    let seed = resolved.recipe.value.seed;
    resolved.written_out()?.write(&folder.recipe())?;
    Provenance::gather(source, Hardware::detect(None), versions, seed)
        .write(&folder.provenance())?;
    let Some(text) = data.source.text() else {
        return Err(no_text());
    };
    let began = Instant::now();
    let train = counted(&text.train, &resolved)?;
    let model = Ngram::fit(&train, order)?;
    if model.order() < order {
        view.message(&format!(
            "the table of order {order} would not fit: grams have {} tokens",
            model.order()
        ));
    }
    let validation = score(&model, &resolved, &data.validation)?;
    let test = data
        .test
        .as_ref()
        .map(|windows| score(&model, &resolved, windows))
        .transpose()?;
    let contexts = contexts(&model, &resolved, &text.validation)?;
    let seconds = began.elapsed().as_secs_f64();
    let run = NgramRun {
        version: NGRAM_VERSION,
        order,
        counted_order: model.order(),
        corpus: data.source.name()?,
        corpus_hash: data.source.hash()?.to_string(),
        tokenizer: text.tokenizer.hash().to_string(),
        tokens: train.len(),
        counts: model.counts(),
        bytes: ENTRY_BYTES * model.entries(),
    };
    let mut values = BTreeMap::from([
        ("best_step".to_string(), 0.0),
        ("params".into(), run.counts as f64),
    ]);
    for (split, scores) in [
        (Split::Validation, Some(&validation)),
        (Split::Test, test.as_ref()),
    ] {
        if let Some(scores) = scores {
            let score = Score::total(scores);
            let loss = score.loss();
            view.message(&format!(
                "{split}: loss {} nats/token",
                format::number(loss)
            ));
            values.insert(format!("{split}_loss"), loss);
            values.insert(format!("{split}_tokens"), score.tokens as f64);
            if let Some(bits) = data.bits_per_byte(split, loss) {
                values.insert(format!("{split}_bits_per_byte"), bits);
            }
            if let Some(perplexity) = data.word_perplexity(split, loss)? {
                values.insert(format!("{split}_word_perplexity"), perplexity);
            }
        }
    }
    for score in contexts {
        values.insert(score.key(), score.score.loss());
    }
    MetricsWriter::create(&folder.metrics())?.append(&Record {
        step: 0,
        tokens: run.tokens,
        time_s: seconds,
        kind: Kind::Final,
        values,
        text: None,
    })?;
    let windows = WindowScores {
        version: WINDOWS_VERSION,
        validation: columns(&validation),
        test: test.as_deref().map(columns),
    };
    write(&folder.windows(), &windows)?;
    write(&folder.path().join("ngram.json"), &run)?;
    view.finish();
    Ok(run)
}

/// `ngram.json` of a folder; none where it has none.
///
/// # Errors
/// A damaged file, or one of another layout.
pub fn read_ngram(folder: &RunFolder) -> Result<Option<NgramRun>, TrainError> {
    let path = folder.path().join("ngram.json");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(FileError::io("read", &path))?;
    let bad = |why: String| TrainError::BadFile {
        path: path.clone(),
        why,
    };
    let run: NgramRun = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    match run.version {
        NGRAM_VERSION => Ok(Some(run)),
        found => Err(bad(format!(
            "its layout version is {found}, and this Kiln reads {NGRAM_VERSION}"
        ))),
    }
}

fn no_text() -> TrainError {
    TrainError::setting(
        "task",
        "stated",
        "n-grams count text: take a recipe with [data]",
    )
}

fn check(recipe: &TrainRecipe, order: usize) -> Result<(), TrainError> {
    recipe.validate()?;
    if recipe.task.is_some() {
        return Err(no_text());
    }
    if recipe.objective.kind != ObjectiveKind::NextToken {
        let why = "n-grams predict the next token: take a recipe of a causal model";
        return Err(TrainError::setting("objective.kind", "masked-token", why));
    }
    match order {
        0 => Err(TrainError::setting(
            "order",
            0,
            "a gram has at least 1 token",
        )),
        _ => Ok(()),
    }
}

/// Whether a folder has what a count leaves that was cut off, to be made anew, and nothing of a training.
pub(crate) fn is_cut_off(out: &Path) -> Result<bool, TrainError> {
    let has = |name: &str| out.join(name).exists();
    if !has("recipe.toml")
        || ["ngram.json", "config.json", "checkpoints"]
            .into_iter()
            .any(has)
    {
        return Ok(false);
    }
    let path = out.join("metrics.jsonl");
    match path.is_file() {
        true => Ok(metrics::read(&path)?
            .iter()
            .all(|record| record.kind == Kind::Final)),
        false => Ok(true),
    }
}

/// The beginning of the training text that a run of the recipe would have tokens for.
fn counted(train: &Arc<TokenStore>, resolved: &Resolved) -> Result<Arc<TokenStore>, TrainError> {
    let recipe = &resolved.recipe.value;
    let budget = resolved
        .steps
        .saturating_mul(recipe.tokens_per_step(resolved.seq));
    if budget >= train.len() {
        return Ok(Arc::clone(train));
    }
    let mut tokens = Vec::new();
    train.read(0..budget, &mut tokens);
    let bytes = train.bytes() as f64 * budget as f64 / train.len() as f64;
    let beginning = TokenStore::from_tokens(tokens, bytes as u64, train.vocab_size())?;
    Ok(Arc::new(beginning))
}

fn score(
    model: &Ngram,
    resolved: &Resolved,
    windows: &Arc<dyn Windows>,
) -> Result<Vec<Score>, TrainError> {
    let recipe = &resolved.recipe.value;
    let choice = Choice::of(&recipe.train, evaluation_seed(recipe));
    let batch = match choice {
        Choice::Crops { .. } => recipe.train.batch,
        Choice::Sequential { .. } => BATCH,
    };
    score_chosen(model, resolved, windows, batch, choice)
}

/// Loss against context, where the recipe asks for it: the targets that its model would be scored on, each from those before it in
/// its window.
fn contexts(
    model: &Ngram,
    resolved: &Resolved,
    validation: &Arc<TokenStore>,
) -> Result<Vec<ContextScore>, TrainError> {
    let Some(asked) = Contexts::of(&resolved.recipe.value, resolved.seq) else {
        return Ok(Vec::new());
    };
    let score = |sliding: Sliding| {
        let all = Choice::Sequential { most: 0 };
        let scores = score_chosen(model, resolved, &sliding.windows, BATCH, all)?;
        Ok(sliding.scored(&scores))
    };
    asked.windows(validation)?.into_iter().map(score).collect()
}

fn score_chosen(
    model: &Ngram,
    resolved: &Resolved,
    windows: &Arc<dyn Windows>,
    batch: usize,
    choice: Choice,
) -> Result<Vec<Score>, TrainError> {
    let mut scores = Vec::new();
    let vocab = resolved.model.backbone.vocab_size;
    walk(
        resolved.recipe.value.objective,
        vocab,
        windows,
        batch,
        choice,
        &mut |batch, lanes| {
            let found = (0..lanes).map(|lane| score_lane(model, batch, lane));
            scores.extend(found.filter(|score| score.tokens > 0));
            Ok(())
        },
    )?;
    Ok(scores)
}

/// Scores of a lane's targets, each from the inputs up to it.
fn score_lane(model: &Ngram, batch: &TokenBatch, lane: usize) -> Score {
    let range = lane * batch.seq..(lane + 1) * batch.seq;
    let (inputs, targets) = (&batch.inputs[range.clone()], &batch.targets[range.clone()]);
    let mut score = Score::default();
    for (at, _) in batch.mask[range]
        .iter()
        .enumerate()
        .filter(|(_, counts)| **counts)
    {
        score.nats -= model.probability(&inputs[..=at], targets[at]).ln();
        score.tokens += 1;
    }
    score
}

/// Columns without the targets that are scored highest, which nobody looked for.
fn columns(scores: &[Score]) -> WindowColumns {
    WindowColumns {
        correct: Vec::new(),
        ..WindowColumns::of(scores)
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    Ok(atomic_write(path, |out| {
        serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)
    })?)
}
