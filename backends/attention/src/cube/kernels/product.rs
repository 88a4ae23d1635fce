//! Products of 16 rows of a plane in registers.

use burn_cubecl::cubecl;
use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::*,
};

use super::{PLANE, SIDE, SQUARE, WIDE, tile::Tile};

/// Two numbers next to each other, as the units hold them.
pub(super) type Pair<E> = Vector<E, Const<2>>;

/// 16 rows of operands: for every 16 columns, the four pairs that a unit holds.
pub(super) type Operands<E> = Sequence<Array<Pair<E>>>;

/// Accumulators of 16 rows: for every 8 columns, the two pairs that a unit holds.
#[derive(CubeType)]
pub(super) struct Strip {
    pub squares: Sequence<Array<Pair<f32>>>,
    #[cube(comptime)]
    pub count: usize,
}

#[cube]
fn instruction<E: Float>() -> MmaDefinition<E, E, f32> {
    MmaDefinition::<E, E, f32>::new(SIDE, SQUARE, SIDE)
}

/// Rows `row ..` of a tile as left operands, `steps` times 16 columns.
#[cube]
pub(super) fn operands<E: Float>(
    tile: &Tile<E>,
    row: usize,
    #[comptime] steps: usize,
    #[comptime] stride: usize,
) -> Operands<E> {
    let unit = UNIT_POS as usize % PLANE;
    let matrix = unit / 8;
    let at = (row + (matrix % 2) * 8 + unit % 8) * stride + matrix / 2;
    let definition = instruction::<E>();
    let mut all = Sequence::<Array<Pair<E>>>::new();
    #[unroll]
    for step in 0..steps {
        let start = at + comptime!(step * SIDE / WIDE);
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
    pub fn zeros(#[comptime] count: usize) -> Strip {
        let mut squares = Sequence::<Array<Pair<f32>>>::new();
        #[unroll]
        for _ in 0..count {
            let mut square = Array::<Pair<f32>>::new(2usize);
            square[0] = Pair::<f32>::new(0.0f32);
            square[1] = Pair::<f32>::new(0.0f32);
            squares.push(square);
        }
        Strip { squares, count }
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
                definition.execute_inplace(
                    left.index(comptime!(2 * pair)),
                    &half::<E>(&loaded, 0usize),
                    self.squares.index_mut(square),
                );
                definition.execute_inplace(
                    left.index(comptime!(2 * pair + 1)),
                    &half::<E>(&loaded, 2usize),
                    self.squares.index_mut(square),
                );
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
                definition.execute_inplace(
                    left.index(step),
                    &half::<E>(&loaded, 0usize),
                    self.squares.index_mut(comptime!(2 * pair)),
                );
                definition.execute_inplace(
                    left.index(step),
                    &half::<E>(&loaded, 2usize),
                    self.squares.index_mut(comptime!(2 * pair + 1)),
                );
            }
        }
    }

    /// The strip as left operands of a product over its columns.
    pub fn to_operands<E: Float>(&self) -> Operands<E> {
        let mut all = Sequence::<Array<Pair<E>>>::new();
        #[unroll]
        for step in 0..comptime!(self.count / 2) {
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

    /// Every entry of the two rows times the row's factor.
    pub fn scale_rows(&mut self, upper: f32, lower: f32) {
        #[unroll]
        for square in 0..comptime!(self.count) {
            let square = self.squares.index_mut(square);
            square[0] = square[0] * Pair::<f32>::new(upper);
            square[1] = square[1] * Pair::<f32>::new(lower);
        }
    }

    /// Sets scores to minus infinity where a key is not there, or is after the query in causal attention; `row` is the position
    /// of the first of the unit's two rows and `col` that of the first of its columns. Rows are queries, or keys if `turned`.
    pub fn hide(
        &mut self,
        row: usize,
        col: usize,
        keys: usize,
        #[comptime] turned: bool,
        #[comptime] causal: bool,
    ) {
        #[unroll]
        for at in 0..comptime!(self.count) {
            let square = self.squares.index_mut(at);
            #[unroll]
            for lower in 0..2usize {
                let mut pair = square[lower];
                #[unroll]
                for next in 0..2usize {
                    let mut query = row + lower * 8;
                    let mut key = col + at * SQUARE + next;
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
