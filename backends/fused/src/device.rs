//! Operations that have kernels on CubeCL devices alone: on Flex their plain form costs as much, and keeps its bits.

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

use kiln_matmul::note_gradient;

use crate::{
    autodiff::{register, unary},
    ops::on_cube,
    reference,
};

/// A backend with kernels for them.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait DeviceBackend: Backend {
    /// See [`softplus`].
    fn fused_softplus(x: FloatTensor<Self>, floor: f32) -> FloatTensor<Self>;

    /// See [`add_residual`].
    fn fused_add_residual(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`add_weighted`]; all three packed as matrices.
    fn fused_add_weighted(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// See [`scale_written`]; x `[rows, width]`, log_kept `[rows]`.
    fn fused_scale_written(x: FloatTensor<Self>, log_kept: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The vector-Jacobian products behind [`DeviceBackend`].
pub trait DeviceAdjoint: Backend {
    /// Gradient of x.
    fn softplus_adjoint(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of y and weight; that of x is the output's.
    fn add_weighted_adjoint(
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// Gradients of x and log_kept.
    fn scale_written_adjoint(
        x: FloatTensor<Self>,
        log_kept: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];
}

/// A positive number from any, `ln(1 + e^x) + floor`.
///
/// # Shapes
/// - any; output as x
///
/// # Cost
/// About 30 operations an element forward, 15 backward; two and three tensors of memory traffic.
pub fn softplus<const D: usize>(x: Tensor<D>, floor: f64) -> Tensor<D> {
    if !on_cube(&x) {
        return reference::softplus(x, floor);
    }
    Tensor::from_dispatch(Dispatch::fused_softplus(x.into_dispatch(), floor as f32))
}

/// `x + y`, where x is a residual stream that a norm reads as well: on CubeCL backends the gradient of that norm is added to this one's in
/// the norm's own pass.
///
/// # Shapes
/// - x and y alike; output as they are
///
/// # Cost
/// 1 operation an element; three tensors of memory traffic forward, none backward.
///
/// # Panics
/// If the shapes differ.
pub fn add_residual<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    assert_eq!(x.dims(), y.dims(), "add_residual: x and y must be alike");
    if !on_cube(&x) {
        return x + y;
    }
    Tensor::from_dispatch(Dispatch::fused_add_residual(
        x.into_dispatch(),
        y.into_dispatch(),
    ))
}

/// `x + weight y`, a weight for each column.
///
/// # Shapes
/// - x and y `[.., width]`, weight `[width]`; output as x
///
/// # Cost
/// 2 operations an element forward, 3 backward; three tensors of memory traffic each.
///
/// # Panics
/// If the shapes do not fit.
pub fn add_weighted<const D: usize>(x: Tensor<D>, y: Tensor<D>, weight: Tensor<1>) -> Tensor<D> {
    let [width] = weight.dims();
    assert_shape!(x, [.., width]);
    assert_eq!(x.dims(), y.dims(), "add_weighted: x and y must be alike");
    if !on_cube(&x) {
        return reference::add_weighted(x, y, weight);
    }
    let shape = x.dims();
    let rows = x.shape().num_elements() / width.max(1);
    let [x, y] = [x, y].map(|x| x.reshape([rows, width]));
    let sum = Tensor::<2>::from_dispatch(Dispatch::fused_add_weighted(
        x.into_dispatch(),
        y.into_dispatch(),
        weight.into_dispatch(),
    ));
    sum.reshape(shape)
}

/// What a memory that keeps `e^log_kept` of itself writes of x, `(1 - e^log_kept) x`, without loss of digits where little is
/// written.
///
/// # Shapes
/// - x `[batch, seq, heads, width]`, log_kept `[batch, seq, heads]` in `f32`, not positive; output as x
///
/// # Cost
/// 1 operation an element forward, 3 backward; two and three tensors of memory traffic.
///
/// # Panics
/// If the shapes do not fit.
pub fn scale_written(x: Tensor<4>, log_kept: Tensor<3>) -> Tensor<4> {
    let shape = x.dims();
    let [batch, seq, heads, width] = shape;
    assert_shape!(log_kept, [batch, seq, heads]);
    if !on_cube(&x) {
        return reference::scale_written(x, log_kept);
    }
    let rows = batch * seq * heads;
    let scaled = Tensor::<2>::from_dispatch(Dispatch::fused_scale_written(
        x.reshape([rows, width]).into_dispatch(),
        log_kept.reshape([rows]).into_dispatch(),
    ));
    scaled.reshape(shape)
}

#[derive(Debug)]
struct AddResidual;

impl<B: Backend> Backward<B, 2> for AddResidual {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 2>(parents, [grad.clone(), grad], grads);
        if let Some(x) = parents[0] {
            note_gradient(x);
        }
    }
}

#[derive(Debug)]
struct AddWeighted;

impl<B: DeviceAdjoint> Backward<B, 3> for AddWeighted {
    /// y and weight.
    type State = (NodeId, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (y, weight) = ops.state;
        let y = checkpointer.retrieve_node_output::<FloatTensor<B>>(y);
        let grad = grads.consume::<B>(&ops.node);
        let [on_x, on_y, on_weight] = ops.parents.map(|parent| parent.map(|node| node.id));
        if on_y.is_some() || on_weight.is_some() {
            let inputs = B::add_weighted_adjoint(y, weight, grad.clone());
            register::<B, 2>([on_y, on_weight], inputs, grads);
        }
        register::<B, 1>([on_x], [grad], grads);
    }
}

#[derive(Debug)]
struct ScaleWritten;

impl<B: DeviceAdjoint> Backward<B, 2> for ScaleWritten {
    /// x and log_kept.
    type State = (NodeId, NodeId);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state.0);
        let log_kept = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state.1);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 2>(parents, B::scale_written_adjoint(x, log_kept, grad), grads);
    }
}

impl<B: DeviceBackend + DeviceAdjoint, C: CheckpointStrategy> DeviceBackend for Autodiff<B, C> {
    fn fused_softplus(x: FloatTensor<Self>, floor: f32) -> FloatTensor<Self> {
        unary::<B, C, _>(x, floor, B::fused_softplus, |x, _, grad| {
            B::softplus_adjoint(x, grad)
        })
    }

    fn fused_add_residual(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), y.node()];
        let sum = B::fused_add_residual(x.into_primitive(), y.into_primitive());
        match AddResidual.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), sum),
            OpsKind::UnTracked(prep) => prep.finish(sum),
        }
    }

    fn fused_add_weighted(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), y.node(), weight.node()];
        let weight = weight.into_primitive();
        match AddWeighted.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&y), weight.clone());
                let [x, y] = [x, y].map(|x| x.into_primitive());
                prep.finish(saved, B::fused_add_weighted(x, y, weight))
            }
            OpsKind::UnTracked(prep) => {
                let [x, y] = [x, y].map(|x| x.into_primitive());
                prep.finish(B::fused_add_weighted(x, y, weight))
            }
        }
    }

    fn fused_scale_written(x: FloatTensor<Self>, log_kept: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), log_kept.node()];
        match ScaleWritten.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), prep.checkpoint(&log_kept));
                let [x, log_kept] = [x, log_kept].map(|x| x.into_primitive());
                prep.finish(saved, B::fused_scale_written(x, log_kept))
            }
            OpsKind::UnTracked(prep) => {
                let [x, log_kept] = [x, log_kept].map(|x| x.into_primitive());
                prep.finish(B::fused_scale_written(x, log_kept))
            }
        }
    }
}
