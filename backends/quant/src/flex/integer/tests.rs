use super::inputs::row;
use super::*;
use crate::{Encoding, FloatType, PackedMatrix};

/// Every instruction set of this processor finds the same numbers, bit for bit, for odd shapes and the largest products.
#[test]
fn instruction_sets_agree() {
    for (d_input, d_output, rows) in [(1, 1, 1), (5, 17, 3), (96, 40, 7), (1030, 33, 9)] {
        let format = PackedFormat {
            encoding: Encoding::Int8,
            asymmetric: false,
            d_input,
            d_output,
            group: d_input,
            scales: FloatType::F16,
        };
        let level = |at: usize| match at % 7 {
            0 => -128,
            1 => 127,
            _ => (at * 37 % 251) as i16 - 125,
        };
        let levels: Vec<i16> = (0..d_input * d_output).map(level).collect();
        let packed = PackedMatrix::pack(format, &levels, &vec![0.25; d_output], None).unwrap();
        let x: Vec<f32> = (0..rows * d_input)
            .map(|at| f32::from(level(at + 3)))
            .collect();
        let inputs = Inputs::new(&x, d_input, Activations::Static { step: 1.0 });
        // SAFETY: plain arithmetic.
        let plain = unsafe { panels::<bytes::Plain>(packed.words(), &inputs, &format) };
        for output in 0..d_output {
            let products = (0..d_input).map(|input| {
                let x = x[(rows - 1) * d_input + input].max(-127.0) as i64;
                x * i64::from(levels[input * d_output + output])
            });
            let width = plain.len() / rows;
            let expected = products.sum::<i64>() as f32 * 0.25;
            assert_eq!(plain[(rows - 1) * width + output], expected);
        }
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") {
                // SAFETY: the processor has the feature.
                assert_eq!(
                    unsafe { bytes::x86::avx2(packed.words(), &inputs, &format) },
                    plain
                );
            }
            if has!("avx512f") && has!("avx512vnni") {
                // SAFETY: the processor has the features.
                assert_eq!(
                    unsafe { bytes::x86::avx512(packed.words(), &inputs, &format) },
                    plain
                );
            }
        }
    }
}

/// Integers are the nearest, of two the even one, and reach to 127; what is no number makes none of its row.
#[test]
fn rows_become_integers() {
    let x = [0.5, 1.5, -2.5, 300.0, -300.0, 0.0];
    let mut words = [0; 2];
    let found = row(&x, &mut words, Activations::Static { step: 1.0 });
    let bytes: Vec<i8> = words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .map(|b| b as i8)
        .collect();
    assert_eq!(bytes, [0, 2, -2, 127, -127, 0, 0, 0]);
    assert_eq!(found, (1.0, 0));
    let (step, _) = row(&x, &mut words, Activations::Dynamic);
    assert_eq!(step, 300.0 / 127.0);
    for bad in [f32::NAN, f32::INFINITY] {
        let (step, _) = row(&[1.0, bad, 2.0], &mut words, Activations::Dynamic);
        assert!(step.is_nan());
    }
    assert_eq!(row(&[0.0; 3], &mut words, Activations::Dynamic), (0.0, 0));
}

/// Every instruction set counts the same signs, bit for bit, for shapes that no word and no panel divides.
#[test]
fn instruction_sets_count_alike() {
    let shapes = [
        (1, 1, 1),
        (31, 17, 2),
        (32, 16, 3),
        (33, 40, 4),
        (1030, 33, 9),
    ];
    for (d_input, d_output, rows) in shapes {
        let format = PackedFormat {
            encoding: Encoding::Sign,
            asymmetric: false,
            d_input,
            d_output,
            group: d_input,
            scales: FloatType::F16,
        };
        let sign = |at: usize| match at.wrapping_mul(0x9e37_79b9) >> 7 & 1 {
            0 => -1,
            _ => 1_i16,
        };
        let levels: Vec<i16> = (0..d_input * d_output).map(sign).collect();
        let packed = PackedMatrix::pack(format, &levels, &vec![0.25; d_output], None).unwrap();
        // Sizes of 1 and 3, of which the mean is known.
        let x: Vec<f32> = (0..rows * d_input)
            .map(|at| f32::from(sign(at + 5)) * if at % 2 == 0 { 1.0 } else { 3.0 })
            .collect();
        let inputs = Inputs::new(&x, d_input, Activations::Signs);
        // SAFETY: plain arithmetic.
        let plain = unsafe { panels::<signs::Plain>(packed.words(), &inputs, &format) };
        let width = plain.len() / rows;
        for (row, x) in x.chunks_exact(d_input).enumerate() {
            let mean = x.iter().map(|x| x.abs()).sum::<f32>() / d_input as f32;
            for output in 0..d_output {
                let products = x.iter().enumerate().map(|(input, x)| {
                    x.signum() as i64 * i64::from(levels[input * d_output + output])
                });
                let expected = products.sum::<i64>() as f32 * (mean * 0.25);
                assert_eq!(
                    plain[row * width + output],
                    expected,
                    "{d_input} {d_output}"
                );
            }
        }
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") {
                // SAFETY: the processor has the feature.
                let found = unsafe { signs::x86::avx2(packed.words(), &inputs, &format) };
                assert_eq!(found, plain);
            }
            if has!("avx512f") && has!("avx512vpopcntdq") {
                // SAFETY: the processor has the features.
                let found = unsafe { signs::x86::avx512(packed.words(), &inputs, &format) };
                assert_eq!(found, plain);
            }
        }
    }
}

/// Zero of either sign is 1, what fills the last word is 0; what is no number, or adds up beyond f32, makes none of its row.
#[test]
fn rows_become_signs() {
    let mut x = vec![2.0; 35];
    (x[0], x[1], x[2], x[33]) = (0.0, -0.0, -1e-30, -4.0);
    let mut words = [0; 2];
    let (step, _) = row(&x, &mut words, Activations::Signs);
    assert_eq!(words, [!4, 0b101]);
    assert!((step - 66.0 / 35.0).abs() < 1e-6, "{step}");
    for bad in [f32::NAN, f32::INFINITY, -f32::MAX] {
        let (step, _) = row(&[bad, bad, 2.0], &mut words[..1], Activations::Signs);
        assert!(step.is_nan(), "{bad}");
    }
    assert_eq!(
        row(&[0.0; 3], &mut words[..1], Activations::Signs),
        (0.0, 0)
    );
    assert_eq!(words[0], 0b111);
}
