//! Ctrl-C and SIGTERM as a request: the first asks the run to stop at its next step, the second
//! leaves at once.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit status of a process ended by SIGINT, by the shells' convention.
const INTERRUPTED: i32 = 130;

/// Signals cannot be caught.
#[derive(Debug, thiserror::Error)]
#[error("cannot catch Ctrl-C: {0}; install the handler once, at the start of the program")]
pub struct InterruptError(#[from] ctrlc::Error);

/// A flag that a signal sets. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catches Ctrl-C, SIGTERM and SIGHUP for this process, from now on. Call it once.
    ///
    /// # Errors
    /// A handler is installed already, or the system refuses.
    pub fn install() -> Result<Self, InterruptError> {
        let interrupt = Self::default();
        let flag = Arc::clone(&interrupt.flag);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
            // Without a word, a long step looks like a program that does not listen.
            let words = "\nstopping after this step and saving a checkpoint; \
                         press Ctrl-C again to leave at once";
            let _ = writeln!(std::io::stderr(), "{words}");
        })?;
        Ok(interrupt)
    }

    /// A flag that no signal sets, for tests and for library use.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether a clean stop was asked for.
    pub fn requested(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// Asks for a clean stop from inside of the program, as a signal would.
    pub fn request(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_request() {
        let interrupt = Interrupt::none();
        let clone = interrupt.clone();
        assert!(!clone.requested());
        interrupt.request();
        assert!(clone.requested());
    }
}
