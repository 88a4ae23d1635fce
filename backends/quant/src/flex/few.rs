//! Few rows: every word is read once, and what it holds is multiplied in registers.

use std::array;

use rayon::prelude::*;

use super::tile::{self, Group, Kernel, Levels, MOST_WORDS, TILE};
use super::vector::Vector;
use crate::format::{LANES, PackedFormat};

/// Words that a piece of work has at least: some ten microseconds of reading.
const PIECE_WORDS: usize = 64 * 1024;

/// Some panels of a matrix, and all rows of x.
#[derive(Clone, Copy)]
struct Panels<'a> {
    format: &'a PackedFormat,
    /// Those of the panels.
    words: &'a [u32],
    /// `[rows, d_input]`
    x: &'a [f32],
}

/// `x W`: x `[rows, d_input]`, output `[rows, d_output]`.
pub(super) fn product(words: &[u32], x: &[f32], format: PackedFormat) -> Vec<f32> {
    let rows = x.len() / format.d_input;
    // A function of the shape alone.
    let panels = (PIECE_WORDS / format.panel_words()).max(1);
    let piece = |words| {
        let panels = Panels {
            format: &format,
            words,
            x,
        };
        tile::run(panels, format)
    };
    let pieces = words.chunks(panels * format.panel_words());
    // Waking the only worker of a pool would take longer than a small piece.
    let pieces: Vec<Vec<f32>> = match pieces.len() == 1 || rayon::current_num_threads() == 1 {
        true => pieces.map(piece).collect(),
        false => words
            .par_chunks(panels * format.panel_words())
            .map(piece)
            .collect(),
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

impl Kernel for Panels<'_> {
    /// `[rows, outputs of the panels]`
    type Output = Vec<f32>;

    #[inline(always)]
    unsafe fn run<V: Vector, const BITS: u32, const SIGNED: bool>(self) -> Vec<f32> {
        let Self { format, words, x } = self;
        let (rows, panel_words) = (x.len() / format.d_input, format.panel_words());
        let width = words.len() / panel_words * LANES;
        let mut y = vec![0.0; rows * width];
        for (at, panel) in words.chunks_exact(panel_words).enumerate() {
            let mut row = 0;
            while row < rows {
                let (x, y) = (
                    &x[row * format.d_input..],
                    &mut y[row * width + at * LANES..],
                );
                let left = rows - row;
                // SAFETY: the caller's promise; x has as many rows as the call is for, and y 16 numbers in each.
                row += unsafe {
                    if V::MOST_ROWS == 4 && left >= 4 {
                        panel_rows::<V, BITS, SIGNED, 4>(panel, format, x, y, width)
                    } else if left >= 2 {
                        panel_rows::<V, BITS, SIGNED, 2>(panel, format, x, y, width)
                    } else {
                        panel_rows::<V, BITS, SIGNED, 1>(panel, format, x, y, width)
                    }
                };
            }
        }
        y
    }
}

/// The 16 outputs of a panel for `ROWS` rows; returns how many that are.
///
/// # Safety
/// Of [`Vector`]; `x` has `ROWS` rows of `d_input`, and `y` 16 numbers in each of as many of `width`.
#[inline(always)]
unsafe fn panel_rows<V: Vector, const BITS: u32, const SIGNED: bool, const ROWS: usize>(
    panel: &[u32],
    format: &PackedFormat,
    x: &[f32],
    y: &mut [f32],
    width: usize,
) -> usize {
    let (tiles, rest) = (format.group.div_ceil(TILE), format.group % TILE);
    let mut inputs = [[0.0; TILE]; ROWS];
    let mut whole: [u32; MOST_WORDS];
    // SAFETY: groups and tiles stay inside the panel and the rows; a tile that is not whole is filled up.
    unsafe {
        let mut x: [*const f32; ROWS] = array::from_fn(|row| x[row * format.d_input..].as_ptr());
        let mut totals = [V::splat(0.0); ROWS];
        for group in 0..format.groups() {
            let group = Group::<V, BITS, SIGNED>::new(panel.as_ptr(), group, format);
            let (mut codes, mut sums) = (group.codes, [[V::splat(0.0); 4]; ROWS]);
            for tile in 1..=tiles {
                if tile == tiles && rest > 0 {
                    whole = tile::fill(codes, rest, BITS);
                    codes = whole.as_ptr();
                    for (x, inputs) in x.iter_mut().zip(&mut inputs) {
                        inputs[..rest].copy_from_slice(std::slice::from_raw_parts(*x, rest));
                        *x = inputs.as_ptr();
                    }
                }
                group.levels.multiply(codes, x, &mut sums);
                codes = codes.add(BITS as usize * LANES);
                x = x.map(|x| x.add(TILE));
            }
            for (total, sums) in totals.iter_mut().zip(sums) {
                let sum = (sums[0].add(sums[1])).add(sums[2].add(sums[3]));
                let sum = Levels::<V, BITS, SIGNED>::levels(sum);
                *total = sum.mul_add(group.scales, *total);
            }
        }
        for (row, total) in totals.into_iter().enumerate() {
            total.store(y[row * width..][..LANES].as_mut_ptr());
        }
    }
    ROWS
}
