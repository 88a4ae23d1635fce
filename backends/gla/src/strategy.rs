//! Which form of the operation runs.

use serde::{Deserialize, Serialize};

use crate::error::GlaError;

/// Which form computes values and gradients; all agree up to the rounding of the backend's products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The fastest one known for the backend and the length: its own kernel on Flex, and on devices that multiply matrices in
    /// hardware for the widths that they take; elsewhere the chunk-wise form, or the recurrent one for a position or two.
    #[default]
    Auto,
    /// That of [`gated_linear_attention_forgotten`](crate::gated_linear_attention_forgotten): its own kernels on devices that multiply
    /// matrices in hardware, and no other form.
    #[serde(skip)]
    Forgotten,
    /// Position by position in plain tensor operations, see [`reference`](mod@crate::reference). The gradients keep the
    /// state of every position.
    Recurrent,
    /// Chunk by chunk in plain tensor operations, see [`chunked`](crate::chunked).
    Chunked {
        /// Positions in a chunk, at most [`Strategy::MAX_CHUNK`].
        chunk: usize,
    },
}

impl Strategy {
    /// The longest chunk: differences of cumulative gates inside longer ones would lose digits.
    pub const MAX_CHUNK: usize = 256;

    pub(crate) fn check(self) -> Result<(), GlaError> {
        match self {
            Self::Chunked { chunk } if !(1..=Self::MAX_CHUNK).contains(&chunk) => {
                Err(GlaError::Chunk {
                    found: chunk,
                    most: Self::MAX_CHUNK,
                })
            }
            _ => Ok(()),
        }
    }
}
