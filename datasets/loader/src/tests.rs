use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// A stream whose token at position `i` is `i`, so that a token says where it came from.
#[derive(Debug)]
struct Counting {
    tokens: u64,
    seq: usize,
}

pub(crate) fn counting(tokens: u32, seq: usize) -> Arc<dyn Windows> {
    Arc::new(Counting {
        tokens: u64::from(tokens),
        seq,
    })
}

impl Windows for Counting {
    fn seq(&self) -> usize {
        self.seq
    }

    fn places(&self) -> u64 {
        self.tokens.saturating_sub(self.seq as u64)
    }

    fn stride(&self) -> u64 {
        self.seq as u64
    }

    fn read(&self, place: u64, lane: Lane<'_>) {
        for at in (0..self.seq).take_while(|at| place + (*at as u64) < self.tokens - 1) {
            lane.inputs[at] = place as u32 + at as u32;
            lane.targets[at] = lane.inputs[at] + 1;
            lane.mask[at] = true;
        }
    }
}

fn loader(tokens: u32, batch: usize, seq: usize, order: Order) -> Loader {
    let config = LoaderConfig {
        batch,
        order,
        seed: 7,
    };
    Loader::new(counting(tokens, seq), config).unwrap()
}

/// Counted targets in the order they are served.
fn targets(batch: &TokenBatch) -> Vec<u32> {
    batch
        .targets
        .iter()
        .zip(&batch.mask)
        .filter(|(_, counts)| **counts)
        .map(|(target, _)| *target)
        .collect()
}

fn all_orders() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Crops),
        Just(Order::Shuffled),
        Just(Order::Sequential),
        Just(Order::Fixed)
    ]
}

proptest! {
    #[test]
    fn sequential_predicts_every_token_but_the_first_once(extra in 1u32..200, batch in 1usize..9, seq in 1usize..40) {
        let tokens = seq as u32 + extra;
        let mut loader = loader(tokens, batch, seq, Order::Sequential);
        let expected = loader.num_batches();
        let batches: Vec<_> = std::iter::from_fn(|| loader.next_batch()).collect();
        prop_assert_eq!(Some(batches.len() as u64), expected);
        let served: Vec<_> = batches.iter().flat_map(targets).collect();
        prop_assert_eq!(served, (1..tokens).collect::<Vec<_>>());
        prop_assert!(loader.next_batch().is_none());
        let counted: usize = batches.iter().map(TokenBatch::num_tokens).sum();
        prop_assert_eq!(counted, tokens as usize - 1);
    }

    #[test]
    fn lanes_hold_whole_windows(extra in 1u32..100, batch in 1usize..5, seq in 1usize..20, order in all_orders()) {
        let tokens = seq as u32 + extra;
        let mut loader = loader(tokens, batch, seq, order);
        for _ in 0..5 {
            let Some(batch) = loader.next_batch() else { break };
            for at in (0..batch.mask.len()).filter(|at| batch.mask[*at]) {
                prop_assert_eq!(batch.targets[at], batch.inputs[at] + 1);
            }
        }
    }

    #[test]
    fn restoring_continues_exactly(extra in 1u32..100, before in 0usize..9, seq in 1usize..20, order in all_orders()) {
        let tokens = seq as u32 + extra;
        let mut first = loader(tokens, 3, seq, order);
        for _ in 0..before {
            first.next_batch();
        }
        let saved = serde_json::to_string(&first.state()).unwrap();
        let mut second = loader(tokens, 3, seq, order);
        second.restore(serde_json::from_str(&saved).unwrap()).unwrap();
        for _ in 0..9 {
            prop_assert_eq!(first.next_batch(), second.next_batch());
            prop_assert_eq!(first.state(), second.state());
        }
    }

    #[test]
    fn windows_do_not_depend_on_the_batch_size(extra in 1u32..100, seq in 1usize..20, order in all_orders()) {
        let tokens = seq as u32 + extra;
        let serve = |batch: usize| {
            let mut loader = loader(tokens, batch, seq, order);
            (0..60 / batch).filter_map(|_| loader.next_batch()).flat_map(|b| targets(&b)).collect::<Vec<_>>()
        };
        prop_assert_eq!(serve(1), serve(6));
        prop_assert_eq!(serve(1), serve(4));
    }

    #[test]
    fn a_shuffled_epoch_visits_disjoint_windows_once(extra in 1u32..300, seq in 1usize..20, epoch in 0u64..4) {
        let tokens = seq as u64 + u64::from(extra);
        let seq = seq as u64;
        let mut starts = shuffled_starts(Order::Shuffled, 1, epoch, [seq, tokens - seq]);
        starts.sort_unstable();
        prop_assert!(!starts.is_empty());
        prop_assert!(starts.windows(2).all(|pair| pair[1] == pair[0] + seq));
        prop_assert!(starts[0] < seq && starts.iter().all(|start| start + seq < tokens));
        // Nothing that a further window could cover is left out at the end.
        prop_assert!(starts[starts.len() - 1] + 2 * seq >= tokens);
    }
}

#[test]
fn shuffled_epochs_differ_in_phase_and_order() {
    let epochs: Vec<_> = (0..8)
        .map(|epoch| shuffled_starts(Order::Shuffled, 1, epoch, [16, 984]))
        .collect();
    let phases: HashSet<_> = epochs.iter().map(|starts| starts[0] % 16).collect();
    assert!(phases.len() > 3, "{phases:?}");
    assert!(epochs.iter().all(|starts| !starts.is_sorted()));
}

/// What is kept of every window of a sweep is there for every epoch.
#[test]
fn fixed_epochs_differ_in_order_alone() {
    let epoch = |epoch| shuffled_starts(Order::Fixed, 1, epoch, [16, 984]);
    assert_ne!(epoch(0), epoch(1));
    for mut starts in [epoch(0), epoch(1)] {
        starts.sort_unstable();
        let sweep: Vec<u64> = (0..62).map(|window| 16 * window).collect();
        assert_eq!(starts, sweep);
    }
}

#[test]
fn crops_cover_every_start_about_equally() {
    let mut loader = loader(14, 100, 4, Order::Crops);
    let mut counts = [0; 10];
    for _ in 0..100 {
        let batch = loader.next_batch().unwrap();
        batch
            .inputs
            .iter()
            .step_by(4)
            .for_each(|start| counts[*start as usize] += 1);
    }
    assert!(
        counts.iter().all(|count| (850..1150).contains(count)),
        "{counts:?}"
    );
}

/// Resuming a run with a newer Kiln must give the same data: these numbers must never change.
#[test]
fn random_orders_are_pinned() {
    let starts = |order| {
        let mut loader = loader(1000, 4, 8, order);
        loader
            .next_batch()
            .unwrap()
            .inputs
            .into_iter()
            .step_by(8)
            .collect::<Vec<_>>()
    };
    assert_eq!(starts(Order::Crops), [757, 926, 10, 657]);
    assert_eq!(starts(Order::Shuffled), [286, 694, 414, 742]);
    assert_eq!(starts(Order::Sequential), [0, 8, 16, 24]);
}

#[test]
fn bad_settings_and_positions_are_named() {
    let config = LoaderConfig {
        batch: 0,
        order: Order::Crops,
        seed: 0,
    };
    let message = |tokens, config| {
        let error = Loader::new(counting(tokens, 10), config).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        message(100, config),
        "loader setting batch = 0 must be at least 1"
    );
    assert_eq!(
        message(10, LoaderConfig { batch: 1, ..config }),
        "loader setting places = 0 must be at least 1"
    );
    let mut loader = loader(100, 2, 10, Order::Crops);
    let other = LoaderState {
        seq: 12,
        ..loader.state()
    };
    let message = loader.restore(other).unwrap_err().to_string();
    assert!(
        message.contains("has seq = 12, this loader has 10"),
        "{message}"
    );
}

#[test]
fn orders_are_named_in_snake_case() {
    for (order, name) in [
        (Order::Crops, "crops"),
        (Order::Shuffled, "shuffled"),
        (Order::Sequential, "sequential"),
    ] {
        assert_eq!(serde_json::to_value(order).unwrap(), name);
    }
}
