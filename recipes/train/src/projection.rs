//! Learned projections of a student's layers into the teacher's width (FitNets' regressors, arXiv 1412.6550, section 2.2).
//!
//! They are kept in what the model learns beside its weights, so that the optimizer and checkpoints have them, and are gone from the
//! model that a run hands over.

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use kiln_backbone::{InitRng, stable_param_ids};
use kiln_run::RunFolder;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::objective::mix;
use crate::recipe::{Resolved, TrainRecipe};
use crate::run::read_config;
use crate::setup::stream;

/// Whether a recipe learns projections.
pub(crate) fn is_asked(recipe: &TrainRecipe) -> bool {
    let features = recipe.distill.as_ref().and_then(|it| it.features.as_ref());
    features.is_some_and(|features| features.project)
}

/// Gives a model on `device`, which has autodiff, a projection for each of its layers, if the recipe asks for them: normal entries of the student's width, drawn from
/// the recipe's seed.
///
/// # Errors
/// A teacher whose configuration cannot be read.
pub(crate) fn add(
    resolved: &Resolved,
    model: &mut LanguageModel,
    device: &Device,
) -> Result<(), TrainError> {
    let recipe = &resolved.recipe.value;
    let Some(distill) = recipe.distill.as_ref().filter(|_| is_asked(recipe)) else {
        return Ok(());
    };
    let teacher = read_config(&RunFolder::open(&distill.teacher)?)?;
    let (own, there) = (
        resolved.model.backbone.d_model,
        teacher.model.backbone.d_model,
    );
    // A parameter is a leaf of its own: what is reshaped must not be one.
    let device = &device.clone().inner();
    let mut rng = InitRng::new(mix(&[recipe.seed, stream::PROJECTIONS]));
    let std = 1.0 / (own as f64).sqrt();
    for _ in 0..resolved.model.backbone.n_layers {
        let matrix = rng.matrix(own, there, std, device).val();
        let entries = matrix.reshape([own * there]);
        model
            .learned
            .push(Param::from_tensor(Tensor::from_inner(entries)));
    }
    // Their ids follow from their places, as those of weights do.
    model.learned = stable_param_ids(model.clone()).learned;
    Ok(())
}

/// A layer's stream in the teacher's width.
///
/// # Shapes
/// - `x`: `[batch, seq, d_model]`
/// - returns `[batch, seq, width]`
pub(crate) fn project(
    model: &LanguageModel,
    layer: usize,
    x: Tensor<3>,
    width: usize,
) -> Tensor<3> {
    let [_, _, d_model] = x.dims();
    let matrix = model.learned[layer].val().reshape([1, d_model, width]);
    x.cast(matrix.dtype()).matmul(matrix)
}
