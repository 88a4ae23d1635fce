//! The equations in plain tensor operations. Everything else must equal them.
//!
//! x may be f32, bf16 or f16, and the output is as x. Matrix products have operands of that type, all else is computed in f32.
//! Weights are f32 in any case, and so are their gradients.

use burn::tensor::{
    Bool, DType, Device, Int, Tensor,
    activation::{self, log_softmax, softmax},
    module,
};

use kiln_attention::WeightDropout;

use crate::{head::LossTerms, mask::AttentionMask};

/// What a sum over elements of a type is taken in: f32 at least.
fn wide(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

/// Applies f in that type, and gives back the element type of x.
fn in_wide<const D: usize>(x: Tensor<D>, f: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    f(x.cast(wide(dtype))).cast(dtype)
}

/// `x W + b`, each row by itself.
///
/// # Shapes
/// - x `[.., d_in]`, weight `[d_in, d_out]`, bias `[d_out]`; output `[.., d_out]`
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let dtype = x.dtype();
    module::linear(x, weight.cast(dtype), bias.map(|bias| bias.cast(dtype)))
}

/// `x Phi(x)`, Phi the distribution function of the standard normal (arXiv 1606.08415).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    in_wide(x, activation::gelu)
}

/// `silu(gate) up` (arXiv 2002.05202).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    in_wide(gate, |gate| {
        let up = up.cast(gate.dtype());
        activation::silu(gate) * up
    })
}

/// `ln(1 + e^x) + floor`
pub fn softplus<const D: usize>(x: Tensor<D>, floor: f64) -> Tensor<D> {
    in_wide(x, |x| {
        let y = activation::softplus(x, 1.0);
        if floor == 0.0 { y } else { y.add_scalar(floor) }
    })
}

/// `x + weight y`, a weight for each column.
///
/// # Shapes
/// - x and y `[.., width]`, weight `[width]`; output as x
pub fn add_weighted<const D: usize>(x: Tensor<D>, y: Tensor<D>, weight: Tensor<1>) -> Tensor<D> {
    let weight = weight.cast(x.dtype());
    x + y * weight.unsqueeze()
}

/// `(1 - e^log_kept) x`
///
/// # Shapes
/// - x `[batch, seq, heads, width]`, log_kept `[batch, seq, heads]`; output as x
pub fn scale_written(x: Tensor<4>, log_kept: Tensor<3>) -> Tensor<4> {
    in_wide(x, |x| x * -expm1(log_kept).unsqueeze_dim::<4>(3))
}

/// `e^x - 1` for x not positive; near zero seven terms of its series, which are single precision there.
fn expm1(x: Tensor<3>) -> Tensor<3> {
    const SERIES_ABOVE: f32 = -0.25;
    let small = x.clone().clamp_min(SERIES_ABOVE); // finite in the branch that is not taken, and so is its gradient
    let mut series = small.clone() / 8.0 + 1.0;
    for term in (2..=7).rev() {
        series = series * small.clone() / f64::from(term) + 1.0;
    }
    let is_small = x.clone().greater_elem(SERIES_ABOVE);
    (x.exp() - 1.0).mask_where(is_small, series * small)
}

/// `bound tanh(x / bound)`
pub fn soft_bound<const D: usize>(x: Tensor<D>, bound: f64) -> Tensor<D> {
    in_wide(x, |x| x.div_scalar(bound).tanh().mul_scalar(bound))
}

/// `(z - i) / (z + i)`: with `z = x + i y`, `(x^2 + y^2 - 1 - 2 i x) / (x^2 + (y + 1)^2)`.
///
/// # Shapes
/// - z `[.., 2 * heads]`, real parts in the first half of the last axis, imaginary parts in the second; output alike
pub fn cayley<const D: usize>(z: Tensor<D>) -> Tensor<D> {
    in_wide(z, cayley_wide)
}

fn cayley_wide<const D: usize>(z: Tensor<D>) -> Tensor<D> {
    let heads = z.dims()[D - 1] / 2;
    let re = z.clone().narrow(D - 1, 0, heads); // [.., heads]
    let im = z.narrow(D - 1, heads, heads);
    let square = re.clone() * re.clone() + im.clone() * im.clone();
    let inverse = (square.clone() + im.mul_scalar(2.0) + 1.0).recip();
    Tensor::cat(
        vec![
            (square - 1.0) * inverse.clone(),
            re.mul_scalar(-2.0) * inverse,
        ],
        D - 1,
    )
}

/// `gamma x / sqrt(mean(x^2) + epsilon)` over the last axis (arXiv 1910.07467).
///
/// # Shapes
/// - x `[.., d_model]`, gamma `[d_model]`; output as x
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    in_wide(x, |x| {
        let rms = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt(); // [.., 1]
        x / rms * gamma.unsqueeze()
    })
}

/// `gamma (x - mean) / sqrt(var + epsilon) + beta` over the last axis (arXiv 1607.06450).
///
/// # Shapes
/// - x `[.., d_model]`, gamma and beta `[d_model]`; output as x
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    in_wide(x, |x| {
        let centred = x.clone() - x.mean_dim(D - 1);
        let y = rms_norm(centred, gamma, epsilon);
        match beta {
            Some(beta) => y + beta.unsqueeze(),
            None => y,
        }
    })
}

/// Queries, keys and values of packed projections, each `[batch, heads, seq, d_head]`.
///
/// # Shapes
/// - packed `[batch, seq, 3 * heads * d_head]`: all heads' queries, then keys, then values
pub fn unpack(packed: Tensor<3>, heads: usize) -> [Tensor<4>; 3] {
    let [batch, seq, width] = packed.dims();
    let d_head = width / (3 * heads);
    [0, 1, 2].map(|part| {
        packed
            .clone()
            .narrow(2, part * heads * d_head, heads * d_head)
            .reshape([batch, seq, heads, d_head])
            .swap_dims(1, 2) // [batch, heads, seq, d_head]
    })
}

/// Turns the pairs `(x_i, x_{i + d_head/2})` of queries and keys by position (arXiv 2104.09864); values stay.
///
/// # Shapes
/// - packed `[batch, seq, 3 * heads * d_head]`, cos and sin `[seq, d_head / 2]`; output as packed
pub fn rotate(packed: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, heads: usize) -> Tensor<3> {
    in_wide(packed, |packed| rotate_wide(packed, cos, sin, heads))
}

fn rotate_wide(packed: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, heads: usize) -> Tensor<3> {
    let [batch, seq, width] = packed.dims();
    let half = width / (6 * heads);
    let x = packed.reshape([batch, seq, 3 * heads, 2 * half]);
    let turned = x.clone().narrow(2, 0, 2 * heads);
    let first = turned.clone().narrow(3, 0, half); // [batch, seq, 2 * heads, d_head / 2]
    let second = turned.narrow(3, half, half);
    let cos = cos.reshape([1, seq, 1, half]);
    let sin = sin.reshape([1, seq, 1, half]);
    let turned = Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        3,
    );
    let values = x.narrow(2, 2 * heads, heads);
    Tensor::cat(vec![turned, values], 2).reshape([batch, seq, width])
}

/// `y_i = sum_j softmax_j(q_i . k_j / sqrt(d_head)) v_j` over the positions j that the mask lets i see, for each head by itself
/// (arXiv 1706.03762).
///
/// # Shapes
/// - packed `[batch, seq, 3 * heads * d_head]`; output `[batch, seq, heads * d_head]`
pub fn attention(packed: Tensor<3>, heads: usize, mask: AttentionMask) -> Tensor<3> {
    attend(unpack(packed, heads), mask, |weights| weights)
}

/// [`attention`] with dropout of its weights, the mask of the whole square as tensor.
///
/// # Shapes
/// - packed `[batch, seq, 3 * heads * d_head]`; output `[batch, seq, heads * d_head]`
pub fn attention_with_dropout(
    packed: Tensor<3>,
    heads: usize,
    mask: AttentionMask,
    dropout: &WeightDropout,
) -> Tensor<3> {
    let [batch, seq, _] = packed.dims();
    let factors = dropout.factors([batch, heads, seq, seq]);
    attend(unpack(packed, heads), mask, |weights| {
        let dtype = weights.dtype();
        weights * factors.cast(dtype)
    })
}

/// [`attention`] where keys and values of the past stand before the first query, with a map of the weights for dropout.
///
/// The last `seq` keys are those of the queries. Between sinks and window, where no query looks, keys may be left out.
///
/// # Shapes
/// - q `[batch, heads, seq, d_head]`, k and v `[batch, heads, past + seq, d_head]`
/// - output `[batch, seq, heads * d_head]`
pub fn attend(
    [q, k, v]: [Tensor<4>; 3],
    mask: AttentionMask,
    map_weights: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<3> {
    let [batch, heads, seq, d_head] = q.dims();
    let weights = attention_weights([q, k], mask).cast(v.dtype());
    let mixed = map_weights(weights).matmul(v).swap_dims(1, 2); // [batch, seq, heads, d_head]
    mixed.reshape([batch, seq, heads * d_head])
}

/// `softmax_j(q_i . k_j / sqrt(d_head))` over the positions j that the mask lets i see, in f32 at least.
///
/// # Shapes
/// - q `[batch, heads, seq, d_head]`, k with `past + seq` positions
/// - returns `[batch, heads, seq, past + seq]`
pub fn attention_weights([q, k]: [Tensor<4>; 2], mask: AttentionMask) -> Tensor<4> {
    let [_, _, seq, d_head] = q.dims();
    let past = k.dims()[2] - seq;
    let scale = (d_head as f64).powf(-0.5);
    let scores = q.mul_scalar(scale).matmul(k.swap_dims(2, 3));
    let wide = wide(scores.dtype());
    let mut scores = scores.cast(wide);
    if let Some(hidden) = hidden(mask, [seq, past], &scores.device()) {
        scores = scores.mask_fill(hidden.unsqueeze(), f32::NEG_INFINITY);
    }
    softmax(scores, 3)
}

/// True where a query does not see a key, `[seq, past + seq]`; none where all see all.
fn hidden(
    mask: AttentionMask,
    [seq, past]: [usize; 2],
    device: &Device,
) -> Option<Tensor<2, Bool>> {
    let shape = [seq, past + seq];
    // tril_mask is true above the diagonal, triu_mask below.
    let future = || Tensor::<2, Bool>::tril_mask(shape, past as i64, device);
    match mask {
        AttentionMask::Full => None,
        AttentionMask::Window { window, sinks } if past + seq > window + sinks => {
            let first = past as i64 + 1 - window as i64; // that the first query sees
            let before = Tensor::<2, Bool>::triu_mask(shape, first, device);
            let before = match sinks {
                0 => before,
                _ => before.slice_fill([0..seq, 0..sinks], false),
            };
            Some(before.bool_or(future()))
        }
        AttentionMask::Causal | AttentionMask::Window { .. } => (seq > 1).then(future),
    }
}

/// `u_t = sum_j w_j x_{t - (width - 1) + j}` in each channel by itself, then `silu(u)` if asked for; zeros stand before the
/// history.
///
/// # Shapes
/// - x `[batch, past + seq, channels]`: `past` rows of history, then the inputs
/// - weight `[channels, width]`; output `[batch, seq, channels]`
pub fn causal_conv(x: Tensor<3>, weight: Tensor<2>, past: usize, silu: bool) -> Tensor<3> {
    in_wide(x, |x| causal_conv_wide(x, weight, past, silu))
}

fn causal_conv_wide(x: Tensor<3>, weight: Tensor<2>, past: usize, silu: bool) -> Tensor<3> {
    let [batch, length, channels] = x.dims();
    let [_, width] = weight.dims();
    let seq = length - past;
    let missing = (width - 1).saturating_sub(past);
    let x = match missing {
        0 => x,
        _ => {
            let zeros = Tensor::zeros([batch, missing, channels], (&x.device(), x.dtype()));
            Tensor::cat(vec![zeros, x], 1)
        }
    };
    let first = past + missing - (width - 1);
    let u = (0..width)
        .map(|tap| {
            let w = weight.clone().narrow(1, tap, 1).reshape([1, 1, channels]);
            x.clone().narrow(1, first + tap, seq) * w // [batch, seq, channels]
        })
        .reduce(|sum, term| sum + term)
        .expect("a convolution has at least one tap");
    if silu { activation::silu(u) } else { u }
}

/// `log sum_j exp(logits_j) - logits_target` for each row, in nats and f32, whatever the logits are.
///
/// # Shapes
/// - logits `[tokens, vocab]`, targets `[tokens]`; output `[tokens]`
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [tokens, _] = logits.dims();
    let wide = wide(logits.dtype());
    log_softmax(logits.cast(wide), 1)
        .gather(1, targets.reshape([tokens, 1]))
        .reshape([tokens])
        .neg()
}

/// What [`LossTerms`] add to cross-entropy, for each row: `s (l_target - mean_j l_j) + z (log sum_j exp(l_j))^2`, in f32.
///
/// # Shapes
/// - logits `[tokens, vocab]`, targets `[tokens, 1]`; output `[tokens]`
pub fn loss_terms(logits: Tensor<2>, targets: Tensor<2, Int>, terms: LossTerms) -> Tensor<1> {
    let wide = wide(logits.dtype());
    let logits = logits.cast(wide);
    let of_target = logits.clone().gather(1, targets.clone()); // [tokens, 1]
    let nats = log_softmax(logits.clone(), 1).gather(1, targets).neg();
    let log_sum = nats + of_target.clone();
    let smoothed = (of_target - logits.mean_dim(1)).mul_scalar(terms.label_smoothing);
    let added = smoothed + log_sum.square().mul_scalar(terms.z_loss);
    added.squeeze_dim(1)
}

/// `sum x^2`
///
/// # Shapes
/// - output `[1]`
pub fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    x.square().sum()
}

/// `norm = sqrt(square_sum) / loss_scale` and `factor = min(1, bound / norm) / loss_scale`, where a bound of 0 does not count; the
/// factor is NaN if norm or loss are not finite.
///
/// # Shapes
/// - all `[1]`
pub fn clip_factor(
    square_sum: Tensor<1>,
    loss: Tensor<1>,
    bound: f64,
    loss_scale: f64,
) -> [Tensor<1>; 2] {
    let norm = square_sum.clone().sqrt().div_scalar(loss_scale);
    let factor = match bound {
        0.0 => norm.ones_like(),
        _ => norm.clone().recip().mul_scalar(bound).clamp_max(1.0),
    };
    let lost = (square_sum * 0.0 + loss.cast(norm.dtype()) * 0.0).is_nan();
    [
        norm,
        factor.div_scalar(loss_scale).mask_fill(lost, f32::NAN),
    ]
}
