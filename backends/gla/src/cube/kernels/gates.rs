//! Sums of the gates of a chunk.

use burn_cubecl::cubecl;
use cubecl::prelude::*;
use kiln_native::one_minus_exp;

use super::{CHUNK, FOUR, Format, Numbers, Place, band::Piece};
use crate::decay::LEAST_GATE;

/// Multiples of `1 / STEPS` below `64 * 80` are kept exactly by single precision.
const STEPS: f32 = 2048.0;

/// Cumulative gates in two parts, whose differences are exact where the sums themselves are large: see [`crate::decay`].
#[derive(CubeType)]
pub(super) struct Gates {
    coarse: Numbers,
    fine: Numbers,
    /// What a gate forgets, `1 - a`, where keys are written by it.
    forgotten: Numbers,
}

#[cube]
impl Gates {
    /// Sums of a chunk; positions that the sequence does not have keep everything. Ends with all units in step.
    pub fn load(log_decay: &[f32], place: Place, #[comptime] format: Format) -> Gates {
        let mut coarse = Numbers::new_aligned_slice(CHUNK, 16usize);
        let mut fine = Numbers::new_aligned_slice(CHUNK, 16usize);
        let mut forgotten = Numbers::new_aligned_slice(
            comptime!(if format.forgotten { CHUNK } else { 1 }),
            16usize,
        );
        let unit = UNIT_POS as usize;
        let mut high = 0.0f32;
        let mut low = 0.0f32;
        if unit < place.len {
            let gate = log_decay[(place.first + unit) * place.heads + place.head];
            if comptime!(format.forgotten) {
                forgotten[unit] = Vector::new(one_minus_exp(gate));
            }
            let gate = max(gate, LEAST_GATE);
            high = (gate * STEPS).round() / STEPS;
            low = gate - high;
        }
        if unit < CHUNK {
            coarse[unit] = Vector::new(high);
            fine[unit] = Vector::new(low);
        }
        sync_cube();
        // An inclusive scan (Kogge and Stone).
        #[unroll]
        for level in 0..comptime!(CHUNK.trailing_zeros() as usize) {
            let distance = comptime!(1usize << level);
            if unit >= distance && unit < CHUNK {
                high += coarse[unit - distance].extract(0usize);
                low += fine[unit - distance].extract(0usize);
            }
            sync_cube();
            if unit < CHUNK {
                coarse[unit] = Vector::new(high);
                fine[unit] = Vector::new(low);
            }
            sync_cube();
        }
        Gates {
            coarse,
            fine,
            forgotten,
        }
    }

    /// `1 - a_t`, for positions that the sequence has.
    pub fn forgotten(&self, t: usize) -> f32 {
        self.forgotten[t].extract(0usize)
    }

    /// `A_t`, from before the chunk to position t.
    pub fn sum(&self, t: usize) -> f32 {
        self.coarse[t].extract(0usize) + self.fine[t].extract(0usize)
    }

    /// `exp(A_t - A_j)`, which is asked for where `j <= t`.
    pub fn between(&self, t: usize, j: usize) -> f32 {
        let coarse = self.coarse[t].extract(0usize) - self.coarse[j].extract(0usize);
        let fine = self.fine[t].extract(0usize) - self.fine[j].extract(0usize);
        (coarse + fine).exp()
    }

    /// `exp(A_t - A_j)` for position t, the row of a piece, and those j of its columns that are not behind t; zeros for the others.
    pub fn piece<N: Size>(&self, at: Piece, #[comptime] format: Format) -> Vector<f32, N> {
        let high = self.coarse[at.row].extract(0usize);
        let low = self.fine[at.row].extract(0usize);
        let coarse = self.coarse.with_vector_size::<Const<FOUR>>();
        let fine = self.fine.with_vector_size::<Const<FOUR>>();
        let mut value = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for part in 0..comptime!(format.wide() / FOUR) {
            let coarse = coarse[at.col / FOUR + part];
            let fine = fine[at.col / FOUR + part];
            #[unroll]
            for i in 0..FOUR {
                let decay = ((high - coarse.extract(i)) + (low - fine.extract(i))).exp();
                let seen = at.col + comptime!(part * FOUR + i) <= at.row;
                value.insert(comptime!(part * FOUR + i), select(seen, decay, 0.0f32));
            }
        }
        value
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
