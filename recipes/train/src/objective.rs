//! What a batch asks the model to predict.

use kiln_text::TokenBatch;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::recipe::{Objective, ObjectiveKind};

impl Objective {
    /// The batch as the model shall see it; `seed` chooses the masked tokens and `vocab` includes the mask token, its last id.
    ///
    /// Next-token batches pass unchanged. Masked-token batches predict the token at the same position, where it was
    /// replaced by the mask token; at least one token a batch is.
    pub fn apply(&self, batch: TokenBatch, vocab: usize, seed: u64) -> TokenBatch {
        match self.kind {
            ObjectiveKind::NextToken => batch,
            ObjectiveKind::MaskedToken => {
                mask_tokens(batch, (vocab - 1) as u32, self.mask_ratio.0, seed)
            }
        }
    }
}

fn mask_tokens(mut batch: TokenBatch, mask_token: u32, ratio: f64, seed: u64) -> TokenBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    batch.targets.clone_from(&batch.inputs);
    let mut chosen: Vec<bool> = batch
        .mask
        .iter()
        .map(|&real| real && rng.random::<f64>() < ratio)
        .collect();
    if !chosen.contains(&true) {
        if let Some(first) = batch.mask.iter().position(|&real| real) {
            chosen[first] = true;
        }
    }
    for (input, &hidden) in batch.inputs.iter_mut().zip(&chosen) {
        if hidden {
            *input = mask_token;
        }
    }
    batch.mask = chosen;
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
        let masked = objective.apply(batch(), 1001, 5);
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
        assert_eq!(
            none.apply(batch(), 1001, 5)
                .mask
                .iter()
                .filter(|&&chosen| chosen)
                .count(),
            1
        );
    }

    #[test]
    fn next_token_batches_pass() {
        let passed = Objective::default().apply(batch(), 1000, 5);
        assert_eq!(
            (passed.inputs, passed.targets),
            (batch().inputs, batch().targets)
        );
    }
}
