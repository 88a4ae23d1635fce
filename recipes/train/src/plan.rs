//! What a recipe would do, without doing it.

use burn::module::Module;
use burn::tensor::Device;
use kiln_fused::CHUNK_BYTES;
use kiln_loader::Split;
use kiln_run::format;
use kiln_zoo::{MixerKind, ModelConfig, Precision};

use crate::TrainError;
use crate::constraint::Constraint;
use crate::data::Source;
use crate::init::{self, Start};
use crate::recipe::{Resolved, TrainRecipe};
use crate::tutor::{TeacherCost, cache_layout};

/// Sizes and costs of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Parameters.
    pub params: usize,
    /// Steps.
    pub steps: u64,
    /// Target tokens of one step.
    pub tokens_per_step: u64,
    /// Target tokens of the run.
    pub tokens: u64,
    /// Forward operations a token.
    pub flops_per_token: u64,
    /// Operations of the run: three times the forward ones (Kaplan et al., arXiv 2001.08361), and a teacher's forward ones.
    pub total_flops: f64,
    /// Generation state of one sequence, bytes.
    pub state_bytes: u64,
    /// Weights, gradients and two moments in f32, and the weights in the precision that is computed in, bytes.
    pub weight_bytes: u64,
    /// Activations kept for the backward pass, bytes; an estimate.
    pub activation_bytes: u64,
    /// Where the first weights come from, in words; none if they are random.
    pub origin: Option<String>,
    /// The teacher, if there is one.
    pub teacher: Option<TeacherCost>,
    /// Bytes of the teacher's answers on disk, if they are kept and the data was there to count.
    pub cache_bytes: Option<u64>,
    /// Tokens that the teacher writes before the first step.
    pub written_tokens: u64,
    /// What is wrong with finished runs that the recipe names; it cannot be trained before that is mended.
    pub missing: Vec<String>,
}

impl Plan {
    /// Counts a recipe's costs. Builds the model once to count what is there. The size of a teacher's answers needs `source`.
    ///
    /// # Errors
    /// Those of building the model; weights to start from that do not fit. Runs that are not there are no error of a plan.
    pub fn new(
        resolved: &Resolved,
        source: Option<&Source>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let recipe = &resolved.recipe.value;
        let missing = recipe.missing_runs();
        let is_missing = |key: &str| {
            let named = |error: &&TrainError| matches!(error, TrainError::Setting { key: of, .. } if *of == key);
            missing.iter().any(|error| named(&error))
        };
        let Start { model, origin, .. } = match is_missing("init.from") {
            true => Start {
                model: resolved.model.init(0, device)?,
                origin: None,
                constraint: Constraint::default(),
            },
            false => init::start(resolved, source, 0, device)?,
        };
        let (params, seq) = (model.num_params(), resolved.seq);
        let copy = match recipe.precision {
            Precision::F32 => 0,
            Precision::Bf16 | Precision::F16 => recipe.precision.bytes() as u64,
        };
        let flops_per_token = resolved.model.flops_per_token(&model, seq);
        let tokens_per_step = recipe.tokens_per_step(seq);
        let tokens = tokens_per_step * resolved.steps;
        let teacher = match is_missing("distill.teacher") {
            true => None,
            false => TeacherCost::of(recipe, seq, device)?,
        };
        let cached = recipe.distill.as_ref().filter(|distill| distill.cache);
        let windows = match (cached, source) {
            (Some(_), Some(source)) => source.windows(Split::Train, seq)?,
            _ => None,
        };
        let layout = cached
            .zip(windows)
            .map(|(distill, windows)| cache_layout(distill, &*windows));
        let is_asked = recipe.distill.as_ref().is_some_and(|it| it.is_asked());
        let asked = match is_asked {
            true => layout.map_or(tokens, |layout| layout.windows * seq as u64),
            false => 0,
        };
        let of_teacher = teacher
            .as_ref()
            .map_or(0, |teacher| teacher.flops_per_token);
        Ok(Self {
            params,
            steps: resolved.steps,
            tokens_per_step,
            tokens,
            flops_per_token,
            total_flops: 3.0 * flops_per_token as f64 * tokens as f64
                + of_teacher as f64 * (asked + written_tokens(recipe, seq)) as f64,
            state_bytes: model.state_bytes(seq),
            weight_bytes: (16 + copy) * params as u64,
            activation_bytes: activation_bytes(resolved),
            origin,
            teacher,
            cache_bytes: layout.map(|layout| layout.bytes()),
            written_tokens: written_tokens(recipe, seq),
            missing: missing.iter().map(ToString::to_string).collect(),
        })
    }

    /// Lines for a terminal.
    pub fn lines(&self) -> Vec<(String, String)> {
        let memory = self.weight_bytes + self.activation_bytes;
        let origin = self.origin.as_ref();
        let origin = origin.map(|origin| ("starts from", origin.clone()));
        [
            ("parameters", format::count(self.params as f64)),
            ("steps", self.steps.to_string()),
            (
                "tokens",
                format!(
                    "{} ({} a step)",
                    format::count(self.tokens as f64),
                    self.tokens_per_step
                ),
            ),
            (
                "forward FLOPs a token",
                format::count(self.flops_per_token as f64),
            ),
            ("FLOPs of the run", format!("{:.2e}", self.total_flops)),
            ("generation state", format::bytes(self.state_bytes)),
            (
                "memory, estimated",
                format!(
                    "{} (weights and optimizer {}, activations {})",
                    format::bytes(memory),
                    format::bytes(self.weight_bytes),
                    format::bytes(self.activation_bytes)
                ),
            ),
        ]
        .into_iter()
        .chain(origin)
        .chain(self.teacher_lines())
        .map(|(name, value)| (name.to_string(), value))
        .collect()
    }
}

impl Plan {
    fn teacher_lines(&self) -> Vec<(&'static str, String)> {
        let teacher = self.teacher.as_ref().map(|teacher| {
            let line = format!(
                "{}: {} parameters, {}, {} forward FLOPs a token, in {}",
                teacher.path.display(),
                format::count(teacher.params as f64),
                format::bytes(teacher.weight_bytes),
                format::count(teacher.flops_per_token as f64),
                teacher.precision.name()
            );
            ("teacher", line)
        });
        let cache = self.cache_bytes.map(|bytes| {
            let line = format!("{} on disk", format::bytes(bytes));
            ("teacher's answers", line)
        });
        let written = (self.written_tokens > 0).then(|| {
            let count = format::count(self.written_tokens as f64);
            (
                "teacher's text",
                format!("{count} tokens before the first step"),
            )
        });
        let missing = self.missing.iter().map(|why| ("missing", why.clone()));
        teacher
            .into_iter()
            .chain(cache)
            .chain(written)
            .chain(missing)
            .collect()
    }
}

/// Tokens that a recipe's teacher writes before the first step.
pub fn written_tokens(recipe: &TrainRecipe, seq: usize) -> u64 {
    let distill = recipe.distill.as_ref();
    let text = distill.and_then(|distill| distill.text.as_ref());
    text.map_or(0, |text| text.windows * (seq as u64 + 1))
}

/// Heads of a layer whose weights can be compared with a teacher's.
fn weighing_heads(model: &ModelConfig, layer: usize) -> usize {
    match model.mixer(layer) {
        MixerKind::Attention => model.attention.heads,
        MixerKind::Bk => model.bk.heads,
        MixerKind::Resolvent => model.resolvent.heads,
        MixerKind::Conv | MixerKind::Gla | MixerKind::MinGru | MixerKind::Fnet => 0,
    }
}

/// Values kept a token and layer, counted off the modules: about 10 of the width around norms and residuals, three of the MLP's
/// hidden width, for attention four of the width and two of every score, for BK eight a head, for resolvent attention six of the
/// width, eight of all keys' and four a head, for the convolution four of the width, for gated linear attention five of the width,
/// six of all keys' and three a head, for minGRU two of the width and nine a channel, for Fourier mixing three of the width; then a chunk of logits, or with a teacher all of them and
/// their softmax, and four of every weight that is compared with the teacher's. What is counted a head and the softmax are f32 in every precision.
fn activation_bytes(resolved: &Resolved) -> u64 {
    let model = &resolved.model;
    let backbone = &model.backbone;
    // In the element type of activations, and in f32.
    let mixer = |layer| match model.mixer(layer) {
        MixerKind::Attention => {
            let scores = 2 * model.attention.heads * resolved.seq;
            [4 * backbone.d_model + scores, 0]
        }
        MixerKind::Bk => [0, 8 * model.bk.heads],
        MixerKind::Resolvent => {
            let keys = model.resolvent.heads * model.resolvent.d_key;
            let scalars = 4 * model.resolvent.heads;
            [6 * backbone.d_model + 8 * keys, scalars]
        }
        MixerKind::Conv => [4 * backbone.d_model, 0],
        MixerKind::Gla => {
            let keys = model.gla.heads * model.gla.d_key;
            [5 * backbone.d_model + 6 * keys, 3 * model.gla.heads]
        }
        // Gate, candidate and states for products; before and after sigmoids, decay, write and states for the recurrence.
        MixerKind::MinGru => [
            2 * backbone.d_model + 3 * model.min_gru.channels,
            6 * model.min_gru.channels,
        ],
        MixerKind::Fnet => [3 * backbone.d_model, 0],
    };
    let features = resolved.recipe.value.distill.as_ref();
    let features = features.and_then(|distill| distill.features.as_ref());
    let compares_weights = features.is_some_and(|features| features.kind.compares_weights());
    // Scores, those that are seen, their softmax and its mean, in f32.
    let weights = |layer| match compares_weights {
        true => 4 * weighing_heads(model, layer) * resolved.seq,
        false => 0,
    };
    let mixers = (0..backbone.n_layers).map(|layer| {
        let [own, scalars] = mixer(layer);
        [own, scalars + weights(layer)]
    });
    let [mixers, scalars] = mixers.fold([0, 0], |sum, of| [sum[0] + of[0], sum[1] + of[1]]);
    let layers = backbone.n_layers * (10 * backbone.d_model + 3 * backbone.d_hidden);
    let recipe = &resolved.recipe.value;
    let tokens = recipe.train.batch * resolved.seq;
    let (size, vocab) = (recipe.precision.bytes(), backbone.vocab_size);
    let logits = match recipe.distill {
        None => (size * vocab * tokens).min(CHUNK_BYTES),
        Some(_) => (size + 2 * size_of::<f32>()) * vocab * tokens,
    };
    let bytes = size * (mixers + layers) + size_of::<f32>() * scalars;
    (bytes * tokens + logits) as u64
}
