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

use crate::{PackedGate, autodiff::register, device::add_weighted, ops};

/// The gate of [`gated_readout`].
#[derive(Clone, Debug)]
pub enum Gate {
    /// `[batch, seq, heads * width]`
    Rows(Tensor<3>),
    /// In rows with others.
    Packed(PackedGate),
}

impl Gate {
    /// `[rows, columns]`, and the first column of the gate.
    fn into_columns(self) -> (Tensor<2>, usize) {
        match self {
            Self::Rows(gate) => {
                let [batch, seq, channels] = gate.dims();
                (gate.reshape([batch * seq, channels]), 0)
            }
            Self::Packed(PackedGate { rows, first }) => (rows, first),
        }
    }
}

/// A backend with a kernel for it.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait ReadoutBackend: Backend {
    /// See [`gated_readout`]; read and own `[rows, heads * width]`, the gate as many columns from `first` on of `[rows, columns]`.
    fn fused_gated_readout(
        read: FloatTensor<Self>,
        own: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        first: usize,
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

/// The vector-Jacobian product behind [`ReadoutBackend`].
pub trait ReadoutAdjoint: Backend {
    /// Gradients of read, own, skip, gamma and the rows of the gate, of which the gate's columns alone are written; `rows` are read, own
    /// and those of the gate.
    fn gated_readout_adjoint(
        rows: [FloatTensor<Self>; 3],
        skip: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        first: usize,
        epsilon: f32,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 5];
}

/// What every head read, and its own value times a weight a channel, divided by the root mean square of the head, times a gain, gated by
/// `silu(gate)`.
///
/// # Shapes
/// - read and own `[batch, seq, heads, width]`, skip `[heads * width]`, gamma `[width]`, gate of `heads * width` channels
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
    gate: Gate,
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
    let (rows, channels) = (batch * seq, heads * width);
    let (gate, first) = gate.into_columns();
    let [gate_rows, columns] = gate.dims();
    assert!(
        gate_rows == rows && first + channels <= columns,
        "gated_readout: {channels} channels of {rows} rows are not in {gate_rows} x {columns} from column {first} on"
    );
    let [read, own] = [read, own].map(|x| x.reshape([rows, channels]).cast(gate.dtype()));
    if !takes_gated_readout(&read, width) {
        let sum = add_weighted(read, own, skip);
        let sum = sum.reshape([rows, heads, width]);
        let y = ops::rms_norm(sum, gamma, epsilon).reshape([rows, channels]);
        let gate = if channels < columns {
            gate.narrow(1, first, channels)
        } else {
            gate
        };
        return ops::swiglu(gate, y).reshape([batch, seq, channels]);
    }
    let out = Tensor::<2>::from_dispatch(Dispatch::fused_gated_readout(
        read.into_dispatch(),
        own.into_dispatch(),
        skip.into_dispatch(),
        gamma.into_dispatch(),
        gate.into_dispatch(),
        first,
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
    /// Read, own and gate; skip and gamma; the gate's first column; epsilon.
    type State = ([NodeId; 3], [FloatTensor<B>; 2], usize, f32);

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (rows, [skip, gamma], first, epsilon) = ops.state;
        let rows = rows.map(|x| checkpointer.retrieve_node_output::<FloatTensor<B>>(x));
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::gated_readout_adjoint(rows, skip, gamma, first, epsilon, grad);
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
        first: usize,
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
                let saved = (rows, [skip.clone(), gamma.clone()], first, epsilon);
                let [read, own, gate] = [read, own, gate].map(|x| x.into_primitive());
                let out = B::fused_gated_readout(read, own, skip, gamma, gate, first, epsilon);
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => {
                let [read, own, gate] = [read, own, gate].map(|x| x.into_primitive());
                prep.finish(B::fused_gated_readout(
                    read, own, skip, gamma, gate, first, epsilon,
                ))
            }
        }
    }
}
