//! A corner to train in: a folder with a text, its own data cache, and runs beside it.

#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kiln_run::recipe::Recipe;
use kiln_run::{Interrupt, Kind, Mode, Record};
use kiln_text::DataEnv;
use kiln_train::{HeldOut, OpenDevice, Outcome, Request, RunResult, TrainError, TrainRecipe};
use kiln_zoo::LanguageModel;

/// The smallest run that has everything: evaluations, checkpoints, a sweep and a sample.
pub const TINY: [&str; 19] = [
    "seed=7",
    "data.tokenizer=chars",
    "model.preset=transformer-tiny",
    "model.backbone.d_model=32",
    "model.backbone.d_hidden=64",
    "train.steps=24",
    "train.batch=4",
    "train.seq=16",
    "train.eval_every=6",
    "train.eval_batches=2",
    "train.checkpoint_every=6",
    "train.log_every=1",
    "optimizer.learning_rate=3e-3",
    "optimizer.weight_decay=0.01",
    "schedule.kind=constant",
    "schedule.warmup_steps=4",
    "sample.prompt=a",
    "sample.tokens=8",
    "sample.temperature=0",
];

/// What differs for a ResNet-BK of about the same size.
pub const BK: [&str; 2] = ["model.preset=resnet-bk-tiny", "model.bk.heads=24"];

/// A student smaller than the teacher, which learns from its answers alone.
pub const STUDENT: [&str; 5] = [
    "seed=8",
    "model.backbone.n_layers=1",
    "distill.weight=1.0",
    "distill.temperature=1.5",
    "train.order=fixed",
];

/// Answers of the teacher are kept.
pub const KEPT: [&str; 2] = ["distill.cache=true", "distill.top_k=4"];

/// The deterministic stream: every character says which one follows.
pub const CYCLE: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// Share of targets where student and teacher score the same token highest.
pub fn agreement(held_out: &HeldOut) -> f64 {
    held_out.teacher.unwrap().agreement()
}

fn flex() -> OpenDevice {
    OpenDevice {
        device: Device::flex(),
        name: "flex".into(),
    }
}

/// A folder that is gone with the value, and where its runs compute.
pub struct Corner {
    folder: tempfile::TempDir,
    device: Option<Device>,
}

impl Corner {
    pub fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("text.txt"), text).unwrap();
        fs::write(folder.path().join("recipe.toml"), "").unwrap();
        Self {
            folder,
            device: None,
        }
    }

    /// With a device for its runs that is not the processor.
    pub fn on(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// A corner with the cyclic stream.
    pub fn cyclic() -> Self {
        Self::new(&CYCLE.repeat(120))
    }

    /// One with a finished run in `teacher`, and the setting that names it.
    pub fn taught() -> (Self, String) {
        Self::cyclic().with_teacher()
    }

    /// The corner with a finished run in `teacher`, and the setting that names it.
    pub fn with_teacher(self) -> (Self, String) {
        let corner = self;
        corner.start("teacher", &["train.steps=60"]).unwrap();
        let teacher = format!("distill.teacher={}", corner.path("teacher").display());
        (corner, teacher)
    }

    /// What a run from its start to its end found.
    pub fn finish(&self, run: &str, changes: &[&str]) -> RunResult {
        self.start(run, changes).unwrap().result.unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// [`TINY`] with changes; on the task that they name, if they do.
    pub fn recipe(&self, changes: &[&str]) -> Recipe<TrainRecipe> {
        let text = format!("data.name=text:{}", self.path("text.txt").display());
        let is_task = changes.iter().any(|change| change.starts_with("task."));
        let of_text = |set: &str| set.starts_with("data.") || set.starts_with("train.seq=");
        let sets: Vec<String> = TINY
            .iter()
            .chain([&text.as_str()])
            .filter(|set| !is_task || !of_text(set))
            .chain(changes)
            .map(ToString::to_string)
            .collect();
        let file = self.path("recipe.toml");
        kiln_run::recipe::load(self.folder.path(), &file.to_string_lossy(), &sets).unwrap()
    }

    pub fn start(&self, out: &str, changes: &[&str]) -> Result<Outcome, TrainError> {
        self.train(out, false, changes, Interrupt::none())
    }

    pub fn resume(&self, out: &str, changes: &[&str]) -> Result<Outcome, TrainError> {
        self.train(out, true, changes, Interrupt::none())
    }

    pub fn train(
        &self,
        out: &str,
        resume: bool,
        changes: &[&str],
        interrupt: Interrupt,
    ) -> Result<Outcome, TrainError> {
        self.train_on(1, out, resume, changes, interrupt)
    }

    /// With a device for the teacher, which is the same processor: its answers are copied nevertheless.
    pub fn start_apart(&self, out: &str, changes: &[&str]) -> Result<Outcome, TrainError> {
        let interrupt = Interrupt::none();
        self.train_beside(1, Some(flex()), out, false, changes, interrupt)
    }

    /// On so many replicas.
    pub fn train_on(
        &self,
        replicas: usize,
        out: &str,
        resume: bool,
        changes: &[&str],
        interrupt: Interrupt,
    ) -> Result<Outcome, TrainError> {
        self.train_beside(replicas, None, out, resume, changes, interrupt)
    }

    fn train_beside(
        &self,
        replicas: usize,
        teacher: Option<OpenDevice>,
        out: &str,
        resume: bool,
        changes: &[&str],
        interrupt: Interrupt,
    ) -> Result<Outcome, TrainError> {
        kiln_train::train(Request {
            recipe: self.recipe(changes),
            out: self.path(out),
            resume,
            device: match &self.device {
                Some(device) => OpenDevice {
                    name: format!("{device:?}"),
                    device: device.clone(),
                },
                None => flex(),
            },
            beside: (1..replicas).map(|_| flex()).collect(),
            teacher,
            data: &self.data(),
            source: self.folder.path(),
            versions: Default::default(),
            view: Mode::Plain,
            interrupt,
            energy: None,
        })
    }

    /// Files of answers that are kept.
    pub fn shards(&self) -> Vec<PathBuf> {
        let caches = fs::read_dir(self.path("cache/teachers"));
        let files = caches
            .into_iter()
            .flatten()
            .flat_map(|cache| fs::read_dir(cache.unwrap().path()).unwrap());
        let mut shards: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        shards.retain(|path| path.extension().is_some_and(|ext| ext == "bin"));
        shards
    }

    pub fn data(&self) -> DataEnv {
        DataEnv {
            cache_dir: self.path("cache"),
            data_dir: None,
            workspace_manifest: self.path("Cargo.toml"),
        }
    }

    pub fn records(&self, out: &str, kind: Kind) -> Vec<Record> {
        let mut records = records(&self.path(out));
        records.retain(|record| record.kind == kind);
        records
    }

    /// One value of all records of a kind, with their steps.
    pub fn series(&self, out: &str, kind: Kind, name: &str) -> Vec<(u64, f64)> {
        let records = self.records(out, kind);
        let value = |record: &Record| (record.step, record.values[name]);
        records.iter().map(value).collect()
    }

    pub fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("model.safetensors")).unwrap()
    }
}

pub fn records(run: &Path) -> Vec<Record> {
    kiln_run::metrics::read(&run.join("metrics.jsonl")).unwrap()
}

/// The records so far of a run that may not have begun.
pub fn try_records(run: &Path) -> Option<Vec<Record>> {
    kiln_run::metrics::read(&run.join("metrics.jsonl")).ok()
}

/// Changes laid over others, later ones winning.
pub fn with<'a>(changes: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    changes.iter().chain(more).copied().collect()
}

/// Values of every parameter, in the order of the module tree.
pub fn values(model: &LanguageModel) -> Vec<Vec<f32>> {
    let mut visitor = Values(Vec::new());
    model.visit(&mut visitor);
    visitor.0
}

struct Values(Vec<Vec<f32>>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().into_data().iter::<f32>().collect());
    }
}

/// Euclidean norm of the difference of two sets of parameters, in f64.
pub fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2))
        .sum::<f64>()
        .sqrt()
}
