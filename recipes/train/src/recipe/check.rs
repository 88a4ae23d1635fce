//! What a recipe's types cannot check.

use kiln_distill::{DistillConfig, FeatureConfig, FeatureKind, ResponseLoss, WrittenConfig};
use kiln_loader::Order;
use kiln_tasks::TaskConfig;
use kiln_text::{DataConfig, TokenizerConfig};

use kiln_zoo::Precision;

use super::{ObjectiveKind, TrainRecipe};
use crate::TrainError;
use crate::adapters::AdaptersConfig;
use crate::contexts::Contexts;

impl TrainRecipe {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the first key out of its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        let train = &self.train;
        for (key, value) in [
            ("train.batch", train.batch),
            ("train.accumulate", train.accumulate),
            ("train.eval_batches", train.eval_batches),
            ("train.keep_checkpoints", train.keep_checkpoints),
        ] {
            if value == 0 {
                return Err(TrainError::setting(key, 0, "must be at least 1"));
            }
        }
        for (key, value) in [
            ("train.eval_every", train.eval_every),
            ("train.checkpoint_every", train.checkpoint_every),
            ("train.log_every", train.log_every),
        ] {
            if value == 0 {
                return Err(TrainError::setting(key, 0, "must be at least 1 step"));
            }
        }
        if train.steps == 0 && train.tokens == 0 {
            return Err(TrainError::setting(
                "train.steps",
                0,
                "one of `train.steps` and `train.tokens` must say how long to train",
            ));
        }
        if train.gradient_probe_every > 0 && self.precision == Precision::F16 {
            let every = train.gradient_probe_every;
            let why = "the probe takes gradients of a loss that is not scaled, and in f16 they vanish: set `precision = \"bf16\"`, or leave the key out";
            return Err(TrainError::setting(
                "train.gradient_probe_every",
                every,
                why,
            ));
        }
        if train.recompute && self.distill.is_some() {
            let why = "a teacher's losses look at the whole model at once: leave the key out, or `[distill]`";
            return Err(TrainError::setting("train.recompute", true, why));
        }
        self.validate_contexts()?;
        if let Some(task) = &self.task {
            self.validate_task(task)?;
        }
        if let Some(distill) = &self.distill {
            self.validate_distill(distill)?;
        }
        if let Some(quantize) = &self.quantize {
            quantize.check()?;
        }
        if let Some(prune) = &self.prune {
            prune.check()?;
        }
        if let Some(rewind) = &self.rewind {
            rewind.check(self)?;
        }
        if let Some(adapters) = &self.adapters {
            self.validate_adapters(adapters)?;
        }
        if let Some(init) = self.init.as_ref().filter(|init| init.as_stored)
            && (init.layers.is_some() || !init.fresh.is_empty())
        {
            let why = "the model is taken whole then: leave `init.layers` and `init.fresh` out, or this key";
            return Err(TrainError::setting("init.as_stored", true, why));
        }
        if let TokenizerConfig::Bpe {
            vocab_size: size @ 0..256,
        } = self.data.tokenizer
        {
            return Err(TrainError::setting(
                "data.tokenizer",
                format!("bpe:{size}"),
                "a byte-level vocabulary has at least the 256 bytes: write bpe:256 or more",
            ));
        }
        if train.order == Order::Sequential {
            return Err(TrainError::setting(
                "train.order",
                "sequential",
                "training needs an order without end: crops, shuffled or fixed",
            ));
        }
        let real = [
            ("train.max_seconds", train.max_seconds, 0.0, f64::MAX),
            ("train.target_accuracy", train.target_accuracy, 0.0, 1.0),
            ("train.label_smoothing", train.label_smoothing, 0.0, 0.99),
            ("train.z_loss", train.z_loss, 0.0, 1.0),
            (
                "optimizer.learning_rate",
                self.optimizer.learning_rate,
                f64::MIN_POSITIVE,
                10.0,
            ),
            (
                "optimizer.weight_decay",
                self.optimizer.weight_decay,
                0.0,
                10.0,
            ),
            (
                "optimizer.clip_norm",
                self.optimizer.clip_norm,
                0.0,
                f64::MAX,
            ),
            (
                "optimizer.epsilon",
                self.optimizer.epsilon,
                f64::MIN_POSITIVE,
                1.0,
            ),
            ("optimizer.betas", self.optimizer.betas[0], 0.0, 0.999_999),
            ("optimizer.betas", self.optimizer.betas[1], 0.0, 0.999_999),
            (
                "schedule.final_fraction",
                self.schedule.final_fraction,
                0.0,
                1.0,
            ),
            (
                "schedule.decay_fraction",
                self.schedule.decay_fraction,
                1e-6,
                1.0,
            ),
            (
                "objective.mask_ratio",
                self.objective.mask_ratio.0,
                1e-3,
                1.0,
            ),
        ];
        check_ranges(&real)?;
        self.sample.validate()
    }

    fn validate_adapters(&self, adapters: &AdaptersConfig) -> Result<(), TrainError> {
        adapters.check()?;
        let refused = |why| Err(TrainError::setting("adapters.rank", adapters.rank, why));
        if self.init.is_none() {
            return refused(
                "random weights do not stay as they are: name a run to start from in [init], or leave [adapters] out",
            );
        }
        if self.prune.is_some() {
            return refused(
                "weights that become zero are those that move: prune first, or leave [adapters] out",
            );
        }
        Ok(())
    }

    fn validate_distill(&self, distill: &DistillConfig) -> Result<(), TrainError> {
        let last = distill.final_weight.unwrap_or(distill.weight);
        check_ranges(&[
            ("distill.temperature", distill.temperature, 1e-2, 1e2),
            ("distill.weight", distill.weight, 0.0, 1.0),
            ("distill.final_weight", last, 0.0, 1.0),
        ])?;
        if let Some(features) = &distill.features {
            let least = f64::MIN_POSITIVE;
            check_ranges(&[("distill.features.weight", features.weight, least, 1.0)])?;
            self.validate_projections(features)?;
        }
        if !distill.is_asked() && distill.text.is_none() {
            let why = "then nothing is learned from the teacher: raise it, or leave [distill] out";
            return Err(TrainError::setting("distill.weight", 0, why));
        }
        if let ResponseLoss::JensenShannon(b) = distill.loss
            && !(0.0 < b && b < 1.0)
        {
            let why = "must lie between 0 and 1, which are the limits `forward-kl` and `reverse-kl` up to a factor of 0";
            return Err(TrainError::setting("distill.loss.jensen-shannon", b, why));
        }
        if self.train.gradient_probe_every > 0 {
            let every = self.train.gradient_probe_every;
            let why = "the probe takes the gradient of cross-entropy, and a teacher is learned from: leave the key out";
            return Err(TrainError::setting(
                "train.gradient_probe_every",
                every,
                why,
            ));
        }
        if let Some(text) = &distill.text {
            self.validate_text(text)?;
        }
        if !distill.cache {
            return Ok(());
        }
        let refused = |why| Err(TrainError::setting("distill.cache", true, why));
        if distill.top_k == 0 {
            return refused(
                "all tokens of every position are too much to keep: set `distill.top_k`, such as 16",
            );
        }
        if distill.text.is_some() {
            return refused(
                "answers are kept for the windows of the data, and the teacher writes others: leave one of the two out",
            );
        }
        if distill.features.is_some() {
            return refused(
                "features are not kept, so the teacher is asked in any case: leave one of the two out",
            );
        }
        if self.objective.kind != ObjectiveKind::NextToken {
            return refused(
                "masks are drawn anew for every batch, so no answer can be kept: leave the key out",
            );
        }
        if self.train.order != Order::Fixed {
            return refused(
                "answers are kept for the windows of a sweep, and this order has others: set `train.order = \"fixed\"`",
            );
        }
        Ok(())
    }

    fn validate_projections(&self, features: &FeatureConfig) -> Result<(), TrainError> {
        let refused = |why| Err(TrainError::setting("distill.features.project", true, why));
        if features.project && features.kind != FeatureKind::Hidden {
            return refused(
                "only `hidden` compares streams that can be projected: set `distill.features.kind`, or leave the key out",
            );
        }
        if features.project && self.quantize.is_some() {
            return refused(
                "steps of rounded weights are learned in the same place: leave it or [quantize] out",
            );
        }
        Ok(())
    }

    fn validate_text(&self, text: &WrittenConfig) -> Result<(), TrainError> {
        let least = f64::MIN_POSITIVE;
        check_ranges(&[
            ("distill.text.share", text.share, least, 1.0),
            ("distill.text.temperature", text.temperature, 0.0, 100.0),
            ("distill.text.top_p", text.top_p, least, 1.0),
        ])?;
        let whole = [
            ("distill.text.windows", text.windows),
            ("distill.text.prompt", text.prompt as u64),
        ];
        if let Some((key, value)) = whole.into_iter().find(|(_, value)| *value == 0) {
            return Err(TrainError::setting(key, value, "must be at least 1"));
        }
        if self.task.is_some() || self.objective.kind != ObjectiveKind::NextToken {
            let why = "a teacher writes text, one token after the other: leave the section out with a task or masked tokens";
            return Err(TrainError::setting("distill.text", "stated", why));
        }
        Ok(())
    }

    /// Checks what the sliding windows at the end need.
    fn validate_contexts(&self) -> Result<(), TrainError> {
        let train = &self.train;
        let Some(contexts) = Contexts::of(self, 1) else {
            return match train.context_stride {
                0 => Ok(()),
                stride => {
                    let why = "no length of context is asked for: set `train.contexts`, or leave the key out";
                    Err(TrainError::setting("train.context_stride", stride, why))
                }
            };
        };
        contexts.validate("train.contexts", "train.context_stride")?;
        if self.task.is_some() || self.objective.kind != ObjectiveKind::NextToken {
            let why = "only next tokens of text have a growing context: leave the key out with a task or masked tokens";
            let shown = format!("{:?}", train.contexts);
            return Err(TrainError::setting("train.contexts", shown, why));
        }
        Ok(())
    }

    fn validate_task(&self, task: &TaskConfig) -> Result<(), TrainError> {
        task.validate()?;
        if self.data != DataConfig::default() {
            let why = "a recipe with a [task] reads no text: leave [data] out";
            let data = format!("{} as {}", self.data.name, self.data.tokenizer);
            return Err(TrainError::setting("data", data, why));
        }
        if self.objective.kind != ObjectiveKind::NextToken {
            let why = "a task has its own targets: leave [objective] out";
            return Err(TrainError::setting("objective.kind", "masked-token", why));
        }
        let order = match self.train.order {
            Order::Shuffled => "shuffled",
            Order::Fixed => "fixed",
            Order::Crops | Order::Sequential => return Ok(()),
        };
        if task.train_examples == 0 {
            let why = "examples without end cannot be shuffled: set `train.order = \"crops\"`, or `task.train_examples`";
            return Err(TrainError::setting("train.order", order, why));
        }
        Ok(())
    }
}

/// Keys with their values, each in its closed range.
fn check_ranges(all: &[(&'static str, f64, f64, f64)]) -> Result<(), TrainError> {
    for &(key, value, low, high) in all {
        if !(low..=high).contains(&value) {
            return Err(TrainError::setting(
                key,
                value,
                match high {
                    f64::MAX => format!("must be at least {low:e}"),
                    _ => format!("must lie in [{low:e}, {high:e}]"),
                },
            ));
        }
    }
    Ok(())
}
