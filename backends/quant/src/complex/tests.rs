use super::*;
use crate::encoding::{Encoding, FloatType};

fn format(pairs: Pairs, encoding: Encoding, asymmetric: bool, dims: [usize; 3]) -> ComplexFormat {
    let [d_input, d_output, group] = dims;
    let stored = PackedFormat {
        encoding,
        asymmetric,
        d_input,
        d_output,
        group,
        scales: FloatType::F16,
    };
    ComplexFormat { pairs, stored }
}

/// A matrix of all levels in turn; every scale is another.
fn matrix(format: ComplexFormat) -> ComplexMatrix {
    let ComplexFormat { pairs, stored } = format;
    let range = stored.encoding.levels(stored.asymmetric);
    let known: Vec<i16> = range
        .filter(|level| stored.encoding != Encoding::Sign || *level != 0)
        .collect();
    let levels: Vec<i16> = (0..stored.entries())
        .map(|at| known[at * 7 % known.len()])
        .collect();
    let shared = stored.groups() * stored.d_output;
    let scales: Vec<f32> = (0..shared).map(|at| 0.25 * (at + 1) as f32).collect();
    let zeros = vec![1; shared];
    let zeros = stored.asymmetric.then_some(zeros.as_slice());
    let stored = PackedMatrix::pack(stored, &levels, &scales, zeros).unwrap();
    ComplexMatrix::new(pairs, stored).unwrap()
}

/// Two complex rows of one column, by hand: [1 + 3i, 2 + 4i] times a scale of 1/2.
#[test]
fn parts_lie_where_the_layer_has_them() {
    let of = |pairs| {
        let ComplexFormat { stored, .. } = format(pairs, Encoding::Int4, false, [4, 1, 4]);
        let stored = PackedMatrix::pack(stored, &[1, 2, 3, 4], &[0.5], None).unwrap();
        ComplexMatrix::new(pairs, stored).unwrap()
    };
    // Rows: real parts, then imaginary ones.
    let inputs = of(Pairs::Inputs);
    assert_eq!(inputs.format().dims(), [4, 1]);
    assert_eq!(inputs.dequantize(), [0.5, 1.0, 1.5, 2.0]);
    // Columns: each row has its real part beside its imaginary one.
    let outputs = of(Pairs::Outputs);
    assert_eq!(outputs.format().dims(), [2, 2]);
    assert_eq!(outputs.dequantize(), [0.5, 1.5, 1.0, 2.0]);
}

#[test]
fn the_real_matrix_is_the_same_numbers_and_words_come_back() {
    for pairs in [Pairs::Inputs, Pairs::Outputs] {
        for encoding in Encoding::ALL {
            for asymmetric in [false, true] {
                if asymmetric && !encoding.has_zero_points() {
                    continue;
                }
                // Groups of 32 complex numbers in three groups, and one group for all, of 21 outputs: a panel and a part of one.
                for dims in [[192, 21, 64], [128, 21, 128], [10, 21, 10]] {
                    let format = format(pairs, encoding, asymmetric, dims);
                    let matrix = matrix(format);
                    let real = matrix.to_real().unwrap();
                    assert_eq!(real.format(), format.real());
                    assert_eq!(real.dequantize(), matrix.dequantize(), "{format:?}");
                    assert_eq!(
                        [real.format().d_input, real.format().d_output],
                        format.dims()
                    );
                    let again = ComplexMatrix::from_words(format, matrix.words().to_vec());
                    assert_eq!(again.unwrap(), matrix);
                    let text = serde_json::to_string(&format).unwrap();
                    assert_eq!(
                        serde_json::from_str::<ComplexFormat>(&text).unwrap(),
                        format
                    );
                }
            }
        }
    }
}

/// Every entry of the stored matrix is another one of the real matrix, and parts of a number have one scale.
#[test]
fn no_entry_is_lost_and_parts_share_their_scale() {
    for pairs in [Pairs::Inputs, Pairs::Outputs] {
        let format = format(pairs, Encoding::Int4, false, [128, 3, 64]);
        let [rows, columns] = format.dims();
        let mut seen = vec![0; rows * columns];
        for row in 0..128 {
            for column in 0..3 {
                let [i, o] = format.source(row, column);
                seen[i * columns + o] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count == 1), "{pairs:?}");
        let real = matrix(format).to_real().unwrap();
        let (scales, width) = (real.scales(), columns);
        for group in 0..2 {
            for output in 0..3 {
                let [re, im] = match pairs {
                    Pairs::Inputs => [group * width + output, (group + 2) * width + output],
                    Pairs::Outputs => [group * width + output, group * width + output + 3],
                };
                assert_eq!(scales[re], scales[im], "{pairs:?}");
                assert_eq!(scales[re], 0.25 * (group * 3 + output + 1) as f32);
            }
        }
    }
}

/// Half of the scales and zero points: what sharing is for.
#[test]
fn shared_scales_are_stored_once() {
    // 16 outputs fill a panel of 256 complex rows in groups of 64: 4 groups of 8 words of scales and 4 of zero points each.
    let inputs = matrix(format(Pairs::Inputs, Encoding::Int4, true, [512, 16, 128]));
    let real = inputs.to_real().unwrap();
    assert_eq!(real.bytes() - inputs.bytes(), 4 * 12 * 4);
    let outputs = matrix(format(Pairs::Outputs, Encoding::Int4, true, [512, 16, 128]));
    let real = outputs.to_real().unwrap();
    assert_eq!(real.bytes() - outputs.bytes(), 4 * 12 * 4);
}

#[test]
fn matrices_that_have_no_halves_are_refused() {
    let said = |format: ComplexFormat| format.check().unwrap_err().to_string();
    let odd = format(Pairs::Inputs, Encoding::Int4, false, [7, 2, 7]);
    assert_eq!(
        said(odd),
        "a group of 7 of 7 stored inputs has no halves for real and imaginary parts; choose one that two divides"
    );
    // Kernels want groups of 32 of each part.
    let narrow = format(Pairs::Inputs, Encoding::Int4, false, [64, 2, 32]);
    assert!(said(narrow).contains("groups of 16 inputs are not a multiple of 32"));
    let words = matrix(format(Pairs::Outputs, Encoding::Int4, false, [64, 2, 64]));
    let few = words.words()[1..].to_vec();
    let refused = ComplexMatrix::from_words(words.format(), few).unwrap_err();
    assert!(
        refused.to_string().contains("but the shape asks for"),
        "{refused}"
    );
}
