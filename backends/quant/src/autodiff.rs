//! The autodiff rules: x takes a gradient, straight through its rounding to integers if there is one; packed weights take none.

use burn::backend::{
    Autodiff, AutodiffBackend, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::IntDType;

use crate::{activations::Activations, backend::QuantBackend, format::PackedFormat};

#[derive(Debug)]
struct PackedLinear;

impl<B: QuantBackend> Backward<B, 1> for PackedLinear {
    type State = (IntTensor<B>, PackedFormat);

    /// `d x = g w^T`, from the whole matrix: updates of what is around packed weights are rare, and their rows many.
    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (words, format) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            let outputs = 0..format.d_output as i64;
            let outputs = B::int_arange(outputs, &grad.device(), IntDType::I32);
            let transposed = B::packed_columns(words, outputs, format); // [d_output, d_input]
            grads.register::<B>(node.id, B::float_matmul(grad, transposed));
        }
    }
}

/// A product with packed weights, with the node for its gradient.
fn recorded<B: QuantBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    words: IntTensor<B>,
    format: PackedFormat,
    product: impl FnOnce(FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let node = x.node();
    let y = product(x.into_primitive());
    match PackedLinear.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((words, format), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

impl<B: QuantBackend, C: CheckpointStrategy> QuantBackend for Autodiff<B, C> {
    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self> {
        recorded::<B, C>(x, words.clone(), format, |x| {
            B::packed_linear(x, words, format)
        })
    }

    fn integer_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: PackedFormat,
        activations: Activations,
    ) -> FloatTensor<Self> {
        let product = |x| B::integer_linear(x, words.clone(), format, activations);
        recorded::<B, C>(x, words.clone(), format, product)
    }

    fn packed_columns(
        words: IntTensor<Self>,
        outputs: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::packed_columns(words, outputs, format))
    }
}
