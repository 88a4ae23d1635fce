//! The public functions: check shapes, then hand tensors to the kernels of their backend, if it has any, and all others to the
//! equations.

use burn::{
    backend::Dispatch,
    tensor::{Int, Tensor, assert_shape},
};

use crate::{backend::FusedBackend, linear::LinearBackend, reference};

/// Whether this tensor is one that the kernels of Flex take.
pub(crate) fn on_flex<const D: usize>(x: &Tensor<D>) -> bool {
    #[cfg(feature = "flex")]
    {
        x.dtype() == burn::tensor::DType::F32
            && matches!(
                x.device().inner().as_dispatch(),
                burn::backend::DispatchDevice::Flex(_)
            )
    }
    #[cfg(not(feature = "flex"))]
    {
        let _ = x;
        false
    }
}

/// Whether this tensor is one that the kernels of CubeCL backends take.
pub(crate) fn on_cube<const D: usize>(x: &Tensor<D>) -> bool {
    #[cfg(feature = "_cube")]
    {
        use burn::tensor::DType;
        matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16)
            && matches!(
                x.device().inner().as_dispatch(),
                burn::backend::DispatchDevice::Cube(_)
            )
    }
    #[cfg(not(feature = "_cube"))]
    {
        let _ = x;
        false
    }
}

/// Whether kernels take this tensor.
fn fused<const D: usize>(x: &Tensor<D>) -> bool {
    on_flex(x) || on_cube(x)
}

/// A linear layer, `x W + b`: one product over all rows, without copies for transposed operands, in x's element type; weight and
/// bias of another are rounded to it, and get their gradients in their own.
///
/// # Shapes
/// - x `[.., d_in]`, weight `[d_in, d_out]` in any layout, bias `[d_out]`; output `[.., d_out]`
///
/// # Cost
/// `2 rows d_in d_out` operations forward, twice that backward.
///
/// # Panics
/// If the shapes do not fit.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let [d_in, d_out] = weight.dims();
    assert_shape!(x, [.., d_in]);
    let y = match on_flex(&x) && on_flex(&weight) {
        true => Tensor::from_dispatch(Dispatch::fused_linear(
            x.into_dispatch(),
            weight.into_dispatch(),
        )),
        false => kiln_matmul::linear(x, weight),
    };
    match bias {
        Some(bias) => {
            assert_shape!(bias, [d_out]);
            let dtype = y.dtype();
            y + bias.cast(dtype).unsqueeze()
        }
        None => y,
    }
}

/// The Gaussian error linear unit, `x Phi(x)` (arXiv 1606.08415), exact form.
///
/// # Shapes
/// - any; output as x
///
/// # Cost
/// About 40 operations an element forward, 45 backward; two and three tensors of memory traffic.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !fused(&x) {
        return reference::gelu(x);
    }
    Tensor::from_dispatch(Dispatch::fused_gelu(x.into_dispatch()))
}

/// The gated unit of SwiGLU, `silu(gate) up` (arXiv 2002.05202).
///
/// # Shapes
/// - gate and up alike; output as they
///
/// # Cost
/// About 25 operations an element forward, 30 backward; three and five tensors of memory traffic.
///
/// # Panics
/// If the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up must be alike");
    if !fused(&gate) {
        return reference::swiglu(gate, up);
    }
    Tensor::from_dispatch(Dispatch::fused_swiglu(
        gate.into_dispatch(),
        up.into_dispatch(),
    ))
}

/// A potential kept within `bound`, `bound tanh(x / bound)`: the identity near zero.
///
/// # Shapes
/// - any; output as x
///
/// # Cost
/// About 25 operations an element forward, 30 backward; two and three tensors of memory traffic.
///
/// # Panics
/// If `bound` is not positive and finite.
pub fn soft_bound<const D: usize>(x: Tensor<D>, bound: f64) -> Tensor<D> {
    assert!(
        bound > 0.0 && bound.is_finite(),
        "soft_bound: the bound is {bound}, but must be positive and finite"
    );
    if !fused(&x) {
        return reference::soft_bound(x, bound);
    }
    Tensor::from_dispatch(Dispatch::fused_soft_bound(x.into_dispatch(), bound as f32))
}

/// The Cayley map `w = (z - i) / (z + i)`, which takes the upper half plane to the unit disc.
///
/// # Shapes
/// - z `[.., 2 * heads]`: real parts in the first half of the last axis, imaginary parts in the second; output alike
///
/// # Cost
/// 9 operations and a division a complex number forward, 15 and one backward; two and three tensors of memory traffic.
///
/// # Panics
/// If the last axis is odd.
pub fn cayley<const D: usize>(z: Tensor<D>) -> Tensor<D> {
    let width = z.dims()[D - 1];
    assert!(
        width.is_multiple_of(2),
        "cayley: the last axis is {width}, but must hold real and imaginary halves"
    );
    if !fused(&z) {
        return reference::cayley(z);
    }
    Tensor::from_dispatch(Dispatch::fused_cayley(z.into_dispatch()))
}

/// RMSNorm, `gamma x / sqrt(mean(x^2) + epsilon)` over the last axis (arXiv 1910.07467).
///
/// # Shapes
/// - x `[.., d_model]`, gamma `[d_model]`; output as x
///
/// # Cost
/// About 5 operations an element forward, 12 backward; two and three tensors of memory traffic.
///
/// # Panics
/// If the shapes do not fit.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let [d_model] = gamma.dims();
    assert_shape!(x, [.., d_model]);
    if !fused(&x) {
        return reference::rms_norm(x, gamma, epsilon);
    }
    norm(x, gamma, epsilon, false)
}

/// LayerNorm, `gamma (x - mean) / sqrt(var + epsilon) + beta` over the last axis (arXiv 1607.06450).
///
/// # Shapes
/// - x `[.., d_model]`, gamma and beta `[d_model]`; output as x
///
/// # Cost
/// About 8 operations an element forward, 15 backward; two and three tensors of memory traffic.
///
/// # Panics
/// If the shapes do not fit.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    let [d_model] = gamma.dims();
    assert_shape!(x, [.., d_model]);
    if !fused(&x) {
        return reference::layer_norm(x, gamma, beta, epsilon);
    }
    let y = norm(x, gamma, epsilon, true);
    match beta {
        Some(beta) => {
            assert_shape!(beta, [d_model]);
            let dtype = y.dtype();
            y + beta.cast(dtype).unsqueeze()
        }
        None => y,
    }
}

fn norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64, centred: bool) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        epsilon as f32,
        centred,
    ))
}

/// Rotary positions (arXiv 2104.09864) on packed projections: turns the pairs `(x_i, x_{i + d_head/2})` of queries and
/// keys and leaves values as they are.
///
/// # Shapes
/// - packed `[batch, seq, 3 * heads * d_head]`: all heads' queries, then keys, then values; `d_head` even
/// - cos and sin `[seq, d_head / 2]`, constants; output as packed
///
/// # Cost
/// 3 operations an element; two tensors of memory traffic, forward and backward.
///
/// # Panics
/// If the shapes do not fit.
pub fn rotate(packed: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, heads: usize) -> Tensor<3> {
    let [_, seq, width] = packed.dims();
    let half = width / (6 * heads);
    assert_eq!(
        6 * heads * half,
        width,
        "rotate: the last axis must be 3 * heads * d_head with d_head even"
    );
    assert_shape!(cos, [seq, half]);
    assert_shape!(sin, [seq, half]);
    if !fused(&packed) {
        return reference::rotate(packed, cos, sin, heads);
    }
    Tensor::from_dispatch(Dispatch::fused_rotate(
        packed.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        heads,
    ))
}

/// Causal depthwise convolution, `u_t = sum_j w_j x_{t - (width - 1) + j}` in each channel by itself, and `silu(u)` if asked
/// for: the short convolution of Mamba-2 (arXiv 2405.21060) and its relatives.
///
/// With a history, the last `width - 1` inputs of what came before, the sequence goes on as if it had not been cut, and the
/// history after it is returned in the element type of x; without, zeros come before and none is returned.
///
/// # Shapes
/// - x `[batch, seq, channels]`, weight `[channels, width]`, history `[batch, width - 1, channels]`
/// - outputs `[batch, seq, channels]` and a history
///
/// # Cost
/// `2 width` operations an element forward, `4 width` backward, and with SiLU about 25 and `30 + 2 width` more; two and four
/// tensors of memory traffic.
///
/// # Panics
/// If the shapes do not fit or an axis is empty.
pub fn causal_conv(
    x: Tensor<3>,
    weight: Tensor<2>,
    history: Option<Tensor<3>>,
    silu: bool,
) -> (Tensor<3>, Option<Tensor<3>>) {
    let [batch, seq, channels] = x.dims();
    let [_, width] = weight.dims();
    assert!(width > 0, "causal_conv: the weight has no taps");
    assert!(
        batch > 0 && seq > 0 && channels > 0,
        "causal_conv: x [{batch}, {seq}, {channels}] has an empty axis"
    );
    assert_shape!(weight, [channels, width]);
    if let Some(history) = &history {
        assert_shape!(history, [batch, width - 1, channels]);
    }
    let (x, past, history) = match history {
        // One tap looks at nothing before.
        Some(history) if width == 1 => (x, 0, Some(history)),
        Some(history) => {
            let x = Tensor::cat(vec![history.cast(x.dtype()), x], 1);
            let history = x.clone().narrow(1, seq, width - 1);
            (x, width - 1, Some(history))
        }
        None => (x, 0, None),
    };
    let y = match fused(&x) {
        true => Tensor::from_dispatch(Dispatch::fused_causal_conv(
            x.into_dispatch(),
            weight.into_dispatch(),
            past,
            silu,
        )),
        false => reference::causal_conv(x, weight, past, silu),
    };
    (y, history)
}

/// Cross-entropy in nats, `log sum_j exp(logits_j) - logits_target` for each row, in f32 whatever the logits are.
///
/// # Shapes
/// - logits `[tokens, vocab]`, targets `[tokens]` with ids below `vocab`
/// - output `[tokens]`, on CubeCL backends in `f32` whatever the logits are
///
/// # Cost
/// About 20 operations a logit forward, 22 backward; one and two tensors of memory traffic.
///
/// # Panics
/// If the shapes do not fit, and on Flex if a target is not below `vocab`; on CubeCL backends the output of such a row is NaN.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [tokens, _] = logits.dims();
    assert_shape!(targets, [tokens]);
    if !fused(&logits) {
        return reference::cross_entropy(logits, targets);
    }
    Tensor::from_dispatch(Dispatch::fused_cross_entropy(
        logits.into_dispatch(),
        targets.into_dispatch(),
    ))
}
