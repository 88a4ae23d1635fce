//! Values and gradients against double-precision recurrences.

use burn::tensor::Tensor;
use num_complex::Complex64 as C;

use super::{Implementation, Inputs};

/// Of the largest value or gradient of a sequence.
const TOLERANCE: f64 = 1e-4;

/// The first and the last sequence against double precision: values, and gradients of the potential.
pub fn check(shape: [usize; 3], inputs: &Inputs, implementation: &dyn Implementation) {
    let [batch, _, heads] = shape;
    let left = implementation.left(inputs.clone());
    let d_left = implementation.left_adjoint(left.clone(), inputs.clone());
    let diagonal = implementation.diagonal(inputs.clone());
    let d_diagonal = implementation.diagonal_adjoint(inputs.clone());
    for (b, h) in [(0, 0), (batch - 1, heads - 1)] {
        let column = |tensor: &Tensor<3>, column: usize| -> Vec<f64> {
            let lane = tensor.clone().narrow(0, b, 1).narrow(2, column, 1);
            lane.into_data().iter::<f64>().collect()
        };
        let complex = |tensor: &Tensor<3>| -> Vec<C> {
            let (re, im) = (column(tensor, h), column(tensor, heads + h));
            re.into_iter()
                .zip(im)
                .map(|(re, im)| C::new(re, im))
                .collect()
        };
        let energy: Vec<f64> = inputs.energy.to_data().iter::<f64>().collect();
        let hopping: Vec<f64> = inputs.hopping.to_data().iter::<f64>().collect();
        let (z, beta) = (C::new(energy[h], energy[heads + h]), hopping[h]);
        let alpha: Vec<C> = column(&inputs.potential, h).iter().map(|a| a - z).collect();
        let g: Vec<C> = complex(&inputs.grad).iter().map(C::conj).collect();
        let exact = exact(&alpha, beta, &g);
        assert_close("left", &complex(&left), &exact.left);
        assert_close("diagonal", &complex(&diagonal), &exact.diagonal);
        let real = |values: Vec<f64>| values.into_iter().map(C::from).collect::<Vec<_>>();
        assert_close("left gradient", &real(column(&d_left, h)), &exact.d_left);
        assert_close(
            "diagonal gradient",
            &real(column(&d_diagonal, h)),
            &exact.d_diagonal,
        );
    }
}

fn assert_close(what: &str, found: &[C], expected: &[C]) {
    let scale = expected.iter().fold(0.0_f64, |m, x| m.max(x.norm()));
    let differences = found.iter().zip(expected).map(|(x, y)| (x - y).norm());
    let error = differences.fold(0.0, f64::max) / scale;
    assert!(error < TOLERANCE, "{what} differs by {error:.1e}");
}

struct Exact {
    left: Vec<C>,
    diagonal: Vec<C>,
    d_left: Vec<C>,
    d_diagonal: Vec<C>,
}

fn exact(alpha: &[C], beta: f64, g: &[C]) -> Exact {
    let n = alpha.len();
    let next = |x: &mut C, alpha: &C| {
        *x = (alpha - beta * *x).inv();
        Some(*x)
    };
    let left: Vec<C> = alpha.iter().scan(C::ZERO, next).collect();
    let mut right: Vec<C> = alpha.iter().rev().scan(C::ZERO, next).collect();
    right.reverse();
    let or_zero = |x: Option<&C>| x.copied().unwrap_or(C::ZERO);
    let centre = |i: usize| {
        let below = or_zero(i.checked_sub(1).and_then(|i| left.get(i)));
        (alpha[i] - beta * (below + or_zero(right.get(i + 1)))).inv()
    };
    let diagonal: Vec<C> = (0..n).map(centre).collect();

    let mut carry = C::ZERO;
    let mut d_left = vec![C::ZERO; n];
    for i in (0..n).rev() {
        let w = left[i].powi(2) * (g[i] + carry);
        d_left[i] = C::from(-w.re);
        carry = beta * w;
    }
    let m: Vec<C> = g.iter().zip(&diagonal).map(|(g, x)| g * x * x).collect();
    let mut d_diagonal: Vec<C> = m.iter().map(|m| C::from(-m.re)).collect();
    for (side, reverse) in [(&left, true), (&right, false)] {
        let mut carry = C::ZERO;
        for step in 0..n {
            let i = if reverse { n - 1 - step } else { step };
            let passed = side[i].powi(2) * carry;
            d_diagonal[i] -= passed.re;
            carry = beta * (m[i] + passed);
        }
    }
    Exact {
        left,
        diagonal,
        d_left,
        d_diagonal,
    }
}
