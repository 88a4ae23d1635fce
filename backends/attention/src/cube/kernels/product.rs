//! Products of 16 rows of a plane in registers.

use burn_cubecl::cubecl;
use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::*,
};

use super::{PLANE, SIDE, SQUARE, WIDE, tile::Tile};

/// Two numbers next to each other, as the units hold them.
pub(super) type Pair<E> = Vector<E, Const<2>>;

/// Bands of 16 rows of operands: for every 16 columns of each, the four pairs that a unit holds.
pub(super) type Operands<E> = Sequence<Array<Pair<E>>>;

/// Accumulators of bands of 16 rows: for every 8 columns of each, the two pairs that a unit holds.
#[derive(CubeType)]
pub(super) struct Strip {
    pub squares: Sequence<Array<Pair<f32>>>,
    /// Squares of a band.
    #[cube(comptime)]
    pub count: usize,
    #[cube(comptime)]
    pub bands: usize,
}

#[cube]
fn instruction<E: Float>() -> MmaDefinition<E, E, f32> {
    MmaDefinition::<E, E, f32>::new(SIDE, SQUARE, SIDE)
}

/// Rows `row ..` of a tile as left operands, `bands` times 16 rows and `steps` times 16 columns.
#[cube]
pub(super) fn operands<E: Float>(
    tile: &Tile<E>,
    row: usize,
    #[comptime] bands: usize,
    #[comptime] steps: usize,
    #[comptime] stride: usize,
) -> Operands<E> {
    let unit = UNIT_POS as usize % PLANE;
    let matrix = unit / 8;
    let at = (row + (matrix % 2) * 8 + unit % 8) * stride + matrix / 2;
    let definition = instruction::<E>();
    let mut all = Sequence::<Array<Pair<E>>>::new();
    #[unroll]
    for part in 0..comptime!(bands * steps) {
        let start = at + comptime!((part / steps) * SIDE * stride + (part % steps) * SIDE / WIDE);
        all.push(definition.load_matrix::<Vector<E, Const<WIDE>>, Const<2>>(
            &tile[start..start + 1],
            MatrixIdent::A,
            4usize,
            false,
        ));
    }
    all
}

/// Two of the four pairs that a unit loaded.
#[cube]
fn half<E: Float>(all: &Array<Pair<E>>, #[comptime] first: usize) -> Array<Pair<E>> {
    let mut pair = Array::<Pair<E>>::new(2usize);
    pair[0] = all[first];
    pair[1] = all[comptime!(first + 1)];
    pair
}

#[cube]
impl Strip {
    pub fn zeros(#[comptime] count: usize, #[comptime] bands: usize) -> Strip {
        let mut squares = Sequence::<Array<Pair<f32>>>::new();
        #[unroll]
        for _ in 0..comptime!(bands * count) {
            let mut square = Array::<Pair<f32>>::new(2usize);
            square[0] = Pair::<f32>::new(0.0f32);
            square[1] = Pair::<f32>::new(0.0f32);
            squares.push(square);
        }
        Strip {
            squares,
            count,
            bands,
        }
    }

    /// Adds `left @ tile^T`: columns are the rows of the tile.
    pub fn add_by_rows<E: Float>(
        &mut self,
        left: &Operands<E>,
        tile: &Tile<E>,
        #[comptime] steps: usize,
        #[comptime] stride: usize,
    ) {
        let unit = UNIT_POS as usize % PLANE;
        let at = (unit % 8) * stride + unit / 8;
        let definition = instruction::<E>();
        #[unroll]
        for square in 0..comptime!(self.count) {
            #[unroll]
            for pair in 0..comptime!(steps / 2) {
                let start = at + comptime!(square * SQUARE * stride + pair * 2 * SIDE / WIDE);
                let loaded = definition.load_matrix::<Vector<E, Const<WIDE>>, Const<2>>(
                    &tile[start..start + 1],
                    MatrixIdent::B,
                    4usize,
                    false,
                );
                let first = half::<E>(&loaded, 0usize);
                let second = half::<E>(&loaded, 2usize);
                #[unroll]
                for band in 0..comptime!(self.bands) {
                    let sum = self
                        .squares
                        .index_mut(comptime!(band * self.count + square));
                    let at = comptime!(band * steps + 2 * pair);
                    definition.execute_inplace(left.index(at), &first, sum);
                    definition.execute_inplace(left.index(comptime!(at + 1)), &second, sum);
                }
            }
        }
    }

    /// Adds `left @ tile`: columns are those of the tile, `steps` times 16 of its rows are summed over.
    pub fn add_by_columns<E: Float>(
        &mut self,
        left: &Operands<E>,
        tile: &Tile<E>,
        #[comptime] steps: usize,
        #[comptime] stride: usize,
    ) {
        let unit = UNIT_POS as usize % PLANE;
        let matrix = unit / 8;
        let at = ((matrix % 2) * 8 + unit % 8) * stride + matrix / 2;
        let definition = instruction::<E>();
        #[unroll]
        for step in 0..steps {
            #[unroll]
            for pair in 0..comptime!(self.count / 2) {
                let start = at + comptime!(step * SIDE * stride + pair * 2);
                let loaded = definition.load_matrix::<Vector<E, Const<WIDE>>, Const<2>>(
                    &tile[start..start + 1],
                    MatrixIdent::B,
                    4usize,
                    true,
                );
                let first = half::<E>(&loaded, 0usize);
                let second = half::<E>(&loaded, 2usize);
                #[unroll]
                for band in 0..comptime!(self.bands) {
                    let rows = left.index(comptime!(band * steps + step));
                    let at = comptime!(band * self.count + 2 * pair);
                    definition.execute_inplace(rows, &first, self.squares.index_mut(at));
                    let at = comptime!(at + 1);
                    definition.execute_inplace(rows, &second, self.squares.index_mut(at));
                }
            }
        }
    }

    /// The strip as left operands of a product over its columns.
    pub fn to_operands<E: Float>(&self) -> Operands<E> {
        let mut all = Sequence::<Array<Pair<E>>>::new();
        #[unroll]
        for step in 0..comptime!(self.bands * self.count / 2) {
            let left = self.squares.index(comptime!(2 * step));
            let right = self.squares.index(comptime!(2 * step + 1));
            let mut pairs = Array::<Pair<E>>::new(4usize);
            pairs[0] = Pair::<E>::cast_from(left[0]);
            pairs[1] = Pair::<E>::cast_from(left[1]);
            pairs[2] = Pair::<E>::cast_from(right[0]);
            pairs[3] = Pair::<E>::cast_from(right[1]);
            all.push(pairs);
        }
        all
    }

    /// Every entry times the same.
    pub fn scale(&mut self, factor: f32) {
        #[unroll]
        for at in 0..comptime!(self.bands * self.count) {
            let square = self.squares.index_mut(at);
            square[0] = square[0] * Pair::<f32>::new(factor);
            square[1] = square[1] * Pair::<f32>::new(factor);
        }
    }

    /// Every entry of a row times the row's factor; of the unit's rows, two a band.
    pub fn scale_rows(&mut self, factors: &Array<f32>) {
        #[unroll]
        for at in 0..comptime!(self.bands * self.count) {
            let row = comptime!(2 * (at / self.count));
            let square = self.squares.index_mut(at);
            square[0] = square[0] * Pair::<f32>::new(factors[row]);
            square[1] = square[1] * Pair::<f32>::new(factors[comptime!(row + 1)]);
        }
    }

    /// Sets scores to minus infinity where a key is not there, or is after the query in causal attention; `row` is the position
    /// of the first of the unit's rows and `col` that of the first of its columns. Rows are queries, or keys if `turned`.
    pub fn hide(
        &mut self,
        row: usize,
        col: usize,
        keys: usize,
        #[comptime] turned: bool,
        #[comptime] causal: bool,
    ) {
        #[unroll]
        for part in 0..comptime!(self.bands * self.count) {
            let (band, at) = comptime!((part / self.count, part % self.count));
            let square = self.squares.index_mut(part);
            #[unroll]
            for lower in 0..2usize {
                let mut pair = square[lower];
                #[unroll]
                for next in 0..2usize {
                    let mut query = row + comptime!(band * SIDE) + lower * 8;
                    let mut key = col + comptime!(at * SQUARE) + next;
                    if comptime!(turned) {
                        let other = key;
                        key = query;
                        query = other;
                    }
                    let mut hidden = key >= keys;
                    if comptime!(causal) {
                        hidden = hidden || key > query;
                    }
                    if hidden {
                        pair.insert(next, super::NEVER);
                    }
                }
                square[lower] = pair;
            }
        }
    }
}
