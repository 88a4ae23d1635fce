//! Operations of several outputs whose gradients are made together.
//!
//! Autodiff has nodes of one output. So each output is a node that puts the gradient it is given aside, and their common parent, whose turn
//! comes after all of them, makes the gradients of what the operation was given in one pass.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

/// Gradients of `N` outputs, as far as they have come.
pub struct Aside<B: Backend, const N: usize>(Arc<Mutex<[Option<FloatTensor<B>>; N]>>);

impl<B: Backend, const N: usize> Clone for Aside<B, N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend, const N: usize> Default for Aside<B, N> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new([const { None }; N])))
    }
}

impl<B: Backend, const N: usize> fmt::Debug for Aside<B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aside")
    }
}

impl<B: Backend, const N: usize> Aside<B, N> {
    /// What has been put aside, for the parent's step; outputs that nobody read have none.
    pub fn take(&self) -> [Option<FloatTensor<B>>; N] {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, [const { None }; N])
    }

    /// Output `number`, of the node that all of them come from.
    pub fn part<C: CheckpointStrategy>(
        &self,
        source: &FloatTensor<Autodiff<B, C>>,
        number: usize,
        value: FloatTensor<B>,
    ) -> FloatTensor<Autodiff<B, C>> {
        let part = Part.prepare::<C>([source.node()]).compute_bound();
        match part.stateful() {
            OpsKind::Tracked(prep) => prep.finish((number, self.clone()), value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }
}

/// One of the outputs.
#[derive(Debug)]
struct Part<const N: usize>;

impl<B: Backend, const N: usize> Backward<B, 1> for Part<N> {
    /// Which one, and where its gradient waits.
    type State = (usize, Aside<B, N>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (number, Aside(held)) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        held.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(grad);
    }
}
