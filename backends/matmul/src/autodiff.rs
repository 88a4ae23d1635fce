//! One node a linear layer: it keeps the rows and the weights as they were multiplied.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};
use burn::tensor::DType;

use crate::{
    backend::{ProductAdjoint, ProductBackend, Sides, of_rows, rounded, rows},
    sums::{gradient_so_far, note_gradient},
};

#[derive(Debug)]
struct Linear;

impl<B: ProductAdjoint> Backward<B, 2> for Linear {
    /// Rows and weights of one element type, each if the other's gradient is asked for, and the type of the weight's gradient.
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>, DType);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (x, weight, dtype) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let shape = grad.shape();
        let grad = rows::<B>(grad);
        let [on_x, on_weight] = ops.parents;
        if let (Some(node), Some(weight)) = (on_x, weight) {
            // What other readers of x have given it is where the product starts, which adds it up without a pass of its own.
            let leaf = node.parents.is_empty();
            let so_far = gradient_so_far(node.id, leaf, || grads.consume::<B>(&node));
            let sides = Sides::RightTransposed;
            let d_x = match so_far {
                Some(sum) => B::add_product(rows::<B>(sum), grad.clone(), weight, sides),
                None => {
                    let like = grad.dtype();
                    B::product(grad.clone(), weight, sides, like)
                }
            };
            grads.register::<B>(node.id, of_rows::<B>(d_x, shape));
            note_gradient(node.id);
        }
        if let (Some(node), Some(x)) = (on_weight, x) {
            let d_weight = B::product(x, grad, Sides::LeftTransposed, dtype);
            grads.register::<B>(node.id, d_weight);
        }
    }
}

impl<B: ProductBackend + ProductAdjoint, C: CheckpointStrategy> ProductBackend for Autodiff<B, C> {
    fn linear_product(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: DType,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x_asked, weight_asked) = (x.is_tracked(), weight.is_tracked());
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let dtype = x.dtype();
        let weight = rounded::<B>(weight, dtype);
        let shape = x.shape();
        let x = rows::<B>(x);
        let multiply = |x, weight| of_rows::<B>(B::product(x, weight, Sides::Plain, dtype), shape);
        match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = multiply(x.clone(), weight.clone());
                let saved = (weight_asked.then_some(x), x_asked.then_some(weight));
                prep.finish((saved.0, saved.1, gradient), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(multiply(x, weight)),
        }
    }
}
