//! One node: it keeps the projections, the output and the logarithms of the sums.

use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use crate::backend::{FlashAdjoint, FlashBackend, Heads};

#[derive(Debug)]
struct Attention;

impl<B: FlashAdjoint> Backward<B, 1> for Attention {
    type State = ([FloatTensor<B>; 3], Heads);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let ([packed, output, sums], heads) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let grad = B::flash_adjoint(packed, output, sums, grad, heads);
            grads.register::<B>(parent.id, grad);
        }
    }
}

impl<B: FlashBackend + FlashAdjoint, C: CheckpointStrategy> FlashBackend for Autodiff<B, C> {
    fn flash_attention(packed: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self> {
        let node = packed.node();
        let packed = packed.into_primitive();
        match Attention.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (output, sums) = B::flash_forward(packed.clone(), heads);
                prep.finish(([packed, output.clone(), sums], heads), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::flash_attention(packed, heads)),
        }
    }
}
