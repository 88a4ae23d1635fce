use burn::tensor::Device;

use super::*;

/// Those that are trained.
const ENCODINGS: [Encoding; 6] = [
    Encoding::Int8,
    Encoding::Int4,
    Encoding::Int3,
    Encoding::Int2,
    Encoding::Ternary,
    Encoding::Sign,
];

fn weights() -> Vec<f32> {
    let value = |at: u32| ((at.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.4) * 0.3;
    (0..64 * 6).map(value).collect()
}

fn config(encoding: Encoding) -> QuantizeConfig {
    QuantizeConfig {
        group: 32,
        ..QuantizeConfig::new(encoding)
    }
}

/// What is trained with is bit for bit what comes out of the packed words.
#[test]
fn packed_numbers_are_those_that_were_trained_with() {
    for encoding in ENCODINGS {
        for (symmetric, clip) in [(false, false), (true, false), (false, true), (true, true)] {
            let config = QuantizeConfig {
                symmetric,
                clip,
                ..config(encoding)
            };
            let matrix = matrix(weights(), [64, 6], &Device::flex());
            let rounded = Rounded::new(matrix, config.format("", [64, 6]), clip);
            let trained: Vec<f32> = rounded.values().into_data().iter().collect();
            let packed = rounded.packed().unwrap();
            assert_eq!(packed.format().group, 32);
            assert_eq!(
                packed.dequantize(),
                trained,
                "{encoding:?} {symmetric} {clip}"
            );
        }
    }
}

/// More levels are nearer, no weight is further than half a step, and clipping pays at few bits.
#[test]
fn levels_are_the_nearest() {
    let error = |encoding, clip| {
        let matrix = matrix(weights(), [64, 6], &Device::flex());
        let format = config(encoding).format("", [64, 6]);
        let rounded = Rounded::new(matrix, format, clip).values().into_data();
        let pairs = weights().into_iter().zip(rounded.iter::<f32>());
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let errors: Vec<f64> = ENCODINGS
        .iter()
        .map(|encoding| error(*encoding, false))
        .collect();
    assert!(errors.is_sorted(), "{errors:?}");
    assert!(error(Encoding::Int2, true) <= error(Encoding::Int2, false));
    // A step is at most 0.3 / 15 of these weights.
    let bound = 64.0 * 6.0 * (0.5 * 0.3 / 15.0_f64).powi(2);
    assert!(errors[1] < bound, "{errors:?}");
}

/// Zeros stay zeros, groups of zeros too.
#[test]
fn zeros_stay() {
    let mut values = weights();
    values.iter_mut().step_by(3).for_each(|value| *value = 0.0);
    values[..32 * 6].fill(0.0);
    for encoding in &ENCODINGS[..5] {
        let matrix = matrix(values.clone(), [64, 6], &Device::flex());
        let rounded = Rounded::new(matrix, config(*encoding).format("", [64, 6]), false);
        let found = rounded.packed().unwrap().dequantize();
        for (before, after) in values.iter().zip(found) {
            assert!(*before != 0.0 || after == 0.0, "{encoding:?}");
        }
    }
}

#[test]
fn a_group_gives_way_to_the_width() {
    let group = |d_input| {
        let config = QuantizeConfig {
            group: 64,
            ..QuantizeConfig::new(Encoding::Int4)
        };
        config.format("", [d_input, 4]).group
    };
    assert_eq!([128, 96, 100].map(group), [64, 32, 100]);
}

/// Signs of inputs go with signs of weights, and with one scale an output.
#[test]
fn inputs_are_rounded_beside_signs() {
    let with = |config: QuantizeConfig| QuantizeConfig {
        inputs: Some(InputSteps::Sign),
        ..config
    };
    let signs = with(QuantizeConfig::new(Encoding::Sign));
    signs.check().unwrap();
    assert!(signs.takes_signs("blocks.0.mlp.up"));
    assert!(!QuantizeConfig::new(Encoding::Sign).takes_signs("blocks.0.mlp.up"));
    let some = QuantizeConfig {
        encoding_of: [("*.up".to_string(), Encoding::Sign)].into(),
        ..with(QuantizeConfig::new(Encoding::Int4))
    };
    some.check().unwrap();
    assert!(some.takes_signs("blocks.0.mlp.up") && !some.takes_signs("blocks.0.mlp.down"));
    for (config, words) in [
        (
            with(QuantizeConfig::new(Encoding::Ternary)),
            "`quantize.inputs` is sign, but inputs become signs where weights are signs",
        ),
        (
            with(config(Encoding::Sign)),
            "`quantize.group` is 32, but products of signs have one scale an output",
        ),
        (
            QuantizeConfig {
                inputs: Some(InputSteps::Static),
                ..QuantizeConfig::new(Encoding::Sign)
            },
            "`quantize.inputs` is static, but training rounds inputs to signs alone",
        ),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
