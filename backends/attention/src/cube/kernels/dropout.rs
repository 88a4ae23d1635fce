//! Which weights are dropped, as `crate::dropout` defines it.
//!
//! A draw decides about two queries and four keys, 8 apart. Units hold pairs of neighbours, and so take two draws at a time: eight
//! words, those of the first of the pair and then those of the second.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{SIDE, place::Place, product::Pair};
use crate::dropout::{FACTORS, ROUNDS, STEPS, kept_factor};

/// Words of a draw.
const WORDS: usize = 4;

/// The draws of a cube.
#[derive(CubeType)]
pub(super) struct Stream {
    low: u32,
    high: u32,
    head: u32,
    /// Of 65,536 weights, how many are dropped; if none, there are no draws.
    #[cube(comptime)]
    dropped: u16,
}

#[cube]
impl Stream {
    pub fn of(seed: ComptimeOption<&[i32]>, place: Place, #[comptime] dropped: u16) -> Stream {
        let mut low = 0u32.runtime();
        let mut high = 0u32.runtime();
        #[comptime]
        match seed {
            ComptimeOption::Some(seed) => {
                low = u32::reinterpret(seed[0]);
                high = u32::reinterpret(seed[1]);
            }
            ComptimeOption::None => {}
        }
        Stream {
            low,
            high,
            head: (place.batch * place.heads + place.head) as u32,
            dropped,
        }
    }

    /// The words for a pair of keys, `key` and the next, with queries `query` and 8 after it.
    pub fn of_keys(&self, query: usize, key: usize) -> Array<u32> {
        let mut words = Array::<u32>::new(comptime!(2 * WORDS));
        if comptime!(self.dropped > 0) {
            #[unroll]
            for next in 0..2usize {
                let drawn = self.philox(query as u32, (key + next) as u32);
                #[unroll]
                for word in 0..WORDS {
                    words[comptime!(next * WORDS + word)] = drawn[word];
                }
            }
        }
        words
    }

    /// The words for a pair of queries, `query` and the next, with keys `key` and 8, 16 and 24 after it; where a plane owns 16
    /// keys, the words of the second 16 stand in the place of the first.
    pub fn of_queries(&self, query: usize, key: usize, #[comptime] bands: usize) -> Array<u32> {
        let mut words = Array::<u32>::new(comptime!(2 * WORDS));
        if comptime!(self.dropped > 0) {
            let second = (key / SIDE) % 2;
            #[unroll]
            for next in 0..2usize {
                let drawn = self.philox((query + next) as u32, (key - second * SIDE) as u32);
                #[unroll]
                for word in 0..WORDS {
                    let mut chosen = drawn[word];
                    if comptime!(bands == 1 && word % 2 == 0) {
                        chosen = select(second == 1, drawn[comptime!(word + 1)], chosen);
                    }
                    words[comptime!(next * WORDS + word)] = chosen;
                }
            }
        }
        words
    }

    fn philox(&self, query: u32, key: u32) -> Array<u32> {
        let mut counter = Array::<u32>::new(WORDS);
        counter[0] = query;
        counter[1] = key;
        counter[2] = self.head;
        counter[3] = 0u32.runtime();
        let mut low = self.low;
        let mut high = self.high;
        #[unroll]
        for _ in 0..ROUNDS {
            let left = counter[0] as u64 * comptime!(FACTORS[0] as u64);
            let right = counter[2] as u64 * comptime!(FACTORS[1] as u64);
            let second = counter[1];
            let fourth = counter[3];
            counter[0] = (right >> 32u64) as u32 ^ second ^ low;
            counter[1] = right as u32;
            counter[2] = (left >> 32u64) as u32 ^ fourth ^ high;
            counter[3] = left as u32;
            low += comptime!(STEPS[0]);
            high += comptime!(STEPS[1]);
        }
        counter
    }

    /// What a pair of weights is multiplied with, from its words, the one that decides and which half of it.
    pub fn factors(
        &self,
        words: &Array<u32>,
        #[comptime] word: usize,
        #[comptime] upper: bool,
    ) -> Pair<f32> {
        let mut pair = Pair::<f32>::new(comptime!(kept_factor(self.dropped)));
        if comptime!(self.dropped > 0) {
            // Compared as the upper half of a word, whatever the lower is.
            let bound = comptime!((self.dropped as u32) << 16);
            #[unroll]
            for next in 0..2usize {
                let mut bits = words[comptime!(word + next * WORDS)];
                if comptime!(!upper) {
                    bits = bits << 16u32;
                }
                if bits < bound {
                    pair.insert(next, 0.0f32);
                }
            }
        }
        pair
    }
}
