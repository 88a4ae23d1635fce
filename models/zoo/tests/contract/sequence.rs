//! Shapes, causality, and generation as the same function as `forward`.

use burn::tensor::{Int, Tensor, TensorData};
use kiln_backbone::{InitRng, Mixer};
use kiln_zoo::{AnyMixer, MixerKind, ModelError};

use crate::common::{
    SEQ, VOCAB, assert_close, bits, cases, causal_cases, device, ids, on_flex, tokens, vector,
};

#[test]
fn scores_have_one_row_a_token() {
    let device = device();
    for case in cases() {
        let model = case.model(1, &device);
        for (batch, seq) in [(1, 1), (3, 1), (1, SEQ), (3, 7)] {
            let logits = model
                .forward(ids(&tokens(batch, seq), batch, &device))
                .unwrap();
            assert_eq!(logits.dims(), [batch, seq, VOCAB], "{}", case.name);
            assert!(
                vector(logits).iter().all(|x| x.is_finite()),
                "{}",
                case.name
            );
        }
    }
}

#[test]
fn lanes_do_not_see_each_other() {
    let device = device();
    for case in cases() {
        let model = case.model(1, &device);
        let all = tokens(3, SEQ);
        let together = vector(model.forward(ids(&all, 3, &device)).unwrap());
        for lane in 0..3 {
            let alone = ids(&all[lane * SEQ..(lane + 1) * SEQ], 1, &device);
            let alone = vector(model.forward(alone).unwrap());
            let same = &together[lane * SEQ * VOCAB..(lane + 1) * SEQ * VOCAB];
            assert_close(&format!("{} lane {lane}", case.name), &alone, same);
        }
    }
}

#[test]
fn causal_means_nothing_before_a_change_moves_a_bit() {
    let device = device();
    for case in causal_cases() {
        let model = case.model(2, &device);
        assert!(model.is_causal(), "{}", case.name);
        let before = tokens(2, SEQ);
        let expected = vector(model.forward(ids(&before, 2, &device)).unwrap());
        for t in [0, 1, 5, 16, SEQ - 1] {
            let mut changed = before.clone();
            changed[t] = (changed[t] + 1) % VOCAB as i32;
            let found = vector(model.forward(ids(&changed, 2, &device)).unwrap());
            let at = t * VOCAB;
            assert_eq!(
                bits(&found[..at]),
                bits(&expected[..at]),
                "{}: token {t} changed a score before it",
                case.name
            );
            assert_ne!(
                bits(&found[at..at + VOCAB]),
                bits(&expected[at..at + VOCAB]),
                "{}: token {t} does not reach its own position",
                case.name
            );
            if t + 1 < SEQ {
                assert_ne!(
                    bits(&found[at + VOCAB..SEQ * VOCAB]),
                    bits(&expected[at + VOCAB..SEQ * VOCAB]),
                    "{}: token {t} does not reach any later position",
                    case.name
                );
            }
            assert_eq!(
                bits(&found[SEQ * VOCAB..]),
                bits(&expected[SEQ * VOCAB..]),
                "{}: token {t} reaches the other lane",
                case.name
            );
        }
    }
}

#[test]
fn bidirectional_means_both_sides() {
    let device = device();
    let mut seen = 0;
    for case in cases().into_iter().filter(|case| !case.config.is_causal()) {
        seen += 1;
        let model = case.model(2, &device);
        assert!(!model.is_causal(), "{}", case.name);
        let before = tokens(1, SEQ);
        let expected = vector(model.forward(ids(&before, 1, &device)).unwrap());
        let t = SEQ / 2;
        let mut changed = before.clone();
        changed[t] = (changed[t] + 1) % VOCAB as i32;
        let found = vector(model.forward(ids(&changed, 1, &device)).unwrap());
        for (side, range) in [("left", 0..t), ("right", t + 1..SEQ)] {
            let range = range.start * VOCAB..range.end * VOCAB;
            assert_ne!(
                bits(&found[range.clone()]),
                bits(&expected[range]),
                "{}: token {t} does not reach its {side}",
                case.name
            );
        }
        let error = model.initial_state(1, &device).unwrap_err();
        assert_eq!(error, ModelError::Bidirectional, "{}", case.name);
        assert_eq!(
            error.to_string(),
            "this model is bidirectional: it has no left-to-right state, so it cannot generate; use a causal preset"
        );
    }
    assert!(seen > 0, "the zoo has a bidirectional preset");
}

#[test]
fn forward_is_step_repeated() {
    let device = device();
    for case in causal_cases() {
        let model = case.model(3, &device);
        let (batch, all) = (2, tokens(2, SEQ));
        let whole = vector(model.forward(ids(&all, batch, &device)).unwrap());
        let mut state = model.initial_state(batch, &device).unwrap();
        for t in 0..SEQ {
            assert_eq!(state.position, t, "{}", case.name);
            let column: Vec<i32> = (0..batch).map(|lane| all[lane * SEQ + t]).collect();
            let column = Tensor::<1, Int>::from_data(TensorData::new(column, [batch]), &device);
            let (logits, next) = model.step(column, state).unwrap();
            assert_eq!(logits.dims(), [batch, VOCAB], "{}", case.name);
            state = next;
            let found = vector(logits);
            for lane in 0..batch {
                let at = (lane * SEQ + t) * VOCAB;
                assert_close(
                    &format!("{} position {t} lane {lane}", case.name),
                    &found[lane * VOCAB..(lane + 1) * VOCAB],
                    &whole[at..at + VOCAB],
                );
            }
        }
    }
}

#[test]
fn the_state_has_the_bytes_the_model_says() {
    let device = device();
    for case in causal_cases() {
        let model = case.model(3, &device);
        for seq in [1, SEQ] {
            let start = model.initial_state(2, &device).unwrap();
            let all = ids(&tokens(2, seq), 2, &device);
            let (_, state) = model.forward_with_state(all, start).unwrap();
            assert_eq!(
                model.counted_state_bytes(&state),
                2 * model.state_bytes(seq),
                "{} at {seq}",
                case.name
            );
        }
    }
}

#[test]
fn pieces_with_state_are_the_whole() {
    let device = device();
    for case in causal_cases() {
        let model = case.model(3, &device);
        let all = ids(&tokens(2, SEQ), 2, &device);
        let whole = vector(model.forward(all.clone()).unwrap());
        for cut in [1, 9, SEQ - 1] {
            let start = model.initial_state(2, &device).unwrap();
            let piece = all.clone().narrow(1, 0, cut);
            let (first, state) = model.forward_with_state(piece, start).unwrap();
            assert_eq!(state.position, cut, "{}", case.name);
            let piece = all.clone().narrow(1, cut, SEQ - cut);
            let (second, state) = model.forward_with_state(piece, state).unwrap();
            assert_eq!(state.position, SEQ, "{}", case.name);
            let joined = vector(Tensor::cat(vec![first, second], 1));
            assert_close(&format!("{} cut at {cut}", case.name), &joined, &whole);
        }
    }
}

/// A mixer without a state starts as from the initial one. What it returns then, if anything, can be continued from.
#[test]
fn no_state_is_the_initial_one() {
    let device = device();
    for case in causal_cases() {
        let (config, rng) = (&case.config, &mut InitRng::new(3));
        let backbone = &config.backbone;
        let mixer = match config.pattern[0] {
            MixerKind::Attention => {
                AnyMixer::Attention(config.attention.init(backbone, rng, &device).unwrap())
            }
            MixerKind::Bk => AnyMixer::Bk(config.bk.init(backbone, rng, &device).unwrap()),
            MixerKind::Resolvent => {
                AnyMixer::Resolvent(config.resolvent.init(backbone, rng, &device).unwrap())
            }
            MixerKind::Conv => AnyMixer::Conv(config.conv.init(backbone, rng, &device).unwrap()),
            MixerKind::Gla => AnyMixer::Gla(config.gla.init(backbone, rng, &device).unwrap()),
            MixerKind::MinGru => {
                AnyMixer::MinGru(config.min_gru.init(backbone, rng, &device).unwrap())
            }
            MixerKind::Fnet => panic!("{}: Fourier mixing is not causal", case.name),
        };
        let values: Vec<f32> = (0..SEQ * backbone.d_model)
            .map(|i| (i as f32 * 0.7).sin())
            .collect();
        let shape = [1, SEQ, backbone.d_model];
        let x = Tensor::<3>::from_data(TensorData::new(values, shape), &device);
        let (head, tail) = (x.clone().narrow(1, 0, 9), x.narrow(1, 9, SEQ - 9));
        let start = mixer.initial_state(1, &device);
        let (expected, known) = mixer.forward(head.clone(), Some(start));
        let (found, state) = mixer.forward(head, None);
        assert_close(case.name, &vector(found), &vector(expected));
        if let Some(state) = state {
            let (expected, _) = mixer.forward(tail.clone(), known);
            let (found, next) = mixer.forward(tail, Some(state));
            assert_close(case.name, &vector(found), &vector(expected));
            assert!(next.is_some(), "{}", case.name);
        }
    }
}

/// A state is a value: using one twice gives the same, and one made by a copy of the model is as good.
#[test]
fn a_state_can_be_kept_and_used_again() {
    let device = device();
    for case in causal_cases() {
        let model = case.model(3, &device);
        let start = model.initial_state(1, &device).unwrap();
        let prompt = ids(&tokens(1, 5), 1, &device);
        let (_, kept) = model.forward_with_state(prompt, start).unwrap();
        let token = || Tensor::<1, Int>::from_ints([3], &device);
        let (first, after) = model.step(token(), kept.clone()).unwrap();
        // Another request in between must not leak into the kept state.
        model.step(token(), after).unwrap();
        let (again, _) = model.clone().step(token(), kept).unwrap();
        assert_eq!(bits(&vector(first)), bits(&vector(again)), "{}", case.name);
    }
}

#[test]
fn forward_is_reproducible() {
    let device = device();
    for case in cases() {
        let model = case.model(4, &device);
        let run = || vector(model.forward(ids(&tokens(2, SEQ), 2, &device)).unwrap());
        let (first, second) = (run(), run());
        match on_flex() {
            true => assert_eq!(bits(&first), bits(&second), "{}", case.name),
            // Autotuning may settle on another kernel between two calls.
            false => assert_close(case.name, &first, &second),
        }
    }
}
