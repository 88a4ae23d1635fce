//! Levels, scales and zero points come back from the words, and what cannot be packed is named.

use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix, QuantError};
use proptest::prelude::*;

/// A format and all that is packed into it.
type Parts = (PackedFormat, Vec<i16>, Vec<f32>, Option<Vec<u8>>);

fn formats() -> impl Strategy<Value = PackedFormat> {
    let encodings = prop::sample::select(Encoding::ALL.to_vec());
    let inputs = prop_oneof![
        (1_usize..140).prop_map(|d_input| (d_input, d_input)),
        (1_usize..5, prop::sample::select(vec![32, 64, 128]))
            .prop_map(|(n, group)| (n * group, group)),
    ];
    (encodings, any::<bool>(), inputs, 1_usize..40, any::<bool>()).prop_map(
        |(encoding, asymmetric, (d_input, group), d_output, wide)| PackedFormat {
            encoding,
            asymmetric: asymmetric && encoding.has_zero_points(),
            d_input,
            d_output,
            group,
            scales: if wide { FloatType::F32 } else { FloatType::F16 },
        },
    )
}

fn parts() -> impl Strategy<Value = Parts> {
    formats().prop_flat_map(|format| {
        let range = format.encoding.levels(format.asymmetric);
        let most = *format.encoding.levels(true).end() as u8;
        let level = range.prop_map(move |q| match (format.encoding, q) {
            (Encoding::Sign, 0) => 1,
            (_, q) => q,
        });
        let shared = format.groups() * format.d_output;
        (
            prop::collection::vec(level, format.entries()),
            prop::collection::vec(prop_oneof![Just(0.0_f32), 1e-6_f32..100.0], shared),
            prop::collection::vec(0..=most, shared),
        )
            .prop_map(move |(levels, scales, zeros)| {
                (format, levels, scales, format.asymmetric.then_some(zeros))
            })
    })
}

proptest! {
    #[test]
    fn what_is_packed_comes_back((format, levels, scales, zeros) in parts()) {
        let packed = PackedMatrix::pack(format, &levels, &scales, zeros.as_deref()).unwrap();
        prop_assert_eq!(packed.words().len(), format.words());
        prop_assert_eq!(packed.levels(), levels.clone());
        let rounded: Vec<f32> = scales.iter().map(|&s| format.scales.round(s)).collect();
        prop_assert_eq!(packed.scales(), rounded.clone());
        prop_assert_eq!(packed.zeros(), zeros.clone());
        for (at, found) in packed.dequantize().into_iter().enumerate() {
            let (input, output) = (at / format.d_output, at % format.d_output);
            let shared = input / format.group * format.d_output + output;
            let zero = zeros.as_ref().map_or(0, |zeros| i16::from(zeros[shared]));
            prop_assert_eq!(found, rounded[shared] * format.encoding.value(levels[at] - zero));
        }
        let again = PackedMatrix::from_words(format, packed.words().to_vec()).unwrap();
        prop_assert_eq!(again, packed);
    }

    /// No word is without meaning: any bit that is flipped changes the matrix or is refused.
    #[test]
    fn no_bit_is_ignored((format, levels, scales, zeros) in parts(), word in any::<prop::sample::Index>(), bit in 0..32) {
        let packed = PackedMatrix::pack(format, &levels, &scales, zeros.as_deref()).unwrap();
        let mut words = packed.words().to_vec();
        let word = word.index(words.len());
        words[word] ^= 1_u32 << bit;
        if let Ok(other) = PackedMatrix::from_words(format, words) {
            let same = other.levels() == levels && other.scales() == packed.scales() && other.zeros() == zeros;
            prop_assert!(!same);
        }
    }
}

fn int4(d_input: usize, d_output: usize, group: usize) -> PackedFormat {
    PackedFormat {
        encoding: Encoding::Int4,
        asymmetric: false,
        d_input,
        d_output,
        group,
        scales: FloatType::F16,
    }
}

/// The layout by hand: version 1 of it is what files hold.
#[test]
fn the_layout_is_that_of_version_1() {
    assert_eq!(kiln_quant::LAYOUT_VERSION, 1);
    let format = PackedFormat {
        asymmetric: true,
        ..int4(9, 10, 9)
    };
    let mut levels = [0; 90];
    for input in 0..9 {
        levels[10 * input] = input as i16; // output 0
        levels[10 * input + 9] = 15 - input as i16; // output 9
    }
    let (mut scales, mut zeros) = ([0.0; 10], [0; 10]);
    (scales[0], scales[9]) = (1.0, 2.0);
    (zeros[0], zeros[9]) = (3, 5);
    let packed = PackedMatrix::pack(format, &levels, &scales, Some(&zeros)).unwrap();
    let mut words = [0; 16 + 2 * 16];
    (words[0], words[4]) = (0x3c00, 0x4000 << 16); // f16: output 0 in a low half, 9 in a high one
    (words[8], words[10]) = (3, 5 << 8); // outputs 4 * 0 + 0 and 4 * 2 + 1
    (words[16], words[16 + 16]) = (0x7654_3210, 8);
    (words[16 + 9], words[16 + 16 + 9]) = (0x89ab_cdef, 7);
    assert_eq!(packed.words(), words);
}

/// Codes of three bits run across words: the eleventh has two bits in the first and one in the second.
#[test]
fn three_bits_leave_no_gap() {
    let format = PackedFormat {
        encoding: Encoding::Int3,
        ..int4(32, 1, 32)
    };
    let mut levels = [0; 32];
    levels[10] = -3; // 0b101
    let packed = PackedMatrix::pack(format, &levels, &[1.0], None).unwrap();
    assert_eq!(packed.words().len(), 16 + 3 * 16);
    assert_eq!((packed.words()[16], packed.words()[16 + 16]), (1 << 30, 1));
}

/// int4 in groups of 64 with f16 scales is 4.25 bits an entry, int8 with a scale a column little above 8 (two bytes
/// of scale, and two that fill the line).
#[test]
fn bytes_are_those_of_the_bits() {
    let four = int4(512, 256, 64);
    assert_eq!(four.bytes() * 8, 512 * 256 * 4 + 8 * 256 * 16);
    let eight = PackedFormat {
        encoding: Encoding::Int8,
        group: 512,
        ..four
    };
    assert_eq!(eight.bytes(), 512 * 256 + 4 * 256);
    let packed = PackedMatrix::pack(four, &[0; 512 * 256], &[0.0; 8 * 256], None).unwrap();
    assert_eq!(packed.bytes(), four.bytes());
}

fn refused(format: PackedFormat, levels: &[i16], scales: &[f32], zeros: Option<&[u8]>) -> String {
    match PackedMatrix::pack(format, levels, scales, zeros) {
        Ok(_) => "packed".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_packed_is_named() {
    let format = int4(2, 2, 2);
    let (levels, scales) = ([0; 4], [1.0; 2]);
    for (found, expected) in [
        (
            refused(int4(96, 1, 64), &[0; 96], &[1.0], None),
            "groups of 64 inputs do not divide 96 inputs; choose a divisor that is a multiple of 32, or 96 for one group",
        ),
        (
            refused(int4(96, 1, 48), &[0; 96], &[1.0; 2], None),
            "groups of 48 inputs are not a multiple of 32; choose 32, 64 or 128, or 96 for one group",
        ),
        (
            refused(int4(0, 3, 0), &[], &[], None),
            "a packed matrix has at least one input and one output, not 0 x 3",
        ),
        (
            refused(format, &levels[1..], &scales, None),
            "levels: 3, but the shape asks for 4",
        ),
        (
            refused(format, &levels, &scales[1..], None),
            "scales: 1, but the shape asks for 2",
        ),
        (
            refused(format, &levels, &scales, Some(&[0; 2])),
            "the format says asymmetric = false, but zero points are present",
        ),
        (
            refused(format, &[0, 0, 0, 8], &scales, None),
            "the level of input 1, output 1 is 8, but Int4 has levels -8 to 7",
        ),
        (
            refused(format, &levels, &[1.0, f32::NAN], None),
            "the scale of group 0, output 1 is NaN, which f16 cannot hold as a finite number that is not negative and, unless it is 0, does not round to 0",
        ),
    ] {
        assert_eq!(found, expected);
    }
    for scale in [-1.0, f32::INFINITY, 1e6, 1e-9] {
        let error = PackedMatrix::pack(format, &levels, &[1.0, scale], None).unwrap_err();
        assert!(
            matches!(error, QuantError::Scale { output: 1, .. }),
            "{error}"
        );
    }
    let asymmetric = PackedFormat {
        asymmetric: true,
        ..format
    };
    assert_eq!(
        refused(asymmetric, &levels, &scales, Some(&[0, 16])),
        "the zero point of group 0, output 1 is 16, but must be at most 15"
    );
    let sign = PackedFormat {
        encoding: Encoding::Sign,
        ..format
    };
    assert_eq!(
        refused(sign, &levels, &scales, None),
        "the level of input 0, output 0 is 0, but Sign has levels -1 to 1 without 0"
    );
    let ternary = PackedFormat {
        encoding: Encoding::Ternary,
        ..asymmetric
    };
    assert_eq!(
        ternary.check().unwrap_err(),
        QuantError::NoZeroPoints {
            encoding: Encoding::Ternary
        }
    );
}

/// Words of a file that was cut, or of another matrix.
#[test]
fn words_that_are_no_matrix_are_refused() {
    let format = int4(2, 2, 2);
    let words = PackedMatrix::pack(format, &[1, 2, 3, 4], &[1.0; 2], None)
        .unwrap()
        .into_words();
    let error = PackedMatrix::from_words(format, words[1..].to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "words: 31, but the shape asks for 32");
    let mut nan = words.clone();
    nan[0] = 0x7e00;
    let error = PackedMatrix::from_words(format, nan).unwrap_err();
    assert!(matches!(error, QuantError::Scale { .. }), "{error}");
    let mut beyond = words;
    beyond[16] |= 1 << 8;
    assert_eq!(
        PackedMatrix::from_words(format, beyond)
            .unwrap_err()
            .to_string(),
        "these words are no such matrix: bits that stand for nothing are set"
    );
}

#[test]
fn formats_are_read_strictly() {
    let format = int4(64, 2, 32);
    let text = serde_json::to_string(&format).unwrap();
    assert_eq!(
        text,
        r#"{"encoding":"int4","asymmetric":false,"d_input":64,"d_output":2,"group":32,"scales":"f16"}"#
    );
    assert_eq!(serde_json::from_str::<PackedFormat>(&text).unwrap(), format);
    let unknown = text.replace("\"group\"", "\"blocks\"");
    assert!(serde_json::from_str::<PackedFormat>(&unknown).is_err());
}
