//! A finished run scored as the run of a recipe would be, in a folder of its own: how a comparison judges a model that it did not
//! train, such as a compressed one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kiln_loader::{Split, Windows};
use kiln_run::hardware::{Hardware, Provenance};
use kiln_run::recipe::Recipe;
use kiln_run::{
    FileError, Kind, MetricsWriter, Mode, Record, RunFolder, View, atomic_write, format,
};
use kiln_tasks::TaskConfig;
use kiln_text::{DataConfig, DataEnv};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::contexts::Contexts;
use crate::data::{Data, Source};
use crate::device::OpenDevice;
use crate::evaluate::{Evaluator, Score};
use crate::generate::generate;
use crate::ngram::is_cut_off;
use crate::outcome::HeldOut;
use crate::recipe::{Resolved, TrainRecipe};
use crate::run::Run;
use crate::setup::evaluation_seed;
use crate::sweep::Choice;
use crate::windows::{WINDOWS_VERSION, WindowColumns, WindowScores};

/// Layout version of [`ScoredRun`].
pub const SCORED_VERSION: u32 = 1;

/// The file of a [`ScoredRun`].
const FILE: &str = "scored.json";

/// A run to be scored.
pub struct ScoreRequest<'a> {
    /// Data, windows and seed; its model is not built.
    pub recipe: Recipe<TrainRecipe>,
    /// Folder of the run.
    pub run: PathBuf,
    /// SHA-256 of the weights that it was compressed of, if it was.
    pub original: Option<String>,
    /// Folder of the scores.
    pub out: PathBuf,
    /// Where to compute.
    pub device: &'a OpenDevice,
    /// Where data comes from.
    pub data: &'a DataEnv,
    /// Folder of the source, for its commit.
    pub source: &'a Path,
    /// Versions of what the binary was built with, by name.
    pub versions: BTreeMap<String, String>,
    /// Face of the progress view.
    pub view: Mode,
}

/// `scored.json`: written last, so that a folder without it has not reached its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredRun {
    /// [`SCORED_VERSION`].
    pub version: u32,
    /// Folder of the run, as it was asked for.
    pub run: PathBuf,
    /// SHA-256 of its weights.
    pub weights: String,
    /// SHA-256 of the weights that it was compressed of.
    pub original: Option<String>,
    /// Bytes of its weights file and configuration.
    pub bytes: u64,
    /// SHA-256 of the corpus.
    pub corpus_hash: String,
    /// SHA-256 of the tokenizer; none for a task.
    pub tokenizer: Option<String>,
}

/// Scores a run on the held-out windows that a run of the recipe would be scored on. The folder has the files of a run that a
/// comparison reads.
///
/// # Errors
/// [`TrainError::OtherRun`] if the run has another seed, text, tokenizer or objective than the recipe; a run that cannot be opened,
/// text that cannot be had; a folder that holds another run or cannot be written.
pub fn score(request: ScoreRequest<'_>) -> Result<ScoredRun, TrainError> {
    request.recipe.value.validate()?;
    let out = &request.out;
    forget(out)?;
    let again = is_cut_off(out)?;
    if !again {
        RunFolder::check_free(out)?;
    }
    let mut view = View::new(0, request.view);
    let device = &request.device.device;
    let run = Run::open(&request.run, device)?;
    let text = Source::open(&request.recipe.value, request.data, &mut view)?;
    check(&run, &request.recipe.value, &text)?;
    let resolved = Resolved::new(request.recipe, text.vocab_size()?)?;
    let data = Data::new(text, resolved.seq)?;
    let folder = match again {
        true => RunFolder::resume(out)?,
        false => RunFolder::create(out)?,
    };
    if folder.metrics().is_file() {
        let path = folder.metrics();
        std::fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
    }
    let recipe = &resolved.recipe.value;
    resolved.written_out()?.write(&folder.recipe())?;
    let hardware = Hardware::detect(Some(request.device.name.clone()));
    Provenance::gather(request.source, hardware, request.versions, recipe.seed)
        .write(&folder.provenance())?;
    let began = Instant::now();
    let scorer = Scorer {
        evaluator: Evaluator {
            objective: recipe.objective,
            vocab: run.config.model.backbone.vocab_size,
            device,
        },
        run: &run,
        resolved: &resolved,
        data: &data,
    };
    let values = scorer.scores(&folder, &mut view)?;
    MetricsWriter::create(&folder.metrics())?.append(&Record {
        step: 0,
        tokens: 0,
        time_s: began.elapsed().as_secs_f64(),
        kind: Kind::Final,
        values,
        text: None,
    })?;
    scorer.sample(&folder, &mut view)?;
    let scored = ScoredRun {
        version: SCORED_VERSION,
        run: request.run,
        weights: run.config.weights.clone(),
        original: request.original,
        bytes: size(&run.folder().model())? + size(&run.folder().config())?,
        corpus_hash: data.source.hash()?.to_string(),
        tokenizer: data
            .source
            .text()
            .map(|text| text.tokenizer.hash().to_string()),
    };
    atomic_write(&folder.path().join(FILE), |out| {
        serde_json::to_writer_pretty(&mut *out, &scored).map_err(std::io::Error::from)
    })?;
    view.finish();
    Ok(scored)
}

/// `scored.json` of a folder; none where it has none.
///
/// # Errors
/// A damaged file, or one of another layout.
pub fn read_scored(folder: &RunFolder) -> Result<Option<ScoredRun>, TrainError> {
    let path = folder.path().join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(FileError::io("read", &path))?;
    let bad = |why: String| TrainError::BadFile {
        path: path.clone(),
        why,
    };
    let scored: ScoredRun =
        serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    match scored.version {
        SCORED_VERSION => Ok(Some(scored)),
        found => Err(bad(format!(
            "its layout version is {found}, and this Kiln reads {SCORED_VERSION}"
        ))),
    }
}

/// Takes away what earlier scores left that says it is whole, and what was measured of the model since: the run may have been made
/// anew.
fn forget(out: &Path) -> Result<(), TrainError> {
    if !out.join(FILE).is_file() {
        return Ok(());
    }
    for path in [out.join(FILE), out.join("cost.json")] {
        if path.is_file() {
            std::fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64, FileError> {
    let metadata = std::fs::metadata(path).map_err(FileError::io("read", path))?;
    Ok(metadata.len())
}

/// Refuses a run that would be scored on something else than it was trained for: on text that it has seen, or in other tokens.
fn check(run: &Run, recipe: &TrainRecipe, source: &Source) -> Result<(), TrainError> {
    let made = run.recipe()?;
    let text =
        |config: &DataConfig| format!("{} ({} bytes at most)", config.name, config.max_bytes);
    let texts = match &recipe.task {
        // Examples of another length are drawn alike: that is what is asked of a model beyond the length it knows.
        Some(task) => {
            let seq = task.seq()?;
            let alike = |task: &TaskConfig| format!("{:?}", task.clone().with_seq(seq));
            [made.task.as_ref().map_or("text".into(), alike), alike(task)]
        }
        None if made.task.is_some() => [run.config.corpus.clone(), text(&recipe.data)],
        None => [text(&made.data), text(&recipe.data)],
    };
    let hashes = match recipe.task {
        Some(_) => Default::default(),
        None => [run.config.corpus_hash.clone(), source.hash()?.to_string()],
    };
    let pair = |what: &'static str, [found, wanted]: [String; 2]| (what, found, wanted);
    let tokenizer = source.text().map(|text| text.tokenizer.hash().to_string());
    let or_none = |hash: &Option<String>| hash.clone().unwrap_or("none".into());
    let objective = |of: &TrainRecipe| format!("{:?}", of.objective);
    for (what, found, wanted) in [
        pair("seed", [made.seed.to_string(), recipe.seed.to_string()]),
        pair("text", texts),
        pair("text", hashes),
        pair(
            "tokenizer",
            [or_none(&run.config.tokenizer), or_none(&tokenizer)],
        ),
        pair("objective", [objective(&made), objective(recipe)]),
    ] {
        if found != wanted {
            return Err(TrainError::OtherRun {
                path: run.path().into(),
                what,
                found,
                wanted,
            });
        }
    }
    Ok(())
}

struct Scorer<'a> {
    evaluator: Evaluator<'a>,
    run: &'a Run,
    resolved: &'a Resolved,
    data: &'a Data,
}

impl Scorer<'_> {
    /// Scores every held-out split, leaves `windows.json`, and returns what the final record says.
    fn scores(
        &self,
        folder: &RunFolder,
        view: &mut View,
    ) -> Result<BTreeMap<String, f64>, TrainError> {
        let (model, recipe) = (&self.run.model, &self.resolved.recipe.value);
        let mut values = BTreeMap::from([
            ("best_step".to_string(), 0.0),
            ("params".into(), model.parameters() as f64),
        ]);
        if model.is_causal() {
            let bytes = model.state_bytes(self.resolved.seq);
            values.insert("state_bytes".into(), bytes as f64);
        }
        let mut columns = Vec::new();
        for (split, windows) in [
            (Split::Validation, Some(&self.data.validation)),
            (Split::Test, self.data.test.as_ref()),
        ] {
            let Some(windows) = windows else {
                continue;
            };
            let scores = self.sweep(windows)?;
            let score = Score::total(&scores);
            let held_out = HeldOut {
                score,
                bits_per_byte: self.data.bits_per_byte(split, score.loss()),
                word_perplexity: self.data.word_perplexity(split, score.loss())?,
                teacher: None,
            };
            values.extend(held_out.values(split.name()));
            values.insert(format!("{split}_tokens"), score.tokens as f64);
            let loss = format::number(score.loss());
            view.message(&format!("{split}: loss {loss} nats/token"));
            columns.push(WindowColumns::of(&scores));
        }
        if let (Some(asked), Some(text)) = (
            Contexts::of(recipe, self.resolved.seq),
            self.data.source.text(),
        ) {
            let tokens = recipe.train.batch * self.resolved.seq;
            let found = self
                .evaluator
                .contexts(model, &text.validation, &asked, tokens)?;
            values.extend(found.iter().map(|score| (score.key(), score.score.loss())));
        }
        let mut columns = columns.into_iter();
        if let Some(validation) = columns.next() {
            let windows = WindowScores {
                version: WINDOWS_VERSION,
                validation,
                test: columns.next(),
            };
            atomic_write(&folder.windows(), |out| {
                serde_json::to_writer(&mut *out, &windows).map_err(std::io::Error::from)
            })?;
        }
        Ok(values)
    }

    fn sweep(&self, windows: &Arc<dyn Windows>) -> Result<Vec<Score>, TrainError> {
        let (model, recipe) = (&self.run.model, &self.resolved.recipe.value);
        let batch = recipe.train.batch;
        match Choice::of(&recipe.train, evaluation_seed(recipe)) {
            Choice::Sequential { most } => self.evaluator.sequential(model, windows, [batch, most]),
            Choice::Crops { batches, seed } => {
                self.evaluator.crops(model, windows, [batch, batches], seed)
            }
        }
    }

    /// What the model writes, as at the end of a training; a prompt of characters that the text does not have gives none.
    fn sample(&self, folder: &RunFolder, view: &mut View) -> Result<(), TrainError> {
        let text = self.data.source.text();
        let Some(text) = text.filter(|_| self.run.model.is_causal()) else {
            return Ok(());
        };
        let config = &self.resolved.recipe.value.sample;
        let device = self.evaluator.device;
        match generate(
            &self.run.model,
            &text.tokenizer,
            config,
            device,
            &mut |_| {},
        ) {
            Ok(text) => Ok(atomic_write(&folder.samples(), |out| {
                writeln!(out, "{}{text}", config.prompt)
            })?),
            Err(TrainError::Data(error)) => {
                view.message(&format!("no sample: {error}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
