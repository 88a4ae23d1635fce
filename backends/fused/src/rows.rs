//! Rows of a table by number: the embedding, and the rows of a batch that meet the head.
//!
//! Burn's own gradient on CubeCL walks the rows one after the other, one unit for each column: with 65,536 rows and 128
//! columns, 40 ms of a step on an H100. Where the device adds to memory atomically, this one adds all of them at once, in
//! single precision and in no fixed order, so that the last bits differ from run to run.

use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Int, Shape, Tensor},
};

/// A backend on which [`select_rows`] has a gradient of its own.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait RowsBackend: Backend {
    /// See [`select_rows`].
    fn fused_select_rows(table: FloatTensor<Self>, numbers: IntTensor<Self>) -> FloatTensor<Self>;
}

/// The vector-Jacobian product behind [`RowsBackend`].
pub trait RowsAdjoint: Backend {
    /// The gradient of a table of `shape`, from the numbers and the gradient of the rows.
    fn select_rows_adjoint(
        shape: Shape,
        numbers: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Row `numbers_i` of a table for every i. The order in which the gradient adds rows up that are asked for more than once is
/// not fixed on CubeCL backends.
///
/// # Shapes
/// - table `[rows, width]`, numbers `[count]`; output `[count, width]`
pub fn select_rows(table: Tensor<2>, numbers: Tensor<1, Int>) -> Tensor<2> {
    #[cfg(feature = "_cube")]
    if matches!(
        table.device().inner().as_dispatch(),
        burn::backend::DispatchDevice::Cube(_)
    ) {
        return Tensor::from_dispatch(burn::backend::Dispatch::fused_select_rows(
            table.into_dispatch(),
            numbers.into_dispatch(),
        ));
    }
    table.select(0, numbers)
}

/// The vectors of tokens: [`select_rows`] for a batch of sequences.
///
/// # Shapes
/// - table `[vocab, width]`, tokens `[batch, seq]`; output `[batch, seq, width]`
pub fn embedding(table: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    let ([batch, seq], [_, width]) = (tokens.dims(), table.dims());
    select_rows(table, tokens.reshape([batch * seq])).reshape([batch, seq, width])
}

#[derive(Debug)]
struct SelectRows;

impl<B: RowsAdjoint> Backward<B, 1> for SelectRows {
    /// Shape of the table, and the numbers.
    type State = (Shape, IntTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (shape, numbers) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let parent: NodeId = parent.id;
            grads.register::<B>(parent, B::select_rows_adjoint(shape, numbers, grad));
        }
    }
}

impl<B: RowsBackend + RowsAdjoint, C: CheckpointStrategy> RowsBackend for Autodiff<B, C> {
    fn fused_select_rows(table: FloatTensor<Self>, numbers: IntTensor<Self>) -> FloatTensor<Self> {
        let node = table.node();
        match SelectRows.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (table.shape(), numbers.clone());
                prep.finish(saved, B::fused_select_rows(table.into_primitive(), numbers))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_select_rows(table.into_primitive(), numbers))
            }
        }
    }
}
