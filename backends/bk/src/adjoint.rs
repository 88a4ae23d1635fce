//! Exact vector-Jacobian products of the operations, in plain tensor operations.
//!
//! Cotangents are complex numbers with `dLoss = Re(sum_i g_i dX_i)`: an output stored as (re, im) whose real gradients are
//! `(gr, gi)` has `g = gr - i gi`, and a complex input with cotangent `c` receives the real gradients `(Re c, -Im c)`.
//!
//! Left, with `w_i = L_i^2 lam_i`:
//! ```text
//! lam_N = g_N,   lam_i = g_i + beta w_{i+1}
//! d alpha_i = -w_i,   d beta = sum_i L_{i-1} w_i,   d L_0 = beta w_1
//! ```
//! Diagonal, with `m_i = g_i G_ii^2`, `u_i = L_i^2 lam_i`, `v_i = R_i^2 rho_i`:
//! ```text
//! lam_N = 0,   lam_i = beta (m_{i+1} + u_{i+1})
//! rho_1 = 0,   rho_i = beta (m_{i-1} + v_{i-1})
//! d alpha_i = -(m_i + u_i + v_i),   d beta = sum_i L_{i-1} (m_i + u_i) + R_{i+1} (m_i + v_i)
//! ```
//! Both: `d a_i = Re d alpha_i`, `d z = -sum_i d alpha_i`, and `d beta` keeps its real part. The sums run over the batch
//! too. [`GradRule`] says what stands in for `d alpha_i` when the exact value is not wanted.
//!
//! Forward elimination `d_i = L_i (u_i - c d_{i-1})`, whose reverse sweep is the same recurrence, run backwards:
//! ```text
//! s_{N+1} = 0,   s_i = L_i (g_i - c s_{i+1})
//! d u_i = s_i,   d c = -sum_i s_i . d_{i-1},   d d_0 = -c s_1,   d L_i = s_i . d_i / L_i^2
//! ```
//! with the products summed over columns; from `d L_i` on it is the left operation's. Solve, with the transposed solve
//! `y = (H^T - z)^-1 g`, which has `b` and `c` exchanged and the same `L`:
//! ```text
//! d u_i = y_i,   d alpha_i = -y_i . x_i,   d b = -sum_i y_i . x_{i+1},   d c = -sum_i y_i . x_{i-1}
//! ```
//! `u` is real and keeps the real part, and so do `b` and `c`.
//!
//! Backends without kernels use these sweeps rather than autodiff over [`reference`](mod@crate::reference): they keep one
//! tensor instead of about ten for every position, and give the same gradient rules everywhere.

use burn::tensor::Tensor;

use crate::{
    complex::{Complex, position},
    reference::{self, resolvent, sweeps},
    rule::{GradRule, HYP7_FLOOR},
};

/// Gradients of [`reference::left`], in the order and the shapes of its arguments.
///
/// # Shapes
/// - features and grad `[batch, seq, 2 * heads]`, hopping `[heads]`, state `[batch, 2 * heads]`
pub fn left(
    features: Tensor<3>,
    hopping: Tensor<1>,
    state: Tensor<2>,
    grad: Tensor<3>,
    rule: GradRule,
) -> (Tensor<3>, Tensor<1>, Tensor<2>, Tensor<2>) {
    let seq = features.dims()[1];
    let beta = hopping.unsqueeze::<2>(); // [1, heads]
    let value = |i| Complex::split(position(&features, i));
    let entering = Complex::split(state);
    let mut carry = Complex::zeros(&entering.re); // beta w_{i+1}
    let mut d_beta = entering.re.zeros_like();
    let mut d_alpha = Vec::with_capacity(seq);
    for i in (0..seq).rev() {
        let g = Complex::split(position(&grad, i)).conj();
        let squared = value(i).square();
        let w = squared.clone().mul(carry.add(g.clone()));
        let before = if i > 0 {
            value(i - 1)
        } else {
            entering.clone()
        };
        d_beta = d_beta + before.mul(w.clone()).re;
        carry = w.clone().scale(beta.clone());
        d_alpha.push(match rule.blend() {
            None => w,
            Some(t) => approximate(g, squared, t),
        });
    }
    d_alpha.reverse();
    let (potential, energy) = potential_and_energy(d_alpha);
    let d_hopping = d_beta.sum_dim(0).squeeze_dim(0);
    (potential, d_hopping, energy, carry.conj().join())
}

/// Gradients of [`reference::diagonal`], in the order and the shapes of its arguments.
///
/// # Shapes
/// - potential `[batch, seq, heads]`, hopping `[heads]`, energy `[2, heads]`, grad `[batch, seq, 2 * heads]`
pub fn diagonal(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    grad: Tensor<3>,
    rule: GradRule,
) -> (Tensor<3>, Tensor<1>, Tensor<2>) {
    let seq = potential.dims()[1];
    let (left, right) = sweeps(&potential, &hopping, &energy);
    let beta = hopping.unsqueeze::<2>(); // [1, heads]
    let z = Complex::energy(energy);
    let zeros = left[0].clone();
    let g = |i| Complex::split(position(&grad, i)).conj();
    let squared: Vec<Complex> = (0..seq)
        .map(|i| {
            let neighbours = left[i].clone().add(right[i + 1].clone());
            let self_energy = neighbours.scale(beta.clone()).add(z.clone());
            self_energy
                .subtract_from(position(&potential, i))
                .inverse()
                .square()
        })
        .collect();

    let mut d_beta = zeros.re.clone();
    let mut from_right = vec![zeros.clone(); seq]; // m_i + u_i
    let mut carry = zeros.clone(); // lam_i
    for i in (0..seq).rev() {
        let u = left[i + 1].clone().square().mul(carry);
        from_right[i] = squared[i].clone().mul(g(i)).add(u);
        d_beta = d_beta + left[i].clone().mul(from_right[i].clone()).re;
        carry = from_right[i].clone().scale(beta.clone());
    }
    let mut d_alpha = Vec::with_capacity(seq);
    let mut carry = zeros; // rho_i
    for (i, from_right) in from_right.into_iter().enumerate() {
        let v = right[i].clone().square().mul(carry);
        let from_left = squared[i].clone().mul(g(i)).add(v.clone()); // m_i + v_i
        d_beta = d_beta + right[i + 1].clone().mul(from_left.clone()).re;
        carry = from_left.scale(beta.clone());
        d_alpha.push(match rule.blend() {
            None => from_right.add(v),
            Some(t) => approximate(g(i), squared[i].clone(), t),
        });
    }
    let (potential, energy) = potential_and_energy(d_alpha);
    (potential, d_beta.sum_dim(0).squeeze_dim(0), energy)
}

/// Gradients of [`reference::eliminate`], in the order and the shapes of its arguments.
///
/// # Shapes
/// - features `[batch, seq, 2 * heads]`, lower `[heads]`, state `[batch, heads, 2 * columns]`, solution (the output) and
///   grad `[batch, seq, heads, 2 * columns]`
pub fn eliminate(
    features: Tensor<3>,
    lower: Tensor<1>,
    state: Tensor<3>,
    solution: Tensor<4>,
    grad: Tensor<4>,
) -> (Tensor<3>, Tensor<1>, Tensor<4>, Tensor<3>) {
    let seq = features.dims()[1];
    let c = lower.reshape([1, -1, 1]); // [1, heads, 1]
    let value = |i| Complex::<3>::split(position(&solution, i)); // [batch, heads, columns]
    let entering = Complex::split(state);
    let mut carry = Complex::zeros(&entering.re); // c s_{i+1}
    let mut d_lower = entering.re.zeros_like();
    let (mut d_features, mut d_values) = (Vec::new(), Vec::new());
    for i in (0..seq).rev() {
        let own = resolvent(&features, i); // [batch, heads, 1]
        let g = Complex::split(position(&grad, i)).conj();
        let s = g.sub(carry).mul(own.clone());
        let before = if i > 0 {
            value(i - 1)
        } else {
            entering.clone()
        };
        d_lower = d_lower - before.mul(s.clone()).re;
        let d_left = over_columns(s.clone().mul(value(i))).mul(own.inverse().square());
        let d_left = d_left.conj();
        d_features.push(Tensor::cat(vec![d_left.re, d_left.im], 1).squeeze_dim::<2>(2));
        d_values.push(s.re.clone());
        carry = s.scale(c.clone());
    }
    d_features.reverse();
    d_values.reverse();
    let d_state = Complex {
        re: -carry.re,
        im: carry.im,
    };
    (
        Tensor::stack(d_features, 1),
        d_lower.sum_dims_squeeze::<1, usize>(&[0, 2]),
        Tensor::stack(d_values, 1),
        d_state.join(),
    )
}

/// Gradients of [`reference::solve`], in the order and the shapes of its arguments.
///
/// # Shapes
/// - potential `[batch, seq, heads]`, upper and lower `[heads]`, energy `[2, heads]`, solution (the output) and grad
///   `[batch, seq, heads, 2 * columns]`
pub fn solve(
    potential: Tensor<3>,
    upper: Tensor<1>,
    lower: Tensor<1>,
    energy: Tensor<2>,
    solution: Tensor<4>,
    grad: Tensor<4>,
) -> (Tensor<3>, Tensor<1>, Tensor<1>, Tensor<2>, Tensor<4>) {
    let [batch, seq, heads] = potential.dims();
    let nothing = crate::ops::nothing_before(batch, heads, &potential.device());
    let hopping = upper.clone() * lower.clone();
    let features = reference::left(potential, hopping, energy, nothing);
    let (b, c) = (upper.reshape([1, -1, 1]), lower.reshape([1, -1, 1])); // [1, heads, 1]
    let value = |i| Complex::<3>::split(position(&solution, i)); // [batch, heads, columns]

    // Forward elimination of the transposed system: b stands below the diagonal.
    let mut previous = Complex::zeros(&value(0).re);
    let mut forward = Vec::with_capacity(seq);
    for i in 0..seq {
        let g = Complex::split(position(&grad, i)).conj();
        previous = g
            .sub(previous.scale(b.clone()))
            .mul(resolvent(&features, i));
        forward.push(previous.clone());
    }
    let zeros = Complex::zeros(&previous.re);
    let (mut d_upper, mut d_lower) = (zeros.re.clone(), zeros.re.clone());
    let (mut y_next, mut x_next) = (zeros.clone(), zeros);
    let (mut minus_d_alpha, mut d_values) = (Vec::new(), Vec::new());
    for (i, forward) in forward.into_iter().enumerate().rev() {
        let known = y_next.clone().scale(c.clone());
        let y = forward.sub(known.mul(resolvent(&features, i)));
        let x = value(i);
        d_upper = d_upper - y.clone().mul(x_next).re;
        d_lower = d_lower - y_next.mul(x.clone()).re;
        let product = over_columns(y.clone().mul(x.clone()));
        minus_d_alpha.push(Complex {
            re: product.re.squeeze_dim(2),
            im: product.im.squeeze_dim(2),
        });
        d_values.push(y.re.clone());
        (y_next, x_next) = (y, x);
    }
    minus_d_alpha.reverse();
    d_values.reverse();
    let (d_potential, d_energy) = potential_and_energy(minus_d_alpha);
    (
        d_potential,
        d_upper.sum_dims_squeeze::<1, usize>(&[0, 2]),
        d_lower.sum_dims_squeeze::<1, usize>(&[0, 2]),
        d_energy,
        Tensor::stack(d_values, 1),
    )
}

/// The sum over columns, `[batch, heads, 1]`.
fn over_columns(products: Complex<3>) -> Complex<3> {
    Complex {
        re: products.re.sum_dim(2),
        im: products.im.sum_dim(2),
    }
}

/// `(1 - t) g X^2 + t g conj(X^2) / max(|X^2|^2, floor^2)`: minus the approximate `d alpha_i`.
fn approximate(g: Complex, squared: Complex, t: f32) -> Complex {
    let divisor = squared.norm().clamp_min(HYP7_FLOOR * HYP7_FLOOR);
    let local = g.clone().mul(squared.clone());
    let hyp7 = g.mul(squared.conj()).scale(divisor.recip());
    Complex {
        re: local.re * (1.0 - t) + hyp7.re * t,
        im: local.im * (1.0 - t) + hyp7.im * t,
    }
}

/// From `-d alpha_i` to the gradients of the potential `[batch, seq, heads]` and of the energy `[2, heads]`.
fn potential_and_energy(minus_d_alpha: Vec<Complex>) -> (Tensor<3>, Tensor<2>) {
    let (re, im): (Vec<_>, Vec<_>) = minus_d_alpha.into_iter().map(|c| (c.re, c.im)).unzip();
    let re: Tensor<3> = Tensor::stack(re, 1); // [batch, seq, heads]
    let im: Tensor<3> = Tensor::stack(im, 1);
    let total = |part: Tensor<3>| part.sum_dims_squeeze::<1, usize>(&[0, 1]); // [heads]
    let energy = Tensor::stack(vec![total(re.clone()), -total(im)], 0);
    (-re, energy)
}
