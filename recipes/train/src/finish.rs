//! The end of a run: best weights, full sweep, baseline, sample, and the files users take away.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::Module;
use kiln_run::{FileError, atomic_write};
use kiln_text::{Bigram, BigramReport, TokenStore};
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::evaluate::{Evaluator, Score};
use crate::generate::generate;
use crate::learner::Learner;
use crate::log::Log;
use crate::recipe::ObjectiveKind;
use crate::report;
use crate::setup::Setup;
use crate::state::{self, Position, RUN_CONFIG_VERSION, RunConfig};
use crate::trainer::RunResult;

/// Scores and writes the best weights.
pub(crate) fn finish(
    setup: &Setup,
    learner: &Learner,
    position: &Position,
    log: &mut Log,
) -> Result<RunResult, TrainError> {
    let (model, best_step) = best_model(setup, learner, position)?;
    write_model(setup, &model)?;
    log.message("scoring the best weights on all of the held-out text");
    let recipe = &setup.resolved.recipe.value;
    let data = &setup.data;
    let evaluator = setup.evaluator();
    let score = |store: &Arc<TokenStore>| sweep(setup, &evaluator, &model, store);
    let validation = score(&data.validation)?;
    let test = match &data.test {
        Some(store) => {
            let test = score(store)?;
            Some((test, test.bits_per_byte(store)))
        }
        None => None,
    };
    let bigram = match recipe.objective.kind {
        ObjectiveKind::NextToken => Bigram::fit(&data.train).evaluate(&data.validation),
        ObjectiveKind::MaskedToken => None,
    };
    let sample = match model.is_causal() {
        true => Some(sample(setup, &model, log)?),
        false => None,
    };
    let result = RunResult {
        best_step,
        validation,
        validation_bits_per_byte: validation.bits_per_byte(&data.validation),
        test,
        bigram,
        sample,
        params: model.num_params(),
    };
    log.result(position, values(&result))?;
    report::write(setup, &model, position, &result)?;
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
            let model = state::load_weights(&checkpoint, &setup.resolved.model, &setup.device)?;
            Ok((model, best.step))
        }
        _ => Ok((learner.model.valid(), position.step)),
    }
}

/// `model.safetensors`, `config.json` and `tokenizer.json`: all that evaluation and generation need.
fn write_model(setup: &Setup, model: &LanguageModel) -> Result<(), TrainError> {
    let path = setup.folder.model();
    let temporary = path.with_extension("safetensors.tmp");
    state::save_model(model, &temporary)
        .and_then(|()| {
            std::fs::File::options()
                .write(true)
                .open(&temporary)?
                .sync_all()
        })
        .map_err(FileError::io("write", &temporary))?;
    let weights = state::hash_file(&temporary)?;
    std::fs::rename(&temporary, &path).map_err(FileError::io("put in place", &path))?;
    let config = RunConfig {
        version: RUN_CONFIG_VERSION,
        model: setup.resolved.model.clone(),
        objective: setup.resolved.recipe.value.objective,
        seq: setup.resolved.seq,
        corpus: setup.data.manifest.corpus.clone(),
        corpus_hash: setup.data.manifest.corpus_hash.to_string(),
        tokenizer: setup.data.tokenizer.hash().to_string(),
        weights,
    };
    atomic_write(&setup.folder.config(), |out| {
        serde_json::to_writer_pretty(&mut *out, &config).map_err(std::io::Error::from)
    })?;
    setup.data.tokenizer.save(&setup.folder.tokenizer())?;
    Ok(())
}

fn sweep(
    setup: &Setup,
    evaluator: &Evaluator<'_>,
    model: &LanguageModel,
    store: &Arc<TokenStore>,
) -> Result<Score, TrainError> {
    let train = &setup.resolved.recipe.value.train;
    let (batch, seq) = (train.batch, setup.resolved.seq);
    match train.final_sweep {
        true => evaluator.sequential(model, store, [batch, seq, train.sweep_windows]),
        false => {
            let seed = setup.evaluation_seed();
            evaluator.crops(model, store, [batch, seq, train.eval_batches], seed)
        }
    }
}

fn sample(setup: &Setup, model: &LanguageModel, log: &mut Log) -> Result<String, TrainError> {
    let config = &setup.resolved.recipe.value.sample;
    let tokenizer = &setup.data.tokenizer;
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
        ("validation_loss".into(), result.validation.loss()),
        ("validation_tokens".into(), result.validation.tokens as f64),
        (
            "validation_bits_per_byte".into(),
            result.validation_bits_per_byte,
        ),
    ]);
    if let Some((score, bits)) = &result.test {
        values.insert("test_loss".into(), score.loss());
        values.insert("test_tokens".into(), score.tokens as f64);
        values.insert("test_bits_per_byte".into(), *bits);
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
