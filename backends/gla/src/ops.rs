//! The public functions: check shapes, then hand the primitives to the backend.

use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor},
};

use crate::{
    backend::GlaBackend,
    error::{GlaError, check_filled, check_shape, check_type},
    strategy::Strategy,
};

/// What [`gated_linear_attention`] returns.
#[derive(Clone, Debug)]
pub struct GatedAttention {
    /// `y_i` for every position, `[batch, seq, heads, d_value]`, of the element type of v.
    pub output: Tensor<4>,
    /// `S_N`, `[batch, heads, d_key, d_value]`: pass it in to continue the sequence as if it had not been cut.
    pub state: Tensor<4>,
}

/// Linear attention with a scalar forget gate, `S_i = exp(g_i) S_{i-1} + k_i v_i^T`, `y_i = S_i^T q_i`, with its exact
/// gradient.
///
/// # Shapes
/// - q and k: `[batch, seq, heads, d_key]`; v: `[batch, seq, heads, d_value]`; all `f32` or all `bf16`
/// - log_decay `g`: `[batch, seq, heads]`, not positive, `f32`. What gates have taken below 1e-30 may count as nothing
/// - state `S_0`: `[batch, heads, d_key, d_value]`, `f32`; none or zeros starts afresh
///
/// The values of the gates are not looked at here; positive ones are an amplification that can overflow.
///
/// # Errors
/// [`GlaError::Shape`], [`GlaError::Empty`] or [`GlaError::DType`].
pub fn gated_linear_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    log_decay: Tensor<3>,
    state: Option<Tensor<4>>,
) -> Result<GatedAttention, GlaError> {
    gated_linear_attention_by(Strategy::Auto, q, k, v, log_decay, state)
}

/// [`gated_linear_attention`] with the strategy chosen by hand, for tests and benchmarks.
///
/// # Errors
/// As [`gated_linear_attention`], and [`GlaError::Chunk`].
pub fn gated_linear_attention_by(
    strategy: Strategy,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    log_decay: Tensor<3>,
    state: Option<Tensor<4>>,
) -> Result<GatedAttention, GlaError> {
    const NAME: &str = "gated_linear_attention";
    const KEYS: &str = "[batch, seq, heads, d_key]";
    const VALUES: &str = "[batch, seq, heads, d_value]";
    const STATE: &str = "[batch, heads, d_key, d_value]";
    strategy.check()?;
    let [batch, seq, heads, d_key] = q.dims();
    let d_value = v.dims()[3];
    check_filled(NAME, ["q", KEYS], &q.dims())?;
    check_filled(NAME, ["v", VALUES], &v.dims())?;
    check_shape(NAME, ["k", KEYS], &[batch, seq, heads, d_key], &k.dims())?;
    let values = [batch, seq, heads, d_value];
    check_shape(NAME, ["v", VALUES], &values, &v.dims())?;
    let gates = ["log_decay", "[batch, seq, heads]"];
    check_shape(NAME, gates, &[batch, seq, heads], &log_decay.dims())?;
    let operand = q.dtype();
    let as_q = match operand {
        DType::F32 => "F32 as q is",
        DType::BF16 => "BF16 as q is",
        found => {
            return Err(GlaError::DType {
                operation: NAME,
                name: "q",
                expected: "F32 or BF16",
                found,
            });
        }
    };
    check_type(NAME, ["k", as_q], [operand, k.dtype()])?;
    check_type(NAME, ["v", as_q], [operand, v.dtype()])?;
    check_type(NAME, ["log_decay", "F32"], [DType::F32, log_decay.dtype()])?;
    if let Some(state) = &state {
        let expected = [batch, heads, d_key, d_value];
        check_shape(NAME, ["state", STATE], &expected, &state.dims())?;
        check_type(NAME, ["state", "F32"], [DType::F32, state.dtype()])?;
    }
    let fresh = state.is_none();
    let state = state.unwrap_or_else(|| v.clone());
    let (output, state) = Dispatch::gated_linear_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        log_decay.into_dispatch(),
        state.into_dispatch(),
        strategy,
        fresh,
    );
    Ok(GatedAttention {
        output: Tensor::from_dispatch(output),
        state: Tensor::from_dispatch(state),
    })
}

/// Whether [`gated_linear_attention_forgotten`] has kernels for these queries and values.
pub fn writes_forgotten(q: &Tensor<4>, v: &Tensor<4>) -> bool {
    #[cfg(feature = "_cube")]
    {
        matches!(
            q.device().inner().as_dispatch(),
            burn::backend::DispatchDevice::Cube(_)
        ) && crate::cube::writes_forgotten(q, v)
    }
    #[cfg(not(feature = "_cube"))]
    {
        let _ = (q, v);
        false
    }
}

/// [`gated_linear_attention`] of a memory that writes as much as it forgets, `S_i = a_i S_{i-1} + (1 - a_i) k_i v_i^T` with
/// `a_i = exp(g_i)`, as minimal gated units have it (arXiv 2410.01201): keys are scaled as they are read, without a pass of their own.
///
/// # Errors
/// As [`gated_linear_attention`].
///
/// # Panics
/// If [`writes_forgotten`] does not hold.
pub fn gated_linear_attention_forgotten(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    log_decay: Tensor<3>,
    state: Option<Tensor<4>>,
) -> Result<GatedAttention, GlaError> {
    assert!(
        writes_forgotten(&q, &v),
        "gated_linear_attention_forgotten: no kernel takes {:?} and {:?} on this device",
        q.dims(),
        v.dims()
    );
    gated_linear_attention_by(Strategy::Forgotten, q, k, v, log_decay, state)
}
