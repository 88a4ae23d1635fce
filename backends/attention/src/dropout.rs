//! Which attention weights dropout takes out: numbers that follow from a seed and a place, so that nothing is kept for backward.
//!
//! Philox 4x32 with 7 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), the fewest that pass their
//! tests. One draw of 128 bits decides eight weights, 16 bits each: those of the queries i and i + 8 with the keys
//! j, j + 8, j + 16 and j + 24, which one unit of the kernels holds in every layout of scores.
//!
//! ```text
//! counter   (i, j, batch * heads + head, 0)     i the query without the bit of 8, j the key without those of 8 and 16
//! word      2 (bit of 8 of the query) + (bit of 16 of the key); its upper half where the key has the bit of 8
//! ```

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};

/// Rounds of [`philox`].
pub const ROUNDS: usize = 7;
/// Multipliers of a round of Philox.
pub const FACTORS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key of Philox grows by from round to round.
pub const STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// What 16 bits can be.
const LEVELS: f64 = 65_536.0;
/// Numbers of a seed lie below this: what a device draws is a float of 24 bits.
const SEEDS: f64 = 16_777_216.0;

/// Dropout of attention weights: after the softmax a weight is zero with this probability, and all others are divided by that
/// of being kept (arXiv 1207.0580).
#[derive(Clone, Debug)]
pub struct WeightDropout {
    /// Two numbers from 0 on, `[2]` of `i32`.
    seed: Tensor<1, Int>,
    dropped: u16,
}

impl WeightDropout {
    /// Dropout with a seed from the device's own stream of random numbers, which stays on the device. The probability is
    /// rounded to a multiple of 2^-16.
    ///
    /// # Panics
    /// If the probability is not in [0, 1).
    pub fn draw(probability: f64, device: &Device) -> Self {
        let uniform = Distribution::Uniform(0.0, SEEDS);
        Self::new(
            probability,
            Tensor::random([2], uniform, (device, DType::I32)),
        )
    }

    /// Dropout with a given seed.
    ///
    /// # Panics
    /// If the probability is not in [0, 1).
    pub fn seeded(probability: f64, seed: [u32; 2], device: &Device) -> Self {
        let seed = TensorData::from(seed.map(|word| word as i32));
        Self::new(probability, Tensor::from_data(seed, (device, DType::I32)))
    }

    /// Dropout with a seed that is on the device, `[2]` of `i32`.
    ///
    /// # Panics
    /// If the probability is not in [0, 1).
    pub fn new(probability: f64, seed: Tensor<1, Int>) -> Self {
        Self {
            seed,
            dropped: of_levels(probability),
        }
    }

    /// The seed, and how many of 65,536 weights are dropped; none if none is.
    pub(crate) fn into_parts(self) -> Option<(Tensor<1, Int>, u16)> {
        (self.dropped > 0).then_some((self.seed, self.dropped))
    }

    /// What each weight is multiplied with, 0 or one over the probability of being kept, `[batch, heads, queries, keys]` in `f32`
    /// and on the device of the seed.
    ///
    /// Reads the seed back and computes on the host: the definition, for tests and for devices without the kernels.
    pub fn factors(&self, [batch, heads, queries, keys]: [usize; 4]) -> Tensor<4> {
        let seed: Vec<i64> = self.seed.to_data().iter::<i64>().collect();
        let seed = [seed[0] as u32, seed[1] as u32];
        let kept = kept_factor(self.dropped);
        let factors = (0..batch * heads).flat_map(|head| {
            (0..queries).flat_map(move |query| {
                (0..keys).map(move |key| match bits(seed, [head, query, key]) {
                    bits if bits < self.dropped => 0.0,
                    _ => kept,
                })
            })
        });
        let data = TensorData::new(factors.collect(), [batch, heads, queries, keys]);
        Tensor::from_data(data, (&self.seed.device(), DType::F32))
    }
}

/// How many of 65,536 are dropped, with this probability.
///
/// # Panics
/// If the probability is not in [0, 1).
pub fn of_levels(probability: f64) -> u16 {
    assert!(
        (0.0..1.0).contains(&probability),
        "dropout: the probability is {probability}, but must lie in [0, 1)"
    );
    (probability * LEVELS).round().min(LEVELS - 1.0) as u16
}

/// What is kept is multiplied with, where so many of 65,536 are dropped.
pub fn kept_factor(dropped: u16) -> f32 {
    (LEVELS / (LEVELS - f64::from(dropped))) as f32
}

/// The number that decides about a weight.
fn bits(seed: [u32; 2], [head, query, key]: [usize; 3]) -> u16 {
    let (lower, middle, upper) = ((query / 8) % 2, (key / 8) % 2, (key / 16) % 2);
    let counter = [query - 8 * lower, key - 8 * middle - 16 * upper, head, 0];
    let word = philox(counter.map(|part| part as u32), seed)[2 * lower + upper];
    (word >> (16 * middle)) as u16
}

/// 128 random bits: Philox 4x32 with [`ROUNDS`] rounds.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    rounds::<ROUNDS>(counter, key)
}

fn rounds<const COUNT: usize>(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..COUNT {
        let [left, right] = [0, 1].map(|i| u64::from(counter[2 * i]) * u64::from(FACTORS[i]));
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [0, 1].map(|i| key[i].wrapping_add(STEPS[i]));
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' library, Random123.
    #[test]
    fn philox_is_philox() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let key = [0xa409_3822, 0x299f_31d0];
        for (counter, key, seven, ten) in [
            (
                [0; 4],
                [0; 2],
                [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                pi,
                key,
                [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(rounds::<7>(counter, key), seven);
            assert_eq!(rounds::<10>(counter, key), ten);
        }
    }

    /// No two weights of a head share their 16 bits of a draw.
    #[test]
    fn every_weight_has_bits_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for query in 0..32 {
            for key in 0..64 {
                let (lower, middle, upper) = ((query / 8) % 2, (key / 8) % 2, (key / 16) % 2);
                let counter = [query - 8 * lower, key - 8 * middle - 16 * upper];
                assert!(seen.insert((counter, 2 * lower + upper, middle)));
            }
        }
    }
}
