//! Energies and hoppings from the numbers that are trained, against their formulas in double precision.

use burn::tensor::{Tensor, TensorData};
use kiln_bk::energies;

use crate::common::device;

const FLOOR: f64 = 1e-4;
/// Exponentials of Vulkan are good to 3 + 2 x roundings.
const TOLERANCE: f64 = 3e-6;

#[track_caller]
fn assert_near(what: &str, found: Tensor<1>, expected: &[f64]) {
    let found: Vec<f32> = found.into_data().try_to_vec().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.into_iter().zip(expected) {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= TOLERANCE * expected.abs() + f64::from(f32::MIN_POSITIVE),
            "{what}: {found}, not {expected}"
        );
    }
}

/// Numbers from where softplus is nothing to where it is the identity; both outputs read, and each alone.
#[test]
fn are_their_formulas_with_all_gradients() {
    let device = device().autodiff();
    for heads in [1_usize, 12, 70] {
        let spread = |shift: f64| -> Vec<f64> {
            let number = |head: usize| (head as f64 * 0.7 + shift).sin() * 10.0;
            (0..heads)
                .map(number)
                .map(|x| f64::from(x as f32))
                .collect()
        };
        let tensor = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
            let len = values.len();
            Tensor::<1>::from_data(TensorData::new(values, [len]), &device)
        };
        let (energy, eta_raw, hopping_raw) = (spread(0.1), spread(1.3), spread(2.9));
        let (of_z, of_beta) = ([spread(4.0), spread(5.0)].concat(), spread(6.0));
        let softplus = |x: &f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let slope = |x: &f64| 1.0 / (1.0 + (-x).exp());
        for (reads_z, reads_beta) in [(true, true), (true, false), (false, true)] {
            let inputs = [&energy, &eta_raw, &hopping_raw].map(|x| tensor(x).require_grad());
            let [e, eta, raw] = inputs.clone();
            let (z, beta) = energies(e, eta, raw, FLOOR);
            let etas: Vec<f64> = eta_raw.iter().map(|x| softplus(x) + FLOOR).collect();
            let betas: Vec<f64> = hopping_raw.iter().map(softplus).collect();
            assert_eq!(z.dims(), [2, heads]);
            let expected = [energy.clone(), etas].concat();
            assert_near("z", z.clone().reshape([2 * heads]), &expected);
            assert_near("beta", beta.clone(), &betas);

            let zero = Tensor::zeros([1], &device);
            let z_loss = (z.reshape([2 * heads]) * tensor(&of_z)).sum();
            let beta_loss = (beta * tensor(&of_beta)).sum();
            let loss = match (reads_z, reads_beta) {
                (true, true) => z_loss + beta_loss,
                (true, false) => z_loss,
                (false, _) => beta_loss,
            };
            let grads = (loss + zero).backward();
            let kept = |read: bool, x: f64| if read { x } else { 0.0 };
            let (re, im) = of_z.split_at(heads);
            let expected: [Vec<f64>; 3] = [
                re.iter().map(|&x| kept(reads_z, x)).collect(),
                (im.iter().zip(&eta_raw))
                    .map(|(g, x)| kept(reads_z, g * slope(x)))
                    .collect(),
                (of_beta.iter().zip(&hopping_raw))
                    .map(|(g, x)| kept(reads_beta, g * slope(x)))
                    .collect(),
            ];
            let names = ["energy", "eta_raw", "hopping_raw"];
            for ((name, input), expected) in names.into_iter().zip(&inputs).zip(expected) {
                // Plain operations give no gradient to what nobody reads.
                match input.grad(&grads) {
                    Some(found) => assert_near(name, found, &expected),
                    None => assert!(expected.iter().all(|&x| x == 0.0), "{name} has a gradient"),
                }
            }
        }
    }
}
