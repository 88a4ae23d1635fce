//! Everything that can end a comparison, with what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::study::Difference;

/// A comparison that cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompareError {
    /// No study of this name.
    #[error("no study `{name}` in {folder}; the studies there are: {known}", folder = folder.display())]
    UnknownStudy {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
        /// All names there are.
        known: String,
    },
    /// The study file cannot be read or states what a study does not have.
    #[error("study: {0}")]
    Study(#[source] kiln_run::RecipeError),
    /// A study that parses, but asks for something that cannot be.
    #[error("study: `{key}` is {value}, but {why}")]
    Setting {
        /// Key of the study.
        key: String,
        /// What was given.
        value: String,
        /// The bound it breaks.
        why: String,
    },
    /// The recipe of an arm cannot be used.
    #[error("arm `{arm}`, {point}: {source}")]
    Arm {
        /// The arm.
        arm: String,
        /// The point of its grid.
        point: String,
        /// What is wrong.
        source: Box<kiln_train::TrainError>,
    },
    /// Two arms that would not be compared fairly.
    #[error(
        "arms `{}` and `{}` differ in {what}: {} against {}; make them equal, or write allow = [\"{what}\"] into the study",
        arms[0], arms[1], values[0], values[1]
    )]
    Unequal {
        /// What differs.
        what: Difference,
        /// The first arm and the other one, each with its point where the arm has several.
        arms: [String; 2],
        /// Their values.
        values: [String; 2],
    },
    /// A student beside which nothing shows what its teacher gives.
    #[error(
        "arm `{arm}` learns from a teacher, and no arm trains its model without one: add that control (the same recipe without [distill], as much to spend; one with `time_of` for equal time), or write allow = [\"control\"] into the study where it asks something else"
    )]
    NoControl {
        /// The arm, with its point where it has several.
        arm: String,
    },
    /// A model that is not of the study's size.
    #[error(
        "arm `{arm}` has {value} trainable parameters, and the budget is {budget} ({share:.2} % apart, {bound} % are allowed); make it as large, or write allow = [\"parameters\"] into the study"
    )]
    OverBudget {
        /// The arm, with its point where it has several.
        arm: String,
        /// Its parameters.
        value: usize,
        /// The study's.
        budget: u64,
        /// Their difference in percent of the budget.
        share: f64,
        /// The largest that is allowed, in percent.
        bound: f64,
    },
    /// A budget that does not pay for one step.
    #[error(
        "arm `{arm}`: one step takes {flops:.3e} operations, more than the budget of {budget:e}; raise it, or make the batch smaller"
    )]
    OneStep {
        /// The arm.
        arm: String,
        /// Operations of its step.
        flops: f64,
        /// The study's budget.
        budget: f64,
    },
    /// A run whose length the recipe does not determine.
    #[error(
        "arm `{arm}`: `{key}` is {value}, which ends runs before their last step, so that arms would see unequal numbers of tokens; set it to 0, or write allow = [\"tokens\"] into the study"
    )]
    OpenEnded {
        /// The arm.
        arm: String,
        /// The recipe's key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A run folder that holds another run than the study's.
    #[error(
        "{path} was made with `{key}` = {found}, but the study says {wanted}; choose another --out, or remove that folder",
        path = path.display()
    )]
    AnotherRun {
        /// The run folder.
        path: PathBuf,
        /// Key of the recipe.
        key: String,
        /// What the folder's recipe says.
        found: String,
        /// What the study asks for.
        wanted: String,
    },
    /// A run that an arm loads is not there.
    #[error(
        "arm `{arm}` is the finished run {path}, and there is none: make it first, or leave the arm out",
        path = path.display()
    )]
    NoRun {
        /// The arm.
        arm: String,
        /// Folder of the run.
        path: PathBuf,
    },
    /// Two runs saw different text or tokens.
    #[error(
        "{first} and {second} were trained on different {what} ({values}); run both against the same data, or write allow = [\"data\"] into the study",
        first = folders[0].display(), second = folders[1].display(), values = values.join(" against ")
    )]
    AnotherText {
        /// "text" or "tokenizers".
        what: &'static str,
        /// The run folders.
        folders: [PathBuf; 2],
        /// SHA-256 of each.
        values: [String; 2],
    },
    /// A file of a run that is not what it should be.
    #[error("{path} is not usable: {why}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A `results.json` of another layout.
    #[error(
        "{path} has layout version {found}, and this Kiln reads {}; write it anew from its run folders with --report-only",
        crate::results::RESULTS_VERSION, path = path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Pages that are not what the committed results say.
    #[error(
        "{} not what the committed results say; write them anew with `cargo xtask docs`",
        list(pages)
    )]
    StalePages {
        /// The pages.
        pages: Vec<PathBuf>,
    },
    /// No run is finished, so that there is nothing to report.
    #[error("{path} has no finished run of this study; run it without --report-only", path = path.display())]
    NothingToReport {
        /// The output folder.
        path: PathBuf,
    },
    /// A run folder or recipe cannot be read.
    #[error(transparent)]
    Train(#[from] kiln_train::TrainError),
    /// The cost that was measured of a run cannot be read.
    #[error(transparent)]
    Cost(#[from] kiln_cost::CostError),
    /// A metrics file is damaged.
    #[error(transparent)]
    Metrics(#[from] kiln_run::MetricsError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] kiln_run::FileError),
}

/// `a.md is`, `a.md, b.md are`.
fn list(pages: &[PathBuf]) -> String {
    let names: Vec<_> = pages
        .iter()
        .map(|page| page.display().to_string())
        .collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

impl CompareError {
    pub(crate) fn setting(
        key: impl Into<String>,
        value: impl ToString,
        why: impl Into<String>,
    ) -> Self {
        Self::Setting {
            key: key.into(),
            value: value.to_string(),
            why: why.into(),
        }
    }
}
