//! Dropout whose mask follows from a seed on the device, so that none is kept for backward, and a recorded step draws another each time.
//!
//! ```text
//! y_e = x_e z_e / (1 - p)      z_e = [b_e >= 65,536 p]      b_e 16 bits of Philox 4x32-7 at counter (e / 8, 0, 0, 1), key seed
//! ```
//! The element e of a tensor in row-major order has the half `e mod 2` of the word `e / 2 mod 4`. The last part of the counter sets these draws
//! apart from those of attention weights (`kiln_attention`), which have 0 there.

use burn::{
    backend::{
        Autodiff, Backend, Dispatch,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Int, Tensor, TensorData},
};
use kiln_attention::{kept_factor, of_levels, philox};

use crate::{autodiff::register, ops::on_cube};

/// Elements that a draw of 128 bits decides.
pub(crate) const OF_DRAW: usize = 8;
/// What the last part of a counter is.
pub(crate) const PURPOSE: u32 = 1;

/// A backend with a kernel for it.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait DropoutBackend: Backend {
    /// See [`dropout`]; `dropped` of 65,536 elements are.
    fn fused_dropout(
        x: FloatTensor<Self>,
        seed: IntTensor<Self>,
        dropped: u16,
    ) -> FloatTensor<Self>;
}

/// x with elements left out, and the others divided by the probability of being kept (arXiv 1207.0580). The probability is rounded to a
/// multiple of 2^-16. The gradient is left out where x was.
///
/// # Shapes
/// - x: any; output as x
/// - seed `[2]` of `i32`, on the device of x: another for every mask
///
/// # Cost
/// About 8 operations an element; two tensors of memory traffic, forward and backward. On Flex the host computes the definition, and reads
/// the seed.
///
/// # Panics
/// If the probability is not in [0, 1), or the seed has another shape.
pub fn dropout<const D: usize>(x: Tensor<D>, probability: f64, seed: Tensor<1, Int>) -> Tensor<D> {
    assert_eq!(seed.dims(), [2], "dropout: a seed is two numbers");
    let dropped = of_levels(probability);
    if dropped == 0 {
        return x;
    }
    if on_cube(&x) {
        let (x, seed) = (x.into_dispatch(), seed.into_dispatch());
        return Tensor::from_dispatch(Dispatch::fused_dropout(x, seed, dropped));
    }
    let seed: Vec<i64> = seed.into_data().iter::<i64>().collect();
    let factors = factors(
        [seed[0] as u32, seed[1] as u32],
        dropped,
        x.shape().num_elements(),
    );
    let factors = Tensor::<D>::from_data(TensorData::new(factors, x.shape()), &x.device());
    let factors = factors.cast(x.dtype());
    x * factors
}

/// What each of so many elements is multiplied with.
fn factors(seed: [u32; 2], dropped: u16, elements: usize) -> Vec<f32> {
    let kept = kept_factor(dropped);
    let draw = |number: usize| philox([number as u32, 0, 0, PURPOSE], seed);
    let bits = |words: [u32; 4]| words.into_iter().flat_map(|word| [word, word >> 16]);
    (0..elements.div_ceil(OF_DRAW))
        .flat_map(|number| bits(draw(number)))
        .take(elements)
        .map(|bits| if (bits as u16) < dropped { 0.0 } else { kept })
        .collect()
}

#[derive(Debug)]
struct Dropped;

impl<B: DropoutBackend> Backward<B, 1> for Dropped {
    /// The seed, and how many are dropped.
    type State = (IntTensor<B>, u16);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (seed, dropped) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [B::fused_dropout(grad, seed, dropped)], grads);
    }
}

impl<B: DropoutBackend, C: CheckpointStrategy> DropoutBackend for Autodiff<B, C> {
    fn fused_dropout(
        x: FloatTensor<Self>,
        seed: IntTensor<Self>,
        dropped: u16,
    ) -> FloatTensor<Self> {
        let node = x.node();
        let value = |seed| B::fused_dropout(x.into_primitive(), seed, dropped);
        match Dropped.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((seed.clone(), dropped), value(seed)),
            OpsKind::UnTracked(prep) => prep.finish(value(seed)),
        }
    }
}
