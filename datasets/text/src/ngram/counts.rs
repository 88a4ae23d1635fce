//! Counting n-grams in one pass, within a bound on memory.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::store::TokenStore;

/// A context, numbered as it was met: the tokens before the one that is predicted.
pub(super) type Context = u32;

/// The context of no tokens.
pub(super) const EMPTY: Context = 0;

/// What is known of one context.
#[derive(Debug, Clone, Default)]
pub(super) struct Successors {
    /// Number of its tokens.
    pub depth: u32,
    /// Sum of the counts of its successors.
    pub total: u64,
    /// Successors with a count of one, of two, and of three or more.
    pub kinds: [u32; 3],
}

/// Counts of n-grams of all lengths up to an order.
///
/// A gram of the full length is counted whenever it occurs, a shorter one once for each different token that it follows, the
/// beginning of the text being one of those.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// The context that is longer by one token at its far end.
    contexts: FxHashMap<(Context, u32), Context>,
    /// Count of a token after a context.
    grams: FxHashMap<(Context, u32), u32>,
    /// By context.
    successors: Vec<Successors>,
}

impl Counts {
    /// Counts `train`; none if contexts and grams would be more than `most` together.
    pub fn new(train: &TokenStore, order: usize, most: usize) -> Option<Self> {
        let mut counts = Self {
            contexts: FxHashMap::default(),
            grams: FxHashMap::default(),
            successors: vec![Successors::default()],
        };
        let mut past = Past::new(order);
        let mut path = Vec::with_capacity(order);
        for token in train.pieces().flatten() {
            counts.add(&past, token, &mut path);
            if counts.contexts.len() + counts.grams.len() > most {
                return None;
            }
            past.push(token);
        }
        for (&(context, _), &count) in &counts.grams {
            let successors = &mut counts.successors[context as usize];
            successors.total += u64::from(count);
            successors.kinds[count.min(3) as usize - 1] += 1;
        }
        Some(counts)
    }

    /// One more occurrence of `token` after `past`; `path` is scratch.
    fn add(&mut self, past: &Past, token: u32, path: &mut Vec<Context>) {
        path.clear();
        path.push(EMPTY);
        let mut context = EMPTY;
        for older in past.newest_first() {
            let next = self.successors.len() as Context;
            context = *self.contexts.entry((context, older)).or_insert(next);
            if context == next {
                let depth = path.len() as u32;
                self.successors.push(Successors {
                    depth,
                    ..Default::default()
                });
            }
            path.push(context);
        }
        // A gram that is new has not been seen after this token, or the beginning: it is one more for the next shorter gram.
        for &context in path.iter().rev() {
            let count = self.grams.entry((context, token)).or_insert(0);
            *count = count.saturating_add(1);
            if *count > 1 {
                break;
            }
        }
    }

    /// Count of a token after a context.
    pub fn count(&self, context: Context, token: u32) -> u32 {
        self.grams.get(&(context, token)).copied().unwrap_or(0)
    }

    /// Number of grams with a count.
    pub fn grams(&self) -> u64 {
        self.grams.len() as u64
    }

    /// Number of contexts, but for the empty one.
    pub fn contexts(&self) -> u64 {
        self.contexts.len() as u64
    }

    /// What follows a context.
    pub fn successors(&self, context: Context) -> &Successors {
        &self.successors[context as usize]
    }

    /// The context that has `older` before it, if that occurs.
    pub fn longer(&self, context: Context, older: u32) -> Option<Context> {
        self.contexts.get(&(context, older)).copied()
    }

    /// Numbers of grams of each length with a count of one, two, three and four.
    pub fn counts_of_counts(&self, order: usize) -> Vec<[u64; 4]> {
        let mut table = vec![[0; 4]; order];
        for (&(context, _), &count) in &self.grams {
            if let 1..=4 = count {
                table[self.successors(context).depth as usize][count as usize - 1] += 1;
            }
        }
        table
    }
}

/// The last tokens of a text, as many as a model of some order looks at.
pub(super) struct Past {
    tokens: VecDeque<u32>,
    most: usize,
}

impl Past {
    pub fn new(order: usize) -> Self {
        Self {
            tokens: VecDeque::new(),
            most: order - 1,
        }
    }

    pub fn push(&mut self, token: u32) {
        self.tokens.push_back(token);
        if self.tokens.len() > self.most {
            self.tokens.pop_front();
        }
    }

    pub fn newest_first(&self) -> impl Iterator<Item = u32> + '_ {
        self.tokens.iter().rev().copied()
    }
}
