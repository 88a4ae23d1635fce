//! A tensor of two axes as the library sees it.

use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};

/// A matrix in memory, rows or columns next to each other, and whether the operand is its transpose.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    /// What is stored.
    pub tensor: CubeTensor,
    /// Whether it lies column by column.
    by_columns: bool,
    /// Numbers from one row (or column) to the next.
    pub pitch: usize,
    /// Whether the transpose is multiplied.
    transposed: bool,
}

impl Matrix {
    /// A tensor `[rows, cols]`, or its transpose; copied if neither rows nor columns lie next to each other.
    pub fn new(tensor: CubeTensor, transposed: bool) -> Self {
        let [rows, cols] = tensor.meta.shape().dims();
        let [down, right] = [tensor.meta.strides()[0], tensor.meta.strides()[1]];
        let by_rows = right == 1 && down >= cols;
        let by_columns = down == 1 && right >= rows;
        if by_rows {
            Self {
                tensor,
                by_columns: false,
                pitch: down,
                transposed,
            }
        } else if by_columns {
            Self {
                tensor,
                by_columns: true,
                pitch: right,
                transposed,
            }
        } else {
            Self {
                tensor: into_contiguous(tensor),
                by_columns: false,
                pitch: cols,
                transposed,
            }
        }
    }

    fn dims(&self) -> [usize; 2] {
        let [rows, cols] = self.tensor.meta.shape().dims();
        match self.transposed {
            true => [cols, rows],
            false => [rows, cols],
        }
    }

    /// Rows of the operand.
    pub fn rows(&self) -> usize {
        self.dims()[0]
    }

    /// Columns of the operand.
    pub fn cols(&self) -> usize {
        self.dims()[1]
    }

    /// Whether what lies in memory row by row is the transpose of the operand.
    pub fn turned(&self) -> bool {
        self.by_columns != self.transposed
    }
}
