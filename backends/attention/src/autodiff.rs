//! One node: it keeps the projections, the output, the logarithms of the sums and the seed of dropout.

use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};

use crate::backend::{FlashAdjoint, FlashBackend, Heads};

#[derive(Debug)]
struct Attention;

impl<B: FlashAdjoint> Backward<B, 1> for Attention {
    /// Projections, output and sums; the seed of dropout.
    type State = ([FloatTensor<B>; 3], Option<IntTensor<B>>, Heads);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let ([packed, output, sums], seed, heads) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let grad = B::flash_adjoint(packed, output, sums, seed, grad, heads);
            grads.register::<B>(parent.id, grad);
        }
    }
}

impl<B: FlashBackend + FlashAdjoint, C: CheckpointStrategy> FlashBackend for Autodiff<B, C> {
    fn flash_attention(packed: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self> {
        attention::<B, C>(packed, None, heads)
    }

    fn flash_attention_with_dropout(
        packed: FloatTensor<Self>,
        seed: IntTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        attention::<B, C>(packed, Some(seed), heads)
    }
}

fn attention<B: FlashAdjoint, C: CheckpointStrategy>(
    packed: FloatTensor<Autodiff<B, C>>,
    seed: Option<IntTensor<B>>,
    heads: Heads,
) -> FloatTensor<Autodiff<B, C>> {
    let node = packed.node();
    let packed = packed.into_primitive();
    match Attention.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (output, sums) = B::flash_forward(packed.clone(), seed.clone(), heads);
            prep.finish(([packed, output.clone(), sums], seed, heads), output)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::flash_forward(packed, seed, heads).0),
    }
}
