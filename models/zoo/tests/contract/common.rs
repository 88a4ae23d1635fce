//! Reduced presets, devices, tokens and comparisons.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use kiln_resolvent::Boundary;
use kiln_zoo::{LanguageModel, ModelConfig, presets};

/// Tokens of the reduced models; odd, so that no row of scores is a whole number of vector registers.
pub const VOCAB: usize = 23;
/// Positions of the reduced models.
pub const SEQ: usize = 24;

/// Scores here are of order one (see [`reduce`]). f32 sums of at most 64 products of that order, in another order, differ
/// by about 1e-6; a token, position or state in the wrong place changes scores by more than 1e-2.
pub const TOLERANCE: f32 = 1e-4;

/// A preset at a size that a test can afford.
pub struct Case {
    pub name: &'static str,
    pub config: ModelConfig,
}

impl Case {
    pub fn model(&self, seed: u64, device: &Device) -> LanguageModel {
        self.config
            .init(seed, device)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Every preset, reduced, the mixers with heads after they lost one, and both forms of a chain without a beginning.
pub fn cases() -> Vec<Case> {
    let whole = presets().into_iter().map(|info| Case {
        name: info.name,
        config: reduce(ModelConfig::preset(info.name).unwrap()),
    });
    let pruned = [
        ("transformer-tiny", "transformer with three heads of four"),
        ("resolvent-tiny", "resolvent with three heads of four"),
        ("gla-tiny", "gla with three heads of four"),
    ];
    let pruned = pruned.into_iter().map(|(preset, name)| {
        let mut config = reduce(ModelConfig::preset(preset).unwrap());
        (config.attention.heads, config.attention.d_head) = (3, 8);
        (config.resolvent.heads, config.resolvent.d_value) = (3, 8);
        (config.gla.heads, config.gla.d_value) = (3, 8);
        Case { name, config }
    });
    let open = [
        ("resolvent-tiny", "resolvent, open"),
        ("resolvent-complex-char-cpu", "complex resolvent, open"),
    ];
    let open = open.into_iter().map(|(preset, name)| {
        let mut config = reduce(ModelConfig::preset(preset).unwrap());
        config.resolvent.boundary = Boundary::Open;
        Case { name, config }
    });
    whole.chain(pruned).chain(open).collect()
}

/// The reduced presets of which `is_causal()` says so.
pub fn causal_cases() -> Vec<Case> {
    let mut cases = cases();
    cases.retain(|case| case.config.is_causal());
    cases
}

/// Fewer, narrower layers with the preset's kinds of norm, MLP, position and mixer. Initial weights are fifteen times a
/// preset's, so that scores are of order one and every layer has a say in them: at the usual 0.02 a test of differences
/// would hardly see what mixers do.
fn reduce(mut config: ModelConfig) -> ModelConfig {
    let backbone = &mut config.backbone;
    backbone.vocab_size = VOCAB;
    backbone.d_model = 32;
    backbone.n_layers = backbone.n_layers.min(2).max(config.pattern.len());
    backbone.max_seq = SEQ;
    backbone.d_hidden = if backbone.d_hidden == 0 { 0 } else { 48 };
    backbone.init_std = 0.3;
    if config.attention.heads > 1 {
        config.attention.heads = 4;
    }
    if config.attention.window > 0 {
        config.attention.window = 5;
        config.attention.sinks = 2;
    }
    config.bk.heads = config.bk.heads.min(10);
    config.resolvent.heads = 4;
    config.resolvent.d_key = 6;
    config.gla.heads = 4;
    config.gla.d_key = 6;
    config.min_gru.channels = 24;
    config
}

pub fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        Err(_) => Device::flex(),
        Ok("flex") => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        Ok(other) => panic!("KILN_TEST_BACKEND={other} was not compiled in"),
    }
}

/// Whether equal inputs give equal bits wherever they stand in a batch. Kernels of a GPU are chosen by shape.
pub fn on_flex() -> bool {
    std::env::var("KILN_TEST_BACKEND").map_or(true, |name| name == "flex")
}

/// Tokens without a pattern: a linear congruential generator's high bits.
pub fn tokens(batch: usize, seq: usize) -> Vec<i32> {
    let mut state = 12_345_u64;
    (0..batch * seq)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) % VOCAB as u64) as i32
        })
        .collect()
}

pub fn ids(values: &[i32], batch: usize, device: &Device) -> Tensor<2, Int> {
    let shape = [batch, values.len() / batch];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

pub fn vector<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!(
            (x - y).abs() <= TOLERANCE,
            "{what}: value {i} is {x}, expected {y}"
        );
    }
}

/// A parameter as the module tree names it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedParam {
    pub path: String,
    pub id: ParamId,
    pub rank: usize,
    pub trained: bool,
    pub values: Vec<u32>,
}

/// All float parameters, in the order of the module tree.
pub fn params(model: &LanguageModel) -> Vec<NamedParam> {
    let mut visitor = Params::default();
    model.visit(&mut visitor);
    visitor.found
}

#[derive(Default)]
struct Params {
    path: Vec<String>,
    found: Vec<NamedParam>,
}

impl ModuleVisitor for Params {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(NamedParam {
            path: self.path.join("."),
            id: param.id,
            rank: D,
            trained: param.val().is_require_grad(),
            values: bits(&vector(param.val())),
        });
    }

    fn visit_int<const D: usize>(&mut self, _: &Param<Tensor<D, Int>>) {
        panic!(
            "{}: no model of the zoo has integer parameters",
            self.path.join(".")
        );
    }

    fn visit_bool<const D: usize>(&mut self, _: &Param<Tensor<D, Bool>>) {
        panic!(
            "{}: no model of the zoo has boolean parameters",
            self.path.join(".")
        );
    }
}
