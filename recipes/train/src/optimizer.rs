//! Optimizers with parameter groups, and clipping by the global norm.
//!
//! AdamW (arXiv 1711.05101) on everything, or Muon (Jordan et al. 2024, scaled as in arXiv 2502.16982) on the
//! matrices of the blocks with AdamW on the rest. Weights of rank 2 decay; norms, biases, energies and hopping do not.

mod portable;

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdjustLrFn, GradientsParams, ModuleOptimizer, MuonConfig};
use burn::store::RecordError;
use burn::tensor::{Bytes, Device, Tensor};
use kiln_fused::{AdamW, GradientScale, runs_behind, square_sums};
use serde::{Deserialize, Serialize};

use portable::Portable;

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
    pub fn init<M: Module>(&self, model: &M) -> TrainOptimizer {
        let mut groups = Groups::default();
        model.visit(&mut groups);
        let scale = GradientScale::default();
        let adamw = |weight_decay: f64| {
            let adamw = AdamW {
                betas: self.betas,
                epsilon: self.epsilon,
                weight_decay,
            };
            Portable(adamw.scaled(scale.clone()))
        };
        // The last matching group wins, so exceptions follow the rule.
        let optimizer = ModuleOptimizer::from(adamw(self.weight_decay)).with_group(
            ParamGroup::from_ids(groups.undecayed),
            adamw(0.0),
            None,
        );
        match self.kind {
            OptimizerKind::Adamw => TrainOptimizer {
                optimizer,
                scale: Some(scale),
                ahead: false,
            },
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
                TrainOptimizer {
                    optimizer: optimizer.with_group(matrices, Portable(muon.build()), None),
                    scale: None,
                    ahead: false,
                }
            }
        }
    }
}

/// The optimizers of a model's groups.
pub struct TrainOptimizer {
    optimizer: ModuleOptimizer,
    /// The factor that all of them multiply gradients by, if all of them do.
    scale: Option<GradientScale>,
    ahead: bool,
}

impl TrainOptimizer {
    /// The optimizer that keeps the factor of clipping to the device on every backend, if its kind can.
    pub fn ahead(self) -> Self {
        Self {
            ahead: true,
            ..self
        }
    }

    /// The model after a step.
    pub fn step<M: Module>(&mut self, rate: f64, model: M, grads: GradientsParams) -> M {
        if let Some(scale) = &self.scale {
            scale.begin();
        }
        let model = self.optimizer.step(rate, model, grads);
        if let Some(scale) = &self.scale {
            scale.finish();
        }
        model
    }

    /// Where the factor that clips a gradient goes if the device can keep it to itself: none where the host is not to be spared, or
    /// an optimizer does not ask for it.
    pub(crate) fn scale_on(&self, device: &Device) -> Option<GradientScale> {
        let ahead = self.ahead || runs_behind(device);
        self.scale.clone().filter(|_| ahead)
    }

    /// Whether the last step left everything as it was, which the device alone knew: the next one then has its number. A checkpoint
    /// has to say it, for the state counts the step until then.
    pub(crate) fn is_lost(&self) -> bool {
        self.scale.as_ref().is_some_and(GradientScale::is_lost)
    }

    /// Notes what [`is_lost`](Self::is_lost) said of the optimizer whose state was read.
    pub(crate) fn note_lost(&self, lost: bool) {
        if let Some(scale) = &self.scale {
            scale.note_lost(lost);
        }
    }

    /// The state as a file has it.
    ///
    /// # Errors
    /// Those of Burn's records.
    pub fn into_bytes(&self) -> Result<Bytes, RecordError> {
        self.optimizer.into_bytes()
    }

    /// This optimizer with the state of a file.
    ///
    /// # Errors
    /// Those of Burn's records.
    pub fn from_bytes(self, bytes: Bytes) -> Result<Self, RecordError> {
        let optimizer = self.optimizer.from_bytes(bytes)?;
        Ok(Self { optimizer, ..self })
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
    square_sum(model, grads).map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
}

/// Squares of all gradients added up, `[1]`; none without a gradient.
pub(crate) fn square_sum<M: Module>(model: &M, grads: &GradientsParams) -> Option<Tensor<1>> {
    let mut flat = Flat {
        grads,
        tensors: Vec::new(),
    };
    model.visit(&mut flat);
    (!flat.tensors.is_empty()).then(|| square_sums(flat.tensors))
}

struct Flat<'a> {
    grads: &'a GradientsParams,
    tensors: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let len = grad.shape().num_elements();
            self.tensors.push(grad.reshape([len]));
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
