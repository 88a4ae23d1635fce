//! `[adapters]`: matrices that move by products of two small ones (LoRA, Hu et al., arXiv 2106.09685).
//!
//! ```text
//! w' = w + c a b                          c = alpha / rank; a [d_input, rank], b [rank, d_output], which is 0 at first
//! dL/da = c g b^T,    dL/db = c a^T g     with g the gradient at w'
//! ```
//! w stays as it is until the end of the training, when w' takes its place: what is stored is as large as it was. Optimizers have
//! moments for a and b in the place of those for w.

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::selection::{Selection, every_layer};

/// Settings of training by adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptersConfig {
    /// Columns of a and rows of b; as many as the matrix has rows or columns, where those are fewer.
    pub rank: usize,
    /// What the product is multiplied by, over the rank; twice the rank without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Linear layers by patterns of their names, `*` standing for anything. The matrices of others are not trained, nor is the embedding.
    #[serde(default = "every_layer")]
    pub layers: Vec<String>,
    /// And none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

impl AdaptersConfig {
    /// The section with nothing but the rank.
    pub fn new(rank: usize) -> Self {
        Self {
            rank,
            alpha: None,
            layers: every_layer(),
            except: Vec::new(),
        }
    }

    /// The layers that it is about.
    pub fn selection(&self) -> Selection {
        Selection::of(&self.layers, &self.except)
    }

    /// Checks every key.
    ///
    /// # Errors
    /// No rank, a factor that is not positive.
    pub fn check(&self) -> Result<(), TrainError> {
        match self.alpha {
            _ if self.rank == 0 => Err(TrainError::setting(
                "adapters.rank",
                0,
                "must be at least 1",
            )),
            Some(alpha) if !(alpha > 0.0 && alpha.is_finite()) => Err(TrainError::setting(
                "adapters.alpha",
                alpha,
                "must be above 0",
            )),
            _ => Ok(()),
        }
    }

    /// c.
    pub(crate) fn factor(&self) -> f64 {
        self.alpha.map_or(2.0, |alpha| alpha / self.rank as f64)
    }
}
