//! Integer products: inputs in words as the codes of the weights are, four bytes or 32 signs in each, and sums of 32 bits.

mod bytes;
mod inputs;
mod signs;

use rayon::prelude::*;

use self::inputs::Inputs;
use crate::{
    activations::Activations,
    format::{LANES, PackedFormat},
    matrix::read_scale,
};

/// Words times blocks of rows that a piece of work has at least.
const PIECE_WORDS: usize = 64 * 1024;
/// Rows that share every word of weights that is read.
const MOST_ROWS: usize = 4;

/// Sixteen sums of 32 bits, one for each output of a panel.
///
/// # Safety
/// Of every function: the processor has the instruction set of the implementation, and pointers reach [`LANES`] words.
trait Sums: Copy {
    /// A word of each of sixteen outputs.
    type Weights: Copy;

    unsafe fn zero() -> Self;
    unsafe fn weights(words: *const u32) -> Self::Weights;
    /// Adds, in every lane, what the products of a word of weights with a word of inputs come to.
    unsafe fn add(self, weights: Self::Weights, inputs: u32) -> Self;
    unsafe fn store(self, sums: *mut i32);
    /// The sum of a row's products from what was added up for it.
    fn products(added: i32, inputs: &Inputs, row: usize) -> i32;
}

/// `x W`: x `[rows, d_input]`, output `[rows, d_output]`.
pub(super) fn product(
    words: &[u32],
    x: &[f32],
    format: PackedFormat,
    activations: Activations,
) -> Vec<f32> {
    let inputs = Inputs::new(x, format.d_input, activations);
    let widest = match activations {
        Activations::Signs => signs::widest,
        Activations::Static { .. } | Activations::Dynamic => bytes::widest,
    };
    let (rows, panel_words) = (inputs.steps.len(), format.panel_words());
    // A function of the shape alone.
    let panels = (PIECE_WORDS / (panel_words * rows.div_ceil(MOST_ROWS))).max(1);
    let piece = |words| widest(words, &inputs, &format);
    let chunk = panels * panel_words;
    let pieces: Vec<Vec<f32>> = match words.len() <= chunk || rayon::current_num_threads() == 1 {
        true => words.chunks(chunk).map(piece).collect(),
        false => words.par_chunks(chunk).map(piece).collect(),
    };
    let mut y = vec![0.0; rows * format.d_output];
    for (at, piece) in pieces.iter().enumerate() {
        let first = at * panels * LANES;
        let width = (format.d_output - first).min(panels * LANES);
        let sources = piece.chunks_exact(piece.len() / rows);
        for (target, source) in y.chunks_exact_mut(format.d_output).zip(sources) {
            target[first..first + width].copy_from_slice(&source[..width]);
        }
    }
    y
}

/// The outputs of some panels, `[rows, outputs of the panels]`.
///
/// # Safety
/// Of [`Sums`].
#[inline(always)]
unsafe fn panels<S: Sums>(words: &[u32], inputs: &Inputs, format: &PackedFormat) -> Vec<f32> {
    let (rows, panel_words) = (inputs.steps.len(), format.panel_words());
    let width = words.len() / panel_words * LANES;
    let mut y = vec![0.0; rows * width];
    for (at, panel) in words.chunks_exact(panel_words).enumerate() {
        let header = &panel[format.header(0)..];
        let scales: [f32; LANES] = std::array::from_fn(|lane| read_scale(*format, header, lane));
        let codes = &panel[format.codes(0)..];
        let mut row = 0;
        while row < rows {
            let y = &mut y[row * width + at * LANES..];
            // SAFETY: the caller's promise.
            row += unsafe {
                match rows - row {
                    1 => block::<S, 1>(codes, &scales, inputs, row, y, width),
                    2 | 3 => block::<S, 2>(codes, &scales, inputs, row, y, width),
                    _ => block::<S, MOST_ROWS>(codes, &scales, inputs, row, y, width),
                }
            };
        }
    }
    y
}

/// The 16 outputs of a panel for `ROWS` rows from `first` on; returns how many that are.
///
/// # Safety
/// Of [`Sums`].
#[inline(always)]
unsafe fn block<S: Sums, const ROWS: usize>(
    codes: &[u32],
    scales: &[f32; LANES],
    inputs: &Inputs,
    first: usize,
    y: &mut [f32],
    width: usize,
) -> usize {
    let rows: [&[u32]; ROWS] =
        std::array::from_fn(|row| &inputs.words[(first + row) * inputs.width..][..inputs.width]);
    // SAFETY: the caller's promise; pieces have LANES words, and sums LANES numbers.
    unsafe {
        let mut sums = [S::zero(); ROWS];
        for (at, words) in codes.chunks_exact(LANES).take(inputs.width).enumerate() {
            let weights = S::weights(words.as_ptr());
            for (sum, row) in sums.iter_mut().zip(&rows) {
                *sum = sum.add(weights, row[at]);
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            let step = inputs.steps[first + row];
            let mut found = [0; LANES];
            sum.store(found.as_mut_ptr());
            for ((y, found), scale) in y[row * width..][..LANES].iter_mut().zip(found).zip(scales) {
                *y = S::products(found, inputs, first + row) as f32 * (step * scale);
            }
        }
    }
    ROWS
}

#[cfg(test)]
mod tests;
