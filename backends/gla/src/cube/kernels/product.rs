//! Matrix products of tiles in shared memory. Planes work by themselves; whoever calls keeps them in step.

use burn_cubecl::cubecl;
use cubecl::{cmma, prelude::*};

use super::{Format, SIDE, tile::Tile};

/// How a tile is read as an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Operand {
    /// Numbers from one row of the tile to the next.
    pub stride: usize,
    /// Whether the transpose of the tile is the operand.
    pub transposed: bool,
}

impl Operand {
    /// A tile of rows of `width`.
    pub fn rows(width: usize, format: Format) -> Self {
        Self {
            stride: format.stride(width),
            transposed: false,
        }
    }

    /// The transpose of a tile of rows of `width`.
    pub fn transposed(width: usize, format: Format) -> Self {
        Self {
            stride: format.stride(width),
            transposed: true,
        }
    }

    fn layout(self) -> cmma::MatrixLayout {
        match self.transposed {
            true => cmma::MatrixLayout::ColMajor,
            false => cmma::MatrixLayout::RowMajor,
        }
    }
}

/// Accumulators of one band of rows: `count` squares side by side.
#[derive(CubeType)]
pub(super) struct Band {
    squares: Sequence<cmma::Matrix<f32>>,
    #[cube(comptime)]
    count: usize,
    /// Numbers that one instruction adds up.
    #[cube(comptime)]
    depth: usize,
}

#[cube]
impl Band {
    pub fn zeros(#[comptime] count: usize, #[comptime] format: Format) -> Band {
        let depth = comptime!(format.depth());
        let mut squares = Sequence::<cmma::Matrix<f32>>::new();
        #[unroll]
        for _ in 0..count {
            squares.push(cmma::Matrix::<f32>::from_value(
                cmma::MatrixIdent::Accumulator,
                SIDE,
                SIDE,
                depth,
                cmma::MatrixLayout::Undefined,
                0.0f32,
            ));
        }
        Band {
            squares,
            count,
            depth,
        }
    }

    /// Adds `lhs @ rhs`: rows `row ..` of lhs and columns `col ..` of rhs, over `inner` numbers.
    pub fn add_product<O: Float, N: Size>(
        &mut self,
        lhs: &Tile<O, N>,
        rhs: &Tile<O, N>,
        row: usize,
        col: usize,
        #[comptime] left: Operand,
        #[comptime] right: Operand,
        #[comptime] inner: usize,
    ) {
        let (count, depth) = comptime!((self.count, self.depth));
        let lhs = lhs.with_vector_size::<Const<1>>();
        let rhs = rhs.with_vector_size::<Const<1>>();
        #[unroll]
        for step in 0..comptime!(inner / depth) {
            let k = comptime!(step * depth);
            let mut at = row * left.stride + k;
            if comptime!(left.transposed) {
                at = row + comptime!(k * left.stride);
            }
            let a = cmma::Matrix::<Vector<O, Const<1>>>::from_slice(
                cmma::MatrixIdent::A,
                SIDE,
                SIDE,
                depth,
                comptime!(left.layout()),
                &lhs[at..at + SIDE],
                comptime!(left.stride as u32),
            );
            #[unroll]
            for square in 0..count {
                let n = col + comptime!(square * SIDE);
                let mut at = n + comptime!(k * right.stride);
                if comptime!(right.transposed) {
                    at = n * right.stride + k;
                }
                let b = cmma::Matrix::<Vector<O, Const<1>>>::from_slice(
                    cmma::MatrixIdent::B,
                    SIDE,
                    SIDE,
                    depth,
                    comptime!(right.layout()),
                    &rhs[at..at + SIDE],
                    comptime!(right.stride as u32),
                );
                let acc = self.squares.index(square);
                cmma::execute(&a, &b, acc, acc);
            }
        }
    }

    /// Writes the band to rows `row ..` of a tile, or of a matrix in global memory, from column `col` on.
    pub fn store<V: CubePrimitive>(
        &self,
        target: &mut [V],
        row: usize,
        col: usize,
        #[comptime] stride: usize,
    ) {
        #[unroll]
        for square in 0..comptime!(self.count) {
            let at = row * stride + col + comptime!(square * SIDE);
            cmma::store(
                &mut target[at..at + SIDE],
                self.squares.index(square),
                comptime!(stride as u32),
                cmma::MatrixLayout::RowMajor,
            );
        }
    }
}
