//! Training in bf16 and f16: it learns what f32 learns, resumes to the bit, and the run says what it computes in.
//!
//! One test at a time: dropout draws from the CPU backend's generator, which is one for the process.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor};
use common::{BK, Corner, records, values, with};
use kiln_loader::TokenBatch;
use kiln_run::Kind;
use kiln_train::{Learner, Loss, LossScale, OptimizerConfig, Run, TrainError, Update};
use kiln_zoo::{ModelConfig, Precision};

const RESOLVENT: [&str; 1] = ["model.preset=resolvent-tiny"];
const BF16: &str = "precision=bf16";
const F16: &str = "precision=f16";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Losses in bf16 and f16 are those of f32: to a percent in the first steps in bf16, before rounding has grown to another path
/// through the same valley, and on the mean over all of them apart by no more than seeds are from each other. (In f16 steps are
/// left out until the scale is right.)
#[test]
fn losses_are_near_those_of_f32() {
    let _alone = alone();
    for (what, model) in [
        ("transformer", &[][..]),
        ("bk", &BK[..]),
        ("resolvent", &RESOLVENT[..]),
    ] {
        let corner = Corner::cyclic();
        let short = with(model, &["train.steps=48", "train.final_sweep=false"]);
        let losses = |name: &str, set: &str| {
            corner.start(name, &with(&short, &[set])).unwrap();
            let series = corner.series(name, Kind::Train, "loss").into_iter();
            series.map(|(_, loss)| loss).collect::<Vec<f64>>()
        };
        let seeds = ["seed=7", "seed=8", "seed=9"].map(|seed| losses(seed, seed));
        let exact = &seeds[0];
        assert!(exact[47] < 0.9 * exact[0], "{what} learns nothing");
        let noise = [(0, 1), (0, 2), (1, 2)].map(|(a, b)| apart(&seeds[a], &seeds[b]));
        let noise = noise.into_iter().fold(0.0, f64::max);
        for (name, set) in [("bf16", BF16), ("f16", F16)] {
            let found = losses(name, set);
            let apart = apart(&found, exact);
            assert!(
                0.0 < apart && apart < noise,
                "{what} in {name}: {apart} and {noise}"
            );
            for step in (0..6).filter(|_| name == "bf16") {
                let (found, exact) = (found[step], exact[step]);
                let off = (found / exact - 1.0).abs();
                assert!(off < 0.01, "{what}, step {step}: {found}, not {exact}");
            }
        }
    }
}

/// Mean difference of two series of losses, without the steps that one of them left out.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!((a.len(), b.len()), (48, 48));
    let both = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    let both: Vec<f64> = both.filter(|apart| !apart.is_nan()).collect();
    assert!(both.len() > 40, "{} steps", both.len());
    both.iter().sum::<f64>() / both.len() as f64
}

/// A run that was stopped and resumed is the run that was not.
#[test]
fn resumed_runs_are_the_same_to_the_bit() {
    let _alone = alone();
    let dropout = ["model.backbone.dropout=0.2"];
    for (what, changes) in [
        ("bf16", with(&dropout, &[BF16])),
        ("bf16 bk", with(&BK, &[BF16])),
        ("bf16 resolvent", with(&RESOLVENT, &[BF16])),
        ("f16", with(&dropout, &[F16])),
        ("f16 resolvent", with(&RESOLVENT, &[F16])),
    ] {
        let corner = Corner::cyclic();
        corner.start("straight", &changes).unwrap();
        corner
            .start("resumed", &with(&changes, &["train.steps=12"]))
            .unwrap();
        corner.resume("resumed", &changes).unwrap();
        let log = |run: &str| -> Vec<(u64, Vec<u64>)> {
            let names = ["loss", "grad_norm", "loss_scale", "validation_loss"];
            let decides = |kind| matches!(kind, Kind::Train | Kind::Eval);
            let all = records(&corner.path(run)).into_iter();
            let all = all.filter(|record| decides(record.kind));
            all.map(|record| {
                let value = |name: &&str| Some(record.values.get(*name)?.to_bits());
                (record.step, names.iter().filter_map(value).collect())
            })
            .collect()
        };
        assert_eq!(log("resumed"), log("straight"), "{what}");
        assert!(corner.weights("resumed") == corner.weights("straight"));
        let error = corner.resume("resumed", &with(&changes, &["precision=f32"]));
        let error = error.map(|_| ()).unwrap_err();
        assert!(matches!(error, TrainError::RecipeChanged { .. }), "{error}");
    }
}

#[test]
fn a_run_says_what_it_computes_in() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start("run", &["train.steps=6", BF16]).unwrap();
    let (device, path) = (Device::flex(), corner.path("run"));
    let run = Run::open(&path, &device).unwrap();
    assert_eq!(run.config.precision, Precision::Bf16);
    assert_eq!(run.model.precision(), Precision::Bf16);
    assert_eq!(run.recipe().unwrap().precision, Precision::Bf16);
    let exact = Run::open_in(&path, &device, Some(Precision::F32)).unwrap();
    assert_eq!(exact.model.precision(), Precision::F32);
    assert_eq!(values(&exact.model), values(&run.model));
    // A run of f32 does not mention it, as those before there was a choice.
    corner.start("plain", &["train.steps=6"]).unwrap();
    let config = std::fs::read_to_string(corner.path("plain").join("config.json")).unwrap();
    assert!(!config.contains("precision"), "{config}");
}

#[test]
fn the_probe_is_refused_in_f16() {
    let changes = with(&BK, &[F16, "train.gradient_probe_every=2"]);
    let error = Corner::cyclic().start("run", &changes).map(|_| ());
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("recipe: `train.gradient_probe_every` is 2, but the probe takes gradients of a loss that is not scaled"),
        "{error}"
    );
}

fn learner(precision: Precision, scale: Option<LossScale>) -> Learner {
    let mut config = ModelConfig::preset("transformer-tiny").unwrap();
    config.backbone.vocab_size = 32;
    let model = config.init(5, &Device::flex().autodiff()).unwrap();
    let model = model.with_precision(precision);
    let optimizer = OptimizerConfig::default().init(&model);
    Learner {
        scale,
        ..Learner::new(model, optimizer)
    }
}

fn update(learner: Learner) -> (Learner, Update) {
    let tokens: Vec<u32> = (0..64).map(|i| i * i * 7 % 31).collect();
    let batch = TokenBatch {
        batch: 2,
        seq: 32,
        inputs: tokens.clone(),
        targets: tokens.iter().map(|token| (token + 3) % 32).collect(),
        mask: vec![true; 64],
    };
    let device = Device::flex().autodiff();
    let batches = [batch];
    learner
        .update(&batches, &mut Loss::CrossEntropy, 1e-3, 1.0, &device)
        .unwrap()
}

/// The scale does not show in what an update says, and parameters stay f32.
#[test]
fn the_scale_is_taken_out_again() {
    let _alone = alone();
    let (_, exact) = update(learner(Precision::F32, None));
    let scale = LossScale::of(Precision::F16);
    let (after, scaled) = update(learner(Precision::F16, scale));
    assert_eq!(scaled.skipped, None);
    let relative = |a: f64, b: f64| (a / b - 1.0).abs();
    assert!(relative(scaled.loss, exact.loss) < 1e-3);
    assert!(
        relative(scaled.grad_norm, exact.grad_norm) < 1e-2,
        "{} {}",
        scaled.grad_norm,
        exact.grad_norm
    );
    let mut types = Types(Vec::new());
    after.model.visit(&mut types);
    assert!(types.0.iter().all(|dtype| *dtype == DType::F32));
    assert!(!types.0.is_empty());
}

/// Element types of all parameters.
struct Types(Vec<DType>);

impl ModuleVisitor for Types {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().dtype());
    }
}

/// At a scale that f16 cannot hold, updates are left out and change nothing, until it is low enough.
#[test]
fn a_scale_that_is_too_large_gives_way() {
    let _alone = alone();
    let scale: LossScale =
        serde_json::from_str(r#"{ "factor": 1073741824.0, "good": 5 }"#).unwrap();
    let mut learner = learner(Precision::F16, Some(scale));
    let before = values(&learner.model);
    let mut left_out = 0;
    loop {
        let update;
        let factor = learner.scale.unwrap().factor();
        (learner, update) = self::update(learner);
        if update.skipped.is_none() {
            break;
        }
        left_out += 1;
        assert_eq!(update.skipped, Some("the gradient norm"));
        assert_eq!(update.overflowed_at, Some(factor));
        assert_eq!(learner.scale.unwrap().factor(), factor / 2.0);
        assert_eq!(values(&learner.model), before);
    }
    assert!((4..20).contains(&left_out), "{left_out}");
    assert_ne!(values(&learner.model), before);
}
