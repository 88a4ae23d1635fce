//! Low rank as a stage: one budget for all layers.

use kiln_train::{Stored, StoredModel};
use rayon::prelude::*;

use super::{Job, float};
use crate::layers::{Layer, Role, matrix, transposed};
use crate::low_rank::allocate;
use crate::recipe::Factorize;
use crate::{CompressError, LowRank, MethodError, Spectrum};

impl Job<'_> {
    /// The layers as products of two matrices, with ranks shared among all of them.
    pub(super) fn factorise(
        &self,
        model: &StoredModel,
        selected: &[Layer],
        work: Factorize,
    ) -> Result<Vec<Stored>, CompressError> {
        let spectra = selected
            .par_iter()
            .map(|layer| self.spectrum(layer, &model.tensors[&layer.tensor], work))
            .collect::<Result<Vec<_>, _>>()?;
        let ranks = allocate(&spectra, work.keep);
        // `keep` is the recipe's, and was checked when it was read.
        let ranks = self.method(&selected[0], ranks)?;
        let layers = selected.iter().zip(&spectra).zip(ranks);
        layers
            .map(|((layer, spectrum), rank)| {
                let before = &model.tensors[&layer.tensor];
                let Some(rank) = rank else {
                    return Ok(before.clone());
                };
                let LowRank { first, second } = self.method(layer, spectrum.truncate(rank))?;
                let (first, second) = match layer.role {
                    Role::Linear => (first, second),
                    Role::Embedding => (
                        self.method(layer, transposed(&second))?,
                        self.method(layer, transposed(&first))?,
                    ),
                };
                Ok(Stored::LowRank {
                    first: Box::new(float(first)),
                    second: Box::new(float(second)),
                })
            })
            .collect()
    }

    /// An embedding is taken as the head that it is or could be, as in [`Job::codes`].
    fn spectrum(
        &self,
        layer: &Layer,
        stored: &Stored,
        work: Factorize,
    ) -> Result<Spectrum, CompressError> {
        let why = match stored {
            Stored::Float { .. } => None,
            Stored::Sparse(_) => Some("fill its zeros again"),
            Stored::LowRank { .. } => {
                Some("take factors of factors; lower `keep` of the stage before")
            }
            _ => Some("leave its codes behind"),
        };
        if let Some(why) = why {
            return Err(self.order(layer, stored, "factorising", why));
        }
        let mut weights = self.method(layer, matrix(stored))?;
        if layer.role == Role::Embedding {
            weights = self.method(layer, transposed(&weights))?;
        }
        let spectrum = match (work.whitened, self.grams.get(&layer.name)) {
            (None, _) => Spectrum::plain(&weights),
            (Some(damping), Some(gram)) => Spectrum::whitened(&weights, gram, damping),
            (Some(_), None) => Err(MethodError::NoTokens),
        };
        self.method(layer, spectrum)
    }
}
