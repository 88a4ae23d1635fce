//! What a point would train, and what that costs.

use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kiln_train::{ObjectiveKind, Plan, Resolved, TeacherCost, TrainError, written_tokens};
use kiln_zoo::{LanguageModel, ModelConfig};

use super::Facts;
use crate::budget::Length;
use crate::layout::LaidPoint;

/// Counts models and teachers, each once.
pub(super) struct Counter<'a> {
    device: &'a Device,
    /// Points of a grid mostly share one model, and building it is what takes time.
    known: Vec<(ModelConfig, usize, usize, u64)>,
    /// Run folders of teachers with the length of sequences, and their operations.
    teachers: Vec<((PathBuf, usize), u64)>,
}

impl<'a> Counter<'a> {
    pub fn new(device: &'a Device) -> Self {
        Self {
            device,
            known: Vec::new(),
            teachers: Vec::new(),
        }
    }

    pub fn facts(
        &mut self,
        point: &LaidPoint,
        vocab: usize,
        length: Length,
    ) -> Result<Facts, TrainError> {
        let resolved = Resolved::new(point.recipe.clone(), vocab)?;
        // What an n-gram model counts is known when it is counted, and a finished run has the model that it has.
        let is_trained =
            point.ngram.is_none() && !matches!(length, Length::Loaded | Length::ModelsOf(_));
        let (parameters, flops_per_token, of_teacher) = match is_trained {
            true => {
                let (parameters, flops) = self.count(&resolved)?;
                (Some(parameters), flops, self.teacher_flops(&resolved)?)
            }
            false => (None, 0, 0),
        };
        let recipe = &resolved.recipe.value;
        let (data, train) = (&recipe.data, &recipe.train);
        let step_tokens = recipe.tokens_per_step(resolved.seq);
        // Backward costs twice the forward pass, as in the plan of one run.
        let is_asked = recipe.distill.as_ref().is_some_and(|it| it.is_asked());
        let asked = if is_asked { of_teacher as f64 } else { 0.0 };
        let token_flops = 3.0 * flops_per_token as f64 + asked;
        let objective = match recipe.objective.kind {
            ObjectiveKind::NextToken => "next tokens".into(),
            ObjectiveKind::MaskedToken => {
                format!("{} masked tokens", recipe.objective.mask_ratio.0)
            }
        };
        let windows = match (train.final_sweep, train.sweep_windows) {
            (true, 0) => "all windows".into(),
            (true, windows) => format!("the first {windows} windows"),
            (false, _) => format!("{} random windows", train.eval_batches * train.batch),
        };
        // The weights that are scored are those of the best evaluation: more or larger ones choose better.
        let evaluations = format!(
            "evaluated every {} steps on {} windows",
            train.eval_every,
            train.eval_batches * train.batch
        );
        let open_ended = if train.target_accuracy > 0.0 {
            let target = train.target_accuracy.to_string();
            Some(("train.target_accuracy", target))
        } else if train.max_seconds > 0.0 && !length.is_open() {
            Some(("train.max_seconds", train.max_seconds.to_string()))
        } else if train.patience > 0 {
            Some(("train.patience", train.patience.to_string()))
        } else {
            None
        };
        let mut facts = Facts {
            data: match &recipe.task {
                // Examples follow from the settings, so equal settings are equal data.
                Some(task) => toml::to_string(task)
                    .map_err(kiln_run::RecipeError::NotToml)?
                    .trim_end()
                    .replace("\n\n", ", ")
                    .replace('\n', ", "),
                None => format!(
                    "{} ({} bytes at most) as {}",
                    data.name, data.max_bytes, data.tokenizer
                ),
            },
            tokens: None,
            step_tokens,
            scoring: format!(
                "{windows} of {} tokens, {objective}, {evaluations}",
                resolved.seq
            ),
            parameters,
            flops: None,
            step_flops: token_flops * step_tokens as f64,
            first_flops: of_teacher as f64 * written_tokens(recipe, resolved.seq) as f64,
            model: is_trained.then(|| resolved.model.clone()),
            taught: recipe.distill.is_some(),
            open_ended,
        };
        if !length.is_open() {
            facts.set_steps(resolved.steps);
        }
        if !is_trained {
            facts.flops = None;
        }
        Ok(facts)
    }

    /// Forward operations a token of the teacher that a recipe names; 0 as long as it is missing.
    fn teacher_flops(&mut self, resolved: &Resolved) -> Result<u64, TrainError> {
        let recipe = &resolved.recipe.value;
        let Some(distill) = &recipe.distill else {
            return Ok(0);
        };
        if !recipe.missing_runs().is_empty() {
            return Ok(0);
        }
        let key = (distill.teacher.clone(), resolved.seq);
        if let Some((_, flops)) = self.teachers.iter().find(|(known, _)| *known == key) {
            return Ok(*flops);
        }
        let cost = TeacherCost::of(recipe, resolved.seq, self.device)?;
        let flops = cost.map_or(0, |cost| cost.flops_per_token);
        self.teachers.push((key, flops));
        Ok(flops)
    }

    fn count(&mut self, resolved: &Resolved) -> Result<(usize, u64), TrainError> {
        let known = self
            .known
            .iter()
            .find(|(model, seq, ..)| *model == resolved.model && *seq == resolved.seq);
        if let Some((_, _, parameters, flops)) = known {
            return Ok((*parameters, *flops));
        }
        // Only a device with autodiff tells what is trained.
        let model = resolved.model.init(0, &self.device.clone().autodiff())?;
        let parameters = trainable(&model);
        let flops = Plan::new(resolved, None, self.device)?.flops_per_token;
        self.known
            .push((resolved.model.clone(), resolved.seq, parameters, flops));
        Ok((parameters, flops))
    }
}

/// Numbers in the parameters that are trained.
fn trainable(model: &LanguageModel) -> usize {
    struct Count(usize);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if value.is_require_grad() {
                self.0 += value.shape().num_elements();
            }
        }
    }
    let mut count = Count(0);
    model.visit(&mut count);
    count.0
}
