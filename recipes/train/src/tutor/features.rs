//! What stands between the layers of teacher and student, compared.

use burn::tensor::{Device, Tensor};
use kiln_backbone::Mixer;
use kiln_distill::{FeatureConfig, FeatureKind, relation_error, relative_error, weight_divergence};
use kiln_run::format;
use kiln_zoo::{BackboneConfig, LanguageModel};

use super::{Tutor, carried};
use crate::TrainError;
use crate::projection::project;

/// Most bytes of the weights of one layer, all lanes and heads, before the mean over heads: they are a square of the sequence, and
/// training keeps several such tensors of every layer.
const MOST_WEIGHT_BYTES: u64 = 1 << 30;

/// What a layer of a student's is to be like.
pub(crate) struct Lesson {
    /// The teacher's residual stream before the layer, where the student's is given it too.
    given: Option<Tensor<3>>,
    /// What the teacher makes of it.
    expected: Tensor<3>,
}

impl Lesson {
    pub(super) fn carried(self, to: &Device) -> Self {
        Self {
            given: self.given.map(|given| carried(given, to)),
            expected: carried(self.expected, to),
        }
    }
}

impl Tutor {
    /// Refuses a student whose layers have nothing to be compared.
    ///
    /// # Errors
    /// Names the layer.
    pub(crate) fn check_student(
        &self,
        student: &LanguageModel,
        [batch, seq]: [usize; 2],
    ) -> Result<(), TrainError> {
        let Some(config) = &self.config.features else {
            return Ok(());
        };
        let layers: Vec<usize> = (0..self.layers.len()).collect();
        check_weights(config, "model", student, &layers, [batch, seq])
    }

    /// What each layer of the student's is to be like, of a trace of [`LanguageModel::trace`]; where the teacher computes.
    ///
    /// # Errors
    /// A layer without weights, of a kind that compares them.
    pub(super) fn lessons(&self, trace: &[Tensor<3>]) -> Result<Vec<Lesson>, TrainError> {
        let Some(config) = &self.config.features else {
            return Ok(Vec::new());
        };
        let (kind, model) = (config.kind, &self.run.model);
        let of_layer = |&of: &usize| {
            let given = trace[of].clone();
            let expected = match kind {
                FeatureKind::Mixers => model.blocks[of].mix(given.clone()),
                FeatureKind::Hidden | FeatureKind::Relations => trace[of + 1].clone(),
                FeatureKind::Attention | FeatureKind::Matrices => {
                    weights(kind, "teacher", model, of, given.clone())?
                }
            };
            let is_given = matches!(kind, FeatureKind::Mixers | FeatureKind::Matrices);
            Ok(Lesson {
                given: is_given.then_some(given),
                expected,
            })
        };
        self.layers.iter().map(of_layer).collect()
    }

    /// Mean distance between the layers, `[1]`, and its share of the loss; none without features. `own` is the student's trace.
    ///
    /// # Errors
    /// A layer without weights, of a kind that compares them.
    pub(crate) fn features(
        &self,
        student: &LanguageModel,
        own: &[Tensor<3>],
        lessons: Vec<Lesson>,
    ) -> Result<Option<(Tensor<1>, f64)>, TrainError> {
        let Some(config) = &self.config.features else {
            return Ok(None);
        };
        let kind = config.kind;
        let mut distances = Vec::with_capacity(lessons.len());
        for (layer, Lesson { given, expected }) in lessons.into_iter().enumerate() {
            let after = own[layer + 1].clone();
            // What goes into the layer: the teacher's stream, as the student would have it, or its own.
            let before = match given {
                Some(given) => given.cast(student.precision().dtype()),
                None => own[layer].clone(),
            };
            distances.push(match kind {
                FeatureKind::Mixers => relative_error(student.blocks[layer].mix(before), expected),
                FeatureKind::Hidden if config.project => {
                    let [_, _, width] = expected.dims();
                    relative_error(project(student, layer, after, width), expected)
                }
                FeatureKind::Hidden => relative_error(after, expected),
                FeatureKind::Relations => relation_error(after, expected),
                FeatureKind::Attention => {
                    weight_divergence(weights(kind, "model", student, layer, before)?, expected)
                }
                FeatureKind::Matrices => {
                    relative_error(weights(kind, "model", student, layer, before)?, expected)
                }
            });
        }
        Ok(Some((Tensor::cat(distances, 0).mean(), config.weight)))
    }
}

fn weights(
    kind: FeatureKind,
    whose: &'static str,
    model: &LanguageModel,
    layer: usize,
    x: Tensor<3>,
) -> Result<Tensor<3>, TrainError> {
    let weights = model.blocks[layer].weights(x);
    weights.ok_or_else(|| without_weights(kind, whose, layer))
}

/// The teacher's layer for each of the student's.
pub(super) fn matched_layers(
    features: &FeatureConfig,
    student: &BackboneConfig,
    teacher: &BackboneConfig,
) -> Result<Vec<usize>, TrainError> {
    let [own, there] = [student, teacher].map(|backbone| backbone.d_model);
    if own != there && features.kind.needs_equal_widths() && !features.project {
        let why = format!(
            "the model is {own} wide and the teacher {there}: only `relations` and `attention` can be matched then, and `hidden` with `project = true`"
        );
        let kind = features.kind.name();
        return Err(TrainError::setting("distill.features.kind", kind, why));
    }
    let [own, there] = [student, teacher].map(|backbone| backbone.n_layers);
    let same = || (0..own).collect::<Vec<_>>();
    let layers = features.layers.clone().unwrap_or_else(same);
    let fits = layers.len() == own && layers.iter().all(|layer| *layer < there);
    match fits && (features.layers.is_some() || own == there) {
        true => Ok(layers),
        false => Err(TrainError::setting(
            "distill.features.layers",
            format!("{:?}", features.layers.as_deref().unwrap_or_default()),
            format!(
                "it takes a number below {there}, a layer of the teacher, for each of the {own} layers of the model"
            ),
        )),
    }
}

/// Refuses layers that have no weights, or too many, where weights are compared; `whose` is `teacher` or `model`.
pub(super) fn check_weights(
    features: &FeatureConfig,
    whose: &'static str,
    model: &LanguageModel,
    layers: &[usize],
    [batch, seq]: [usize; 2],
) -> Result<(), TrainError> {
    let kind = features.kind;
    if !kind.compares_weights() {
        return Ok(());
    }
    for &layer in layers {
        let heads = model.blocks[layer].mixer.weighing_heads();
        if heads == 0 {
            return Err(without_weights(kind, whose, layer));
        }
        let bytes = (batch * heads * seq * seq * size_of::<f32>()) as u64;
        if bytes > MOST_WEIGHT_BYTES {
            let why = format!(
                "weights are a square of the sequence: layer {layer} of the {whose} has {} in a batch of {batch} x {seq} with {heads} heads, and more than {} is refused; set a smaller `train.batch` or `train.seq`, or take `mixers`, which is linear in it",
                format::bytes(bytes),
                format::bytes(MOST_WEIGHT_BYTES)
            );
            let kind = kind.name();
            return Err(TrainError::setting("distill.features.kind", kind, why));
        }
    }
    Ok(())
}

fn without_weights(kind: FeatureKind, whose: &'static str, layer: usize) -> TrainError {
    let why = format!(
        "layer {layer} of the {whose} has no weights of positions (attention, resolvent and causal bk layers do): take `mixers`, `hidden` or `relations`, or other layers by `distill.features.layers`"
    );
    TrainError::setting("distill.features.kind", kind.name(), why)
}
