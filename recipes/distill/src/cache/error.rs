//! What can be wrong with a cache.

use std::path::PathBuf;

use kiln_run::FileError;

/// A cache that cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A shard is not what was written.
    #[error(
        "{path} is damaged: {why}; delete the file, and the next run makes it again",
        path = path.display()
    )]
    Damaged {
        /// The shard.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Answers of another number of positions than the windows have.
    #[error("{given} rows of a teacher's answers were given for {needed} positions")]
    Rows {
        /// Rows given.
        given: usize,
        /// Positions there are.
        needed: usize,
    },
    /// A window that the cache was not made for.
    #[error(
        "lane {lane} of a batch is no window of the teacher's cache: the text has changed while the run went on; start it anew"
    )]
    UnknownWindow {
        /// Number of the lane.
        lane: usize,
    },
}
