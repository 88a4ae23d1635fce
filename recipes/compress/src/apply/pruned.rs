//! Zeros in a layer's weights, as a matrix that stores the others.

use kiln_quant::{SparseFormat, SparseMatrix, SparsePattern};
use kiln_train::Stored;

use super::Job;
use crate::layers::{Layer, matrix};
use crate::prune::{self, Pattern, SparseGptConfig};
use crate::recipe::{Prune, PruneMethod};
use crate::{CompressError, Gram, MethodError};

impl Job<'_> {
    /// The layer with zeros, of both factors where it is a product of two.
    pub(super) fn pruned(
        &self,
        layer: &Layer,
        stored: &Stored,
        gram: Option<&Gram>,
        work: Prune,
    ) -> Result<Stored, CompressError> {
        let kind = match stored {
            Stored::Float { kind, .. } => *kind,
            Stored::Sparse(sparse) => sparse.format().values,
            Stored::LowRank { first, second } => {
                let thinned = self.pruned(layer, first, gram, work)?;
                let behind = match gram {
                    Some(gram) => Some(gram.through(&self.method(layer, matrix(&thinned))?)),
                    None => None,
                };
                return Ok(Stored::LowRank {
                    first: Box::new(thinned),
                    second: Box::new(self.pruned(layer, second, behind.as_ref(), work)?),
                });
            }
            Stored::Packed(_)
            | Stored::PackedRows(_)
            | Stored::Complex(_)
            | Stored::Scaled { .. }
            | Stored::Integer { .. } => {
                return Err(self.order(layer, stored, "pruning", "take its codes apart"));
            }
        };
        let weights = self.method(layer, matrix(stored))?;
        let seen = || gram.ok_or(MethodError::NoTokens);
        let pattern = work.pattern;
        let pruned = match work.method {
            PruneMethod::Magnitude => prune::magnitude(&weights, pattern),
            PruneMethod::Wanda => seen().and_then(|gram| prune::wanda(&weights, gram, pattern)),
            PruneMethod::SparseGpt { damping } => {
                let config = SparseGptConfig { pattern, damping };
                seen().and_then(|gram| prune::sparsegpt(&weights, gram, config))
            }
        };
        let pruned = self.method(layer, pruned)?;
        let format = SparseFormat {
            pattern: match pattern {
                Pattern::NofM { keep: 2, of: 4 } => SparsePattern::TwoOfFour,
                _ => SparsePattern::Mask,
            },
            d_input: pruned.d_input(),
            d_output: pruned.d_output(),
            values: kind,
        };
        let sparse = SparseMatrix::pack(format, pruned.values());
        Ok(Stored::Sparse(
            sparse.map_err(|source| self.pack(layer, source))?,
        ))
    }
}
