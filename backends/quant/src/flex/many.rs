//! Many rows: blocks of the matrix are unpacked into a buffer that stays in cache, and multiplied as dense ones are.

use gemm::Parallelism;
use rayon::prelude::*;

use super::tile::{self, Group, Kernel, MOST_WORDS, TILE};
use super::vector::Vector;
use crate::format::{LANES, PackedFormat};

/// Panels whose outputs one product has: 128 of them.
const PANELS: usize = 8;
/// Inputs that one product adds up; with the outputs of a block 128 KiB of numbers.
const INPUTS: usize = 256;
/// Rows for which a block is unpacked at least once: at as many, unpacking is a small part of the work.
const ROWS: usize = 512;

/// `x W`: x `[rows, d_input]`, output `[rows, d_output]`.
pub(super) fn product(words: &[u32], x: &[f32], format: PackedFormat) -> Vec<f32> {
    let rows = x.len() / format.d_input;
    let columns = format.panels().div_ceil(PANELS);
    let row_blocks = rows.div_ceil(ROWS);
    let pieces: Vec<Vec<f32>> = (0..columns * row_blocks)
        .into_par_iter()
        .map(|at| {
            let mut panels = words.chunks(PANELS * format.panel_words());
            let (column, first) = (at / row_blocks, at % row_blocks * ROWS);
            let x = &x[first * format.d_input..rows.min(first + ROWS) * format.d_input];
            let words = panels.nth(column).unwrap_or(&[]);
            block(words, x, format)
        })
        .collect();
    let mut y = vec![0.0; rows * format.d_output];
    for (at, piece) in pieces.iter().enumerate() {
        let (column, first) = (at / row_blocks * PANELS * LANES, at % row_blocks * ROWS);
        let width = (format.d_output - column).min(PANELS * LANES);
        let targets = y[first * format.d_output..].chunks_exact_mut(format.d_output);
        for (target, source) in targets.zip(piece.chunks_exact(PANELS * LANES)) {
            target[column..column + width].copy_from_slice(&source[..width]);
        }
    }
    y
}

/// Some rows of x by the panels of `words`, `[rows, 128]`.
fn block(words: &[u32], x: &[f32], format: PackedFormat) -> Vec<f32> {
    const WIDTH: usize = PANELS * LANES;
    let d_input = format.d_input;
    let rows = x.len() / d_input;
    let mut weights = vec![0.0; INPUTS.min(d_input.next_multiple_of(TILE)) * WIDTH];
    let mut y = vec![0.0; rows * WIDTH];
    for first in (0..d_input).step_by(INPUTS) {
        let inputs = INPUTS.min(d_input - first);
        let unpack = Unpack {
            format: &format,
            words,
            first,
            inputs,
            weights: weights.as_mut_ptr(),
        };
        tile::run(unpack, format);
        // SAFETY: x has `rows` rows with `inputs` numbers from `first` on, the buffer `inputs` rows and y `rows`, of 128 each.
        unsafe {
            gemm::gemm(
                rows,
                WIDTH,
                inputs,
                y.as_mut_ptr(),
                1,
                WIDTH as isize,
                first > 0,
                x.as_ptr().add(first),
                1,
                d_input as isize,
                weights.as_ptr(),
                1,
                WIDTH as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
    y
}

/// Weights of some inputs of a block of panels, `[inputs, 128]` row-major.
#[derive(Clone, Copy)]
struct Unpack<'a> {
    format: &'a PackedFormat,
    /// Those of the panels.
    words: &'a [u32],
    /// A multiple of 32.
    first: usize,
    inputs: usize,
    /// Room for a multiple of 32 inputs.
    weights: *mut f32,
}

impl Kernel for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector, const BITS: u32, const SIGNED: bool>(self) {
        let Self {
            format,
            words,
            first,
            inputs,
            weights,
        } = self;
        const WIDTH: usize = PANELS * LANES;
        let mut whole: [u32; MOST_WORDS];
        for (at, panel) in words.chunks_exact(format.panel_words()).enumerate() {
            for tile in (first..first + inputs).step_by(TILE) {
                // SAFETY: the caller's promise; a tile lies in one group, since groups are multiples of 32 or alone, and the buffer
                // has room for whole tiles.
                unsafe {
                    let group =
                        Group::<V, BITS, SIGNED>::new(panel.as_ptr(), tile / format.group, format);
                    let before = tile % format.group / TILE;
                    let mut codes = group.codes.add(before * BITS as usize * LANES);
                    let rest = format.d_input - tile;
                    if rest < TILE {
                        whole = tile::fill(codes, rest, BITS);
                        codes = whole.as_ptr();
                    }
                    let target = weights.add((tile - first) * WIDTH + at * LANES);
                    group.levels.write(codes, group.scales, target, WIDTH);
                }
            }
        }
    }
}
