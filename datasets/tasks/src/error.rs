//! What can be wrong with a task.

/// A task that cannot be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TaskError {
    /// A setting is out of its range.
    #[error("task setting `{key}` = {value}: {why}")]
    Setting {
        /// Dotted key below `task`.
        key: &'static str,
        /// Its value.
        value: String,
        /// The bound it breaks and what to do.
        why: String,
    },
    /// None or several tasks at once.
    #[error("a task needs exactly one of {known}; {found}")]
    Kind {
        /// Their tables.
        known: String,
        /// What is there.
        found: String,
    },
}

impl TaskError {
    pub(crate) fn setting(key: &'static str, value: impl ToString, why: impl Into<String>) -> Self {
        Self::Setting {
            key,
            value: value.to_string(),
            why: why.into(),
        }
    }

    /// Refuses a value below its least.
    pub(crate) fn at_least(key: &'static str, value: usize, least: usize) -> Result<(), Self> {
        match value >= least {
            true => Ok(()),
            false => Err(Self::setting(
                key,
                value,
                format!("it must be at least {least}"),
            )),
        }
    }
}
