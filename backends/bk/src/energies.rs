//! Energies and hoppings of heads from the numbers that are trained: `Im z = floor + softplus(eta_raw)`, `beta = softplus(hopping_raw)`.
//!
//! A handful of numbers, but on a device every operation on them is a launch: these are one forward and one backward.

use burn::{
    backend::{
        Autodiff, Backend,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::{Tensor, assert_shape},
};
use kiln_fused::{Aside, softplus};

/// A backend with kernels for them.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait EnergiesBackend: Backend {
    /// See [`energies`].
    fn bk_energies(
        energy: FloatTensor<Self>,
        eta_raw: FloatTensor<Self>,
        hopping_raw: FloatTensor<Self>,
        eta_floor: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// The vector-Jacobian product behind [`EnergiesBackend`].
pub trait EnergiesAdjoint: Backend {
    /// Gradients of energy, eta_raw and hopping_raw, from those of z and beta; absent ones are zero.
    fn bk_energies_adjoint(
        eta_raw: FloatTensor<Self>,
        hopping_raw: FloatTensor<Self>,
        d_energies: Option<FloatTensor<Self>>,
        d_hopping: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 3];
}

/// z, `Re z` above `Im z = eta_floor + softplus(eta_raw)`, and `beta = softplus(hopping_raw)`, as [`resolvent_attention`] and [`bk_left`] take
/// them.
///
/// # Shapes
/// - energy, eta_raw and hopping_raw `[heads]`
/// - returns z `[2, heads]` and beta `[heads]`
///
/// # Panics
/// If the shapes differ.
///
/// [`resolvent_attention`]: crate::resolvent_attention
/// [`bk_left`]: crate::bk_left
pub fn energies(
    energy: Tensor<1>,
    eta_raw: Tensor<1>,
    hopping_raw: Tensor<1>,
    eta_floor: f64,
) -> (Tensor<2>, Tensor<1>) {
    let [heads] = energy.dims();
    assert_shape!(eta_raw, [heads]);
    assert_shape!(hopping_raw, [heads]);
    #[cfg(feature = "_cube")]
    if matches!(
        energy.device().inner().as_dispatch(),
        burn::backend::DispatchDevice::Cube(_)
    ) {
        let (z, beta) = burn::backend::Dispatch::bk_energies(
            energy.into_dispatch(),
            eta_raw.into_dispatch(),
            hopping_raw.into_dispatch(),
            eta_floor as f32,
        );
        return (Tensor::from_dispatch(z), Tensor::from_dispatch(beta));
    }
    let eta = softplus(eta_raw, eta_floor);
    let z = Tensor::cat(vec![energy, eta], 0).reshape([2, heads]);
    (z, softplus(hopping_raw, 0.0))
}

#[derive(Debug)]
struct Source;

impl<B: EnergiesAdjoint> Backward<B, 3> for Source {
    /// eta_raw and hopping_raw, and where gradients wait.
    type State = ([FloatTensor<B>; 2], Aside<B, 2>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let ([eta_raw, hopping_raw], aside) = ops.state;
        let [d_energies, d_hopping] = aside.take();
        let inputs = B::bk_energies_adjoint(eta_raw, hopping_raw, d_energies, d_hopping);
        for (parent, grad) in ops.parents.into_iter().zip(inputs) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: EnergiesBackend + EnergiesAdjoint, C: CheckpointStrategy> EnergiesBackend
    for Autodiff<B, C>
{
    fn bk_energies(
        energy: FloatTensor<Self>,
        eta_raw: FloatTensor<Self>,
        hopping_raw: FloatTensor<Self>,
        eta_floor: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [energy.node(), eta_raw.node(), hopping_raw.node()];
        let inputs = [energy, eta_raw, hopping_raw].map(|x| x.into_primitive());
        let [energy, eta_raw, hopping_raw] = inputs;
        let kept = [eta_raw.clone(), hopping_raw.clone()];
        let (z, beta) = B::bk_energies(energy, eta_raw, hopping_raw, eta_floor);
        let aside = Aside::<B, 2>::default();
        // The parent's own output is one of the parts: nobody sees it.
        let source = match Source.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((kept, aside.clone()), beta.clone()),
            OpsKind::UnTracked(prep) => prep.finish(beta.clone()),
        };
        (
            aside.part::<C>(&source, 0, z),
            aside.part::<C>(&source, 1, beta),
        )
    }
}
