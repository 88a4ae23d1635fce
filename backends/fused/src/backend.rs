//! The operations at the level of backend primitives. Shapes are checked before they get here.
//!
//! Linear layers, attention and rows of a table, for which backends differ, have traits of their own in their modules.

use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};

/// A backend with fused implementations. `Dispatch` implements it by asking the backend of the tensors it is given, and
/// `Autodiff` by recording one node an operation; other backends never get here (the public functions see to it).
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "_cube"), Autodiff)]
pub trait FusedBackend: Backend {
    /// See [`gelu`](crate::gelu).
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`swiglu`](crate::swiglu).
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`soft_bound`](crate::soft_bound).
    fn fused_soft_bound(x: FloatTensor<Self>, bound: f32) -> FloatTensor<Self>;

    /// See [`cayley`](crate::cayley).
    fn fused_cayley(z: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`layer_norm`](crate::layer_norm) (centred) and [`rms_norm`](crate::rms_norm) (not).
    fn fused_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
        centred: bool,
    ) -> FloatTensor<Self>;

    /// See [`rotate`](crate::rotate).
    fn fused_rotate(
        packed: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;

    /// See [`causal_conv`](crate::causal_conv); the first `past` rows of each lane of x are history.
    fn fused_causal_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        past: usize,
        silu: bool,
    ) -> FloatTensor<Self>;

    /// See [`cross_entropy`](crate::cross_entropy); in `f32` where the logits are narrower.
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The vector-Jacobian products behind [`FusedBackend`], from the inputs and the output's gradient.
///
/// A trait of its own, implemented by the plain backends only: gradients are first order.
pub trait FusedAdjoint: Backend {
    /// Gradient of x.
    fn gelu_adjoint(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of gate and up.
    fn swiglu_adjoint(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// Gradient of x.
    fn soft_bound_adjoint(
        x: FloatTensor<Self>,
        bound: f32,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Gradient of z.
    fn cayley_adjoint(z: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of x, added to what it has so far, and, if it is asked for, gamma.
    fn norm_adjoint(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
        centred: bool,
        grad: FloatTensor<Self>,
        so_far: Option<FloatTensor<Self>>,
        gamma_asked: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);

    /// Gradient of the packed projections: the turn undone.
    fn rotate_adjoint(
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Gradients of x and the weight.
    fn causal_conv_adjoint(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        past: usize,
        silu: bool,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// Gradient of the logits; `nats` is what [`FusedBackend::fused_cross_entropy`] gave.
    fn cross_entropy_adjoint(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        nats: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}
