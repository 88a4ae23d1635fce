//! Configurations that cannot be built, and inputs a model cannot take, with the words a user reads.

use burn::tensor::{Int, Tensor};
use kiln_zoo::{ModelConfig, ModelError, Positions};

use crate::common::{SEQ, VOCAB, cases, causal_cases, device, ids, tokens};

fn preset(name: &str) -> ModelConfig {
    let mut config = ModelConfig::preset(name).unwrap();
    config.backbone.vocab_size = VOCAB;
    config
}

/// The message of `change` on a preset that has attention, and on one that has BK mixers.
fn message(name: &str, change: impl Fn(&mut ModelConfig)) -> String {
    let mut config = preset(name);
    change(&mut config);
    match config.init(1, &device()) {
        Ok(_) => panic!("{name}: {config:?} was built"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn bad_sizes_and_ranges_of_the_backbone_are_named() {
    type Change = fn(&mut ModelConfig);
    let table: [(Change, &str); 10] = [
        (
            |c| c.backbone.vocab_size = 0,
            "`vocab_size` is 0, but must be at least 2",
        ),
        (
            |c| c.backbone.d_model = 0,
            "`d_model` is 0, but must be at least 1",
        ),
        (
            |c| c.backbone.n_layers = 0,
            "`n_layers` is 0, but must be at least 1",
        ),
        (
            |c| c.backbone.max_seq = 0,
            "`max_seq` is 0, but must be at least 1",
        ),
        (
            |c| c.pattern.clear(),
            "`pattern (number of mixers)` is 0, but must be at least 1",
        ),
        (
            |c| c.backbone.dropout = 1.0,
            "`dropout` is 1, but must lie in [0, 1)",
        ),
        (
            |c| c.backbone.dropout = -0.1,
            "`dropout` is -0.1, but must lie in [0, 1)",
        ),
        (
            |c| c.backbone.dropout = f64::NAN,
            "`dropout` is NaN, but must lie in [0, 1)",
        ),
        (
            |c| c.backbone.init_std = 0.0,
            "`init_std` is 0, but must lie in (0, inf)",
        ),
        (
            |c| c.backbone.init_std = f64::INFINITY,
            "`init_std` is inf, but must lie in (0, inf)",
        ),
    ];
    for (change, expected) in table {
        for name in ["transformer-tiny", "resnet-bk-tiny"] {
            assert_eq!(message(name, change), expected, "{name}");
        }
    }
}

#[test]
fn bad_attention_is_named() {
    let of = |change: fn(&mut ModelConfig)| message("transformer-tiny", change);
    assert_eq!(
        of(|c| c.attention.heads = 0),
        "`attention.heads` is 0, but must be at least 1"
    );
    assert_eq!(
        of(|c| c.attention.heads = 5),
        "`attention.heads` = 5 does not divide `d_model` = 64; choose a divisor of 64"
    );
    assert_eq!(
        of(|c| c.attention.heads = 64),
        "`attention.rope` turns pairs, but d_model / heads = 64 / 64 = 1 is odd; choose other heads"
    );
    for base in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let text = message("transformer-tiny", |c| c.attention.rope_base = base);
        assert_eq!(
            text,
            format!("`attention.rope_base` is {base}, but must lie in (0, inf)")
        );
    }
}

#[test]
fn bad_bk_mixers_are_named() {
    let of = |change: fn(&mut ModelConfig)| message("resnet-bk-tiny", change);
    assert_eq!(
        of(|c| c.bk.heads = 0),
        "`bk.heads` is 0, but must be at least 1"
    );
    assert_eq!(
        of(|c| c.bk.eta = [0.0, 1.0]),
        "`bk.eta` is 0, but must lie in (0.001, inf)"
    );
    assert_eq!(
        of(|c| c.bk.eta = [1.0, f64::NAN]),
        "`bk.eta` is NaN, but must lie in (0.001, inf)"
    );
    assert_eq!(
        of(|c| c.bk.hopping = 0.0),
        "`bk.hopping` is 0, but must lie in (0, inf)"
    );
    assert_eq!(
        of(|c| c.bk.energy = [f64::INFINITY, 0.0]),
        "`bk.energy` is inf, but must lie in the finite numbers"
    );
    assert_eq!(
        of(|c| c.bk.h0 = f64::NAN),
        "`bk.h0` is NaN, but must lie in the finite numbers"
    );
    assert_eq!(
        of(|c| c.bk.potential_bound = -1.0),
        "`bk.potential_bound` is -1, but must lie in [0, inf)"
    );
}

#[test]
fn bad_mixers_of_other_kinds_are_named() {
    let of = |change: fn(&mut ModelConfig)| message("resolvent-tiny", change);
    assert_eq!(
        of(|c| c.resolvent.heads = 5),
        "`resolvent.heads` = 5 does not divide `d_model` = 64; choose a divisor of 64"
    );
    assert_eq!(
        of(|c| c.resolvent.eta = [f64::NAN, 1.0]),
        "`resolvent.eta` is NaN, but must lie in (0.0001, inf)"
    );
    assert_eq!(
        message("conv3-char-cpu", |c| c.conv.width = 1),
        "`conv.width` is 1, but must be at least 2"
    );
    assert_eq!(
        message("min-gru-tiny", |c| c.min_gru.channels = 0),
        "`min_gru.channels` is 0, but must be at least 1"
    );
    assert_eq!(
        message("gla-tiny", |c| c.gla.heads = 5),
        "`gla.heads` = 5 does not divide `d_model` = 64; choose a divisor of 64"
    );
    assert_eq!(
        message("window-char-cpu", |c| c.attention.window = 0),
        "`attention.sinks` is 4, but without a window every token sees the first ones already; set `attention.window`, or leave sinks out"
    );
}

/// `validate` says the same as `init`, without making a tensor.
#[test]
fn validate_is_init_without_tensors() {
    let good = preset("resnet-bk-tiny");
    assert_eq!(good.validate(), Ok(()));
    let mut bad = good.clone();
    bad.bk.heads = 0;
    let built = bad.init(1, &device()).map(|_| ());
    assert!(built.is_err() && built == bad.validate());
    // Settings of a mixer that the pattern does not have are nobody's business.
    let mut unused = good;
    unused.attention.heads = 0;
    assert_eq!(unused.validate(), Ok(()));
}

#[test]
fn learned_positions_end() {
    let device = device();
    let mut seen = 0;
    for case in cases() {
        let model = case.model(1, &device);
        let long = ids(&tokens(1, SEQ + 1), 1, &device);
        let learned = case.config.backbone.positions == Positions::Learned;
        if !learned {
            let logits = model.forward(long).unwrap();
            assert_eq!(logits.dims()[1], SEQ + 1, "{}", case.name);
            continue;
        }
        seen += 1;
        let expected = ModelError::TooLong {
            position: SEQ,
            max_seq: SEQ,
        };
        assert_eq!(model.forward(long).unwrap_err(), expected, "{}", case.name);
        assert_eq!(
            expected.to_string(),
            "position 24 is beyond `max_seq` = 24; this model has learned positions: use shorter input, or a larger `max_seq`"
        );
    }
    assert!(seen > 0, "the zoo has a preset with learned positions");
}

#[test]
fn steps_past_learned_positions_are_errors_and_others_go_on() {
    let device = device();
    for case in causal_cases() {
        let model = case.model(1, &device);
        let start = model.initial_state(1, &device).unwrap();
        let whole = ids(&tokens(1, SEQ), 1, &device);
        let (_, full) = model.forward_with_state(whole, start).unwrap();
        let token = || Tensor::<1, Int>::from_ints([1], &device);
        let piece = ids(&[1, 2], 1, &device);
        match case.config.backbone.positions {
            Positions::Learned => {
                let expected = ModelError::TooLong {
                    position: SEQ,
                    max_seq: SEQ,
                };
                let error = model.step(token(), full.clone()).unwrap_err();
                assert_eq!(error, expected, "{}", case.name);
                let error = model.forward_with_state(piece, full).unwrap_err();
                assert_eq!(error, expected, "{}", case.name);
            }
            Positions::None => {
                let (_, next) = model.step(token(), full).unwrap();
                assert_eq!(next.position, SEQ + 1, "{}", case.name);
            }
        }
    }
}

#[test]
fn unknown_presets_are_none() {
    assert!(ModelConfig::preset("resnet-bk-tyni").is_none());
}
