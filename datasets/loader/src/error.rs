//! What can go wrong between windows and batches.

/// An error of this crate. Every message names the value that was wrong and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A loader setting is not usable.
    #[error("loader setting {field} = {value} must be at least 1")]
    Setting {
        /// Which setting.
        field: &'static str,
        /// Its value.
        value: usize,
    },
    /// A saved position belongs to another loader, or lies outside the data.
    #[error(
        "the saved data position has {field} = {found}, this loader has {expected}: resume with the data and settings of the first run"
    )]
    StateMismatch {
        /// Which field.
        field: &'static str,
        /// Value in the saved position.
        found: String,
        /// Value of the loader.
        expected: String,
    },
    /// The thread that loads batches ahead of time panicked.
    #[error("the batch prefetch thread panicked: {message}; this is a bug, please report it")]
    PrefetchPanicked {
        /// The panic message.
        message: String,
    },
}
