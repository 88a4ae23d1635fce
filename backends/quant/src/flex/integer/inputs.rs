//! Rows of inputs as words of integers.

use rayon::prelude::*;

use crate::activations::{Activations, MOST};

/// Rows that are turned into integers before another thread has woken up.
const PARALLEL_ROWS: usize = 64;
/// 1.5 * 2^23: what is added to a small number to round it to the nearest integer, even of two, in its lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Sums that the sizes of a row are added up in side by side.
const MEAN_SUMS: usize = 16;

/// Rows of inputs as integers.
pub(super) struct Inputs {
    pub d_input: usize,
    /// Four bytes or 32 signs to a word, `[rows, words]`; filled up with zeros.
    pub words: Vec<u32>,
    /// Words of a row.
    pub width: usize,
    /// The step of each row; no number where an input is none or infinite.
    pub steps: Vec<f32>,
    /// The sum of the bytes of each row.
    pub sums: Vec<i32>,
}

impl Inputs {
    pub fn new(x: &[f32], d_input: usize, activations: Activations) -> Self {
        let in_a_word = match activations {
            Activations::Signs => 32,
            Activations::Static { .. } | Activations::Dynamic => 4,
        };
        let (rows, width) = (x.len() / d_input, d_input.div_ceil(in_a_word));
        let mut inputs = Self {
            d_input,
            words: vec![0; rows * width],
            width,
            steps: vec![0.0; rows],
            sums: vec![0; rows],
        };
        let results = inputs.steps.par_iter_mut().zip(&mut inputs.sums);
        let rows = x
            .par_chunks_exact(d_input)
            .zip(inputs.words.par_chunks_exact_mut(width));
        rows.zip(results)
            .with_min_len(PARALLEL_ROWS)
            .for_each(|((x, words), (step, sum))| {
                (*step, *sum) = row(x, words, activations);
            });
        inputs
    }
}

/// The integers of a row; its step, and their sum.
pub(super) fn row(x: &[f32], words: &mut [u32], activations: Activations) -> (f32, i32) {
    // Sizes are ordered as their bits are, and what is no number lies beyond infinity.
    let bits = x
        .iter()
        .map(|x| x.to_bits() & 0x7fff_ffff)
        .fold(0, u32::max);
    let largest = f32::from_bits(bits);
    if !largest.is_finite() {
        return (f32::NAN, 0);
    }
    let step = match activations {
        Activations::Static { step } => step,
        Activations::Dynamic => largest / MOST,
        Activations::Signs => return (signs(x, words), 0),
    };
    if step == 0.0 {
        return (0.0, 0);
    }
    let level = |x: &f32| ((x / step).clamp(-MOST, MOST) + ROUND).to_bits() as i8;
    let mut sum = 0;
    for (word, x) in words.iter_mut().zip(x.chunks(4)) {
        let mut bytes = [0_u8; 4];
        for (byte, x) in bytes.iter_mut().zip(x) {
            let level = level(x);
            sum += i32::from(level);
            *byte = level as u8;
        }
        *word = u32::from_le_bytes(bytes);
    }
    (step, sum)
}

/// The signs of a row, 1 for what is not below zero, the first in the lowest bit; its step.
fn signs(x: &[f32], words: &mut [u32]) -> f32 {
    let mut sums = [0.0_f32; MEAN_SUMS];
    for (word, x) in words.iter_mut().zip(x.chunks(32)) {
        let below = x
            .iter()
            .enumerate()
            .fold(0, |below, (at, x)| below | u32::from(*x < 0.0) << at);
        *word = !below & (u32::MAX >> (32 - x.len()));
        for x in x.chunks(MEAN_SUMS) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += x.abs();
            }
        }
    }
    let mean = sums.iter().sum::<f32>() / x.len() as f32;
    // Sizes that are finite may add up beyond f32.
    match mean.is_finite() {
        true => mean,
        false => f32::NAN,
    }
}
