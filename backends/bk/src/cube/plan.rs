//! Splitting sequences into chunks, so that a device with many units has work for all of them.

/// Units per processor of the device from which on its memory is kept busy.
const UNITS_PER_PROCESSOR: usize = 512;
/// Processors of a device that does not say how many it has.
const USUAL_PROCESSORS: usize = 64;
/// Below this many positions a chunk is not worth the passes that find what enters it.
const MIN_CHUNK: usize = 64;

/// How a CubeCL backend computes the operations.
///
/// The operations choose for themselves; tests and benchmarks compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// `Sequential` where sequences are many or short, else `Chunked`.
    #[default]
    Auto,
    /// No kernels: [`reference`](mod@crate::reference) and [`adjoint`](crate::adjoint), position by position.
    Reference,
    /// One unit walks one sequence from end to end.
    Sequential,
    /// One unit walks one chunk of a sequence, once to summarise it as a map and once to compute, with a scan over the
    /// maps in between.
    Chunked {
        /// Positions in a chunk, at least one.
        chunk: usize,
    },
}

/// A problem and its division: `chunks` pieces of `chunk` positions, the last one shorter but never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub chunk: usize,
    pub chunks: usize,
}

impl Plan {
    /// None where no kernels are wanted. `processors`: of the device, if it knows.
    pub fn new(
        strategy: Strategy,
        [batch, seq, heads]: [usize; 3],
        processors: Option<u32>,
    ) -> Option<Self> {
        let chunk = match strategy {
            Strategy::Reference => return None,
            Strategy::Sequential => seq,
            Strategy::Chunked { chunk } => chunk.clamp(1, seq),
            Strategy::Auto => {
                let processors = processors.map_or(USUAL_PROCESSORS, |count| count as usize);
                let wanted = (processors * UNITS_PER_PROCESSOR).div_ceil(batch * heads);
                seq.div_ceil(wanted).max(MIN_CHUNK).min(seq)
            }
        };
        Some(Self::cut([batch, seq, heads], chunk))
    }

    pub fn cut([batch, seq, heads]: [usize; 3], chunk: usize) -> Self {
        Self {
            batch,
            seq,
            heads,
            chunk,
            chunks: seq.div_ceil(chunk),
        }
    }

    /// Rows of per-chunk buffers.
    pub fn rows(self) -> usize {
        self.batch * self.chunks
    }

    pub fn units(self) -> usize {
        self.rows() * self.heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(strategy: Strategy, shape: [usize; 3]) -> (usize, usize) {
        let plan = Plan::new(strategy, shape, Some(100)).expect("kernels");
        (plan.chunk, plan.chunks)
    }

    #[test]
    fn many_or_short_sequences_stay_whole() {
        assert_eq!(chunk(Strategy::Auto, [64, 1024, 800]), (1024, 1));
        assert_eq!(chunk(Strategy::Auto, [1, MIN_CHUNK, 1]), (MIN_CHUNK, 1));
        assert_eq!(chunk(Strategy::Auto, [1, 1, 1]), (1, 1));
    }

    #[test]
    fn few_long_sequences_are_cut() {
        assert_eq!(chunk(Strategy::Auto, [1, 1_048_576, 16]), (328, 3197));
        assert_eq!(chunk(Strategy::Auto, [1, 65, 1]), (64, 2));
    }

    #[test]
    fn forced_strategies_are_taken_at_their_word() {
        assert_eq!(chunk(Strategy::Sequential, [1, 4096, 1]), (4096, 1));
        assert_eq!(chunk(Strategy::Chunked { chunk: 7 }, [800, 15, 64]), (7, 3));
        assert_eq!(chunk(Strategy::Chunked { chunk: 0 }, [1, 3, 1]), (1, 3));
        assert_eq!(chunk(Strategy::Chunked { chunk: 9 }, [1, 3, 1]), (3, 1));
        assert_eq!(Plan::new(Strategy::Reference, [1, 3, 1], None), None);
    }
}
