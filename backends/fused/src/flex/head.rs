//! The head and its loss in chunks of rows. A chunk's scores turn into exponentials and then into their own gradient where they lie.

use std::mem::MaybeUninit;

use burn::{
    backend::{Flex, TensorMetadata, ops::FloatTensorOps, tensor::IntTensor},
    tensor::DType,
};

use super::{
    FlexTensor, contiguous, flat,
    math::exp,
    parallel::{Output, for_each_piece},
    product::{Target, View, product, threads},
    simd::{self, Kernel, max, sum},
    tensor, view,
};
use crate::head::{HeadAdjoint, HeadBackend, HeadGradients, LossOptions, chunk_rows};

/// The place of a target that is ignored.
const IGNORED: usize = usize::MAX;

/// Targets below `vocab`, and [`IGNORED`] for those below 0.
fn labels(targets: IntTensor<Flex>, vocab: usize) -> Vec<usize> {
    let targets = targets.to_contiguous();
    let ids: Vec<i64> = match targets.dtype() {
        DType::I32 => {
            let ids = targets.storage::<i32>().iter();
            ids.map(|&id| id.into()).collect()
        }
        _ => targets.into_data().iter::<i64>().collect(),
    };
    let label = |id: i64| match usize::try_from(id) {
        Ok(id) if id >= vocab => {
            panic!("linear_cross_entropy: target {id} is not below the vocabulary of {vocab}")
        }
        Ok(id) => id,
        Err(_) => IGNORED,
    };
    ids.into_iter().map(label).collect()
}

/// Rows of scores, which become their gradient if it is wanted, and exponentials if not.
struct Scores<'a> {
    scores: &'a mut [f32],
    labels: &'a [usize],
    nats: &'a mut [MaybeUninit<f32>],
    minimised: &'a mut [MaybeUninit<f32>],
    options: LossOptions,
    gradient: bool,
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.scores.len() / self.labels.len();
        let terms = self.options.terms;
        let (share, smoothing) = (self.options.share(), terms.label_smoothing as f32);
        let z_loss = terms.z_loss as f32;
        let outputs = self.nats.iter_mut().zip(self.minimised);
        let rows = self.scores.chunks_exact_mut(width).zip(self.labels);
        for ((row, &label), (nats, minimised)) in rows.zip(outputs) {
            if label == IGNORED {
                row.fill(0.0);
                nats.write(0.0);
                minimised.write(0.0);
                continue;
            }
            let (top, score) = (max(row), row[label]);
            let mean = match smoothing {
                0.0 => score,
                _ => sum(row, row, |l, _| l) / width as f32,
            };
            for l in row.iter_mut() {
                *l = exp(*l - top);
            }
            let total = sum(row, row, |e, _| e);
            let lost = total.ln() + (top - score);
            let log_total = total.ln() + top;
            nats.write(lost);
            minimised.write(lost + smoothing * (score - mean) + z_loss * log_total * log_total);
            if !self.gradient {
                continue;
            }
            // Without terms, the very operations of the gradient of cross-entropy.
            let factor = share * (1.0 + 2.0 * z_loss * log_total) / total;
            let less = share * smoothing / width as f32;
            for e in row.iter_mut() {
                *e = *e * factor - less;
            }
            row[label] -= share * (1.0 - smoothing);
        }
    }
}

/// A head's problem, and where its results go.
struct Head<'a> {
    rows: View,
    weight: View,
    d_model: usize,
    vocab: usize,
    labels: &'a [usize],
    options: LossOptions,
    gradient: bool,
    nats: Output,
    minimised: Output,
    d_rows: Option<Output>,
    d_weight: Option<Output>,
    /// Whether the gradient of the weight lies by columns, as the weight does.
    by_columns: bool,
}

impl Head<'_> {
    /// Scores of the chunk and what becomes of them; `scores` has room for it.
    fn chunk(&self, first: usize, count: usize, scores: &mut [f32]) {
        let (d_model, vocab) = (self.d_model, self.vocab);
        let sizes = [count, vocab, d_model];
        // SAFETY: the chunk lies within the rows.
        let start = unsafe { self.rows.start.add(first * d_model) };
        let rows = View { start, ..self.rows };
        let target = Target {
            start: scores.as_mut_ptr(),
            stride: vocab,
            add: false,
        };
        // SAFETY: the views are whole tensors, and the scores have room.
        unsafe {
            product(
                sizes,
                target,
                rows,
                self.weight.transposed(),
                1.0,
                threads(sizes),
            );
        }
        self.lose(first, count, scores);
        let scores = View::rows(scores.as_ptr(), vocab);
        if let Some(d_rows) = &self.d_rows {
            let sizes = [count, d_model, vocab];
            let target = Target {
                start: d_rows.start(first * d_model),
                stride: d_model,
                add: false,
            };
            // SAFETY: chunks do not overlap.
            unsafe { product(sizes, target, scores, self.weight, 1.0, threads(sizes)) };
        }
        if let Some(d_weight) = &self.d_weight {
            let (sizes, [a, b]) = match self.by_columns {
                true => ([d_model, vocab, count], [rows, scores]),
                false => ([vocab, d_model, count], [scores, rows]),
            };
            let target = Target {
                start: d_weight.start(0),
                stride: sizes[1],
                add: first > 0,
            };
            // SAFETY: the first chunk writes all of it, and the others add to that.
            unsafe { product(sizes, target, a.transposed(), b, 1.0, threads(sizes)) };
        }
    }

    /// The loss of a chunk's scores, and their gradient in their place.
    fn lose(&self, first: usize, count: usize, scores: &mut [f32]) {
        let (vocab, options, gradient) = (self.vocab, self.options, self.gradient);
        let (labels, nats, minimised) = (self.labels, &self.nats, &self.minimised);
        let start = SharedMut(scores.as_mut_ptr());
        for_each_piece(count, vocab, |_, piece| {
            let (at, len) = (piece.start * vocab, piece.len() * vocab);
            let of_all = first + piece.start..first + piece.end;
            simd::run(Scores {
                // SAFETY: pieces do not overlap.
                scores: unsafe { start.part(at, len) },
                labels: &labels[of_all.clone()],
                // SAFETY: nor do they here, as chunks do not.
                nats: unsafe { nats.part(of_all.clone()) },
                // SAFETY: as above.
                minimised: unsafe { minimised.part(of_all) },
                options,
                gradient,
            });
        });
    }
}

/// A slice that pieces share.
struct SharedMut(*mut f32);

// SAFETY: it is reached only through `part`, whose callers promise disjoint ranges.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// # Safety
    /// The range lies in the slice, and no other part that is in use overlaps it.
    #[expect(clippy::mut_from_ref, reason = "callers hold disjoint parts")]
    unsafe fn part(&self, at: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

impl HeadBackend for Flex {
    fn fused_linear_cross_entropy(
        rows: FlexTensor,
        weight: FlexTensor,
        targets: IntTensor<Flex>,
        options: LossOptions,
    ) -> (FlexTensor, FlexTensor) {
        let asked = [false; 2];
        let found = Self::linear_cross_entropy_gradients(rows, weight, targets, options, asked);
        (found.minimised, found.nats)
    }
}

impl HeadAdjoint for Flex {
    fn linear_cross_entropy_gradients(
        rows: FlexTensor,
        weight: FlexTensor,
        targets: IntTensor<Flex>,
        options: LossOptions,
        asked: [bool; 2],
    ) -> HeadGradients<Flex> {
        let rows = contiguous(rows);
        let (a, count) = flat(&rows);
        let (vocab, d_model) = (weight.shape()[0], weight.shape()[1]);
        let by_columns = weight.layout().strides()[0] == 1 && vocab > 1;
        let labels = labels(targets, vocab);
        let wanted = |asked: bool, len: usize| asked.then(|| Output::new(len));
        let head = Head {
            rows: a,
            weight: view(&weight),
            d_model,
            vocab,
            labels: &labels,
            options,
            gradient: asked.contains(&true),
            nats: Output::new(count),
            minimised: Output::new(count),
            d_rows: wanted(asked[0], count * d_model),
            d_weight: wanted(asked[1] && count > 0, vocab * d_model),
            by_columns,
        };
        let chunk = chunk_rows(count, vocab * size_of::<f32>(), options.chunk_bytes);
        let mut scores = vec![0.0; chunk * vocab];
        for first in (0..count).step_by(chunk.max(1)) {
            let len = chunk.min(count - first);
            head.chunk(first, len, &mut scores[..len * vocab]);
        }
        // SAFETY: the chunks cover all rows, and the first of them writes all of the weight's gradient.
        let finish = |output: Output| unsafe { output.finish() };
        let d_weight = asked[1].then(|| match head.d_weight {
            None => tensor(vec![0.0; vocab * d_model], [vocab, d_model]),
            Some(output) if by_columns => tensor(finish(output), [d_model, vocab]).transpose(0, 1),
            Some(output) => tensor(finish(output), [vocab, d_model]),
        });
        let minimised = Flex::float_sum(tensor(finish(head.minimised), [count]));
        HeadGradients {
            minimised: Flex::float_mul_scalar(minimised, options.share().into()),
            nats: tensor(finish(head.nats), [count]),
            rows: head
                .d_rows
                .map(|d_rows| tensor(finish(d_rows), [count, d_model])),
            weight: d_weight,
        }
    }

    fn gradient_times(gradient: FlexTensor, factor: FlexTensor) -> FlexTensor {
        let factor = contiguous(factor).storage::<f32>()[0];
        match factor {
            1.0 => gradient,
            _ => Flex::float_mul_scalar(gradient, factor.into()),
        }
    }
}
