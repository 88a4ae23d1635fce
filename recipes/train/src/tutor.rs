//! The teacher of a run: its model, its answers, and what they cost.

mod cache;
mod features;
mod text;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use kiln_distill::{DistillConfig, Target};
use kiln_fused::on_device_thread;
use kiln_loader::TokenBatch;
use kiln_run::{View, format};
use kiln_zoo::{LanguageModel, Positions, Precision};

use crate::TrainError;
use crate::data::Source;
use crate::init;
use crate::loss::DeviceBatch;
use crate::recipe::{Resolved, TrainRecipe};
use crate::run::Run;

use cache::Cache;
pub(crate) use cache::cache_layout;
pub(crate) use features::Lesson;
use features::{check_weights, matched_layers};

/// A teacher that is asked for its answers, without gradients.
pub struct Tutor {
    config: DistillConfig,
    run: Run,
    cost: TeacherCost,
    /// Where it computes.
    device: Device,
    /// Where its student is, if it has a device of its own: answers go there through the host.
    elsewhere: Option<Device>,
    cache: Option<Cache>,
    /// Its layer that each of the student's is matched with, if features are.
    layers: Vec<usize>,
    /// Time of its answers; none where it was not taken.
    took: Option<Duration>,
}

/// What a teacher says to a batch.
pub(crate) struct Answers {
    /// Its distribution where targets count.
    pub target: Target,
    /// What it has for each layer of the student's, if features are matched.
    pub lessons: Option<Vec<Lesson>>,
}

impl Answers {
    fn carried(self, to: &Device) -> Self {
        let Target { log_probs, kept } = self.target;
        let target = Target {
            log_probs: carried(log_probs, to),
            // Numbers of tokens have one type a device.
            kept: kept.map(|kept| Tensor::from_data(kept.into_data(), to)),
        };
        let lessons = self.lessons.map(|lessons| {
            let lessons = lessons.into_iter();
            lessons.map(|lesson| lesson.carried(to)).collect()
        });
        Self { target, lessons }
    }
}

/// On another device, by way of the host.
fn carried<const D: usize>(x: Tensor<D>, to: &Device) -> Tensor<D> {
    let dtype = x.dtype();
    Tensor::from_data(x.into_data(), (to, dtype))
}

/// What a teacher costs beside its student.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherCost {
    /// Folder of its run.
    pub path: PathBuf,
    /// Its parameters.
    pub params: usize,
    /// Bytes of its weights as it holds them, packed ones packed; it has no gradients and no optimizer.
    pub weight_bytes: u64,
    /// Its forward operations a token.
    pub flops_per_token: u64,
    /// What it computes in.
    pub precision: Precision,
}

impl TeacherCost {
    fn new(path: &Path, run: &Run, seq: usize) -> Self {
        let params = run.model.parameters() as usize;
        Self {
            path: path.into(),
            params,
            weight_bytes: run.model.weight_bytes(),
            flops_per_token: run.config.model.flops_per_token(&run.model, seq),
            precision: run.model.precision(),
        }
    }

    /// The cost of a recipe's teacher; none without one.
    ///
    /// # Errors
    /// A teacher that cannot be opened.
    pub fn of(
        recipe: &TrainRecipe,
        seq: usize,
        device: &Device,
    ) -> Result<Option<Self>, TrainError> {
        let Some(distill) = &recipe.distill else {
            return Ok(None);
        };
        let run = init::teacher(distill).open_in(device, distill.precision)?;
        Ok(Some(Self::new(&distill.teacher, &run, seq)))
    }
}

impl Tutor {
    /// Opens the teacher of a recipe, on a device of its own or on its student's; none without one.
    ///
    /// # Errors
    /// A run that is not there, not finished or damaged; one that reads other tokens, predicts something else, or cannot take
    /// sequences of this length.
    pub fn open(
        resolved: &Resolved,
        source: &Source,
        student: &Device,
        apart: Option<&Device>,
    ) -> Result<Option<Self>, TrainError> {
        let device = apart.unwrap_or(student);
        let Some(config) = &resolved.recipe.value.distill else {
            return Ok(None);
        };
        let named = init::teacher(config);
        // A recording waits for no other stream: weights have to be of the thread that trains.
        let run = on_device_thread(device, || named.open_in(device, config.precision))?;
        named.check_tokens(&run, source)?;
        let refused = |why: String| Err(named.refused(why));
        let (own, teacher) = (&resolved.model.backbone, &run.config.model.backbone);
        if own.vocab_size != teacher.vocab_size {
            let [own, teacher] = [own, teacher].map(|backbone| backbone.vocab_size);
            return refused(format!(
                "it knows {teacher} tokens, and this recipe has {own}: take a teacher of the same data"
            ));
        }
        if run.config.objective.kind != resolved.recipe.value.objective.kind {
            return refused(
                "it predicts something else: give both the same `objective.kind`".into(),
            );
        }
        let name = source.name()?;
        if source.text().is_none() && run.config.corpus != name {
            return refused(format!(
                "it was trained on the task `{}`, and this recipe has `{name}`",
                run.config.corpus
            ));
        }
        if teacher.positions == Positions::Learned && resolved.seq > teacher.max_seq {
            return refused(format!(
                "it has learned positions up to {}, and this recipe has sequences of {}: set `train.seq`",
                teacher.max_seq, resolved.seq
            ));
        }
        if config.top_k > own.vocab_size {
            let why = format!("there are {} tokens; 0 keeps all", own.vocab_size);
            return Err(TrainError::setting("distill.top_k", config.top_k, why));
        }
        let layers = match &config.features {
            None => Vec::new(),
            Some(features) => matched_layers(features, own, teacher)?,
        };
        if let Some(features) = &config.features {
            let lanes = resolved.recipe.value.train.batch;
            check_weights(
                features,
                "teacher",
                &run.model,
                &layers,
                [lanes, resolved.seq],
            )?;
        }
        Ok(Some(Self {
            layers,
            cost: TeacherCost::new(&config.teacher, &run, resolved.seq),
            config: config.clone(),
            run,
            device: device.clone(),
            elsewhere: apart.map(|_| student.clone()),
            cache: None,
            took: None,
        }))
    }

    /// How it is learned from.
    pub(crate) fn config(&self) -> &DistillConfig {
        &self.config
    }

    /// Whether it is asked about batches, beside the text that it writes.
    pub(crate) fn is_asked(&self) -> bool {
        self.config.is_asked()
    }

    /// Whether it has a device of its own.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Whether its answers can be recorded with its student's passes: neither kept on disk nor carried.
    pub(crate) fn may_record(&self) -> bool {
        self.cache.is_none() && self.elsewhere.is_none()
    }

    /// What it costs.
    pub(crate) fn cost(&self) -> &TeacherCost {
        &self.cost
    }

    /// Its model, without autodiff, and where it computes.
    pub(crate) fn model(&self) -> (&LanguageModel, &Device) {
        (&self.run.model, &self.device)
    }

    /// Its scores where targets of a batch count, `[counted, vocab]`, on the device of `on_device`.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn logits(
        &self,
        batch: &TokenBatch,
        on_device: &DeviceBatch,
    ) -> Result<Tensor<2>, TrainError> {
        Ok(match &self.elsewhere {
            None => on_device.logits(&self.run.model)?,
            Some(to) => carried(
                DeviceBatch::new(batch, &self.device).logits(&self.run.model)?,
                to,
            ),
        })
    }

    /// Names its weights and, if it computes in another precision than it was trained in, that: what its answers follow from.
    fn named(&self) -> String {
        let (config, precision) = (&self.run.config, self.run.model.precision());
        match precision == config.precision {
            true => config.weights.clone(),
            false => format!("{} in {}", config.weights, precision.name()),
        }
    }

    fn ask(&self, batch: &DeviceBatch) -> Result<Answers, TrainError> {
        let model = &self.run.model;
        let trace = match self.config.features {
            None => None,
            Some(_) => Some(model.trace(batch.inputs.clone())?),
        };
        let scores = match trace.as_ref().and_then(|trace| trace.last()) {
            None => batch.logits(model)?,
            Some(hidden) => batch.logits_of(model, hidden.clone()),
        };
        let DistillConfig {
            temperature, top_k, ..
        } = self.config;
        let target = Target::new(scores, temperature, top_k);
        let lessons = trace.map(|trace| self.lessons(&trace)).transpose()?;
        Ok(Answers { target, lessons })
    }

    /// Its answers where targets of a batch count, on the device of `on_device` without autodiff. A device that records is not waited for.
    pub(crate) fn answers(
        &mut self,
        batch: &TokenBatch,
        on_device: &DeviceBatch,
        is_recorded: bool,
    ) -> Result<Answers, TrainError> {
        if is_recorded {
            return self.ask(&on_device.inner());
        }
        let began = Instant::now();
        let answers = match &self.cache {
            Some(cache) => Answers {
                target: cache.target(
                    batch,
                    self.config.top_k,
                    self.elsewhere.as_ref().unwrap_or(&self.device),
                )?,
                lessons: None,
            },
            None => {
                let answers = match &self.elsewhere {
                    None => self.ask(&on_device.inner())?,
                    Some(to) => self
                        .ask(&DeviceBatch::new(batch, &self.device))?
                        .carried(to),
                };
                // Only then is its time its own, on devices that work behind the program's back.
                self.device
                    .sync()
                    .map_err(|error| TrainError::DeviceLost(error.to_string()))?;
                answers
            }
        };
        *self.took.get_or_insert_default() += began.elapsed();
        Ok(answers)
    }

    /// T^2 D for each row: the square keeps gradients at the size of cross-entropy's, whatever the temperature
    /// (arXiv 1503.02531, section 2).
    ///
    /// # Shapes
    /// - `scores`: the student's, `[rows, vocab]`
    /// - returns `[rows]`
    pub(crate) fn divergence(&self, target: Target, scores: Tensor<2>) -> Tensor<1> {
        let temperature = self.config.temperature;
        let student = target.student(scores, temperature);
        let divergence = self.config.loss.divergence(target.log_probs, student);
        divergence.mul_scalar(temperature * temperature)
    }

    /// Time of its answers since this was last called; none if it was not taken.
    pub(crate) fn take_time(&mut self) -> Option<Duration> {
        self.took.take()
    }
}

/// Says that so many of all missing shards are kept, and how long the others will take.
fn tell_shard(view: &mut View, began: Instant, [done, all]: [usize; 2], what: &str) {
    let left = (all - done) as f64;
    let seconds = began.elapsed().as_secs_f64() / done as f64 * left;
    view.message(&format!(
        "teacher: {done} of {all} {what}, {} left",
        format::duration(seconds)
    ));
}
