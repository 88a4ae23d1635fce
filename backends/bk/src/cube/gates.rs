//! The gates of resolvent attention: one pass forward, one backward with sums for the parameters.

use burn::{
    backend::Cube,
    tensor::{DType, Tensor},
};

use super::{Primitive, launch, lift, lower};
use crate::gates::{GatesAdjoint, GatesBackend, LEAST_KEPT};

impl GatesBackend for Cube {
    fn bk_log_kept(
        features: Primitive,
        left: Primitive,
        hopping: Primitive,
        energy: Primitive,
    ) -> Primitive {
        launch::log_kept([features, left, hopping, energy])
    }
}

impl GatesAdjoint for Cube {
    fn bk_log_kept_adjoint(
        features: Primitive,
        left: Primitive,
        hopping: Primitive,
        energy: Primitive,
        grad: Primitive,
        left_asked: bool,
    ) -> [Option<Primitive>; 4] {
        let inputs = [&features, &left, &hopping, &energy, &grad].map(Clone::clone);
        let d_left = left_asked.then(|| {
            let hopping = lift::<1>(hopping).unsqueeze();
            lower(d_left(lift(left), hopping, lift(energy), lift(grad)))
        });
        let [d_features, d_hopping, d_energy] = launch::log_kept_adjoint(inputs).map(Some);
        [d_features, d_left, d_hopping, d_energy]
    }
}

/// The gradient of what entered, of which the first gate alone depends; hardly ever asked for, so in plain operations.
fn d_left(left: Tensor<2>, hopping: Tensor<2>, energy: Tensor<2>, grad: Tensor<3>) -> Tensor<2> {
    let [batch, width] = left.dims();
    let heads = width / 2;
    let ratio = hopping / energy.narrow(0, 1, 1);
    let x = left.clone().narrow(1, heads, heads) * ratio.clone() + LEAST_KEPT;
    let grad = grad.narrow(1, 0, 1).squeeze_dim::<2>(1);
    let im = grad / (x.clone() * (x + 1.0)) * ratio;
    Tensor::cat(
        vec![
            Tensor::zeros([batch, heads], (&left.device(), DType::F32)),
            im,
        ],
        1,
    )
}
