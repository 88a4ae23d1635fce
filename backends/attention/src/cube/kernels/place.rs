//! Which block a cube works on, and where its rows lie.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{Dims, PLANE, SIDE};

/// Which block a cube works on.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Place {
    pub exists: bool,
    pub head: usize,
    pub heads: usize,
    pub batch: usize,
    pub seq: usize,
    /// First row of the block.
    pub start: usize,
}

#[cube]
impl Place {
    /// Blocks of a head are dealt out `late` ones first, so that the longest of causal attention do not come last.
    pub fn of(dims: &Dims, #[comptime] rows: usize, #[comptime] late: bool) -> Place {
        let heads_of_all = dims.total / dims.blocks;
        let mut block = CUBE_POS / heads_of_all;
        if late {
            block = dims.blocks - 1 - block;
        }
        let row = CUBE_POS % heads_of_all;
        Place {
            exists: CUBE_POS < dims.total,
            head: row % dims.heads,
            heads: dims.heads,
            batch: row / dims.heads,
            seq: dims.seq,
            start: block * rows,
        }
    }

    /// Of a position and head, the first group of one of queries (0), keys (1) and values (2) in packed projections.
    pub fn packed(&self, position: usize, part: usize, #[comptime] lines: usize) -> usize {
        (((self.batch * self.seq + position) * 3 + part) * self.heads + self.head) * lines
    }

    /// Of a position and head, the first group in an output.
    pub fn plain(&self, position: usize, #[comptime] lines: usize) -> usize {
        ((self.batch * self.seq + position) * self.heads + self.head) * lines
    }

    /// Of a position, the place in `[batch, heads, seq]`.
    pub fn sum(&self, position: usize) -> usize {
        (self.batch * self.heads + self.head) * self.seq + position
    }
}

/// First of the rows of this plane within the block.
#[cube]
pub(super) fn plane_row(#[comptime] bands: usize) -> usize {
    (UNIT_POS as usize / PLANE) * comptime!(bands * SIDE)
}

/// Of the rows of a square, the first that this unit holds; the other is 8 after it.
#[cube]
pub(super) fn unit_row() -> usize {
    (UNIT_POS as usize % PLANE) / 4
}

/// Of the columns of a square, the first that this unit holds; the other is the next.
#[cube]
pub(super) fn unit_col() -> usize {
    (UNIT_POS as usize % 4) * 2
}
