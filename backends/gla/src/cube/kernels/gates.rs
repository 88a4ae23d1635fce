//! Sums of the gates of a chunk.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{CHUNK, Place};
use crate::decay::LEAST_GATE;

/// Multiples of `1 / STEPS` below `64 * 80` are kept exactly by single precision.
const STEPS: f32 = 2048.0;

/// Cumulative gates in two parts, whose differences are exact where the sums themselves are large: see [`crate::decay`].
#[derive(CubeType)]
pub(super) struct Gates {
    coarse: Shared<[f32]>,
    fine: Shared<[f32]>,
}

#[cube]
impl Gates {
    /// Sums of a chunk; positions that the sequence does not have keep everything. Ends with all units in step.
    pub fn load(log_decay: &[f32], place: Place) -> Gates {
        let mut coarse = Shared::<[f32]>::new_slice(CHUNK);
        let mut fine = Shared::<[f32]>::new_slice(CHUNK);
        let unit = UNIT_POS as usize;
        let mut high = 0.0f32;
        let mut low = 0.0f32;
        if unit < place.len {
            let gate = log_decay[(place.first + unit) * place.heads + place.head];
            let gate = max(gate, LEAST_GATE);
            high = (gate * STEPS).round() / STEPS;
            low = gate - high;
        }
        if unit < CHUNK {
            coarse[unit] = high;
            fine[unit] = low;
        }
        sync_cube();
        // An inclusive scan (Kogge and Stone).
        #[unroll]
        for level in 0..comptime!(CHUNK.trailing_zeros() as usize) {
            let distance = comptime!(1usize << level);
            if unit >= distance && unit < CHUNK {
                high += coarse[unit - distance];
                low += fine[unit - distance];
            }
            sync_cube();
            if unit < CHUNK {
                coarse[unit] = high;
                fine[unit] = low;
            }
            sync_cube();
        }
        Gates { coarse, fine }
    }

    /// `A_t`, from before the chunk to position t.
    pub fn sum(&self, t: usize) -> f32 {
        self.coarse[t] + self.fine[t]
    }

    /// `exp(A_t - A_j)`, which is asked for where `j <= t`.
    pub fn between(&self, t: usize, j: usize) -> f32 {
        ((self.coarse[t] - self.coarse[j]) + (self.fine[t] - self.fine[j])).exp()
    }

    /// `exp(A_t)`, from before the chunk to position t.
    pub fn entering(&self, t: usize) -> f32 {
        self.sum(t).exp()
    }

    /// `exp(A_C - A_t)`, from position t to the end of the chunk.
    pub fn leaving(&self, t: usize) -> f32 {
        self.between(comptime!(CHUNK - 1).runtime(), t)
    }
}
