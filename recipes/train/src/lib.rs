//! Training, evaluation and generation.
//!
//! [`train`] turns a [`TrainRecipe`] into a run folder; [`Run`] opens a finished one to evaluate it or generate from it.
//! A run begins in `launch`, with what `setup` has for it. The loop is in `trainer`, one update in `learner` and, by several devices,
//! `replicas`, and everything a checkpoint holds in `state`.

mod adapters;
mod batch_loss;
mod constraint;
mod contexts;
mod data;
mod device;
mod error;
mod evaluate;
mod finish;
mod generate;
mod init;
mod launch;
mod learned;
mod learner;
mod log;
mod loss;
mod ngram;
mod objective;
mod optimizer;
mod outcome;
mod plan;
mod probe;
mod projection;
mod prune;
mod quantize;
mod recipe;
mod recompute;
mod recorded;
mod replicas;
mod report;
mod rewind;
mod run;
mod scale;
mod schedule;
mod score;
mod selection;
mod setup;
mod snip;
mod state;
mod storage;
mod sweep;
mod trainer;
mod tutor;
mod windows;

pub use adapters::AdaptersConfig;
pub use batch_loss::Loss;
pub use constraint::Constraint;
pub use contexts::{CONTEXT_KEY, ContextScore, Contexts};
pub use data::{Source, Text, known_vocab};
pub use device::{Backend, DeviceError, OpenDevice, check_precision, has_nccl};
pub use error::TrainError;
pub use evaluate::{Evaluator, Score, TeacherScore};
pub use generate::{SampleConfig, generate};
pub use init::InitConfig;
pub use kiln_distill::{DistillConfig, FeatureConfig, FeatureKind, ResponseLoss, WrittenConfig};
pub use kiln_fused::LossTerms;
pub use launch::{EnergyCounter, Request, train};
pub use learner::{Learner, Phase, Update};
pub use log::{has_diverged, show_preparation};
pub use loss::DeviceBatch;
pub use ngram::{NGRAM_VERSION, NgramRequest, NgramRun, count, read_ngram};
pub use optimizer::{OptimizerConfig, OptimizerKind, TrainOptimizer, global_norm};
pub use outcome::{HeldOut, Outcome, RunResult, Stop};
pub use plan::{Plan, written_tokens};
pub use probe::{Agreement, GradientProbe, probe};
pub use prune::{PruneBy, PruneConfig};
pub use quantize::QuantizeConfig;
pub use recipe::{
    MaskRatio, ModelSection, Objective, ObjectiveKind, Resolved, TrainConfig, TrainRecipe,
};
pub use recorded::RecordedPasses;
pub use replicas::check_shared;
pub use rewind::RewindConfig;
pub use run::{Run, read_config, read_resolved, recipe_difference};
pub use scale::LossScale;
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use score::{SCORED_VERSION, ScoreRequest, ScoredRun, read_scored, score};
pub use selection::{Selection, matches};
pub use state::{
    COMPLEX_CONFIG_VERSION, COMPRESSED_CONFIG_VERSION, EIGHT_BIT_CONFIG_VERSION, Position,
    RUN_CONFIG_VERSION, RunConfig, SIGNS_CONFIG_VERSION, hash_file, load_model, load_stored,
    save_model,
};
pub use storage::{InputSteps, Storage, StorageTable, Stored, StoredModel};
pub use tutor::{TeacherCost, Tutor};
pub use windows::{WINDOWS_VERSION, WindowColumns, WindowScores};
