//! Everything that can end a compression, with what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::MethodError;

/// A failure of a compression. The run it started from is never changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompressError {
    /// A method cannot be applied to a layer.
    #[error("stage {stage}, layer `{layer}`: {source}")]
    Method {
        /// Number of the stage, from 1 on.
        stage: usize,
        /// The layer.
        layer: String,
        /// Why.
        source: MethodError,
    },
    /// A layer's codes cannot be packed.
    #[error("stage {stage}, layer `{layer}`: {source}")]
    Pack {
        /// Number of the stage, from 1 on.
        stage: usize,
        /// The layer.
        layer: String,
        /// Why.
        source: kiln_quant::QuantError,
    },
    /// A stage that cannot work on what an earlier one left.
    #[error(
        "stage {stage}: `{layer}` is {found} already, and {work} it now would {why}; put this stage first, or leave the layer out with `except`"
    )]
    Order {
        /// Number of the stage, from 1 on.
        stage: usize,
        /// The layer.
        layer: String,
        /// What it is.
        found: &'static str,
        /// What was to be done, as a verb.
        work: &'static str,
        /// What would be lost.
        why: &'static str,
    },
    /// A stage that cannot take units out of the model.
    #[error("stage {stage}, part `{part}`: {why}")]
    Part {
        /// Number of the stage, from 1 on.
        stage: usize,
        /// The part, as recipes call it.
        part: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// Codes that a stage would have to train.
    #[error(
        "stage {stage}: `{layer}` is quantized already, and codes are not trained; put this stage before, or train the layer as it will \
         be packed, with `kind = \"qat\"`"
    )]
    Trained {
        /// Number of the stage, from 1 on.
        stage: usize,
        /// The layer.
        layer: String,
    },
    /// A stage that would do nothing.
    #[error("stage {stage}: no layer fits its `layers` and `except`; the layers are {known}")]
    NothingSelected {
        /// Number of the stage, from 1 on.
        stage: usize,
        /// Names that can be selected.
        known: String,
    },
    /// A key of the recipe that cannot be.
    #[error("recipe: `{key}` is {value}, but {why}")]
    Setting {
        /// Dotted key.
        key: &'static str,
        /// What was given.
        value: String,
        /// The bound it breaks and what to do.
        why: String,
    },
    /// The recipe changed between start and resume.
    #[error(
        "cannot resume: `{key}` differs from what this compression started with; resume with the same recipe, or start anew with another --out"
    )]
    RecipeChanged {
        /// What changed.
        key: String,
    },
    /// The run that is compressed changed between start and resume.
    #[error(
        "cannot resume: the weights of {path} are not those that this compression started from; start anew with another --out",
        path = path.display()
    )]
    SourceChanged {
        /// The run.
        path: PathBuf,
    },
    /// A file of a compression that holds something else.
    #[error("{path} is not usable: {why}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// Inputs of a layer that cannot be used.
    #[error("calibration, layer `{layer}`: {source}")]
    Calibration {
        /// The layer.
        layer: String,
        /// Why.
        source: MethodError,
    },
    /// Calibration of text without variety.
    #[error(
        "the calibration windows are all the same token ({token}); calibrate on text that the model was trained for"
    )]
    ConstantCalibration {
        /// The token.
        token: u32,
    },
    /// A weight of the original that is no finite number.
    #[error(
        "`{tensor}` of {run} holds {value} at place {place}: that run diverged or its file was changed; compress a run whose weights are \
         finite"
    )]
    WeightNotFinite {
        /// Folder of the run.
        run: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// Its index, counted row by row.
        place: usize,
    },
    /// Scores that are not numbers.
    #[error(
        "the loss after stage {stage} is not finite (stage 0 is the original, whose weights come from a diverged run then); \
         compress less, or leave layers out with `except`"
    )]
    NotFinite {
        /// Number of the stage; 0 is the original.
        stage: usize,
    },
    /// A run cannot be read, scored or written.
    #[error(transparent)]
    Train(#[from] kiln_train::TrainError),
    /// Decoding cannot be measured.
    #[error(transparent)]
    Cost(#[from] kiln_cost::CostError),
    /// The recipe cannot be read or is wrong.
    #[error(transparent)]
    Recipe(#[from] kiln_run::RecipeError),
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] kiln_run::FolderError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] kiln_run::FileError),
}
