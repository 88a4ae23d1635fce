//! What the operation refuses, with the messages pinned.

use burn::tensor::{DType, Tensor};
use kiln_gla::{Strategy, gated_linear_attention, gated_linear_attention_by};

use crate::common::device;

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &device())
}

fn error(
    q: [usize; 4],
    k: [usize; 4],
    v: [usize; 4],
    log_decay: [usize; 3],
    state: Option<[usize; 4]>,
) -> String {
    let state = state.map(zeros);
    let out = gated_linear_attention(zeros(q), zeros(k), zeros(v), zeros(log_decay), state);
    out.unwrap_err().to_string()
}

#[test]
fn shapes() {
    let (q, v, g) = ([2, 5, 3, 4], [2, 5, 3, 6], [2, 5, 3]);
    assert_eq!(
        error(q, [2, 5, 3, 6], v, g, None),
        "gated_linear_attention: k must have shape [batch, seq, heads, d_key] = [2, 5, 3, 4], not [2, 5, 3, 6]"
    );
    assert_eq!(
        error(q, q, [2, 4, 3, 6], g, None),
        "gated_linear_attention: v must have shape [batch, seq, heads, d_value] = [2, 5, 3, 6], not [2, 4, 3, 6]"
    );
    assert_eq!(
        error(q, q, v, [2, 5, 1], None),
        "gated_linear_attention: log_decay must have shape [batch, seq, heads] = [2, 5, 3], not [2, 5, 1]"
    );
    assert_eq!(
        error(q, q, v, g, Some([2, 3, 6, 4])),
        "gated_linear_attention: state must have shape [batch, heads, d_key, d_value] = [2, 3, 4, 6], not [2, 3, 6, 4]"
    );
    assert_eq!(
        error([2, 0, 3, 4], q, v, g, None),
        "gated_linear_attention: q [batch, seq, heads, d_key] has an empty axis: [2, 0, 3, 4]"
    );
}

#[test]
fn element_types() {
    let device = device();
    let (q, g) = (zeros([1, 2, 1, 2]), zeros([1, 2, 1]));
    if device.supports_dtype(DType::F64) {
        let double: Tensor<4> = Tensor::zeros([1, 2, 1, 2], (&device, DType::F64));
        let out = gated_linear_attention(double.clone(), q.clone(), q.clone(), g.clone(), None);
        assert_eq!(
            out.unwrap_err().to_string(),
            "gated_linear_attention: q must be F32 or BF16, not F64; cast it first"
        );
        let out = gated_linear_attention(q.clone(), q.clone(), double, g.clone(), None);
        assert_eq!(
            out.unwrap_err().to_string(),
            "gated_linear_attention: v must be F32 as q is, not F64; cast it first"
        );
        let double: Tensor<3> = Tensor::zeros([1, 2, 1], (&device, DType::F64));
        let out = gated_linear_attention(q.clone(), q.clone(), q.clone(), double, None);
        assert_eq!(
            out.unwrap_err().to_string(),
            "gated_linear_attention: log_decay must be F32, not F64; cast it first"
        );
    }
    for chunk in [0, 257] {
        let strategy = Strategy::Chunked { chunk };
        let out =
            gated_linear_attention_by(strategy, q.clone(), q.clone(), q.clone(), g.clone(), None);
        assert_eq!(
            out.unwrap_err().to_string(),
            format!(
                "gated_linear_attention: the chunk is {chunk} positions, but must be in 1..=256"
            )
        );
    }
}
