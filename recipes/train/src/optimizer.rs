//! Optimizers with parameter groups, and clipping by the global norm.
//!
//! AdamW (arXiv 1711.05101) on everything, or Muon (Jordan et al. 2024, scaled as in arXiv 2502.16982) on the
//! matrices of the blocks with AdamW on the rest. Weights of rank 2 decay; norms, biases, energies and hopping do not.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdjustLrFn, GradientsParams, ModuleOptimizer, MuonConfig};
use burn::tensor::Tensor;
use kiln_fused::{AdamW, square_sum};
use serde::{Deserialize, Serialize};

/// Settings of the optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Which optimizer the matrices of the blocks get.
    pub kind: OptimizerKind,
    /// Peak learning rate. Muon's updates are scaled to AdamW's size, so one rate serves both.
    pub learning_rate: f64,
    /// Decay rates of AdamW's moments.
    pub betas: [f64; 2],
    /// Added to AdamW's denominator.
    pub epsilon: f64,
    /// Decoupled weight decay on weights of rank 2.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; 0 does not clip.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-3,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}

/// Kinds of optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// AdamW on every parameter.
    Adamw,
    /// Muon on the matrices of the blocks, AdamW on the rest.
    Muon,
}

impl OptimizerConfig {
    /// The optimizer for a model, with its parameters dealt into groups.
    pub fn init<M: Module>(&self, model: &M) -> ModuleOptimizer {
        let mut groups = Groups::default();
        model.visit(&mut groups);
        let adamw = |weight_decay: f64| AdamW {
            betas: self.betas,
            epsilon: self.epsilon,
            weight_decay,
        };
        // The last matching group wins, so exceptions follow the rule.
        let optimizer = ModuleOptimizer::from(adamw(self.weight_decay)).with_group(
            ParamGroup::from_ids(groups.undecayed),
            adamw(0.0),
            None,
        );
        match self.kind {
            OptimizerKind::Adamw => optimizer,
            OptimizerKind::Muon => {
                let muon = MuonConfig::new()
                    .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
                    .with_momentum(MomentumConfig {
                        momentum: 0.95,
                        dampening: 0.0,
                        nesterov: true,
                    })
                    .with_weight_decay(Some(WeightDecayConfig::new(self.weight_decay as f32)));
                let matrices = ParamGroup::from_ids(groups.block_matrices);
                optimizer.with_group(matrices, muon.build(), None)
            }
        }
    }
}

#[derive(Default)]
struct Groups {
    path: Vec<String>,
    undecayed: Vec<ParamId>,
    block_matrices: Vec<ParamId>,
}

impl ModuleVisitor for Groups {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D < 2 {
            self.undecayed.push(param.id);
        } else if self.path.first().is_some_and(|name| name == "blocks") {
            self.block_matrices.push(param.id);
        }
    }
}

/// Euclidean norm of all gradients together. Reads one number back from the device.
pub fn global_norm<M: Module>(model: &M, grads: &GradientsParams) -> f64 {
    let mut squares = Squares {
        grads,
        sums: Vec::new(),
    };
    model.visit(&mut squares);
    if squares.sums.is_empty() {
        return 0.0;
    }
    let sum = Tensor::cat(squares.sums, 0).sum();
    f64::from(sum.into_scalar::<f32>()).sqrt()
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.sums.push(square_sum(grad));
        }
    }
}

/// Every gradient times `factor`.
pub fn scale<M: Module>(model: &M, grads: &mut GradientsParams, factor: f64) {
    model.visit(&mut Scale { grads, factor });
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad.mul_scalar(self.factor));
        }
    }
}
