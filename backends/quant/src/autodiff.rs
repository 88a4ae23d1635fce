//! The autodiff rules: x takes a gradient, straight through its rounding to integers or signs if there is one; packed weights take none.

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

use crate::{
    activations::Activations, backend::QuantBackend, format::PackedFormat, signs::gradient,
};

#[derive(Debug)]
struct PackedLinear;

impl<B: QuantBackend> Backward<B, 1> for PackedLinear {
    /// With x where it became signs.
    type State = (IntTensor<B>, PackedFormat, Option<FloatTensor<B>>);

    /// `d x = g w^T`, from the whole matrix: updates of what is around packed weights are rare, and their rows many.
    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (words, format, signs_of) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            let outputs = 0..format.d_output as i64;
            let outputs = B::int_arange(outputs, &grad.device(), IntDType::I32);
            let transposed = B::packed_columns(words, outputs, format); // [d_output, d_input]
            let grad = B::float_matmul(grad, transposed);
            let grad = match signs_of {
                Some(x) => gradient::<B>(x, grad),
                None => grad,
            };
            grads.register::<B>(node.id, grad);
        }
    }
}

/// A product with packed weights, with the node for its gradient.
fn recorded<B: QuantBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    words: IntTensor<B>,
    format: PackedFormat,
    activations: Option<Activations>,
) -> FloatTensor<Autodiff<B, C>> {
    let node = x.node();
    let x = x.into_primitive();
    let signs_of = (activations == Some(Activations::Signs)).then(|| x.clone());
    let y = match activations {
        Some(activations) => B::integer_linear(x, words.clone(), format, activations),
        None => B::packed_linear(x, words.clone(), format),
    };
    match PackedLinear.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((words, format, signs_of), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

impl<B: QuantBackend, C: CheckpointStrategy> QuantBackend for Autodiff<B, C> {
    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self> {
        recorded::<B, C>(x, words, format, None)
    }

    fn integer_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: PackedFormat,
        activations: Activations,
    ) -> FloatTensor<Self> {
        recorded::<B, C>(x, words, format, Some(activations))
    }

    fn packed_columns(
        words: IntTensor<Self>,
        outputs: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::packed_columns(words, outputs, format))
    }
}
