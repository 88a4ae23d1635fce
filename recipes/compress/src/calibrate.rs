//! Calibration: what the inputs of every layer look like on text that the model was trained for.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor};
use kiln_backbone::InputSink;
use kiln_loader::{Loader, LoaderConfig, Order, Split, Windows};
use kiln_train::{DeviceBatch, RunConfig, Source, TrainError};
use kiln_zoo::LanguageModel;

use crate::apply::Calibrated;
use crate::fisher::of_embedding;
use crate::layers::EMBEDDING;
use crate::recipe::Calibration;
use crate::{CompressError, Gram, MethodError};

/// A layer's statistics while the sinks of several passes add to them.
type Shared = Arc<Mutex<Result<Gram, MethodError>>>;

/// Runs windows of the training split through a model and gathers the inputs of the linear layers that are `wanted`; of the embedding
/// what its rows do to the loss.
///
/// # Errors
/// No training text, windows without variety, inputs that are not finite, and those of the model.
pub fn calibrate(
    model: &LanguageModel,
    config: &RunConfig,
    source: &Source,
    calibration: &Calibration,
    wanted: &dyn Fn(&str) -> bool,
    device: &Device,
) -> Result<Calibrated, CompressError> {
    let batches = || Batches::new(source, config, calibration);
    let mut found = observed(model, batches()?, wanted, device)?;
    if wanted(EMBEDDING) {
        let gram = of_embedding(model, batches()?, calibration.seed, device)?;
        found.insert(EMBEDDING.into(), gram);
    }
    Ok(found)
}

/// The inputs of the linear layers that are wanted.
fn observed(
    model: &LanguageModel,
    mut batches: Batches<'_>,
    wanted: &dyn Fn(&str) -> bool,
    device: &Device,
) -> Result<Calibrated, CompressError> {
    let mut watched = model.clone();
    let mut shared: Vec<(String, Shared)> = Vec::new();
    let linears = watched.linears_mut().into_iter();
    for (name, layer) in linears.filter(|(name, _)| wanted(name)) {
        let gram = Arc::new(Mutex::new(Ok(Gram::new(layer.dims()[0]))));
        shared.push((name, Arc::clone(&gram)));
        layer.observe_inputs(Some(InputSink::new(move |x| add(&gram, x))));
    }
    if shared.is_empty() {
        return Ok(Calibrated::new());
    }
    while let Some(batch) = batches.next()? {
        let hidden = watched
            .hidden(DeviceBatch::new(&batch, device).inputs)
            .map_err(TrainError::from)?;
        if !watched.is_tied() {
            // A head of its own is a layer like any other, and is only watched when it is applied.
            let [lanes, seq, d_model] = hidden.dims();
            drop(watched.logits(watched.head_inputs(hidden.reshape([lanes * seq, d_model]))));
        }
    }
    batches.check_variety()?;
    drop(watched);
    shared.into_iter().map(finished).collect()
}

/// Adds inputs `[rows, d_input]`; the first error stays.
fn add(shared: &Shared, x: Tensor<2>) {
    let inputs: Vec<f32> = x.into_data().iter::<f32>().collect();
    // A sum is whole between two additions, whoever panicked.
    let mut gram = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let error = gram.as_mut().ok().and_then(|gram| gram.add(&inputs).err());
    if let Some(error) = error {
        *gram = Err(error);
    }
}

fn finished((layer, shared): (String, Shared)) -> Result<(String, Gram), CompressError> {
    let mut gram = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let empty = Err(MethodError::NoTokens);
    match std::mem::replace(&mut *gram, empty) {
        Ok(gram) => Ok((layer, gram)),
        Err(source) => Err(CompressError::Calibration { layer, source }),
    }
}

/// The windows of a calibration, batch by batch.
pub(crate) struct Batches<'a> {
    loader: Loader,
    config: &'a RunConfig,
    calibration: &'a Calibration,
    seen: usize,
    /// Batches that were given out.
    given: usize,
    /// The only token so far, while there is one.
    token: Option<u32>,
    varies: bool,
}

impl<'a> Batches<'a> {
    /// # Errors
    /// No training text.
    pub fn new(
        source: &Source,
        config: &'a RunConfig,
        calibration: &'a Calibration,
    ) -> Result<Self, CompressError> {
        let bad = |why: String| CompressError::Setting {
            key: "calibration.corpus",
            value: match calibration.corpus.as_str() {
                "" => "the run's own".into(),
                corpus => corpus.into(),
            },
            why,
        };
        let windows = source.windows(Split::Train, config.seq).map_err(|error| {
            let seq = config.seq;
            bad(format!(
                "it must have windows of {seq} tokens, as the run was trained on: {error}"
            ))
        })?;
        let windows: Arc<dyn Windows> =
            windows.ok_or_else(|| bad("it has no training split".into()))?;
        let order = LoaderConfig {
            batch: calibration.batch.min(calibration.windows),
            order: Order::Crops,
            seed: calibration.seed,
        };
        Ok(Self {
            loader: Loader::new(windows, order).map_err(TrainError::from)?,
            config,
            calibration,
            seen: 0,
            given: 0,
            token: None,
            varies: false,
        })
    }

    /// The next batch, its last one cut to as many windows as were asked for; none after that.
    ///
    /// # Errors
    /// Those of the loader.
    pub fn next(&mut self) -> Result<Option<kiln_loader::TokenBatch>, CompressError> {
        if self.seen >= self.calibration.windows {
            return Ok(None);
        }
        let Some(mut batch) = self.loader.next_batch() else {
            return Ok(None);
        };
        // As many windows as were asked for, whatever the batch.
        let lanes = batch.batch.min(self.calibration.windows - self.seen);
        batch.inputs.truncate(lanes * batch.seq);
        batch.targets.truncate(lanes * batch.seq);
        batch.mask.truncate(lanes * batch.seq);
        batch.batch = lanes;
        for &token in &batch.inputs {
            self.varies |= *self.token.get_or_insert(token) != token;
        }
        let (vocab, first) = (self.config.model.backbone.vocab_size, self.seen as u64);
        let objective = self.config.objective;
        self.seen += lanes;
        self.given += 1;
        Ok(Some(objective.apply(
            batch,
            vocab,
            self.calibration.seed,
            first,
        )))
    }

    /// Batches that were given out.
    pub fn count(&self) -> usize {
        self.given
    }

    /// # Errors
    /// All tokens so far were the same.
    pub fn check_variety(&self) -> Result<(), CompressError> {
        match (self.varies, self.token) {
            (false, Some(token)) => Err(CompressError::ConstantCalibration { token }),
            _ => Ok(()),
        }
    }
}
