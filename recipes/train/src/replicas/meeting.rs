//! Where the threads of all replicas meet: each brings something and leaves with what all of them brought.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::TrainError;

/// What a replica brings.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Offer {
    /// Lengths of the tensors that it is about to add up.
    Lengths(Vec<usize>),
    /// Their numbers, one tensor after the other.
    Values(Arc<Vec<f32>>),
    /// What tells its weights apart from others.
    Weights(u64),
}

/// A barrier that carries offers, and that a failure opens.
pub(crate) struct Meeting {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Meetings so far.
    round: u64,
    offers: Vec<Option<Offer>>,
    /// What was brought to the last one.
    last: Arc<Vec<Offer>>,
    /// When the first replica failed, or left.
    ended: Option<Instant>,
    failure: Option<TrainError>,
}

impl Meeting {
    /// A meeting of `size` replicas.
    pub fn new(size: usize) -> Self {
        let state = State {
            offers: vec![None; size],
            ..State::default()
        };
        Self {
            size,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Replicas.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits for all replicas; returns what they brought, by rank.
    ///
    /// # Errors
    /// The failure of another one: the first who asks gets it as it was, the others hear that there was one.
    pub(super) fn exchange(
        &self,
        rank: usize,
        offer: Offer,
    ) -> Result<Arc<Vec<Offer>>, TrainError> {
        let mut state = self.lock();
        let round = state.round;
        state.offers[rank] = Some(offer);
        if state.ended.is_none() && state.offers.iter().all(Option::is_some) {
            state.last = Arc::new(state.offers.iter_mut().filter_map(Option::take).collect());
            state.round += 1;
            self.changed.notify_all();
        }
        while state.round == round && state.ended.is_none() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match state.round == round {
            false => Ok(Arc::clone(&state.last)),
            // Rank 0 is the one that tells.
            true if rank == 0 => Err(take(&mut state)),
            true => Err(TrainError::Abandoned),
        }
    }

    /// Ends all meetings with a failure, unless there was one before.
    pub fn fail(&self, error: TrainError) {
        let mut state = self.lock();
        // Who was woken by a failure has none of its own.
        if !matches!(error, TrainError::Abandoned) {
            state.failure.get_or_insert(error);
        }
        state.ended.get_or_insert_with(Instant::now);
        self.changed.notify_all();
    }

    /// Ends all meetings; the reason is told elsewhere.
    pub fn leave(&self) {
        self.fail(TrainError::Abandoned);
    }

    /// The failure that ended the meetings.
    pub fn failure(&self) -> TrainError {
        take(&mut self.lock())
    }

    /// Since when there has been a failure.
    pub fn ended_for(&self) -> Option<Duration> {
        self.lock().ended.map(|ended| ended.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(state: &mut State) -> TrainError {
    state.failure.take().unwrap_or(TrainError::Abandoned)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Nobody leaves before all came, round after round, whoever is the fastest.
    #[test]
    fn everybody_gets_what_all_brought() {
        let meeting = Meeting::new(3);
        thread::scope(|scope| {
            for rank in 0..3 {
                let meeting = &meeting;
                scope.spawn(move || {
                    for round in 0..200 {
                        let offer = Offer::Weights(10 * round + rank as u64);
                        let all = meeting.exchange(rank, offer).unwrap();
                        let expected = (0..3).map(|of| Offer::Weights(10 * round + of));
                        assert_eq!(*all, expected.collect::<Vec<_>>());
                    }
                });
            }
        });
        assert!(meeting.ended_for().is_none());
    }

    #[test]
    fn a_failure_wakes_those_who_wait_and_rank_0_hears_it() {
        let meeting = Meeting::new(3);
        let (told, woken) = thread::scope(|scope| {
            let told = scope.spawn(|| meeting.exchange(0, Offer::Weights(0)));
            let woken = scope.spawn(|| {
                let woken = meeting.exchange(1, Offer::Weights(0)).unwrap_err();
                // It ends with what woke it, which must not take the place of the reason.
                assert!(matches!(woken, TrainError::Abandoned));
                meeting.fail(woken);
            });
            meeting.fail(TrainError::DeviceLost("it is gone".into()));
            (told.join().unwrap(), woken.join())
        });
        assert!(woken.is_ok());
        let told = told.unwrap_err().to_string();
        assert!(told.contains("it is gone"), "{told}");
        // Who comes late does not wait either.
        assert!(meeting.exchange(2, Offer::Weights(0)).is_err());
        assert!(meeting.ended_for().is_some());
    }
}
