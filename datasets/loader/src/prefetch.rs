//! Batches made on a thread of their own, so that the training step does not wait for them.

use std::any::Any;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::{Loader, LoaderError, LoaderState, TokenBatch};

/// A batch, and the position that follows it: what to save once the batch has been trained on.
type Item = (TokenBatch, LoaderState);

/// Runs a [`Loader`] ahead on a background thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Prefetcher {
    /// None once dropped or ended: a thread waiting to hand over a batch is woken by that.
    receiver: Option<Receiver<Item>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetcher {
    /// Starts loading; up to `capacity` batches wait, one more may be in the making.
    pub fn new(mut loader: Loader, capacity: usize) -> Self {
        Self::spawn(capacity, move || {
            loader.next_batch().map(|batch| (batch, loader.state()))
        })
    }

    fn spawn(capacity: usize, mut next: impl FnMut() -> Option<Item> + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(capacity);
        let run = move || {
            while let Some(item) = next() {
                if sender.send(item).is_err() {
                    return;
                }
            }
        };
        Self {
            receiver: Some(receiver),
            thread: Some(thread::spawn(run)),
        }
    }

    /// The next batch and the position after it; none when the loader is at its end.
    ///
    /// # Errors
    /// [`LoaderError::PrefetchPanicked`] once, if the thread panicked; none after that.
    pub fn next_batch(&mut self) -> Result<Option<Item>, LoaderError> {
        if let Some(item) = self
            .receiver
            .as_ref()
            .and_then(|receiver| receiver.recv().ok())
        {
            return Ok(Some(item));
        }
        self.receiver = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => Err(LoaderError::PrefetchPanicked {
                message: panic_message(&*panic),
            }),
            Some(Ok(())) | None => Ok(None),
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic that nobody asked about any more has no one to be reported to.
            let _ = thread.join();
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown cause".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::counting;
    use crate::{LoaderConfig, Order};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn loader(order: Order) -> Loader {
        let config = LoaderConfig {
            batch: 2,
            order,
            seed: 3,
        };
        Loader::new(counting(100, 8), config).unwrap()
    }

    #[test]
    fn serves_what_the_loader_serves_with_the_position_after_it() {
        let mut plain = loader(Order::Sequential);
        let mut ahead = Prefetcher::new(loader(Order::Sequential), 3);
        while let Some(batch) = plain.next_batch() {
            assert_eq!(ahead.next_batch().unwrap(), Some((batch, plain.state())));
        }
        assert_eq!(ahead.next_batch().unwrap(), None);
        assert_eq!(ahead.next_batch().unwrap(), None);
    }

    #[test]
    fn dropping_stops_a_thread_that_waits() {
        let made = Arc::new(AtomicUsize::new(0));
        let (counter, mut loader) = (made.clone(), loader(Order::Crops));
        let mut ahead = Prefetcher::spawn(2, move || {
            counter.fetch_add(1, Ordering::SeqCst);
            loader.next_batch().map(|batch| (batch, loader.state()))
        });
        ahead.next_batch().unwrap();
        drop(ahead); // Joins: a thread that did not stop would hang the test.
        assert!(made.load(Ordering::SeqCst) <= 5, "the queue is bounded");
        assert_eq!(Arc::strong_count(&made), 1);
    }

    #[test]
    fn a_panic_is_reported_after_the_batches_before_it() {
        let mut loader = loader(Order::Crops);
        let mut left = 2;
        let mut ahead = Prefetcher::spawn(4, move || {
            assert!(left > 0, "no more of {left}");
            left -= 1;
            loader.next_batch().map(|batch| (batch, loader.state()))
        });
        assert!(ahead.next_batch().unwrap().is_some());
        assert!(ahead.next_batch().unwrap().is_some());
        let message = ahead.next_batch().unwrap_err().to_string();
        assert!(message.contains("panicked: no more of 0"), "{message}");
        assert_eq!(ahead.next_batch().unwrap(), None);
    }
}
