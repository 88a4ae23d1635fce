//! CubeCL kernels, one source for every runtime.

#![allow(
    clippy::too_many_arguments,
    clippy::manual_is_multiple_of,
    reason = "every buffer of a kernel is an argument, and the kernel language has operators only"
)]

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use crate::format::LANES;

/// Inputs whose codes end with a word, whatever the bits.
pub const TILE: usize = 32;

/// Codes and scales, as kernels are compiled for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codes {
    pub bits: u32,
    pub asymmetric: bool,
    /// Whether codes are numbers of E4M3.
    pub float: bool,
    pub half_scales: bool,
    /// Whether inputs are a multiple of [`TILE`].
    pub whole: bool,
}

/// Where things lie (see [`format`](mod@crate::format)), and the units of a launch.
#[derive(CubeLaunch, CubeType)]
pub struct Layout {
    pub d_input: usize,
    pub d_output: usize,
    pub group: usize,
    pub panel_words: usize,
    pub header_words: usize,
    pub headers_words: usize,
    pub code_words: usize,
    pub rows: usize,
    pub parts: usize,
    pub units: usize,
}

/// The group of an output that an input is in.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub struct Place {
    /// First word of the header.
    header: usize,
    /// First code word of the output in the group.
    pub codes: usize,
    lane: usize,
}

#[cube]
impl Place {
    pub fn of(layout: &Layout, group: usize, output: usize) -> Place {
        let panel = output / LANES * layout.panel_words;
        let lane = output % LANES;
        Place {
            header: panel + group * layout.header_words,
            codes: panel + layout.headers_words + group * layout.code_words + lane,
            lane,
        }
    }

    /// The scale: a number of 16 bits that is finite and not negative, put together from its parts.
    pub fn scale(self, words: &[u32], #[comptime] codes: Codes) -> f32 {
        if comptime!(codes.half_scales) {
            let word = words[self.header + self.lane / 2];
            let half = (word >> (16u32 * (self.lane as u32 % 2u32))) & 0xffffu32;
            let exponent = half >> 10u32;
            let mantissa = half & 0x3ffu32;
            let normal = f32::reinterpret(((exponent + 112u32) << 23u32) | (mantissa << 13u32));
            let below = mantissa as f32 * comptime!(1.0 / (1 << 24) as f32);
            select(exponent == 0u32, below, normal)
        } else {
            f32::reinterpret(words[self.header + self.lane])
        }
    }

    /// What is subtracted from a code: the zero point, or nothing.
    fn zero(self, words: &[u32], #[comptime] codes: Codes) -> i32 {
        let mut zero = 0i32;
        if comptime!(codes.asymmetric) {
            let start = comptime!(if codes.half_scales { LANES / 2 } else { LANES });
            let word = words[self.header + start + self.lane / 4];
            zero = ((word >> (8u32 * (self.lane as u32 % 4u32))) & 0xffu32) as i32;
        }
        zero
    }
}

/// Level less zero point of a code, in the lowest bits of a word.
#[cube]
fn level(word: u32, zero: i32, #[comptime] codes: Codes) -> f32 {
    let bits = comptime!(codes.bits);
    let code = word & comptime!((1u32 << bits) - 1);
    if comptime!(codes.float) {
        // From its parts: runtimes may take numbers below the least exponent for zero.
        let exponent = (code >> 3u32) & 15u32;
        let mantissa = code & 7u32;
        let normal = f32::reinterpret(((exponent + 120u32) << 23u32) | (mantissa << 20u32));
        let below = mantissa as f32 * comptime!(1.0 / 512.0_f32);
        let size = select(exponent == 0u32, below, normal);
        select(code > 127u32, -size, size)
    } else if comptime!(bits == 1) {
        (2i32 * code as i32 - 1i32) as f32
    } else if comptime!(codes.asymmetric) {
        (code as i32 - zero) as f32
    } else {
        // Two's complement: the highest bit flipped, and its value taken off again.
        let half = comptime!(1u32 << (bits - 1));
        ((code ^ half) as i32 - comptime!(half as i32)) as f32
    }
}

/// The word at a bit of the codes of an output, with three bits from it on at its lowest end.
#[cube]
fn joined(words: &[u32], codes: usize, bit: u32) -> u32 {
    let shift = bit % 32u32;
    let at = codes + (bit / 32u32) as usize * LANES;
    let mut word = words[at] >> shift;
    if shift > 29u32 {
        word |= words[at + LANES] << (32u32 - shift);
    }
    word
}

/// Adds the products of a level with an input of each row; rows that are not there repeat the last.
#[cube]
fn add(
    sums: &mut Array<f32>,
    level: f32,
    x: &[f32],
    first_row: usize,
    input: usize,
    layout: &Layout,
    #[comptime] unit_rows: usize,
) {
    #[unroll]
    for row in 0..unit_rows {
        let from = min(first_row + row, layout.rows - 1);
        sums[row] += level * x[from * layout.d_input + input];
    }
}

/// Sums over tiles of inputs: part `p` of `parts` has every tile `t` with `p * tiles / parts <= t < (p + 1) * tiles / parts`.
/// Unit `(block of unit_rows rows, part, output)`; x `[rows, d_input]`, y `[parts, rows, d_output]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn multiply(
    x: &[f32],
    words: &[u32],
    y: &mut [f32],
    layout: Layout,
    #[comptime] codes: Codes,
    #[comptime] unit_rows: usize,
) {
    if ABSOLUTE_POS >= layout.units {
        terminate!();
    }
    let output = ABSOLUTE_POS % layout.d_output;
    let rest = ABSOLUTE_POS / layout.d_output;
    let part = rest % layout.parts;
    let first_row = rest / layout.parts * unit_rows;
    let tiles = layout.d_input.div_ceil(TILE);
    let mut totals = Array::<f32>::new(unit_rows);
    #[unroll]
    for row in 0..unit_rows {
        totals[row] = 0.0f32;
    }
    for tile in part * tiles / layout.parts..(part + 1) * tiles / layout.parts {
        let first = tile * TILE;
        let group = first / layout.group;
        let place = Place::of(&layout, group, output);
        let zero = place.zero(words, codes);
        let start = place.codes
            + (first - group * layout.group) / TILE * comptime!(codes.bits as usize * LANES);
        let mut sums = Array::<f32>::new(unit_rows);
        #[unroll]
        for row in 0..unit_rows {
            sums[row] = 0.0f32;
        }
        // Loops that are short by a constant, which runtimes unroll where it pays: unrolled here, kernels take minutes to compile.
        if comptime!(codes.bits == 3) {
            for code in 0..TILE {
                if comptime!(codes.whole) || first + code < layout.d_input {
                    let word = joined(words, start, code as u32 * 3u32);
                    let level = level(word, zero, codes);
                    add(
                        &mut sums,
                        level,
                        x,
                        first_row,
                        first + code,
                        &layout,
                        unit_rows,
                    );
                }
            }
        } else {
            let each = comptime!((32 / codes.bits) as usize);
            for row in 0..comptime!(codes.bits as usize) {
                let input = first + row * each;
                if comptime!(codes.whole) || input < layout.d_input {
                    let mut word = words[start + row * LANES];
                    for code in 0..each {
                        if comptime!(codes.whole) || input + code < layout.d_input {
                            let level = level(word, zero, codes);
                            add(
                                &mut sums,
                                level,
                                x,
                                first_row,
                                input + code,
                                &layout,
                                unit_rows,
                            );
                        }
                        word = word >> comptime!(codes.bits);
                    }
                }
            }
        }
        let scale = place.scale(words, codes);
        #[unroll]
        for row in 0..unit_rows {
            totals[row] += scale * sums[row];
        }
    }
    #[unroll]
    for row in 0..unit_rows {
        if first_row + row < layout.rows {
            y[(part * layout.rows + first_row + row) * layout.d_output + output] = totals[row];
        }
    }
}

/// Columns `[outputs, d_input]`: unit `(output, input)`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn columns(
    words: &[u32],
    outputs: &[i32],
    columns: &mut [f32],
    layout: Layout,
    #[comptime] codes: Codes,
) {
    if ABSOLUTE_POS >= layout.units {
        terminate!();
    }
    let input = ABSOLUTE_POS % layout.d_input;
    let output = min(
        outputs[ABSOLUTE_POS / layout.d_input] as usize,
        layout.d_output - 1,
    );
    let group = input / layout.group;
    let place = Place::of(&layout, group, output);
    let bit = (input - group * layout.group) as u32 * codes.bits;
    let word = if comptime!(codes.bits == 3) {
        joined(words, place.codes, bit)
    } else {
        words[place.codes + (bit / 32u32) as usize * LANES] >> (bit % 32u32)
    };
    let zero = place.zero(words, codes);
    columns[ABSOLUTE_POS] = level(word, zero, codes) * place.scale(words, codes);
}
