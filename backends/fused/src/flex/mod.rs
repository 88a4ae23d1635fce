//! The Flex implementation: single passes over `f32` slices, vectorised and parallel over rows.

#![allow(
    clippy::needless_range_loop,
    reason = "an index runs over many slices at once"
)]

mod attention;
mod cayley;
mod conv;
mod elementwise;
mod head;
mod loss;
mod math;
mod norm;
mod parallel;
mod product;
mod rotate;
mod simd;
mod update;

use burn::{
    backend::{
        Flex, TensorMetadata,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape, Tensor, TensorData},
};

use self::{
    attention::Problem,
    parallel::Output,
    product::{Target, View, product, threads},
};
use crate::{
    attention::{AttentionAdjoint, AttentionBackend},
    backend::{FusedAdjoint, FusedBackend},
    linear::{LinearAdjoint, LinearBackend},
    mask::AttentionMask,
    optimizer::Factors,
};

type FlexTensor = FloatTensor<Flex>;

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Row-major without gaps.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    // The borrowing call would leave a second handle to the buffer.
    let layout = tensor.layout();
    let whole = layout.is_contiguous()
        && layout.start_offset() == 0
        && tensor.bytes().len() == layout.num_elements() * size_of::<f32>();
    if whole {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// Target ids below `vocab`.
fn ids(targets: IntTensor<Flex>, vocab: usize) -> Vec<usize> {
    let targets = targets.to_contiguous();
    let ids: Vec<usize> = match targets.dtype() {
        DType::I32 => targets
            .storage::<i32>()
            .iter()
            .map(|&id| id as usize)
            .collect(),
        _ => targets
            .into_data()
            .iter::<i64>()
            .map(|id| id as usize)
            .collect(),
    };
    if let Some(id) = ids.iter().find(|&&id| id >= vocab) {
        panic!("cross_entropy: target {id} is not below the vocabulary of {vocab}");
    }
    ids
}

/// The last two axes of a layout as a matrix.
fn view(tensor: &FlexTensor) -> View {
    let strides = tensor.layout().strides();
    let [.., row, col] = *strides else {
        panic!("a matrix has two axes")
    };
    View {
        start: tensor.storage::<f32>()[tensor.layout().start_offset()..].as_ptr(),
        row,
        col,
    }
}

fn last_axis(tensor: &FlexTensor) -> usize {
    let shape = tensor.shape();
    shape[shape.num_dims() - 1]
}

/// All axes but the last as one: `[rows, width]`.
fn flat(tensor: &FlexTensor) -> (View, usize) {
    let width = last_axis(tensor);
    let values = tensor.storage::<f32>();
    (
        View::rows(values.as_ptr(), width),
        values.len() / width.max(1),
    )
}

fn new_product(sizes: [usize; 3], a: View, b: View, shape: impl Into<Shape>) -> FlexTensor {
    let [m, n, _] = sizes;
    let y = Output::new(m * n);
    let target = Target {
        start: y.start(0),
        stride: n,
        add: false,
    };
    // SAFETY: the views are whole tensors of these sizes, and the product writes all of its target.
    unsafe {
        product(sizes, target, a, b, 1.0, threads(sizes));
        tensor(y.finish(), shape)
    }
}

/// Dimensions of packed projections.
fn packed_problem(packed: &FlexTensor, heads: usize) -> Problem {
    let shape = packed.shape();
    Problem {
        batch: shape[0],
        seq: shape[1],
        heads,
        d_head: shape[2] / (3 * heads),
    }
}

/// `[width, channels]` taps of `[channels, width]` weights.
fn taps(weight: &FlexTensor) -> Vec<f32> {
    conv::transposed(weight.storage(), last_axis(weight))
}

fn conv_problem<'a>(
    x: &'a FlexTensor,
    taps: &'a [f32],
    past: usize,
    silu: bool,
) -> conv::Problem<'a> {
    let shape = x.shape();
    conv::Problem {
        x: x.storage(),
        taps,
        past,
        seq: shape[1] - past,
        channels: shape[2],
        silu,
    }
}

impl LinearBackend for Flex {
    fn fused_linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        let (d_in, d_out) = (weight.shape()[0], weight.shape()[1]);
        let mut shape = x.shape();
        let last = shape.num_dims() - 1;
        shape[last] = d_out;
        let (a, rows) = flat(&x);
        new_product([rows, d_out, d_in], a, view(&weight), shape)
    }
}

impl LinearAdjoint for Flex {
    fn linear_adjoint_x(grad: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let weight_t = weight.transpose(0, 1);
        Self::fused_linear(grad, weight_t)
    }

    fn linear_adjoint_weight(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (x, grad) = (contiguous(x), contiguous(grad));
        let ((a, rows), (b, _)) = (flat(&x), flat(&grad));
        let (d_in, d_out) = (a.row as usize, b.row as usize);
        new_product([d_in, d_out, rows], a.transposed(), b, [d_in, d_out])
    }
}

impl AttentionBackend for Flex {
    fn fused_attention(packed: FlexTensor, heads: usize, mask: AttentionMask) -> FlexTensor {
        let packed = contiguous(packed);
        let problem = packed_problem(&packed, heads);
        let shape = [problem.batch, problem.seq, heads * problem.d_head];
        tensor(attention::forward(problem, mask, packed.storage()), shape)
    }
}

impl AttentionAdjoint for Flex {
    fn attention_adjoint(
        packed: FlexTensor,
        heads: usize,
        mask: AttentionMask,
        grad: FlexTensor,
    ) -> FlexTensor {
        let (packed, grad) = (contiguous(packed), contiguous(grad));
        let problem = packed_problem(&packed, heads);
        let d_packed = attention::backward(problem, mask, packed.storage(), grad.storage());
        tensor(d_packed, packed.shape())
    }
}

impl FusedBackend for Flex {
    fn fused_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        tensor(elementwise::gelu(x.storage()), x.shape())
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (contiguous(gate), contiguous(up));
        tensor(
            elementwise::swiglu(gate.storage(), up.storage()),
            gate.shape(),
        )
    }

    fn fused_soft_bound(x: FlexTensor, bound: f32) -> FlexTensor {
        let x = contiguous(x);
        tensor(elementwise::soft_bound(x.storage(), bound), x.shape())
    }

    fn fused_cayley(z: FlexTensor) -> FlexTensor {
        let z = contiguous(z);
        let width = last_axis(&z);
        tensor(cayley::forward(z.storage(), width), z.shape())
    }

    fn fused_norm(x: FlexTensor, gamma: FlexTensor, epsilon: f32, centred: bool) -> FlexTensor {
        let (x, gamma) = (contiguous(x), contiguous(gamma));
        let problem = norm::Problem {
            x: x.storage(),
            gamma: gamma.storage(),
            epsilon,
            centred,
        };
        tensor(norm::forward(problem), x.shape())
    }

    fn fused_rotate(
        packed: FlexTensor,
        cos: FlexTensor,
        sin: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        turn(packed, cos, sin, heads, 1.0)
    }

    fn fused_causal_conv(x: FlexTensor, weight: FlexTensor, past: usize, silu: bool) -> FlexTensor {
        let (x, weight) = (contiguous(x), contiguous(weight));
        let taps = taps(&weight);
        let problem = conv_problem(&x, &taps, past, silu);
        let shape = [x.shape()[0], problem.seq, problem.channels];
        tensor(conv::forward(problem), shape)
    }

    fn fused_cross_entropy(logits: FlexTensor, targets: IntTensor<Flex>) -> FlexTensor {
        let logits = contiguous(logits);
        let (tokens, vocab) = (logits.shape()[0], logits.shape()[1]);
        let targets = ids(targets, vocab);
        tensor(loss::forward(logits.storage(), &targets, vocab), [tokens])
    }
}

impl FusedAdjoint for Flex {
    fn gelu_adjoint(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (x, grad) = (contiguous(x), contiguous(grad));
        tensor(
            elementwise::gelu_adjoint(x.storage(), grad.storage()),
            x.shape(),
        )
    }

    fn swiglu_adjoint(gate: FlexTensor, up: FlexTensor, grad: FlexTensor) -> [FlexTensor; 2] {
        let (gate, up, grad) = (contiguous(gate), contiguous(up), contiguous(grad));
        elementwise::swiglu_adjoint(gate.storage(), up.storage(), grad.storage())
            .map(|values| tensor(values, gate.shape()))
    }

    fn soft_bound_adjoint(x: FlexTensor, bound: f32, grad: FlexTensor) -> FlexTensor {
        let (x, grad) = (contiguous(x), contiguous(grad));
        tensor(
            elementwise::soft_bound_adjoint(x.storage(), bound, grad.storage()),
            x.shape(),
        )
    }

    fn cayley_adjoint(z: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (z, grad) = (contiguous(z), contiguous(grad));
        let width = last_axis(&z);
        tensor(
            cayley::adjoint(z.storage(), grad.storage(), width),
            z.shape(),
        )
    }

    fn norm_adjoint(
        x: FlexTensor,
        gamma: FlexTensor,
        epsilon: f32,
        centred: bool,
        grad: FlexTensor,
        so_far: Option<FlexTensor>,
        gamma_asked: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let (x, gamma, grad) = (contiguous(x), contiguous(gamma), contiguous(grad));
        let problem = norm::Problem {
            x: x.storage(),
            gamma: gamma.storage(),
            epsilon,
            centred,
        };
        let (d_x, d_gamma) = norm::backward(problem, grad.storage());
        let d_gamma = gamma_asked.then(|| tensor(d_gamma, gamma.shape()));
        let d_x = tensor(d_x, x.shape());
        let d_x = match so_far {
            Some(so_far) => Self::float_add(d_x, so_far),
            None => d_x,
        };
        (d_x, d_gamma)
    }

    fn rotate_adjoint(
        cos: FlexTensor,
        sin: FlexTensor,
        heads: usize,
        grad: FlexTensor,
    ) -> FlexTensor {
        turn(grad, cos, sin, heads, -1.0)
    }

    fn causal_conv_adjoint(
        x: FlexTensor,
        weight: FlexTensor,
        past: usize,
        silu: bool,
        grad: FlexTensor,
    ) -> [FlexTensor; 2] {
        let (x, weight, grad) = (contiguous(x), contiguous(weight), contiguous(grad));
        let taps = taps(&weight);
        let problem = conv_problem(&x, &taps, past, silu);
        let (d_x, d_taps) = conv::backward(problem, grad.storage());
        let d_weight = conv::transposed(&d_taps, problem.channels);
        [tensor(d_x, x.shape()), tensor(d_weight, weight.shape())]
    }

    fn cross_entropy_adjoint(
        logits: FlexTensor,
        targets: IntTensor<Flex>,
        _nats: FlexTensor,
        grad: FlexTensor,
    ) -> FlexTensor {
        let (logits, grad) = (contiguous(logits), contiguous(grad));
        let vocab = logits.shape()[1];
        let targets = ids(targets, vocab);
        let d_logits = loss::backward(logits.storage(), &targets, vocab, grad.storage());
        tensor(d_logits, logits.shape())
    }
}

fn turn(
    packed: FlexTensor,
    cos: FlexTensor,
    sin: FlexTensor,
    heads: usize,
    direction: f32,
) -> FlexTensor {
    let (packed, cos, sin) = (contiguous(packed), contiguous(cos), contiguous(sin));
    let problem = packed_problem(&packed, heads);
    let (x, cos, sin) = (packed.storage(), cos.storage(), sin.storage());
    tensor(
        rotate::rotate(problem, x, cos, sin, direction),
        packed.shape(),
    )
}

fn lower<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let primitive = tensor.try_into_primitive::<Flex>();
    contiguous(primitive.expect("the caller asked for the backend"))
}

/// See [`square_sum`](crate::square_sum).
pub(crate) fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let sum = update::square_sum(lower(x).storage());
    Tensor::from_primitive::<Flex>(tensor(vec![sum], [1]))
}

/// See [`AdamW`](crate::AdamW): parameter and moments after the step, in the same buffers if nothing else holds them.
pub(crate) fn adamw<const D: usize>(
    factors: Factors,
    values: [Tensor<D>; 3],
    grad: Tensor<D>,
) -> [Tensor<D>; 3] {
    let mut values = values.map(lower);
    let grad = lower(grad);
    let buffers = values.each_mut().map(|value| value.storage_mut());
    update::adamw(factors, buffers, grad.storage());
    values.map(Tensor::from_primitive::<Flex>)
}
