//! Quantization as a stage: from a layer's weights, in whatever form they are, to packed codes.

use kiln_quant::{PackedMatrix, Pairs};
use kiln_train::Stored;

use super::Job;
use super::pack::packed;
use crate::layers::{Layer, Role, matrix, transposed};
use crate::quantize::{AwqConfig, Clip, GptqConfig, Grid, Quantized, awq, gptq, round_to_nearest};
use crate::recipe::{Quantize, QuantizeMethod};
use crate::{CompressError, Gram, Matrix, MethodError};

/// How a matrix is rounded.
#[derive(Clone, Copy)]
pub(super) struct Rounding {
    pub method: QuantizeMethod,
    pub grid: Grid,
    /// Inputs that share a scale; 0 for all.
    pub group: usize,
    pub clip: Clip,
}

impl Job<'_> {
    /// A matrix as codes, in whatever form it was before.
    pub(super) fn quantized(
        &self,
        layer: &Layer,
        stored: &Stored,
        gram: Option<&Gram>,
        work: &Quantize,
    ) -> Result<Stored, CompressError> {
        match stored {
            Stored::Float { .. } | Stored::Sparse(_) => {
                let weights = self.method(layer, matrix(stored))?;
                self.codes(layer, &weights, gram, work)
            }
            Stored::LowRank { first, second } if layer.role == Role::Embedding => {
                let up = self.method(layer, matrix(second).and_then(|up| transposed(&up)))?;
                let behind = gram.map(|gram| gram.through(&up));
                // The rank is what the budget made it. The second factor is small, and stays dense.
                let work = Quantize {
                    nearest_group: true,
                    ..work.clone()
                };
                Ok(Stored::LowRank {
                    first: Box::new(self.quantized(layer, first, behind.as_ref(), &work)?),
                    second: second.clone(),
                })
            }
            Stored::LowRank { first, second } => {
                // The parts of complex inputs are those of the first factor, those of complex outputs of the second.
                let [reader, maker] = [Pairs::Inputs, Pairs::Outputs].map(|side| Layer {
                    pairs: layer.pairs.filter(|pairs| *pairs == side),
                    ..layer.clone()
                });
                let rounded = self.quantized(&reader, first, gram, work)?;
                let behind = match gram {
                    Some(gram) => Some(gram.through(&self.method(layer, matrix(&rounded))?)),
                    None => None,
                };
                // Ranks are what the budget made them.
                let work = Quantize {
                    nearest_group: true,
                    ..work.clone()
                };
                Ok(Stored::LowRank {
                    first: Box::new(rounded),
                    second: Box::new(self.quantized(&maker, second, behind.as_ref(), &work)?),
                })
            }
            Stored::Packed(_)
            | Stored::PackedRows(_)
            | Stored::Complex(_)
            | Stored::Scaled { .. }
            | Stored::Integer { .. } => Err(self.rounded_already(layer, stored)),
        }
    }

    /// Codes of a dense matrix. An embedding is taken as the head that it is or could be, so that each token has scales of its
    /// own; it has no inputs for AWQ to scale, and is rounded to nearest there.
    fn codes(
        &self,
        layer: &Layer,
        weights: &Matrix,
        gram: Option<&Gram>,
        work: &Quantize,
    ) -> Result<Stored, CompressError> {
        if let Some((sharing, pairs)) = work.complex.zip(layer.pairs) {
            return self.complex(layer, weights, gram, work, (sharing, pairs));
        }
        let grid = work.grid_of(&layer.name);
        let embedding = layer.role == Role::Embedding;
        let head = match embedding {
            true => Some(self.method(layer, transposed(weights))?),
            false => None,
        };
        let weights = head.as_ref().unwrap_or(weights);
        let method = match work.method {
            QuantizeMethod::Awq if embedding => QuantizeMethod::RoundToNearest,
            method => method,
        };
        let rounding = Rounding {
            method,
            grid,
            group: match work.nearest_group {
                true => work.group_that_fits(weights.d_input()),
                false => work.group,
            },
            clip: work.clip,
        };
        let (codes, divisors) = self.rounded(layer, weights, gram, rounding)?;
        Ok(match embedding {
            true => Stored::PackedRows(codes),
            false => scaled(Stored::Packed(codes), divisors),
        })
    }

    /// The packed codes of a matrix, and what its inputs are divided by, if by anything.
    pub(super) fn rounded(
        &self,
        layer: &Layer,
        weights: &Matrix,
        gram: Option<&Gram>,
        rounding: Rounding,
    ) -> Result<(PackedMatrix, Option<Vec<f32>>), CompressError> {
        let Rounding {
            method,
            grid,
            group,
            clip,
        } = rounding;
        let seen = || gram.ok_or(MethodError::NoTokens);
        let plain = |codes: Quantized| Ok((codes, None));
        let coded: Result<_, MethodError> = match method {
            QuantizeMethod::RoundToNearest => {
                round_to_nearest(weights, grid, group, clip).and_then(plain)
            }
            QuantizeMethod::Gptq { damping, act_order } => {
                let config = GptqConfig {
                    grid,
                    group,
                    clip,
                    damping,
                    act_order,
                };
                seen()
                    .and_then(|gram| gptq(weights, gram, config))
                    .and_then(plain)
            }
            QuantizeMethod::Awq => {
                let config = AwqConfig { grid, group, clip };
                let scaled = seen().and_then(|gram| awq(weights, gram, config));
                scaled.map(|scaled| (scaled.quantized, Some(scaled.divisors)))
            }
        };
        let (codes, divisors) = self.method(layer, coded)?;
        let codes = packed(&codes).map_err(|source| self.pack(layer, source))?;
        Ok((codes, divisors))
    }
}

/// Weights behind the divisors of their inputs, if there are some.
pub(super) fn scaled(weights: Stored, divisors: Option<Vec<f32>>) -> Stored {
    match divisors {
        None => weights,
        Some(divisors) => Stored::Scaled {
            divisors,
            weights: Box::new(weights),
        },
    }
}
