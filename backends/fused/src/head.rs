//! The head and its loss as one operation, which never holds the scores of all rows at once (Cut Your Losses, arXiv 2411.09009;
//! Liger Kernel, arXiv 2410.10989).
//!
//! Rows go through in chunks. Where a gradient will be asked for, a chunk's scores turn into their own gradient where they lie, and
//! meet the weight and the rows at once; what is kept for backward has the size of the inputs. This needs the gradient of the loss
//! beforehand up to a factor, which is why the loss is one number: the sum over rows divided by [`LossOptions::divisor`].

use burn::{
    backend::Dispatch,
    backend::{
        Autodiff, AutodiffBackend, Backend,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Int, Tensor, assert_shape},
};

use crate::{
    cross_entropy, linear,
    ops::{on_cube, on_flex},
    reference,
};

/// Scores of a chunk take at most so many bytes.
pub const CHUNK_BYTES: usize = 256 << 20;
/// Chunks are multiples of so many rows, so that products divide into whole tiles.
const CHUNK_ALIGN: usize = 64;

/// What is minimised beside cross-entropy.
///
/// ```text
/// nats_i      = Z_i - l_it                    Z_i = log sum_j exp(l_ij),  t the target
/// minimised_i = (1 - s) nats_i + s (Z_i - mean_j l_ij) + z Z_i^2
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossTerms {
    /// `s`: the share of a target's probability that goes to all tokens alike (Szegedy et al., arXiv 1512.00567), in `[0, 1)`.
    pub label_smoothing: f64,
    /// `z`: the weight of the squared log of the softmax' sum (PaLM, arXiv 2204.02311), at least 0.
    pub z_loss: f64,
}

impl LossTerms {
    /// Whether nothing is.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self) {
        let Self {
            label_smoothing,
            z_loss,
        } = *self;
        assert!(
            (0.0..1.0).contains(&label_smoothing),
            "the share of label smoothing is {label_smoothing}, but must lie in [0, 1)"
        );
        assert!(
            z_loss >= 0.0 && z_loss.is_finite(),
            "the weight of the z-loss is {z_loss}, but must be finite and at least 0"
        );
    }
}

/// How [`linear_cross_entropy`] adds up and divides its work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOptions {
    /// What is added to cross-entropy.
    pub terms: LossTerms,
    /// What the sum over rows is divided by: their number for a mean, that of all rows of an update where gradients accumulate;
    /// divided by the loss scale where there is one.
    pub divisor: f64,
    /// Most bytes that the scores of a chunk take, if one row does not take more.
    pub chunk_bytes: usize,
}

impl Default for LossOptions {
    /// The sum of plain cross-entropy.
    fn default() -> Self {
        Self {
            terms: LossTerms::default(),
            divisor: 1.0,
            chunk_bytes: CHUNK_BYTES,
        }
    }
}

impl LossOptions {
    /// The gradient of a row's loss, rounded as autodiff rounds that of a division.
    pub(crate) fn share(&self) -> f32 {
        1.0 / self.divisor as f32
    }
}

/// Rows of a chunk, such that chunks are about alike and none has more bytes, if one row has not: at least 1, and all `rows` if they
/// fit.
pub fn chunk_rows(rows: usize, row_bytes: usize, chunk_bytes: usize) -> usize {
    let most = (chunk_bytes / row_bytes.max(1)).max(1);
    let count = rows.div_ceil(most).max(1);
    let even = rows.div_ceil(count);
    match most >= CHUNK_ALIGN {
        true => even.next_multiple_of(CHUNK_ALIGN).min(most).min(rows),
        false => even,
    }
}

/// The loss of some rows.
#[derive(Clone, Debug)]
pub struct LinearLoss {
    /// What is minimised, summed over the rows and divided by the divisor, `[1]`.
    pub minimised: Tensor<1>,
    /// Cross-entropy of every row in nats, `[rows]`, without a gradient.
    pub nats: Tensor<1>,
}

/// A head without bias and the cross-entropy of its scores `rows weight^T`, without holding them all.
///
/// A target below 0 is ignored: its row has 0 nats and no gradient. If all are, loss and gradients are 0. Loss and nats are f32.
///
/// # Shapes
/// - rows `[rows, d_model]`, weight `[vocab, d_model]` in any layout, targets `[rows]`
///
/// # Cost
/// `2 rows d_model vocab` operations for the scores, and twice that for both gradients, all of them in the forward pass; backward
/// multiplies the gradients, unless that of the loss is 1. Memory: [`LossOptions::chunk_bytes`], and the gradients. On Flex in
/// types other than `f32`, plain tensor operations hold all scores.
///
/// # Panics
/// If the shapes do not fit, or options are out of range. As [`cross_entropy`], if a target is not below `vocab`.
pub fn linear_cross_entropy(
    rows: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    options: LossOptions,
) -> LinearLoss {
    let ([count, d_model], [vocab, _]) = (rows.dims(), weight.dims());
    assert_shape!(weight, [vocab, d_model]);
    assert_shape!(targets, [count]);
    options.terms.check();
    let divisor = options.divisor;
    assert!(
        divisor > 0.0 && divisor.is_finite(),
        "the sum over rows is divided by {divisor}, but that must be positive and finite"
    );
    if on_cube(&rows) || on_flex(&rows) && on_flex(&weight) {
        let (minimised, nats) = Dispatch::fused_linear_cross_entropy(
            rows.into_dispatch(),
            weight.into_dispatch(),
            targets.into_dispatch(),
            options,
        );
        return LinearLoss {
            minimised: Tensor::from_dispatch(minimised),
            nats: Tensor::from_dispatch(nats),
        };
    }
    cross_entropy_sum(linear(rows, weight.transpose(), None), targets, options)
}

/// The same from scores, for heads that are more than one matrix, or whose scores are wanted for more than this.
///
/// # Shapes
/// - logits `[rows, vocab]`, targets `[rows]`
///
/// # Panics
/// As [`linear_cross_entropy`].
pub fn cross_entropy_sum(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    options: LossOptions,
) -> LinearLoss {
    options.terms.check();
    let [count, _] = logits.dims();
    let ignored = targets.clone().lower_elem(0);
    let targets = targets.clamp_min(0);
    let of_rows = cross_entropy(logits.clone(), targets.clone());
    let of_rows = of_rows.mask_fill(ignored.clone(), 0.0);
    let nats = of_rows.clone().detach();
    let mut minimised = of_rows.sum();
    if !options.terms.is_plain() {
        let added = reference::loss_terms(logits, targets.reshape([count, 1]), options.terms);
        minimised = minimised + added.mask_fill(ignored, 0.0).sum();
    }
    LinearLoss {
        minimised: minimised.div_scalar(options.divisor),
        nats,
    }
}

/// A backend with a chunked form of [`linear_cross_entropy`].
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "_cube"), Autodiff)]
pub trait HeadBackend: Backend {
    /// What is minimised `[1]`, and the nats of rows, see [`linear_cross_entropy`].
    fn fused_linear_cross_entropy(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LossOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// A loss with the gradients that were asked for.
#[derive(Clone, Debug)]
pub struct HeadGradients<B: Backend> {
    /// `[1]`
    pub minimised: FloatTensor<B>,
    /// `[rows]`
    pub nats: FloatTensor<B>,
    /// `[rows, d_model]`
    pub rows: Option<FloatTensor<B>>,
    /// `[vocab, d_model]`
    pub weight: Option<FloatTensor<B>>,
}

/// What [`HeadBackend`] does under autodiff.
pub trait HeadAdjoint: Backend {
    /// Loss, nats, and the gradients of rows and weight if they are `asked` for.
    fn linear_cross_entropy_gradients(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LossOptions,
        asked: [bool; 2],
    ) -> HeadGradients<Self>;

    /// A gradient times a factor `[1]`, in its own buffer if nothing else holds it.
    fn gradient_times(gradient: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[derive(Debug)]
struct LinearCrossEntropy;

impl<B: HeadAdjoint> Backward<B, 2> for LinearCrossEntropy {
    /// The gradients of rows and weight for a gradient of 1.
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let factor = grads.consume::<B>(&ops.node);
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, B::gradient_times(gradient, factor.clone()));
            }
        }
    }
}

impl<B: HeadBackend + HeadAdjoint, C: CheckpointStrategy> HeadBackend for Autodiff<B, C> {
    fn fused_linear_cross_entropy(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LossOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [rows.node(), weight.node()];
        let asked = [rows.is_tracked(), weight.is_tracked()];
        let (rows, weight) = (rows.into_primitive(), weight.into_primitive());
        let (minimised, nats) = match LinearCrossEntropy
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let found =
                    B::linear_cross_entropy_gradients(rows, weight, targets, options, asked);
                let gradients = [found.rows, found.weight];
                (prep.finish(gradients, found.minimised), found.nats)
            }
            OpsKind::UnTracked(prep) => {
                let (minimised, nats) =
                    B::fused_linear_cross_entropy(rows, weight, targets, options);
                (prep.finish(minimised), nats)
            }
        };
        (minimised, Self::from_inner(nats))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_alike_and_within_their_bytes() {
        // 16,384 rows of 32,768 scores in bf16: four chunks of 256 MiB.
        assert_eq!(chunk_rows(16_384, 65_536, CHUNK_BYTES), 4096);
        assert_eq!(chunk_rows(16_400, 65_536, CHUNK_BYTES), 3328);
        assert_eq!(chunk_rows(100, 260, CHUNK_BYTES), 100);
        assert_eq!(chunk_rows(0, 260, CHUNK_BYTES), 0);
        // A row that is larger than a chunk is one by itself.
        assert_eq!(chunk_rows(7, 1000, 10), 1);
        for rows in 1..400 {
            for bytes in [10, 100, 1000, 10_000] {
                let chunk = chunk_rows(rows, 10, bytes);
                assert!((1..=rows).contains(&chunk) && chunk * 10 <= bytes.max(10));
            }
        }
    }
}
