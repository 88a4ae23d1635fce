//! What can go wrong in one row.

use std::any::Any;

use kiln_train::TrainError;
use kiln_zoo::ModelError;
use thiserror::Error;

/// The end of a row.
#[derive(Debug, Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("{0} is not finite")]
    NotFinite(&'static str),
    #[error("the device gave up: {0}")]
    Device(String),
    #[error("the backend gave up: {0}")]
    Panic(String),
    #[error("it was called again after an error")]
    Ended,
}

/// The first line of what a panic said.
pub(crate) fn words_of(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no reason");
    text.lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_its_first_line() {
        let caught = std::panic::catch_unwind(|| panic!("out of {}\nmore", "memory"));
        assert_eq!(words_of(caught.unwrap_err().as_ref()), "out of memory");
        assert_eq!(words_of(&7), "it gave no reason");
    }
}
