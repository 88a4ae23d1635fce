//! Which block a cube works on, and where its rows lie.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{Dims, Format, PLANE, SIDE};

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

/// Where the rows of one head of one sequence lie in a tensor, in groups of numbers.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Rows {
    first: usize,
    step: usize,
}

#[cube]
impl Rows {
    /// The first group of a row.
    pub fn at(&self, position: usize) -> usize {
        self.first + position * self.step
    }
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

    /// Rows of one of queries (0), keys (1) and values (2) in packed projections, in groups of which a row has `lines`.
    pub fn packed(&self, #[comptime] part: usize, #[comptime] lines: usize) -> Rows {
        let step = 3 * self.heads * lines;
        Rows {
            first: self.batch * self.seq * step + (part * self.heads + self.head) * lines,
            step,
        }
    }

    /// Rows of an output or its gradient.
    pub fn plain(&self, #[comptime] lines: usize) -> Rows {
        let step = self.heads * lines;
        Rows {
            first: self.batch * self.seq * step + self.head * lines,
            step,
        }
    }

    /// Of a position, the place in `[batch, heads, seq]`.
    pub fn sum(&self, position: usize) -> usize {
        (self.batch * self.heads + self.head) * self.seq + position
    }

    /// For rows that are queries: the end of the keys that they see, and that of those which all of them see.
    pub fn keys(&self, #[comptime] format: Format) -> (usize, usize) {
        let mut end = self.seq;
        let mut whole = self.seq;
        if comptime!(format.causal) {
            end = min(self.seq, self.start + comptime!(format.rows()));
            whole = self.start;
        }
        (end, whole)
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
