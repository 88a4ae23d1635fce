//! What the Born form of resolvent attention takes from potentials: the left resolvent, and how much of the memory each position keeps.
//!
//! ```text
//! a = bound tanh(v / bound),   L_i = 1 / (a_i - z - beta L_{i-1}),   ln(1 - p_i) = -ln(1 + 1 / x_i),   x_i = beta Im L_{i-1} / eta
//! ```
//! As operations of their own these are five launches forward and ten backward, on one number a head; here, on devices where a cube sees
//! what others have written, one each, with what `left` reads and writes anyway and the gates beside it.

use burn::{
    backend::{
        Autodiff, Backend,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::Tensor,
};
use kiln_fused::{Aside, soft_bound};

use crate::{
    error::BkError,
    gates::Resolvent,
    ops::{check_left, left_features, nothing_before},
    rule::GradRule,
};

/// What [`BornBackend`] needs to know besides its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BornSettings {
    /// Where potentials are kept within, or 0.
    pub bound: f32,
    /// Whether nothing enters: the state is then another tensor that stands for it, and is not read.
    pub fresh: bool,
}

/// A backend with kernels for the gates.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait BornBackend: Backend {
    /// `ln(1 - p_i)`, `[batch, seq, heads]`, and features `L_i`, `[batch, seq, 2 * heads]`, of potentials `[batch, seq, heads]` before
    /// their bound, hopping `[heads]`, energy `[2, heads]` and the left resolvent before them `[batch, 2 * heads]`.
    fn bk_born_gates(
        potential: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        state: FloatTensor<Self>,
        settings: BornSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// What [`BornBackend`] was given, and its features.
#[derive(Clone, Debug)]
pub struct BornSaved<B: Backend> {
    /// Potentials before their bound.
    pub potential: FloatTensor<B>,
    /// `beta`
    pub hopping: FloatTensor<B>,
    /// `z`
    pub energy: FloatTensor<B>,
    /// What entered.
    pub state: FloatTensor<B>,
    /// `L`
    pub features: FloatTensor<B>,
    /// The settings.
    pub settings: BornSettings,
}

/// The vector-Jacobian product behind [`BornBackend`].
pub trait BornAdjoint: Backend {
    /// Gradients of potential, hopping, energy and state, from those of the gates and the features; absent ones are zero.
    fn bk_born_gates_adjoint(
        saved: BornSaved<Self>,
        d_kept: Option<FloatTensor<Self>>,
        d_features: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 4]
    where
        Self: Sized;
}

/// The gates of a sequence, and what they come from.
#[derive(Clone, Debug)]
pub(crate) struct BornGates {
    /// `ln(1 - p_i)`, `[batch, seq, heads]`.
    pub log_kept: Tensor<3>,
    /// `p_i`, `[batch, seq, heads]`, where it was made beside them.
    pub written: Option<Tensor<3>>,
    /// `L_i`, `[batch, seq, 2 * heads]`.
    pub features: Tensor<3>,
}

impl BornGates {
    /// Potentials `[batch, seq, heads]` before their bound; without a state nothing enters.
    pub fn new(
        potential: Tensor<3>,
        bound: Option<f64>,
        hopping: Tensor<1>,
        energy: Tensor<2>,
        state: Option<Tensor<2>>,
    ) -> Result<Self, BkError> {
        if !has_kernels(&potential) {
            return Self::plain(bounded(potential, bound), hopping, energy, state);
        }
        check_left(&potential, &hopping, &energy, state.as_ref())?;
        let settings = BornSettings {
            bound: bound.unwrap_or(0.0) as f32,
            fresh: state.is_none(),
        };
        let hopping = hopping.into_dispatch();
        let state = state.map_or_else(|| hopping.clone(), Tensor::into_dispatch);
        let (log_kept, features) = burn::backend::Dispatch::bk_born_gates(
            potential.into_dispatch(),
            hopping,
            energy.into_dispatch(),
            state,
            settings,
        );
        Ok(Self {
            log_kept: Tensor::from_dispatch(log_kept),
            written: None,
            features: Tensor::from_dispatch(features),
        })
    }

    /// The same in operations of their own.
    fn plain(
        potential: Tensor<3>,
        hopping: Tensor<1>,
        energy: Tensor<2>,
        state: Option<Tensor<2>>,
    ) -> Result<Self, BkError> {
        let [batch, _, heads] = potential.dims();
        let left = state.unwrap_or_else(|| nothing_before(batch, heads, &potential.device()));
        let before = Some(left.clone());
        let features = left_features(
            potential,
            hopping.clone(),
            energy.clone(),
            before,
            GradRule::Exact,
        )?;
        let gates = Resolvent {
            features: features.clone(),
            left,
            hopping,
            energy,
        };
        let (log_kept, written) = gates.gates();
        Ok(Self {
            log_kept,
            written: Some(written),
            features,
        })
    }
}

/// Potentials within their bound.
pub(crate) fn bounded(potential: Tensor<3>, bound: Option<f64>) -> Tensor<3> {
    match bound {
        Some(bound) => soft_bound(potential, bound),
        None => potential,
    }
}

/// Whether the device has kernels for the gates.
fn has_kernels(x: &Tensor<3>) -> bool {
    #[cfg(feature = "_cube")]
    {
        matches!(
            x.device().inner().as_dispatch(),
            burn::backend::DispatchDevice::Cube(_)
        )
    }
    #[cfg(not(feature = "_cube"))]
    {
        let _ = x;
        false
    }
}

/// What both outputs come from.
#[derive(Debug)]
struct Source;

impl<B: BornAdjoint> Backward<B, 4> for Source {
    /// What is kept, and where gradients wait.
    type State = (BornSaved<B>, Aside<B, 2>);

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (saved, aside) = ops.state;
        let fresh = saved.settings.fresh;
        let [d_kept, d_features] = aside.take();
        let inputs = B::bk_born_gates_adjoint(saved, d_kept, d_features);
        // Of a fresh start the last parent only stands for the state.
        let asked = if fresh { 3 } else { 4 };
        for (parent, grad) in ops.parents.into_iter().zip(inputs).take(asked) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: BornBackend + BornAdjoint, C: CheckpointStrategy> BornBackend for Autodiff<B, C> {
    fn bk_born_gates(
        potential: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        state: FloatTensor<Self>,
        settings: BornSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [
            potential.node(),
            hopping.node(),
            energy.node(),
            state.node(),
        ];
        let inputs = [potential, hopping, energy, state].map(|x| x.into_primitive());
        let [potential, hopping, energy, state] = inputs.clone();
        let (log_kept, features) = B::bk_born_gates(potential, hopping, energy, state, settings);
        let [potential, hopping, energy, state] = inputs;
        let saved = BornSaved {
            potential,
            hopping,
            energy,
            state,
            features: features.clone(),
            settings,
        };
        let aside = Aside::<B, 2>::default();
        // The parent's own output is one of the parts: nobody sees it.
        let source = match Source.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((saved, aside.clone()), log_kept.clone()),
            OpsKind::UnTracked(prep) => prep.finish(log_kept.clone()),
        };
        (
            aside.part::<C>(&source, 0, log_kept),
            aside.part::<C>(&source, 1, features),
        )
    }
}
