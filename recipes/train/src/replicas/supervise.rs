//! Watches over the thread of rank 0: a device that waits for another one that is gone never answers, and its thread never returns.

use std::any::Any;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::Meeting;
use crate::TrainError;

/// How often it is looked whether a replica failed.
const GLANCE: Duration = Duration::from_millis(200);

/// Time that rank 0 has to end by itself once another replica failed.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `body`, which is rank 0, on a thread of its own and waits for it. If another replica fails and `body` does not end within some
/// seconds, its thread is left behind, waiting for a device that does not answer; the end of the process is its end.
///
/// # Errors
/// Those of `body`; the failure of another replica; [`TrainError::Replica`] if `body` panics.
pub(crate) fn supervise<T: Send + 'static>(
    name: &str,
    meeting: &Arc<Meeting>,
    body: impl FnOnce() -> Result<T, TrainError> + Send + 'static,
) -> Result<T, TrainError> {
    watch(name, meeting, GRACE, body)
}

fn watch<T: Send + 'static>(
    name: &str,
    meeting: &Arc<Meeting>,
    grace: Duration,
    body: impl FnOnce() -> Result<T, TrainError> + Send + 'static,
) -> Result<T, TrainError> {
    let (sender, ended) = channel();
    let failed = |why: String| TrainError::Replica {
        device: name.into(),
        why,
    };
    let builder = thread::Builder::new().name("rank-0".into());
    let rank_0 = builder
        .spawn(move || {
            // Nobody listens any more only if the grace is over.
            let _ = sender.send(body());
        })
        .map_err(|error| failed(format!("its thread cannot be started: {error}")))?;
    loop {
        match ended.recv_timeout(GLANCE) {
            // What rank 0 heard of, another one can tell.
            Ok(Err(TrainError::Abandoned)) => return Err(meeting.failure()),
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                let words = rank_0.join().err().map(|payload| words_of(&*payload));
                return Err(failed(words.unwrap_or_default()));
            }
            Err(RecvTimeoutError::Timeout) => {
                if meeting.ended_for().is_some_and(|since| since > grace) {
                    return Err(meeting.failure());
                }
            }
        }
    }
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

    const SHORT: Duration = Duration::from_millis(10);

    #[test]
    fn what_rank_0_says_is_passed_on() {
        let meeting = Arc::new(Meeting::new(2));
        assert_eq!(supervise("flex", &meeting, || Ok(7)).unwrap(), 7);
        let lost = || Err::<(), _>(TrainError::DeviceLost("gone".into()));
        let error = supervise("flex", &meeting, lost).unwrap_err();
        assert!(matches!(error, TrainError::DeviceLost(_)));
        let panics = || -> Result<(), TrainError> { panic!("out of memory\nat some place") };
        let error = supervise("cuda", &meeting, panics).unwrap_err().to_string();
        assert!(
            error.contains("cuda") && error.contains("out of memory") && !error.contains("place"),
            "{error}"
        );
    }

    /// Rank 0 waits on its device for one that failed.
    #[test]
    fn a_rank_0_that_never_returns_is_left_behind() {
        let meeting = Arc::new(Meeting::new(2));
        meeting.fail(TrainError::Replica {
            device: "cuda:1".into(),
            why: "out of memory".into(),
        });
        let stuck = || -> Result<(), TrainError> {
            loop {
                thread::park();
            }
        };
        let error = watch("cuda", &meeting, SHORT, stuck).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("cuda:1") && error.contains("out of memory"),
            "{error}"
        );
    }
}
