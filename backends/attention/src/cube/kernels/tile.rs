//! Tiles between global and shared memory.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Format, SIDE, SQUARE, UNITS, WIDE,
    place::{Rows, unit_col},
    product::{Pair, Strip},
};

/// Operands in shared memory, in rows of [`Format::stride`] groups.
pub(super) type Tile<E> = Shared<[Vector<E, Const<WIDE>>]>;

/// A unit's part of a tile, on its way through registers.
pub(super) type Fetched<E> = Array<Vector<E, Const<WIDE>>>;

/// A tile of `rows` rows.
#[cube]
pub(super) fn tile<E: Float>(#[comptime] rows: usize, #[comptime] format: Format) -> Tile<E> {
    Tile::<E>::new_aligned_slice(comptime!(rows * format.stride()), 128usize)
}

/// Rows `first ..` of a source, as many as a tile has; zeros from position `end` on.
#[cube]
fn fetch<E: Float>(
    source: &[Vector<E, Const<WIDE>>],
    fetched: &mut Fetched<E>,
    rows: Rows,
    first: usize,
    end: usize,
    #[comptime] count: usize,
    #[comptime] format: Format,
) {
    let lines = comptime!(format.lines());
    #[unroll]
    for step in 0..comptime!(count * lines / UNITS) {
        let at = UNIT_POS as usize + comptime!(step * UNITS);
        let position = first + at / lines;
        let mut value = Vector::<E, Const<WIDE>>::new(E::from_int(0));
        if position < end {
            value = source[rows.at(position) + at % lines];
        }
        fetched[step] = value;
    }
}

/// Puts what was fetched where it belongs in a tile of `count` rows.
#[cube]
fn put<E: Float>(
    fetched: &Fetched<E>,
    tile: &mut Tile<E>,
    #[comptime] count: usize,
    #[comptime] format: Format,
) {
    let (lines, stride) = comptime!((format.lines(), format.stride()));
    #[unroll]
    for step in 0..comptime!(count * lines / UNITS) {
        let at = UNIT_POS as usize + comptime!(step * UNITS);
        tile[(at / lines) * stride + at % lines] = fetched[step];
    }
}

/// Rows `first ..` of a source into a tile of `count` rows; zeros from position `end` on.
#[cube]
pub(super) fn load<E: Float>(
    source: &[Vector<E, Const<WIDE>>],
    tile: &mut Tile<E>,
    rows: Rows,
    first: usize,
    end: usize,
    #[comptime] count: usize,
    #[comptime] format: Format,
) {
    let mut fetched = Fetched::<E>::new(comptime!(count * format.lines() / UNITS));
    fetch::<E>(source, &mut fetched, rows, first, end, count, format);
    put::<E>(&fetched, tile, count, format);
}

/// The other side, block by block.
#[derive(CubeType)]
pub(super) struct Passing<E: Float> {
    pub tile: Tile<E>,
    next: Fetched<E>,
    rows: Rows,
    end: usize,
    #[cube(comptime)]
    format: Format,
}

#[cube]
impl<E: Float> Passing<E> {
    /// Of positions from `end` on there are zeros.
    pub fn new(rows: Rows, end: usize, #[comptime] format: Format) -> Passing<E> {
        Passing::<E> {
            tile: tile::<E>(comptime!(format.passing), format),
            next: Fetched::<E>::new(comptime!(format.passing * format.lines() / UNITS)),
            rows,
            end,
            format,
        }
    }

    /// Sends for the block from `first` on, if blocks are fetched ahead.
    pub fn send_for(&mut self, source: &[Vector<E, Const<WIDE>>], first: usize) {
        if comptime!(self.format.ahead) {
            let (rows, end) = (self.rows, self.end);
            let format = comptime!(self.format);
            fetch::<E>(
                source,
                &mut self.next,
                rows,
                first,
                end,
                comptime!(format.passing),
                format,
            );
        }
    }

    /// Puts the block from `first` on into the tile.
    pub fn arrive(&mut self, source: &[Vector<E, Const<WIDE>>], first: usize) {
        let format = comptime!(self.format);
        if comptime!(format.ahead) {
            put::<E>(
                &self.next,
                &mut self.tile,
                comptime!(format.passing),
                format,
            );
        } else {
            let (rows, end) = (self.rows, self.end);
            load::<E>(
                source,
                &mut self.tile,
                rows,
                first,
                end,
                comptime!(format.passing),
                format,
            );
        }
    }
}

/// Writes the unit's part of a strip, the first of its own rows being at position `row`; `rows` are in pairs.
#[cube]
pub(super) fn store<E: Float>(
    strip: &Strip,
    target: &mut [Pair<E>],
    rows: Rows,
    row: usize,
    seq: usize,
) {
    #[unroll]
    for at in 0..comptime!(strip.bands * strip.count) {
        let square = strip.squares.index(at);
        let col = unit_col() / 2 + comptime!((at % strip.count) * SQUARE / 2);
        let row = row + comptime!((at / strip.count) * SIDE);
        #[unroll]
        for lower in 0..2usize {
            let row = row + comptime!(lower * 8);
            if row < seq {
                target[rows.at(row) + col] = Pair::<E>::cast_from(square[lower]);
            }
        }
    }
}
