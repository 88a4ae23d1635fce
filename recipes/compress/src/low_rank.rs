//! Low rank: a layer's weights as a product of two thin matrices, W = A B with A `[d_input, rank]` and B `[rank, d_output]`.
//!
//! The truncated singular value decomposition is nearest to W itself (Eckart and Young 1936). With calibration, that of L^T W with
//! X^T X = L L^T is nearest in the layer's output, as |X (W - W')| = |L^T (W - W')| (SVD-LLM, arXiv 2403.07378).

use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::{Mat, Par};

use crate::factor::damped;
use crate::matrix::view;
use crate::{Gram, Matrix, MethodError};

/// The singular value decomposition of a layer, to be cut at any rank.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// Columns to multiply the square roots of singular values with, row-major `[d_input, full]`.
    left: Vec<f64>,
    /// Singular values from the largest to the smallest.
    values: Vec<f64>,
    /// Rows to multiply them with, row-major `[full, d_output]`.
    right: Vec<f64>,
    d_input: usize,
    d_output: usize,
}

/// Two factors of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// A, `[d_input, rank]`.
    pub first: Matrix,
    /// B, `[rank, d_output]`.
    pub second: Matrix,
}

impl LowRank {
    /// Number of columns of A.
    pub fn rank(&self) -> usize {
        self.first.d_output()
    }

    /// A B.
    pub fn product(&self) -> Vec<f32> {
        let (first, second) = (self.first.to_f64(), self.second.to_f64());
        let a = view(&first, self.first.d_input(), self.rank());
        let b = view(&second, self.rank(), self.second.d_output());
        let product: Mat<f64> = a * b;
        row_major(&product)
            .iter()
            .map(|value| *value as f32)
            .collect()
    }
}

impl Spectrum {
    /// Of the weights as they are.
    ///
    /// # Errors
    /// Singular values that do not converge.
    pub fn plain(weights: &Matrix) -> Result<Self, MethodError> {
        let values = weights.to_f64();
        let matrix = view(&values, weights.d_input(), weights.d_output());
        Self::decompose(matrix.to_owned(), weights)
    }

    /// Of the weights as the calibration inputs see them. `damping` keeps channels that carry little from being forgotten.
    ///
    /// # Errors
    /// No calibration, a Hessian that stays indefinite, singular values that do not converge.
    pub fn whitened(weights: &Matrix, gram: &Gram, damping: f64) -> Result<Self, MethodError> {
        gram.check(weights)?;
        let d_input = weights.d_input();
        let lower = damped(d_input, damping, |i, j| gram.product(i, j))?;
        let values = weights.to_f64();
        let seen = lower.transpose() * view(&values, d_input, weights.d_output());
        let mut spectrum = Self::decompose(seen, weights)?;
        // Back from outputs to weights: L^T A' = A.
        let mut left = view(&spectrum.left, d_input, spectrum.values.len()).to_owned();
        solve_upper_triangular_in_place(lower.transpose(), left.as_mut(), Par::Seq);
        spectrum.left = row_major(&left);
        Ok(spectrum)
    }

    fn decompose(matrix: Mat<f64>, weights: &Matrix) -> Result<Self, MethodError> {
        let (d_input, d_output) = (weights.d_input(), weights.d_output());
        let svd = matrix.thin_svd().map_err(|_| MethodError::NoConvergence {
            rows: d_input,
            cols: d_output,
        })?;
        let full = d_input.min(d_output);
        Ok(Self {
            left: row_major(&svd.U().to_owned()),
            values: (0..full).map(|k| svd.S()[k]).collect(),
            right: row_major(&svd.V().transpose().to_owned()),
            d_input,
            d_output,
        })
    }

    /// Singular values from the largest to the smallest.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Weights that a rank costs.
    pub fn cost(&self) -> usize {
        self.d_input + self.d_output
    }

    /// The largest rank whose factors are smaller than the matrix.
    pub fn largest_rank(&self) -> usize {
        let size = self.d_input * self.d_output;
        ((size - 1) / self.cost()).min(self.values.len())
    }

    /// The factors of the best approximation of a rank, the singular values shared among both.
    ///
    /// # Errors
    /// A rank of zero, or beyond the full one.
    pub fn truncate(&self, rank: usize) -> Result<LowRank, MethodError> {
        let full = self.values.len();
        if !(1..=full).contains(&rank) {
            return Err(MethodError::Shape {
                what: "rank",
                value: rank,
                why: format!("must lie in [1, {full}]"),
            });
        }
        let root = |k: usize| self.values[k].max(0.0).sqrt();
        let first = (0..self.d_input)
            .flat_map(|row| (0..rank).map(move |k| (self.left[row * full + k] * root(k)) as f32))
            .collect();
        let second = (0..rank)
            .flat_map(|k| {
                let row = &self.right[k * self.d_output..][..self.d_output];
                row.iter().map(move |value| (value * root(k)) as f32)
            })
            .collect();
        Ok(LowRank {
            first: Matrix::new(self.d_input, rank, first)?,
            second: Matrix::new(rank, self.d_output, second)?,
        })
    }
}

/// Shares a budget of weights among layers: component by component, the one that keeps the largest share of its layer's energy for
/// its cost comes first. `None` leaves a layer whole, where factors would not be smaller.
///
/// # Errors
/// A budget outside of (0, 1).
pub fn allocate(layers: &[Spectrum], keep: f64) -> Result<Vec<Option<usize>>, MethodError> {
    if !(keep > 0.0 && keep < 1.0) {
        return Err(MethodError::Setting {
            key: "keep",
            value: keep.to_string(),
            why: "must lie in (0, 1)",
        });
    }
    let size = |layer: &Spectrum| layer.d_input * layer.d_output;
    let total: usize = layers.iter().map(size).sum();
    let budget = (keep * total as f64) as usize;
    // A layer of no rank at all would pass nothing on.
    let mut ranks = vec![1_usize; layers.len()];
    let mut used: usize = layers.iter().map(Spectrum::cost).sum();
    let energies: Vec<f64> = layers
        .iter()
        .map(|layer| layer.values.iter().map(|value| value * value).sum::<f64>())
        .collect();
    let mut parts: Vec<(f64, usize)> = layers
        .iter()
        .enumerate()
        .flat_map(|(index, layer)| {
            let energy = energies[index].max(f64::MIN_POSITIVE);
            let gain = move |value: &f64| value * value / energy / layer.cost() as f64;
            layer
                .values
                .iter()
                .skip(1)
                .map(move |value| (gain(value), index))
        })
        .collect();
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, index) in parts {
        let layer = &layers[index];
        if ranks[index] > layer.largest_rank() {
            continue;
        }
        // Beyond the largest useful rank the whole matrix is cheaper, and better.
        let price = match ranks[index] == layer.largest_rank() {
            true => size(layer) - ranks[index] * layer.cost(),
            false => layer.cost(),
        };
        if used + price <= budget {
            used += price;
            ranks[index] += 1;
        }
    }
    let rank = |(rank, layer): (usize, &Spectrum)| (rank <= layer.largest_rank()).then_some(rank);
    Ok(ranks.into_iter().zip(layers).map(rank).collect())
}

fn row_major(matrix: &Mat<f64>) -> Vec<f64> {
    (0..matrix.nrows())
        .flat_map(|row| (0..matrix.ncols()).map(move |column| matrix[(row, column)]))
        .collect()
}

#[cfg(test)]
mod tests;
