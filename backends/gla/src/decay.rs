//! Products of gates between any two positions of a chunk, and the recurrence over chunks.

use burn::tensor::{Bool, Tensor};

/// Gates below this count as this: `exp(-80)` is 2e-35, and sums over a chunk stay small enough to be kept exactly.
pub(crate) const LEAST_GATE: f32 = -80.0;
/// Chunks between which the states are found by one matrix product.
const BLOCK: usize = 64;

/// Cumulative gates of chunks, `[rows, count, chunk]`, in two parts.
///
/// `A_t - A_j` is asked for to about 1e-7, but where a chunk has strong gates the sums themselves are thousands, known to
/// 1e-4 only. So gates are split into a multiple of a power of two, whose sums single precision holds exactly, and a rest
/// whose sums are below one.
pub(crate) struct Decay {
    coarse: Tensor<3>,
    fine: Tensor<3>,
}

impl Decay {
    /// From gates `[rows, count, chunk]`.
    pub fn new(gates: Tensor<3>) -> Self {
        let chunk = gates.dims()[2];
        // The largest power of two with `chunk * 80 / step <= 2^24`.
        let most = chunk as f32 * -LEAST_GATE / 16_777_216.0;
        let step = most.log2().ceil().exp2();
        let gates = gates.clamp_min(LEAST_GATE);
        let coarse = (gates.clone() / step).round() * step;
        let fine = gates - coarse.clone();
        Self {
            coarse: cumulative(coarse),
            fine: cumulative(fine),
        }
    }

    /// `D_tj = exp(A_t - A_j)` for `j <= t`, else zero: `[rows, count, chunk, chunk]`.
    pub fn within(&self) -> Tensor<4> {
        let [_, _, chunk] = self.coarse.dims();
        let differences = |sum: &Tensor<3>| -> Tensor<4> {
            sum.clone().unsqueeze_dim::<4>(3) - sum.clone().unsqueeze_dim(2)
        };
        let future = Tensor::<2, Bool>::tril_mask([chunk; 2], 0, &self.coarse.device());
        let exponent = differences(&self.coarse) + differences(&self.fine);
        exponent
            .mask_fill(future.unsqueeze(), f32::NEG_INFINITY)
            .exp()
    }

    /// `exp(A_t)`, from before the chunk to each position: `[rows, count, chunk]`.
    pub fn entering(&self) -> Tensor<3> {
        (self.coarse.clone() + self.fine.clone()).exp()
    }

    /// `exp(A_C - A_t)`, from each position to the end of the chunk: `[rows, count, chunk]`.
    pub fn leaving(&self) -> Tensor<3> {
        let last = self.coarse.dims()[2] - 1;
        let rest = |sum: &Tensor<3>| sum.clone().narrow(2, last, 1) - sum.clone();
        (rest(&self.coarse) + rest(&self.fine)).exp()
    }

    /// `A_C`, `[rows, count]`.
    pub fn whole(&self) -> Tensor<2> {
        let last = self.coarse.dims()[2] - 1;
        let sum = self.coarse.clone() + self.fine.clone();
        sum.narrow(2, last, 1).squeeze_dim(2)
    }
}

/// Sums along the last axis up to and including each element.
pub(crate) fn cumulative(x: Tensor<3>) -> Tensor<3> {
    x.cumsum(2)
}

/// `S_n = exp(w_n) S_{n-1} + U_n` for every n.
///
/// This is the operation's own recurrence with a chunk for a position, and solved alike: a matrix product inside a block
/// of chunks, and one state passed on from block to block.
///
/// # Shapes
/// - whole `w [rows, count]`, written `U [rows, count, d_key, d_value]`, entering `S_0 [rows, d_key, d_value]`
/// - output `S_0 ..= S_count`, `[rows, count + 1, d_key, d_value]`
pub(crate) fn scan(whole: Tensor<2>, written: Tensor<4>, entering: Tensor<3>) -> Tensor<4> {
    let [rows, count, d_key, d_value] = written.dims();
    let width = d_key * d_value;
    let written = written.reshape([rows, count, width]);
    let mut states = vec![entering.reshape([rows, 1, width])];
    let mut first = 0;
    while first < count {
        let len = BLOCK.min(count - first);
        let before = states[states.len() - 1].clone();
        let last = before.dims()[1] - 1;
        let before = before.narrow(1, last, 1); // [rows, 1, width]
        let gates = whole.clone().narrow(1, first, len).unsqueeze_dim(1); // [rows, 1, len]
        let decay = Decay::new(gates);
        let carried = before * decay.entering().swap_dims(1, 2); // [rows, len, width]
        let within = decay.within().squeeze_dim::<3>(1); // [rows, len, len]
        states.push(carried + within.matmul(written.clone().narrow(1, first, len)));
        first += len;
    }
    Tensor::cat(states, 1).reshape([rows, count + 1, d_key, d_value])
}
