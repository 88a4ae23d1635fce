//! What stands before a recurrence over heads: queries, keys and values from one product, behind a short convolution.
//!
//! ```text
//! [x_q, x_k, x_v, gate, rest] = x [W_q, W_k, W_v, W_g, W_r]      one product (`linear_side_by_side`)
//! u = conv(x_q),  s = silu(u),  q = scale s / rms(s)    rms over a head; k alike with scale 1
//! v = silu(conv(x_v))
//! ```
//! As separate operations every convolution, norm and product is a launch and a pass of its own over its channels; here it is one pass forward
//! and one backward over all of them, with what a backward pass needs computed anew. The convolution is that of [`causal_conv`](crate::causal_conv).
//! The gate stays where it is until [`gated_readout`](crate::gated_readout) reads it, and its gradient is written to where that of the product
//! is made: see [`PackedGate`].

#![allow(
    clippy::type_complexity,
    reason = "dispatch reads the tuple of outputs, and no name of it"
)]

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, TensorMetadata,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::{DType, Tensor, assert_shape},
};

use crate::{autodiff::register, ops::on_cube, parts::Aside};

/// Sizes of [`convolved_heads`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadSizes {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head's queries and keys.
    pub d_key: usize,
    /// Width of a head's values.
    pub d_value: usize,
    /// Columns of the gate of a readout, which are left where they are; 0 without one.
    pub gate: usize,
    /// Further columns, which are passed on as they are.
    pub rest: usize,
}

impl HeadSizes {
    /// Columns of queries, or of keys.
    pub fn keys(self) -> usize {
        self.heads * self.d_key
    }

    /// Columns of values.
    pub fn values(self) -> usize {
        self.heads * self.d_value
    }

    /// Columns that are convolved.
    pub fn convolved(self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Columns of a packed row: all of them, and up to seven of zeros, so that every row starts where 16 bytes can be read at once.
    pub fn columns(self) -> usize {
        (self.convolved() + self.gate + self.rest).next_multiple_of(OF_LINE)
    }
}

/// Numbers of 16 bits that are read at once.
const OF_LINE: usize = 8;

/// What the kernels need to know besides the sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSettings {
    /// Columns of a row.
    pub sizes: HeadSizes,
    /// What normalised queries are multiplied with.
    pub scale: f32,
    /// Added to mean squares.
    pub epsilon: f32,
}

/// What [`convolved_heads`] returns.
#[derive(Clone, Debug)]
pub struct ConvolvedHeads {
    /// Queries, `[batch, seq, heads, d_key]`.
    pub q: Tensor<4>,
    /// Keys, `[batch, seq, heads, d_key]`.
    pub k: Tensor<4>,
    /// Values, `[batch, seq, heads, d_value]`.
    pub v: Tensor<4>,
    /// The values once more, for a second reader: gradients of both are added up in the backward pass itself.
    pub own: Tensor<4>,
    /// The gate, if the rows have one.
    pub gate: Option<PackedGate>,
    /// The further columns, `[batch, seq, rest]`, in `f32`.
    pub rest: Tensor<3>,
}

/// The columns of packed rows that are the gate of a readout, for [`gated_readout`](crate::gated_readout).
///
/// Its gradient is one of whole rows, of which the readout writes these columns and [`convolved_heads`] the others: neither copies.
#[derive(Clone, Debug)]
pub struct PackedGate {
    /// `[batch * seq, columns]`
    pub(crate) rows: Tensor<2>,
    /// The first of its columns.
    pub(crate) first: usize,
}

/// A backend with kernels for both operations.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait HeadsBackend: Backend {
    /// See [`side_by_side`]; four matrices with as many rows.
    fn fused_side_by_side(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        columns: usize,
        dtype: DType,
    ) -> FloatTensor<Self>;

    /// The same of five.
    fn fused_five_side_by_side(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        columns: usize,
        dtype: DType,
    ) -> FloatTensor<Self>;

    /// See [`convolved_heads`]; q, k and v as rows, `[batch * seq, width]`, v once more, the packed rows as `[batch * seq, columns]`
    /// for who reads the gate, and the rest.
    fn fused_convolved_heads(
        packed: FloatTensor<Self>,
        q_taps: FloatTensor<Self>,
        k_taps: FloatTensor<Self>,
        v_taps: FloatTensor<Self>,
        settings: HeadSettings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );
}

/// What [`HeadsBackend::fused_convolved_heads`] returns.
pub(crate) const OUTPUTS: usize = 6;

/// The vector-Jacobian products behind [`HeadsBackend`].
pub trait HeadsAdjoint: Backend {
    /// The parts of a matrix, each of so many columns and of such a type.
    fn side_by_side_adjoint<const N: usize>(
        grad: FloatTensor<Self>,
        parts: [(usize, DType); N],
    ) -> [FloatTensor<Self>; N];

    /// Gradients of the packed rows and the three weights, from those of q, k, v, v once more, the rows that the gate is in, of which its
    /// columns alone count, and the rest; absent ones are zero.
    fn convolved_heads_adjoint(
        packed: FloatTensor<Self>,
        taps: [FloatTensor<Self>; 3],
        settings: HeadSettings,
        grads: [Option<FloatTensor<Self>>; OUTPUTS],
    ) -> [FloatTensor<Self>; 4];
}

/// `x [W_1, ..., W_n, 0]`: several linear layers as one product, with columns of zeros behind them if `columns` is more than they have.
///
/// # Shapes
/// - x `[.., d_in]`, four or five weights `[d_in, width_i]`; output `[.., columns]`, in x's element type
///
/// # Cost
/// Of [`linear`](crate::linear), and of [`side_by_side`].
///
/// # Panics
/// As [`side_by_side`].
pub fn linear_side_by_side<const D: usize>(
    x: Tensor<D>,
    weights: Vec<Tensor<2>>,
    columns: usize,
) -> Tensor<D> {
    if !on_cube(&x) {
        let dtype = weights[0].dtype();
        return crate::linear(x, side_by_side(weights, columns, dtype), None);
    }
    let weights = side_by_side(weights, columns, x.dtype());
    // The weights take their gradients apart in single precision, whatever they were rounded to.
    kiln_matmul::linear_of_rounded(x, weights, DType::F32)
}

/// Matrices beside each other in one of type `dtype`, with columns of zeros behind them if `columns` is more than they have. Gradients are
/// taken apart in the type that they come in.
///
/// # Shapes
/// - four or five of `[rows, width_i]`; output `[rows, columns]`
///
/// # Cost
/// Two passes over all of them forward, two backward, a launch each on CubeCL backends.
///
/// # Panics
/// If the matrices are fewer or more, differ in rows, or have more columns than asked for.
pub fn side_by_side(matrices: Vec<Tensor<2>>, columns: usize, dtype: DType) -> Tensor<2> {
    let count = matrices.len();
    assert!(
        matches!(count, 4 | 5),
        "side_by_side: {count} matrices are not four or five"
    );
    let [rows, _] = matrices[0].dims();
    let widths: Vec<usize> = matrices.iter().map(|matrix| matrix.dims()[1]).collect();
    for matrix in &matrices {
        assert_shape!(matrix, [rows, ..]);
    }
    let taken: usize = widths.iter().sum();
    assert!(
        taken <= columns,
        "side_by_side: matrices of {widths:?} columns do not fit into {columns}"
    );
    if !on_cube(&matrices[0]) {
        let options = (&matrices[0].device(), matrices[0].dtype());
        let mut parts = matrices;
        if taken < columns {
            parts.push(Tensor::zeros([rows, columns - taken], options));
        }
        let all = Tensor::cat(parts, 1);
        return if all.dtype() == dtype {
            all
        } else {
            all.cast(dtype)
        };
    }
    let mut matrices = matrices.into_iter().map(Tensor::into_dispatch);
    let mut next = || matrices.next().expect("four matrices at least");
    let (a, b, c, d) = (next(), next(), next(), next());
    Tensor::from_dispatch(match matrices.next() {
        None => Dispatch::fused_side_by_side(a, b, c, d, columns, dtype),
        Some(e) => Dispatch::fused_five_side_by_side(a, b, c, d, e, columns, dtype),
    })
}

/// Whether [`convolved_heads`] has kernels for these sizes on the device of x.
pub fn takes_convolved_heads<const D: usize>(
    x: &Tensor<D>,
    sizes: HeadSizes,
    width: usize,
) -> bool {
    #[cfg(feature = "_cube")]
    {
        on_cube(x) && crate::cube::takes_heads(&x.device(), sizes, width)
    }
    #[cfg(not(feature = "_cube"))]
    {
        let _ = (x, sizes, width);
        false
    }
}

/// Queries, keys and values of every head from rows of projections, behind a causal depthwise convolution and SiLU, queries and keys
/// divided by the root mean square of a head, queries times `scale`.
///
/// # Shapes
/// - packed `[batch, seq, sizes.columns()]`: queries, keys, values, the gate, the rest, and columns that nobody reads
/// - taps of queries, keys and values, `[channels, width]` each in `f32`
///
/// # Cost
/// About 40 operations an element forward, 90 backward; one pass over what it reads and writes each.
///
/// # Panics
/// If the shapes do not fit, or [`takes_convolved_heads`] does not hold.
pub fn convolved_heads(
    packed: Tensor<3>,
    taps: [Tensor<2>; 3],
    sizes: HeadSizes,
    scale: f64,
    epsilon: f64,
) -> ConvolvedHeads {
    let [batch, seq, columns] = packed.dims();
    let [_, width] = taps[0].dims();
    assert_eq!(
        columns,
        sizes.columns(),
        "convolved_heads: rows of {columns} numbers are not those of {sizes:?}"
    );
    let channels = [sizes.keys(), sizes.keys(), sizes.values()];
    for (taps, channels) in taps.iter().zip(channels) {
        assert_shape!(taps, [channels, width]);
    }
    assert!(
        takes_convolved_heads(&packed, sizes, width),
        "convolved_heads: no kernel takes {sizes:?} with {width} taps on this device"
    );
    let settings = HeadSettings {
        sizes,
        scale: scale as f32,
        epsilon: epsilon as f32,
    };
    let [q_taps, k_taps, v_taps] = taps.map(Tensor::into_dispatch);
    let (q, k, v, own, rows, rest) =
        Dispatch::fused_convolved_heads(packed.into_dispatch(), q_taps, k_taps, v_taps, settings);
    let heads =
        |rows, width| Tensor::<2>::from_dispatch(rows).reshape([batch, seq, sizes.heads, width]);
    ConvolvedHeads {
        q: heads(q, sizes.d_key),
        k: heads(k, sizes.d_key),
        v: heads(v, sizes.d_value),
        own: heads(own, sizes.d_value),
        gate: (sizes.gate > 0).then(|| PackedGate {
            rows: Tensor::from_dispatch(rows),
            first: sizes.convolved(),
        }),
        rest: Tensor::<2>::from_dispatch(rest).reshape([batch, seq, sizes.rest]),
    }
}

#[derive(Debug)]
struct SideBySide;

impl<B: HeadsAdjoint, const N: usize> Backward<B, N> for SideBySide {
    /// Columns and type of each.
    type State = [(usize, DType); N];

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, N>(parents, B::side_by_side_adjoint(grad, ops.state), grads);
    }
}

impl SideBySide {
    fn track<B: HeadsBackend + HeadsAdjoint, C: CheckpointStrategy, const N: usize>(
        matrices: [FloatTensor<Autodiff<B, C>>; N],
        columns: usize,
        dtype: DType,
    ) -> FloatTensor<Autodiff<B, C>> {
        let nodes = matrices.each_ref().map(|matrix| matrix.node());
        let matrices = matrices.map(|matrix| matrix.into_primitive());
        let parts = matrices
            .each_ref()
            .map(|matrix| (matrix.shape()[1], matrix.dtype()));
        let mut matrices = matrices.into_iter();
        let mut next = || matrices.next().expect("four matrices at least");
        let (a, b, c, d) = (next(), next(), next(), next());
        let packed = match matrices.next() {
            None => B::fused_side_by_side(a, b, c, d, columns, dtype),
            Some(e) => B::fused_five_side_by_side(a, b, c, d, e, columns, dtype),
        };
        match SideBySide.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(parts, packed),
            OpsKind::UnTracked(prep) => prep.finish(packed),
        }
    }
}

/// What all outputs come from.
#[derive(Debug)]
struct Source;

impl<B: HeadsAdjoint> Backward<B, 4> for Source {
    /// The packed rows, the taps, the settings, and where gradients wait.
    type State = (NodeId, [FloatTensor<B>; 3], HeadSettings, Aside<B, OUTPUTS>);

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (packed, taps, settings, aside) = ops.state;
        let packed = checkpointer.retrieve_node_output::<FloatTensor<B>>(packed);
        let inputs = B::convolved_heads_adjoint(packed, taps, settings, aside.take());
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 4>(parents, inputs, grads);
    }
}

impl<B: HeadsBackend + HeadsAdjoint, C: CheckpointStrategy> HeadsBackend for Autodiff<B, C> {
    fn fused_side_by_side(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        columns: usize,
        dtype: DType,
    ) -> FloatTensor<Self> {
        SideBySide::track::<B, C, 4>([a, b, c, d], columns, dtype)
    }

    fn fused_five_side_by_side(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        columns: usize,
        dtype: DType,
    ) -> FloatTensor<Self> {
        SideBySide::track::<B, C, 5>([a, b, c, d, e], columns, dtype)
    }

    fn fused_convolved_heads(
        packed: FloatTensor<Self>,
        q_taps: FloatTensor<Self>,
        k_taps: FloatTensor<Self>,
        v_taps: FloatTensor<Self>,
        settings: HeadSettings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let nodes = [packed.node(), q_taps.node(), k_taps.node(), v_taps.node()];
        let taps = [q_taps, k_taps, v_taps].map(|taps| taps.into_primitive());
        let [q_taps, k_taps, v_taps] = taps.clone();
        let aside = Aside::<B, OUTPUTS>::default();
        let forward = |packed| B::fused_convolved_heads(packed, q_taps, k_taps, v_taps, settings);
        // The parent's own output is one of the parts: nobody sees it.
        let (source, parts) = match Source.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&packed), taps, settings, aside.clone());
                let parts = forward(packed.into_primitive());
                (prep.finish(saved, parts.5.clone()), parts)
            }
            OpsKind::UnTracked(prep) => {
                let parts = forward(packed.into_primitive());
                (prep.finish(parts.5.clone()), parts)
            }
        };
        let part = |number, value| aside.part::<C>(&source, number, value);
        let (q, k, v, own, rows, rest) = parts;
        (
            part(0, q),
            part(1, k),
            part(2, v),
            part(3, own),
            part(4, rows),
            part(5, rest),
        )
    }
}
