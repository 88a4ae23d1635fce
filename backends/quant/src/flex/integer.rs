//! Integer products: inputs in bytes, four to a word as the codes of int8 weights are, and sums of 32 bits.

#[cfg(target_arch = "x86_64")]
mod x86;

use rayon::prelude::*;

use crate::{
    activations::{Activations, MOST},
    format::{LANES, PackedFormat},
    matrix::read_scale,
};

/// Words times blocks of rows that a piece of work has at least.
const PIECE_WORDS: usize = 64 * 1024;
/// Rows that share every word of weights that is read.
const MOST_ROWS: usize = 4;
/// Rows that are turned into integers before another thread has woken up.
const PARALLEL_ROWS: usize = 64;
/// 1.5 * 2^23: what is added to a small number to round it to the nearest integer, even of two, in its lowest bits.
const ROUND: f32 = 12_582_912.0;

/// Sixteen sums of 32 bits, one for each output of a panel.
///
/// # Safety
/// Of every function: the processor has the instruction set of the implementation, and pointers reach [`LANES`] words.
trait Sums: Copy {
    /// Four inputs of sixteen outputs.
    type Weights: Copy;
    /// What weights are too large by.
    const OFFSET: i32;

    unsafe fn zero() -> Self;
    unsafe fn weights(words: *const u32) -> Self::Weights;
    /// Adds, in every lane, the products of its four weights with four inputs.
    unsafe fn add(self, weights: Self::Weights, inputs: u32) -> Self;
    unsafe fn store(self, sums: *mut i32);
}

/// The plain form, for any processor.
#[derive(Clone, Copy)]
struct Plain([i32; LANES]);

impl Sums for Plain {
    type Weights = [u32; LANES];
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; LANES])
    }

    #[inline(always)]
    unsafe fn weights(words: *const u32) -> [u32; LANES] {
        // SAFETY: the caller's promise; words have no alignment beyond that of u32.
        unsafe { words.cast::<[u32; LANES]>().read() }
    }

    #[inline(always)]
    unsafe fn add(self, weights: [u32; LANES], inputs: u32) -> Self {
        let byte = |word: u32, at: u32| i32::from((word >> (8 * at)) as i8);
        Self(std::array::from_fn(|lane| {
            let products = (0..4).map(|at| byte(weights[lane], at) * byte(inputs, at));
            self.0[lane] + products.sum::<i32>()
        }))
    }

    #[inline(always)]
    unsafe fn store(self, sums: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { sums.cast::<[i32; LANES]>().write(self.0) }
    }
}

/// Rows of inputs as integers.
struct Inputs {
    /// Four to a word, `[rows, words]`; filled up with zeros.
    words: Vec<u32>,
    /// Words of a row.
    width: usize,
    /// The step of each row; no number where an input is none or infinite.
    steps: Vec<f32>,
    /// The sum of the integers of each row.
    sums: Vec<i32>,
}

impl Inputs {
    fn new(x: &[f32], d_input: usize, activations: Activations) -> Self {
        let (rows, width) = (x.len() / d_input, d_input.div_ceil(4));
        let mut inputs = Self {
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
fn row(x: &[f32], words: &mut [u32], activations: Activations) -> (f32, i32) {
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

/// `x W`: x `[rows, d_input]`, output `[rows, d_output]`.
pub(super) fn product(
    words: &[u32],
    x: &[f32],
    format: PackedFormat,
    activations: Activations,
) -> Vec<f32> {
    let inputs = Inputs::new(x, format.d_input, activations);
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

/// Some panels with the widest vectors that the processor has.
fn widest(words: &[u32], inputs: &Inputs, format: &PackedFormat) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512vnni") {
            // SAFETY: the processor has the features.
            return unsafe { x86::avx512(words, inputs, format) };
        }
        if has!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { x86::avx2(words, inputs, format) };
        }
    }
    // SAFETY: plain arithmetic, which every processor has.
    unsafe { panels::<Plain>(words, inputs, format) }
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
            let (step, offset) = (
                inputs.steps[first + row],
                S::OFFSET * inputs.sums[first + row],
            );
            let mut found = [0; LANES];
            sum.store(found.as_mut_ptr());
            for ((y, found), scale) in y[row * width..][..LANES].iter_mut().zip(found).zip(scales) {
                *y = found.wrapping_sub(offset) as f32 * (step * scale);
            }
        }
    }
    ROWS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoding, FloatType, PackedMatrix};

    /// Every instruction set of this processor finds the same numbers, bit for bit, for odd shapes and the largest products.
    #[test]
    fn instruction_sets_agree() {
        for (d_input, d_output, rows) in [(1, 1, 1), (5, 17, 3), (96, 40, 7), (1030, 33, 9)] {
            let format = PackedFormat {
                encoding: Encoding::Int8,
                asymmetric: false,
                d_input,
                d_output,
                group: d_input,
                scales: FloatType::F16,
            };
            let level = |at: usize| match at % 7 {
                0 => -128,
                1 => 127,
                _ => (at * 37 % 251) as i16 - 125,
            };
            let levels: Vec<i16> = (0..d_input * d_output).map(level).collect();
            let packed = PackedMatrix::pack(format, &levels, &vec![0.25; d_output], None).unwrap();
            let x: Vec<f32> = (0..rows * d_input)
                .map(|at| f32::from(level(at + 3)))
                .collect();
            let inputs = Inputs::new(&x, d_input, Activations::Static { step: 1.0 });
            // SAFETY: plain arithmetic.
            let plain = unsafe { panels::<Plain>(packed.words(), &inputs, &format) };
            for output in 0..d_output {
                let products = (0..d_input).map(|input| {
                    let x = x[(rows - 1) * d_input + input].max(-127.0) as i64;
                    x * i64::from(levels[input * d_output + output])
                });
                let width = plain.len() / rows;
                let expected = products.sum::<i64>() as f32 * 0.25;
                assert_eq!(plain[(rows - 1) * width + output], expected);
            }
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::is_x86_feature_detected as has;
                if has!("avx2") {
                    // SAFETY: the processor has the feature.
                    assert_eq!(
                        unsafe { x86::avx2(packed.words(), &inputs, &format) },
                        plain
                    );
                }
                if has!("avx512f") && has!("avx512vnni") {
                    // SAFETY: the processor has the features.
                    assert_eq!(
                        unsafe { x86::avx512(packed.words(), &inputs, &format) },
                        plain
                    );
                }
            }
        }
    }

    /// Integers are the nearest, of two the even one, and reach to 127; what is no number makes none of its row.
    #[test]
    fn rows_become_integers() {
        let x = [0.5, 1.5, -2.5, 300.0, -300.0, 0.0];
        let mut words = [0; 2];
        let found = row(&x, &mut words, Activations::Static { step: 1.0 });
        let bytes: Vec<i8> = words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(|b| b as i8)
            .collect();
        assert_eq!(bytes, [0, 2, -2, 127, -127, 0, 0, 0]);
        assert_eq!(found, (1.0, 0));
        let (step, _) = row(&x, &mut words, Activations::Dynamic);
        assert_eq!(step, 300.0 / 127.0);
        for bad in [f32::NAN, f32::INFINITY] {
            let (step, _) = row(&[1.0, bad, 2.0], &mut words, Activations::Dynamic);
            assert!(step.is_nan());
        }
        assert_eq!(row(&[0.0; 3], &mut words, Activations::Dynamic), (0.0, 0));
    }
}
