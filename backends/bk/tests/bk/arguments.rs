//! What the operations refuse, with the messages pinned.

use burn::tensor::{DType, Tensor};
use kiln_bk::{BkError, GradRule, bk_diagonal, bk_left, check_parameters};

use crate::common::{device, tensor};

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &device())
}

fn left_error(
    potential: [usize; 3],
    hopping: usize,
    energy: [usize; 2],
    state: Option<[usize; 2]>,
) -> String {
    let state = state.map(zeros);
    let out = bk_left(zeros(potential), zeros([hopping]), zeros(energy), state);
    out.unwrap_err().to_string()
}

#[test]
fn shapes() {
    assert_eq!(
        left_error([2, 5, 3], 4, [2, 3], None),
        "bk_left: hopping must have shape [heads] = [3], not [4]"
    );
    assert_eq!(
        left_error([2, 5, 3], 3, [1, 3], None),
        "bk_left: energy must have shape [2, heads] = [2, 3], not [1, 3]"
    );
    assert_eq!(
        left_error([2, 5, 3], 3, [2, 3], Some([2, 3])),
        "bk_left: state must have shape [batch, 2 * heads] = [2, 6], not [2, 3]"
    );
    assert_eq!(
        left_error([2, 0, 3], 3, [2, 3], None),
        "bk_left: potential [batch, seq, heads] has an empty axis: [2, 0, 3]"
    );
    let error = bk_diagonal(zeros([2, 5, 3]), zeros([1]), zeros([2, 3])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bk_diagonal: hopping must have shape [heads] = [3], not [1]"
    );
}

#[test]
fn element_type() {
    let device = device();
    if !device.supports_dtype(DType::F64) {
        return;
    }
    let double: Tensor<3> = Tensor::zeros([1, 2, 1], (&device, DType::F64));
    let error = bk_left(double, zeros([1]), zeros([2, 1]), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bk_left: potential must be F32, not F64; cast it first"
    );
}

#[test]
fn parameters() {
    let device = device();
    let check = |hopping: [f32; 2], energy: [f32; 4]| {
        check_parameters(
            tensor(&hopping, [2], &device),
            tensor(&energy, [2, 2], &device),
        )
    };
    let fine = [0.0, -3.0, 1.0, 0.001];
    assert_eq!(check([0.0, 1.0], fine), Ok(()));
    for (hopping, energy, message) in [
        (
            [1.0, -0.5],
            fine,
            "hopping of head 1 is -0.5, but must be finite and at least 0",
        ),
        (
            [f32::NAN, 1.0],
            fine,
            "hopping of head 0 is NaN, but must be finite and at least 0",
        ),
        (
            [1.0; 2],
            [0.0, f32::INFINITY, 1.0, 1.0],
            "Re energy of head 1 is inf, but must be finite",
        ),
        (
            [1.0; 2],
            [0.0, 0.0, 1.0, 0.0],
            "Im energy of head 1 is 0, but must be finite and above 0",
        ),
    ] {
        assert_eq!(check(hopping, energy).unwrap_err().to_string(), message);
    }
    let error = check_parameters(zeros([2]), zeros([2, 3])).unwrap_err();
    assert!(matches!(error, BkError::Shape { name: "energy", .. }));
}

#[test]
fn rules_are_written_in_snake_case() {
    for (rule, text) in [
        (GradRule::Exact, "\"exact\""),
        (GradRule::Hyp7, "\"hyp7\""),
        (GradRule::Blend(0.5), "{\"blend\":0.5}"),
    ] {
        assert_eq!(serde_json::to_string(&rule).unwrap(), text);
        assert_eq!(serde_json::from_str::<GradRule>(text).unwrap(), rule);
    }
}
