//! Stages that train another model: a run of its own, which starts from what fits of the model before, and the original teaches it.

use kiln_run::RecipeError;
use kiln_run::recipe::Recipe;
use kiln_train::{InitConfig, Resolved, Run, Stored, StoredModel, TrainRecipe, read_resolved};
use kiln_zoo::ModelConfig;

use super::Pipeline;
use super::recover::full;
use super::work::Made;
use crate::CompressError;
use crate::apply::LayerFigures;
use crate::layers::form;
use crate::recipe::{Part, Student, Work};
use crate::structured::{Shaped, figures};

/// Key of the longest sequence of a model.
const MAX_SEQ: &str = "max_seq";

/// Refuses weights that something was done to: a student has dense ones of its own.
///
/// # Errors
/// [`CompressError::Order`] naming the first.
pub(super) fn check_replaceable(number: usize, model: &StoredModel) -> Result<(), CompressError> {
    for (tensor, stored) in &model.tensors {
        let found = match stored {
            Stored::Float { kind, .. } if *kind == kiln_quant::FloatType::F32 => continue,
            Stored::Float { .. } => "in 16 bits",
            other => form(other),
        };
        return Err(CompressError::Order {
            stage: number,
            layer: tensor.strip_suffix(".weight").unwrap_or(tensor).into(),
            found,
            work: "putting a student in the place of",
            why: "undo that, as a student has dense weights of its own",
        });
    }
    Ok(())
}

/// The shape of the student that a stage makes of a run.
///
/// # Errors
/// A preset that there is not, a key or value that no model has, a shape that does not fit the run's data.
pub(super) fn shape(run: &Run, student: &Student) -> Result<ModelConfig, CompressError> {
    let resolved = read_resolved(run.folder())?;
    let vocab = resolved.tokenizer_vocab();
    let mut recipe = resolved.recipe;
    put(&mut recipe, student, run)?;
    // It asks for layers that a student need not have.
    recipe.value.train.gradient_probe_every = 0;
    Ok(Resolved::new(recipe, vocab)?.model)
}

/// Refuses layers to start from that are not there, or not one for each layer of the student.
///
/// # Errors
/// [`CompressError::Setting`].
pub(super) fn check_layers(
    student: &Student,
    shape: &ModelConfig,
    before: &ModelConfig,
) -> Result<(), CompressError> {
    let Some(layers) = &student.layers else {
        return Ok(());
    };
    let [depth, there] = [shape, before].map(|model| model.backbone.n_layers);
    let fits = layers.len() == depth && layers.iter().all(|layer| *layer < there);
    match fits {
        true => Ok(()),
        false => Err(CompressError::Setting {
            key: "stage.init_layers",
            value: format!("{layers:?}"),
            why: format!(
                "the student has {depth} layers and the model before it {there}: name one of 0 to {} for each of the student's",
                there - 1
            ),
        }),
    }
}

/// Says what every student of a recipe cannot be, before anything is done.
///
/// # Errors
/// As [`shape`].
pub(super) fn check_shapes(run: &Run, work: &[&Work]) -> Result<(), CompressError> {
    for work in work {
        if let Work::Distill(student) = work {
            shape(run, student)?;
        }
    }
    Ok(())
}

/// Has a recipe train a student in the place of its model.
fn put(
    recipe: &mut Recipe<TrainRecipe>,
    student: &Student,
    run: &Run,
) -> Result<(), CompressError> {
    let mut section = student.model.clone();
    let longest = i64::try_from(run.config.model.backbone.max_seq).unwrap_or(i64::MAX);
    section
        .backbone
        .entry(MAX_SEQ)
        .or_insert(toml::Value::Integer(longest));
    let table = toml::Table::try_from(&section).map_err(RecipeError::NotToml)?;
    // What is stated and what was read of it have to agree.
    recipe
        .table
        .insert("model".into(), toml::Value::Table(table));
    recipe.value.model = section;
    Ok(())
}

/// What became of every layer that a student does not have as it was.
pub(super) fn figures_of(
    before: &StoredModel,
    after: &Shaped,
    student: &Student,
) -> Vec<LayerFigures> {
    match &student.layers {
        Some(kept) => figures(before, after, Part::Layers, kept),
        None => figures(before, after, Part::Mlp, &[]),
    }
}

impl Pipeline<'_> {
    /// Trains a student; none if that was interrupted.
    pub(super) fn taught(
        &mut self,
        number: usize,
        before: &Run,
        stored: &StoredModel,
        work: &Student,
    ) -> Result<Option<Made>, CompressError> {
        check_replaceable(number, stored)?;
        let shape = shape(self.run, work)?;
        check_layers(work, &shape, &before.config.model)?;
        let mut recipe = self.training(number, before, &work.training)?;
        put(&mut recipe, work, self.run)?;
        recipe.value.description = format!("stage {number}: {work}");
        recipe.value.init = Some(InitConfig {
            from: full(before.path())?,
            layers: work.layers.clone(),
            fresh: work.fresh.clone(),
            as_stored: false,
            weights: Some(before.config.weights.clone()),
        });
        let Some(after) = self.trained(number, before, recipe)? else {
            return Ok(None);
        };
        let layers = figures_of(stored, &after, work);
        Ok(Some(Made::of(after, layers)))
    }
}
