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
//! Backends without kernels use these sweeps rather than autodiff over [`reference`](mod@crate::reference): they keep one
//! tensor instead of about ten for every position, and give the same gradient rules everywhere.

use burn::tensor::Tensor;

use crate::{
    complex::{Complex, position},
    reference::sweeps,
    rule::{GradRule, HYP7_FLOOR},
};

/// Gradients of [`reference::left`](crate::reference::left), in the order and the shapes of its arguments.
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

/// Gradients of [`reference::diagonal`](crate::reference::diagonal), in the order and the shapes of its arguments.
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
