//! What a batch asks the model to predict.

use kiln_loader::TokenBatch;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::recipe::{Objective, ObjectiveKind};

impl Objective {
    /// The batch as the model shall see it; `vocab` includes the mask token, its last id.
    ///
    /// Next-token batches pass unchanged. Masked-token batches predict the token at the same position, where it was
    /// replaced by the mask token; at least one token a lane is. Which ones follows from `seed` and the number of the lane,
    /// counted from `first_lane`: so it does not depend on how lanes are put into batches.
    pub fn apply(&self, batch: TokenBatch, vocab: usize, seed: u64, first_lane: u64) -> TokenBatch {
        match self.kind {
            ObjectiveKind::NextToken => batch,
            ObjectiveKind::MaskedToken => {
                let mask_token = (vocab - 1) as u32;
                mask_tokens(batch, mask_token, self.mask_ratio.0, [seed, first_lane])
            }
        }
    }
}

fn mask_tokens(
    mut batch: TokenBatch,
    mask_token: u32,
    ratio: f64,
    [seed, first_lane]: [u64; 2],
) -> TokenBatch {
    batch.targets.clone_from(&batch.inputs);
    for (number, lane) in (first_lane..).zip(batch.mask.chunks_mut(batch.seq)) {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(&[seed, number]));
        let first = lane.iter().position(|&real| real);
        for counts in lane.iter_mut() {
            *counts = *counts && rng.random::<f64>() < ratio;
        }
        if let Some(first) = first.filter(|_| !lane.contains(&true)) {
            lane[first] = true;
        }
    }
    for (input, &hidden) in batch.inputs.iter_mut().zip(&batch.mask) {
        if hidden {
            *input = mask_token;
        }
    }
    batch
}

/// Mixes numbers into one seed (SplitMix64), so that streams for different purposes and steps do not overlap.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |state, &part| {
        let mut x = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::MaskRatio;

    fn batch() -> TokenBatch {
        TokenBatch {
            batch: 2,
            seq: 50,
            inputs: (0..100).collect(),
            targets: (1..101).collect(),
            mask: (0..100).map(|i| i < 90).collect(),
        }
    }

    #[test]
    fn masked_tokens_are_hidden_and_asked_for() {
        let objective = Objective {
            kind: ObjectiveKind::MaskedToken,
            mask_ratio: MaskRatio(0.3),
        };
        let masked = objective.apply(batch(), 1001, 5, 0);
        assert_eq!(masked.targets, (0..100).collect::<Vec<_>>());
        for i in 0..100 {
            assert_eq!(masked.inputs[i] == 1000, masked.mask[i], "position {i}");
        }
        assert!(
            masked.mask[90..].iter().all(|&chosen| !chosen),
            "padding is not asked for"
        );
        let count = masked.mask.iter().filter(|&&chosen| chosen).count();
        assert!((15..40).contains(&count), "{count} of 90 at ratio 0.3");
        let none = Objective {
            mask_ratio: MaskRatio(1e-9),
            ..objective
        };
        let least = none.apply(batch(), 1001, 5, 0).mask;
        let chosen = least.iter().filter(|&&chosen| chosen).count();
        assert_eq!(chosen, 2, "one of each lane");
    }

    #[test]
    fn next_token_batches_pass() {
        let passed = Objective::default().apply(batch(), 1000, 5, 0);
        assert_eq!(
            (passed.inputs, passed.targets),
            (batch().inputs, batch().targets)
        );
    }
}
