//! The embedding, which is also the head where the two are tied: x_t = E[token_t], scores = x E^T.
//!
//! Dense, its path is that of the field it stands in. Packed, the words hold E^T, with a scale for each token (and group of its
//! channels), so that a row is a column and the tied head a packed linear layer.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use kiln_fused::{embedding, linear};

use crate::linear::PackedWeight;

/// Vectors of tokens, `[vocab, d_model]`.
#[derive(Module, Debug)]
pub enum Embedding {
    /// One matrix.
    Rows(Rows),
    /// The product of two.
    Factorised(Factorised),
}

/// A matrix `[vocab, width]`.
#[derive(Module, Debug)]
pub enum Rows {
    /// Its entries, trained.
    Dense(Param<Tensor<2>>),
    /// Codes of a few bits of the transpose `[width, vocab]`, which are not trained.
    Packed(PackedWeight),
}

/// `E = rows up`: through `rank` numbers a token (arXiv 1909.11942).
#[derive(Module, Debug)]
pub struct Factorised {
    /// `[vocab, rank]`
    pub rows: Rows,
    /// `[rank, d_model]`
    pub up: Param<Tensor<2>>,
}

impl Rows {
    /// `[vocab, width]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(rows) => rows.shape().dims(),
            Self::Packed(packed) => {
                let format = packed.format();
                [format.d_output, format.d_input]
            }
        }
    }

    /// The matrix, or that which packed rows stand for, `[vocab, width]`.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(rows) => rows.val(),
            Self::Packed(packed) => packed.dense().transpose(),
        }
    }

    /// `[batch, seq]` to `[batch, seq, width]`.
    fn read(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        match self {
            Self::Dense(rows) => embedding(rows.val(), tokens),
            Self::Packed(packed) => {
                let [batch, seq] = tokens.dims();
                let rows = packed.columns(tokens.reshape([batch * seq]));
                let [_, width] = rows.dims();
                rows.reshape([batch, seq, width])
            }
        }
    }

    /// `[.., width]` to `[.., vocab]`.
    fn scores<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Dense(rows) => linear(x, rows.val().transpose(), None),
            Self::Packed(packed) => packed.forward(x),
        }
    }

    fn entries(&self) -> u64 {
        self.dims().iter().map(|&n| n as u64).product()
    }
}

impl Embedding {
    /// Trainable vectors `[vocab, d_model]`.
    pub(crate) fn new(rows: Param<Tensor<2>>) -> Self {
        Self::Rows(Rows::Dense(rows))
    }

    /// `[vocab, d_model]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Rows(rows) => rows.dims(),
            Self::Factorised(Factorised { rows, up }) => {
                [rows.dims()[0], up.shape().dims::<2>()[1]]
            }
        }
    }

    /// The vectors of all tokens, `[vocab, d_model]`.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Rows(rows) => rows.dense(),
            Self::Factorised(Factorised { rows, up }) => rows.dense().matmul(up.val()),
        }
    }

    /// `[batch, seq]` tokens to their vectors, `[batch, seq, d_model]`.
    pub(crate) fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        match self {
            Self::Rows(rows) => rows.read(tokens),
            Self::Factorised(Factorised { rows, up }) => linear(rows.read(tokens), up.val(), None),
        }
    }

    /// As the head: `[.., d_model]` to scores `[.., vocab]`.
    pub(crate) fn scores<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Rows(rows) => rows.scores(x),
            Self::Factorised(Factorised { rows, up }) => {
                rows.scores(linear(x, up.val().transpose(), None))
            }
        }
    }

    /// Multiplications and additions a row of scores costs: two for each weight.
    pub(crate) fn flops_per_row(&self) -> u64 {
        2 * match self {
            Self::Rows(rows) => rows.entries(),
            Self::Factorised(Factorised { rows, up }) => {
                rows.entries() + up.shape().num_elements() as u64
            }
        }
    }

    /// Entries that are packed.
    pub(crate) fn packed_entries(&self) -> u64 {
        match self {
            Self::Rows(rows) | Self::Factorised(Factorised { rows, .. }) => match rows {
                Rows::Dense(_) => 0,
                Rows::Packed(_) => rows.entries(),
            },
        }
    }
}
