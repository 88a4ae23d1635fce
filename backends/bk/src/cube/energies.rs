//! Energies and hoppings: a unit for each head, see [`crate::energies`](mod@crate::energies).

use burn::{backend::Cube, tensor::DType};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::{empty_device_contiguous_dtype, zeros_client},
    tensor::CubeTensor,
};
use kiln_native::{sigmoid, softplus};

use super::Primitive;
use crate::energies::{EnergiesAdjoint, EnergiesBackend};

/// Units of a cube: heads are few.
const CUBE_UNITS: u32 = 32;

/// A new row: asked for as rows, CUDA would pad them.
fn empty(like: &CubeTensor, len: usize) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, [len].into(), DType::F32)
}

impl EnergiesBackend for Cube {
    fn bk_energies(
        energy: Primitive,
        eta_raw: Primitive,
        hopping_raw: Primitive,
        eta_floor: f32,
    ) -> (Primitive, Primitive) {
        let [energy, eta_raw, hopping_raw] = [energy, eta_raw, hopping_raw].map(into_contiguous);
        let [heads] = energy.meta.shape().dims();
        let (z, beta) = (empty(&energy, 2 * heads), empty(&energy, heads));
        let dim = CubeDim::new_1d(CUBE_UNITS);
        // SAFETY: units stay below the number of heads, and surplus ones leave at once.
        unsafe {
            find_energies::launch_unchecked(
                &z.client,
                calculate_cube_count_elemwise(&z.client, heads, dim),
                dim,
                z.required_address_type(),
                energy.into_buffer_arg(),
                eta_raw.into_buffer_arg(),
                hopping_raw.into_buffer_arg(),
                z.clone().into_buffer_arg(),
                beta.clone().into_buffer_arg(),
                heads,
                eta_floor,
            );
        }
        (burn_cubecl::ops::reshape(z, [2, heads].into()), beta)
    }
}

impl EnergiesAdjoint for Cube {
    fn bk_energies_adjoint(
        eta_raw: Primitive,
        hopping_raw: Primitive,
        d_energies: Option<Primitive>,
        d_hopping: Option<Primitive>,
    ) -> [Primitive; 3] {
        let [eta_raw, hopping_raw] = [eta_raw, hopping_raw].map(into_contiguous);
        let [heads] = eta_raw.meta.shape().dims();
        let given = |grad: Option<CubeTensor>, len: usize| match grad {
            Some(grad) => into_contiguous(grad),
            None => {
                let (client, device) = (eta_raw.client.clone(), eta_raw.device.clone());
                zeros_client(client, device, [len].into(), DType::F32)
            }
        };
        let (d_energies, d_hopping) = (given(d_energies, 2 * heads), given(d_hopping, heads));
        let grads = [(); 3].map(|()| empty(&eta_raw, heads));
        let [d_energy, d_eta, d_raw] = grads.clone();
        let dim = CubeDim::new_1d(CUBE_UNITS);
        // SAFETY: as above.
        unsafe {
            energies_gradient::launch_unchecked(
                &eta_raw.client,
                calculate_cube_count_elemwise(&eta_raw.client, heads, dim),
                dim,
                eta_raw.required_address_type(),
                eta_raw.clone().into_buffer_arg(),
                hopping_raw.into_buffer_arg(),
                d_energies.into_buffer_arg(),
                d_hopping.into_buffer_arg(),
                d_energy.into_buffer_arg(),
                d_eta.into_buffer_arg(),
                d_raw.into_buffer_arg(),
                heads,
            );
        }
        grads
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn find_energies(
    energy: &[f32],
    eta_raw: &[f32],
    hopping_raw: &[f32],
    z: &mut [f32],
    beta: &mut [f32],
    heads: usize,
    eta_floor: f32,
) {
    if ABSOLUTE_POS >= heads {
        terminate!();
    }
    z[ABSOLUTE_POS] = energy[ABSOLUTE_POS];
    z[heads + ABSOLUTE_POS] = softplus(eta_raw[ABSOLUTE_POS]) + eta_floor;
    beta[ABSOLUTE_POS] = softplus(hopping_raw[ABSOLUTE_POS]);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn energies_gradient(
    eta_raw: &[f32],
    hopping_raw: &[f32],
    d_energies: &[f32],
    d_hopping: &[f32],
    d_energy: &mut [f32],
    d_eta: &mut [f32],
    d_raw: &mut [f32],
    heads: usize,
) {
    if ABSOLUTE_POS >= heads {
        terminate!();
    }
    d_energy[ABSOLUTE_POS] = d_energies[ABSOLUTE_POS];
    d_eta[ABSOLUTE_POS] = d_energies[heads + ABSOLUTE_POS] * sigmoid(eta_raw[ABSOLUTE_POS]);
    d_raw[ABSOLUTE_POS] = d_hopping[ABSOLUTE_POS] * sigmoid(hopping_raw[ABSOLUTE_POS]);
}
