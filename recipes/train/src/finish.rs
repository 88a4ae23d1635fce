//! The end of a run: best weights, full sweep, baseline, sample, and the files users take away.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::Module;
use kiln_loader::{Split, Windows};
use kiln_run::{FileError, atomic_write};
use kiln_text::{Bigram, BigramReport, Tokenizer};
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::contexts::Contexts;
use crate::evaluate::{Evaluator, Score};
use crate::generate::generate;
use crate::learner::Learner;
use crate::log::Log;
use crate::outcome::{HeldOut, RunResult};
use crate::projection;
use crate::recipe::ObjectiveKind;
use crate::report;
use crate::setup::Setup;
use crate::state::{self, Position, RUN_CONFIG_VERSION, RunConfig};
use crate::storage::StoredModel;
use crate::sweep::Choice;
use crate::tutor::Tutor;
use crate::windows::{WINDOWS_VERSION, WindowColumns, WindowScores};

/// Scores and writes the best weights.
pub(crate) fn finish(
    setup: &Setup,
    tutor: Option<&Tutor>,
    learner: &Learner,
    position: &Position,
    log: &mut Log,
) -> Result<RunResult, TrainError> {
    let (model, best_step) = best_model(setup, learner, position)?;
    let mut model = model;
    if projection::is_asked(setup.recipe()) {
        model.learned.clear();
    }
    let model = write_model(setup, learner, model)?;
    log.message("scoring the best weights on all of the held-out text");
    let recipe = &setup.resolved.recipe.value;
    let data = &setup.data;
    let evaluator = setup.evaluator();
    let validation = sweep(setup, &evaluator, &model, &data.validation)?;
    let test = match &data.test {
        Some(windows) => Some(sweep(setup, &evaluator, &model, windows)?),
        None => None,
    };
    let beside = |windows: &Arc<dyn Windows>| match tutor {
        None => Ok(None),
        Some(tutor) => {
            let batch = recipe.train.batch;
            let scored = evaluator.beside(&model, tutor, windows, batch, choice(setup))?;
            Ok::<_, TrainError>(Some(scored))
        }
    };
    let held_out = |split, scores: &[Score], windows: &Arc<dyn Windows>| {
        let score = Score::total(scores);
        Ok::<_, TrainError>(HeldOut {
            score,
            bits_per_byte: data.bits_per_byte(split, score.loss()),
            word_perplexity: data.word_perplexity(split, score.loss())?,
            teacher: beside(windows)?,
        })
    };
    let text = data.source.text();
    let bigram = match (recipe.objective.kind, text) {
        (ObjectiveKind::NextToken, Some(text)) => {
            Bigram::fit(&text.train).evaluate(&text.validation)
        }
        _ => None,
    };
    let sample = match text.filter(|_| model.is_causal()) {
        Some(text) => Some(sample(setup, &model, &text.tokenizer, log)?),
        None => None,
    };
    write_windows(setup, &validation, test.as_deref())?;
    let asked = Contexts::of(recipe, setup.resolved.seq);
    let contexts = match (asked, text) {
        (Some(asked), Some(text)) => {
            let tokens = recipe.train.batch * setup.resolved.seq;
            evaluator.contexts(&model, &text.validation, &asked, tokens)?
        }
        _ => Vec::new(),
    };
    let result = RunResult {
        best_step,
        validation: held_out(Split::Validation, &validation, &data.validation)?,
        test: match (&test, &data.test) {
            (Some(scores), Some(windows)) => Some(held_out(Split::Test, scores, windows)?),
            _ => None,
        },
        bigram,
        contexts,
        sample,
        params: model.parameters() as usize,
        state_bytes: model
            .is_causal()
            .then(|| model.state_bytes(setup.resolved.seq)),
        flops: operations(setup, tutor, &model, position),
    };
    log.result(position, values(&result))?;
    report::write(setup, tutor, &model, position, &result)?;
    Ok(result)
}

/// The weights of the best evaluation, or the last ones if there was none.
fn best_model(
    setup: &Setup,
    learner: &Learner,
    position: &Position,
) -> Result<(LanguageModel, u64), TrainError> {
    match setup.checkpoints.best()? {
        Some(best) if best.step != position.step => {
            let checkpoint = setup.checkpoints.load(best.step)?;
            let model = state::load_weights(&checkpoint, learner.model.clone())?;
            Ok((model.valid(), best.step))
        }
        _ => Ok((learner.model.valid(), position.step)),
    }
}

/// `model.safetensors`, `config.json` and `tokenizer.json`: all that evaluation and generation need. Returns the model that is in
/// them, which for packed weights is another than that which was trained.
fn write_model(
    setup: &Setup,
    learner: &Learner,
    model: LanguageModel,
) -> Result<LanguageModel, TrainError> {
    let path = setup.folder.model();
    let temporary = path.with_extension("safetensors.tmp");
    state::save_model(&model, &temporary)
        .and_then(|()| {
            std::fs::File::options()
                .write(true)
                .open(&temporary)?
                .sync_all()
        })
        .map_err(FileError::io("write", &temporary))?;
    let (mut model, mut storage) = (model, None);
    if learner.constraint.has_form() {
        let plain = StoredModel::read(&temporary, None)?;
        let stored = learner.constraint.stored(plain, &setup.device)?;
        stored.write(&temporary)?;
        let config = &setup.resolved.model;
        model = state::load_stored(config, &stored, &temporary, &setup.device)?.valid();
        storage = Some(stored.table());
    }
    let weights = state::hash_file(&temporary)?;
    std::fs::rename(&temporary, &path).map_err(FileError::io("put in place", &path))?;
    let text = setup.data.source.text();
    let config = RunConfig {
        version: match &storage {
            Some(table) => table.config_version(),
            None => RUN_CONFIG_VERSION,
        },
        model: setup.resolved.model.clone(),
        objective: setup.resolved.recipe.value.objective,
        precision: setup.resolved.recipe.value.precision,
        seq: setup.resolved.seq,
        corpus: setup.data.source.name()?,
        corpus_hash: setup.data.source.hash()?.to_string(),
        tokenizer: text.map(|text| text.tokenizer.hash().to_string()),
        weights,
        storage,
    };
    atomic_write(&setup.folder.config(), |out| {
        serde_json::to_writer_pretty(&mut *out, &config).map_err(std::io::Error::from)
    })?;
    if let Some(text) = text {
        text.tokenizer.save(&setup.folder.tokenizer())?;
    }
    Ok(model)
}

/// Operations of the steps that were made: three times the forward ones, as a plan counts them, and those of a teacher that was asked.
fn operations(
    setup: &Setup,
    tutor: Option<&Tutor>,
    model: &LanguageModel,
    position: &Position,
) -> f64 {
    let (recipe, seq) = (setup.recipe(), setup.resolved.seq);
    let tokens = position.step as f64 * recipe.tokens_per_step(seq) as f64;
    let own = 3.0 * setup.resolved.model.flops_per_token(model, seq) as f64;
    let asked = tutor.filter(|tutor| tutor.is_asked());
    let teacher = asked.map_or(0, |tutor| tutor.cost().flops_per_token);
    (own + teacher as f64) * tokens
}

/// The windows that the run's scores are of.
fn choice(setup: &Setup) -> Choice {
    Choice::of(&setup.recipe().train, setup.evaluation_seed())
}

fn sweep(
    setup: &Setup,
    evaluator: &Evaluator<'_>,
    model: &LanguageModel,
    windows: &Arc<dyn Windows>,
) -> Result<Vec<Score>, TrainError> {
    let batch = setup.recipe().train.batch;
    match choice(setup) {
        Choice::Sequential { most } => evaluator.sequential(model, windows, [batch, most]),
        Choice::Crops { batches, seed } => evaluator.crops(model, windows, [batch, batches], seed),
    }
}

/// `windows.json`: the scores of every window, so that runs on the same data can be compared window by window.
fn write_windows(
    setup: &Setup,
    validation: &[Score],
    test: Option<&[Score]>,
) -> Result<(), TrainError> {
    let scores = WindowScores {
        version: WINDOWS_VERSION,
        validation: WindowColumns::of(validation),
        test: test.map(WindowColumns::of),
    };
    Ok(atomic_write(&setup.folder.windows(), |out| {
        serde_json::to_writer(&mut *out, &scores).map_err(std::io::Error::from)
    })?)
}

fn sample(
    setup: &Setup,
    model: &LanguageModel,
    tokenizer: &Tokenizer,
    log: &mut Log,
) -> Result<String, TrainError> {
    let config = &setup.resolved.recipe.value.sample;
    let text = match generate(model, tokenizer, config, &setup.device, &mut |_| {}) {
        Ok(text) => text,
        // A prompt of characters the corpus does not have must not cost the user the run's result.
        Err(TrainError::Data(error)) => {
            log.message(&format!("no sample: {error}"));
            String::new()
        }
        Err(error) => return Err(error),
    };
    atomic_write(&setup.folder.samples(), |out| {
        writeln!(out, "{}{text}", config.prompt)
    })?;
    Ok(text)
}

fn values(result: &RunResult) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::from([
        ("best_step".to_string(), result.best_step as f64),
        ("params".into(), result.params as f64),
        ("flops".into(), result.flops),
    ]);
    if let Some(bytes) = result.state_bytes {
        values.insert("state_bytes".into(), bytes as f64);
    }
    let splits = [
        ("validation", Some(&result.validation)),
        ("test", result.test.as_ref()),
    ];
    for (split, held_out) in splits {
        if let Some(held_out) = held_out {
            values.extend(held_out.values(split));
            values.insert(format!("{split}_tokens"), held_out.score.tokens as f64);
        }
    }
    for score in &result.contexts {
        values.insert(score.key(), score.score.loss());
    }
    if let Some(BigramReport {
        bits_per_byte,
        nats_per_token,
        ..
    }) = &result.bigram
    {
        values.insert("bigram_loss".into(), *nats_per_token);
        values.insert("bigram_bits_per_byte".into(), *bits_per_byte);
    }
    values
}
