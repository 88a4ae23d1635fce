//! From what heads read to what a projection takes: a position's own value added, a norm of every head, a gate.
//!
//! ```text
//! y = read + D own          r = 1 / sqrt(mean_head y^2 + epsilon)          out = silu(gate) gamma r y
//! ```
//! The output of Mamba-2 (D, arXiv 2405.21060) and of gated linear attention (norm and gate, arXiv 2312.06635), as one pass on CubeCL backends.

use burn::{
    backend::{
        Autodiff, Backend, Dispatch,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::{Tensor, assert_shape},
};

use crate::{autodiff::register, device::add_weighted, ops};

/// A backend with a kernel for it.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait ReadoutBackend: Backend {
    /// See [`gated_readout`]; read, own and gate `[rows, heads * width]`.
    fn fused_gated_readout(
        read: FloatTensor<Self>,
        own: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

/// The vector-Jacobian product behind [`ReadoutBackend`].
pub trait ReadoutAdjoint: Backend {
    /// Gradients of read, own, skip, gamma and gate; `rows` are read, own and gate.
    fn gated_readout_adjoint(
        rows: [FloatTensor<Self>; 3],
        skip: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 5];
}

/// What every head read, and its own value times a weight a channel, divided by the root mean square of the head, times a gain, gated by
/// `silu(gate)`.
///
/// # Shapes
/// - read and own `[batch, seq, heads, width]`, skip `[heads * width]`, gamma `[width]`, gate `[batch, seq, heads * width]`
/// - output `[batch, seq, heads * width]`, of the gate's type
///
/// # Cost
/// About 35 operations an element forward, 60 backward; on CubeCL backends four and seven tensors of memory traffic.
///
/// # Panics
/// If the shapes do not fit.
pub fn gated_readout(
    read: Tensor<4>,
    own: Tensor<4>,
    skip: Tensor<1>,
    gamma: Tensor<1>,
    gate: Tensor<3>,
    epsilon: f64,
) -> Tensor<3> {
    let [batch, seq, heads, width] = read.dims();
    assert_eq!(
        read.dims(),
        own.dims(),
        "gated_readout: what is read and own values must be alike"
    );
    assert_shape!(skip, [heads * width]);
    assert_shape!(gamma, [width]);
    assert_shape!(gate, [batch, seq, heads * width]);
    let (rows, channels) = (batch * seq, heads * width);
    let [read, own] = [read, own].map(|x| x.reshape([rows, channels]).cast(gate.dtype()));
    if !takes_gated_readout(&read, width) {
        let sum = add_weighted(read, own, skip);
        let sum = sum.reshape([batch, seq, heads, width]);
        let y = ops::rms_norm(sum, gamma, epsilon);
        return ops::swiglu(gate, y.reshape([batch, seq, channels]));
    }
    let out = Tensor::<2>::from_dispatch(Dispatch::fused_gated_readout(
        read.into_dispatch(),
        own.into_dispatch(),
        skip.into_dispatch(),
        gamma.into_dispatch(),
        gate.reshape([rows, channels]).into_dispatch(),
        epsilon as f32,
    ));
    out.reshape([batch, seq, channels])
}

/// Whether [`gated_readout`] is one pass for heads of this width on the device of x; else it is the operations that it stands for.
pub fn takes_gated_readout<const D: usize>(x: &Tensor<D>, width: usize) -> bool {
    #[cfg(feature = "_cube")]
    {
        ops::on_cube(x) && crate::cube::takes_readout(&x.device(), width)
    }
    #[cfg(not(feature = "_cube"))]
    {
        let _ = (x, width);
        false
    }
}

#[derive(Debug)]
struct GatedReadout;

impl<B: ReadoutAdjoint> Backward<B, 5> for GatedReadout {
    /// Read, own and gate; skip and gamma; epsilon.
    type State = ([NodeId; 3], [FloatTensor<B>; 2], f32);

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (rows, [skip, gamma], epsilon) = ops.state;
        let rows = rows.map(|x| checkpointer.retrieve_node_output::<FloatTensor<B>>(x));
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::gated_readout_adjoint(rows, skip, gamma, epsilon, grad);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 5>(parents, inputs, grads);
    }
}

impl<B: ReadoutBackend + ReadoutAdjoint, C: CheckpointStrategy> ReadoutBackend for Autodiff<B, C> {
    fn fused_gated_readout(
        read: FloatTensor<Self>,
        own: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let nodes = [
            read.node(),
            own.node(),
            skip.node(),
            gamma.node(),
            gate.node(),
        ];
        let [skip, gamma] = [skip, gamma].map(|x| x.into_primitive());
        match GatedReadout.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let rows = [&read, &own, &gate].map(|x| prep.checkpoint(x));
                let saved = (rows, [skip.clone(), gamma.clone()], epsilon);
                let [read, own, gate] = [read, own, gate].map(|x| x.into_primitive());
                let out = B::fused_gated_readout(read, own, skip, gamma, gate, epsilon);
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => {
                let [read, own, gate] = [read, own, gate].map(|x| x.into_primitive());
                prep.finish(B::fused_gated_readout(
                    read, own, skip, gamma, gate, epsilon,
                ))
            }
        }
    }
}
