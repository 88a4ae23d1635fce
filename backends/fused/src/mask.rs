//! Which keys a query of attention sees.

use std::ops::Range;

/// The positions j that the query at position i sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All of them, for models that look at both sides.
    Full,
    /// j <= i (arXiv 1706.03762).
    Causal,
    /// i - window < j <= i (arXiv 2004.05150), and those of j < sinks that are not after i (arXiv 2309.17453).
    Window {
        /// Positions that a query sees, its own included; at least 1.
        window: usize,
        /// First positions of the sequence that every later query sees as well.
        sinks: usize,
    },
}

impl AttentionMask {
    /// The positions that a query sees out of `keys`: those ahead of a gap, then those up to its own.
    ///
    /// Without a gap the first range is empty. In the gap between the ranges, and after the second, it sees none.
    #[inline(always)]
    pub(crate) fn seen(self, query: usize, keys: usize) -> [Range<usize>; 2] {
        match self {
            Self::Full => [0..0, 0..keys],
            Self::Causal => [0..0, 0..query + 1],
            Self::Window { window, sinks } => match (query + 1).saturating_sub(window) {
                first if first <= sinks => [0..0, 0..query + 1],
                first => [0..sinks, first..query + 1],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_hand() {
        let window = AttentionMask::Window {
            window: 3,
            sinks: 2,
        };
        for (mask, query, expected) in [
            (AttentionMask::Full, 2, [0..0, 0..9]),
            (AttentionMask::Causal, 2, [0..0, 0..3]),
            (window, 0, [0..0, 0..1]),
            // 0, 1 are sinks and 2, 3, 4 the window: no gap yet.
            (window, 4, [0..0, 0..5]),
            (window, 5, [0..2, 3..6]),
        ] {
            assert_eq!(mask.seen(query, 9), expected, "{mask:?} {query}");
        }
    }
}
