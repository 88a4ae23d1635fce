//! Sparse matrices come back as they were.

use kiln_quant::{FloatType, QuantError, SparseFormat, SparseMatrix, SparsePattern};
use proptest::prelude::*;

fn format(pattern: SparsePattern, shape: [usize; 2], wide: bool) -> SparseFormat {
    let [d_input, d_output] = shape;
    SparseFormat {
        pattern,
        d_input,
        d_output,
        values: if wide { FloatType::F32 } else { FloatType::F16 },
    }
}

/// The two entries of largest size of each four inputs.
fn two_of_four(shape: [usize; 2], dense: &[f32]) -> Vec<f32> {
    let [d_input, d_output] = shape;
    let mut pruned = dense.to_vec();
    for (row, output) in (0..d_input / 4).flat_map(|row| (0..d_output).map(move |o| (row, o))) {
        let mut four = [0, 1, 2, 3].map(|i| (4 * row + i) * d_output + output);
        four.sort_by(|&a, &b| dense[a].abs().total_cmp(&dense[b].abs()));
        pruned[four[0]] = 0.0;
        pruned[four[1]] = 0.0;
    }
    pruned
}

/// A shape and entries, many of them zero.
fn matrices(fours: usize) -> impl Strategy<Value = ([usize; 2], Vec<f32>)> {
    (1_usize..20, 1_usize..20).prop_flat_map(move |(rows, d_output)| {
        let entry = prop_oneof![Just(0.0), Just(-0.0), -9.0_f32..9.0];
        let shape = [rows * fours, d_output];
        prop::collection::vec(entry, rows * fours * d_output).prop_map(move |x| (shape, x))
    })
}

fn comes_back(format: SparseFormat, dense: &[f32]) -> Result<SparseMatrix, TestCaseError> {
    let sparse = SparseMatrix::pack(format, dense).expect("what the strategy makes can be stored");
    let rounded: Vec<f32> = dense.iter().map(|&x| format.values.round(x)).collect();
    prop_assert_eq!(sparse.dense(), rounded);
    let again = SparseMatrix::from_words(format, sparse.words().to_vec())
        .expect("these words were written");
    prop_assert_eq!(&again, &sparse);
    Ok(sparse)
}

proptest! {
    #[test]
    fn masks_hold_any_pattern((shape, dense) in matrices(1), wide in any::<bool>()) {
        let format = format(SparsePattern::Mask, shape, wide);
        let sparse = comes_back(format, &dense)?;
        let kept = dense.iter().filter(|&&x| format.values.round(x) != 0.0).count();
        let words = dense.len().div_ceil(32) + (kept * format.values.bits()).div_ceil(32);
        prop_assert_eq!(sparse.bytes(), 4 * words as u64);
    }

    #[test]
    fn two_of_four_holds_half((shape, dense) in matrices(4), wide in any::<bool>()) {
        let format = format(SparsePattern::TwoOfFour, shape, wide);
        let sparse = comes_back(format, &two_of_four(shape, &dense))?;
        let values = (dense.len() / 2 * format.values.bits()).div_ceil(32);
        prop_assert_eq!(sparse.bytes(), 4 * (values + (dense.len() / 4).div_ceil(8)) as u64);
    }
}

#[test]
fn what_cannot_be_stored_is_named() {
    let two = |shape, dense: &[f32]| {
        SparseMatrix::pack(format(SparsePattern::TwoOfFour, shape, false), dense)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        two([4, 1], &[1.0, 0.0, 1.0, 1.0]),
        "inputs 0 to 3 of output 0 have 3 values that are not zero, but 2:4 allows two"
    );
    assert_eq!(
        two([6, 1], &[0.0; 6]),
        "2:4 takes groups of four inputs, which do not divide 6; store it as a mask"
    );
    assert_eq!(
        two([4, 1], &[1e6, 0.0, 0.0, 0.0]),
        "the value of input 0, output 0 is 1000000, which f16 cannot hold as a finite number"
    );
    let mask = format(SparsePattern::Mask, [2, 2], true);
    let words = SparseMatrix::pack(mask, &[1.0, 0.0, f32::MIN_POSITIVE, 0.0]).unwrap();
    let cut = SparseMatrix::from_words(mask, words.words()[..2].to_vec()).unwrap_err();
    assert_eq!(cut.to_string(), "words: 2, but the shape asks for 3");
    let zero = SparseMatrix::from_words(mask, vec![1, 0]).unwrap_err();
    assert!(matches!(zero, QuantError::Corrupt(_)), "{zero}");
}
