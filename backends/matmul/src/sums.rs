//! Gradients that are added up where they are made.
//!
//! A tensor that several operations read has the sum of their gradients. Burn's `Gradients` adds each new one to what is there, in a
//! pass of its own, and does not say whether anything is there; an operation that could start from it, as a matrix product can, has
//! to know. So operations note here whom they have given a gradient, and the next one asks.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use burn::backend::autodiff::NodeId;

/// Notes that are kept. A node's gradients come within a few layers of each other; where one is forgotten, Burn adds.
const KEPT: usize = 256;

static GIVEN: Mutex<VecDeque<NodeId>> = Mutex::new(VecDeque::new());

/// Notes that a node has been given a gradient.
pub fn note_gradient(node: NodeId) {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if given.len() == KEPT {
        given.pop_front();
    }
    given.push_back(node);
}

/// The gradient that a node has been given so far, taken out by `take`, if one was noted. The sum with it has to be registered in its
/// place. That of a leaf stays where it is: what is consumed of a leaf is a copy.
pub fn gradient_so_far<T>(node: NodeId, leaf: bool, take: impl FnOnce() -> T) -> Option<T> {
    let noted = || {
        let given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        given.contains(&node)
    };
    (!leaf && noted()).then(take)
}
