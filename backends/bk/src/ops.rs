//! The public functions: check shapes, then hand the primitives to the backend.

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor},
};

use crate::{backend::BkBackend, error::BkError, rule::GradRule};

/// What [`bk_left`] returns.
#[derive(Clone, Debug)]
pub struct BkLeft {
    /// `L_i` for every position, `[batch, seq, 2 * heads]`: Re in the first `heads` columns, Im in the rest.
    pub features: Tensor<3>,
    /// `L_N`, `[batch, 2 * heads]`: pass it in to continue the sequence as if it had not been cut (on Flex, to the bit).
    pub state: Tensor<2>,
}

/// The causal BK operation, `L_i = 1 / (a_i - z - beta L_{i-1})`, with its exact gradient.
///
/// # Shapes
/// - potential `a`: `[batch, seq, heads]`
/// - hopping `beta`: `[heads]`, not negative
/// - energy `z`: `[2, heads]`, row 0 `Re z`, row 1 `Im z > 0`
/// - state `L_0`: `[batch, 2 * heads]`, Re then Im, with `Im >= 0`; none or zeros starts afresh
///
/// The values of hopping and energy are not looked at here, see [`check_parameters`].
///
/// # Errors
/// [`BkError::Shape`], [`BkError::Empty`] or [`BkError::DType`].
pub fn bk_left(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Option<Tensor<2>>,
) -> Result<BkLeft, BkError> {
    bk_left_with_rule(potential, hopping, energy, state, GradRule::Exact)
}

/// [`bk_left`] with another gradient rule for the potential.
///
/// # Errors
/// As [`bk_left`].
pub fn bk_left_with_rule(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Option<Tensor<2>>,
    rule: GradRule,
) -> Result<BkLeft, BkError> {
    let features = left_features(potential, hopping, energy, state, rule)?;
    let state = last_position(&features);
    Ok(BkLeft { features, state })
}

/// The features of [`bk_left_with_rule`], without its state, which has to be copied from among them.
pub(crate) fn left_features(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Option<Tensor<2>>,
    rule: GradRule,
) -> Result<Tensor<3>, BkError> {
    let [batch, heads] = check_left(&potential, &hopping, &energy, state.as_ref())?;
    let state = state.unwrap_or_else(|| nothing_before(batch, heads, &potential.device()));
    Ok(Tensor::from_dispatch(Dispatch::bk_left(
        potential.into_dispatch(),
        hopping.into_dispatch(),
        energy.into_dispatch(),
        state.into_dispatch(),
        rule,
    )))
}

/// Batch and heads of the arguments of [`bk_left`].
pub(crate) fn check_left(
    potential: &Tensor<3>,
    hopping: &Tensor<1>,
    energy: &Tensor<2>,
    state: Option<&Tensor<2>>,
) -> Result<[usize; 2], BkError> {
    const OP: &str = "bk_left";
    let [batch, _, heads] = check_inputs(OP, potential, hopping, energy)?;
    if let Some(state) = state {
        let axes = "[batch, 2 * heads]";
        check_argument(OP, "state", axes, &[batch, 2 * heads], state)?;
    }
    Ok([batch, heads])
}

/// The features of the last position, `[batch, 2 * heads]` of `[batch, seq, 2 * heads]`.
pub(crate) fn last_position(features: &Tensor<3>) -> Tensor<2> {
    let [_, seq, _] = features.dims();
    features.clone().narrow(1, seq - 1, 1).squeeze_dim(1)
}

/// The bidirectional BK operation, the resolvent's diagonal `G_ii`, with its exact gradient.
///
/// Every output depends on every input position: not for models that predict the next token.
///
/// # Shapes
/// - potential `[batch, seq, heads]`, hopping `[heads]`, energy `[2, heads]` as in [`bk_left`]
/// - output `[batch, seq, 2 * heads]`: Re in the first `heads` columns, Im in the rest
///
/// # Errors
/// [`BkError::Shape`], [`BkError::Empty`] or [`BkError::DType`].
pub fn bk_diagonal(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
) -> Result<Tensor<3>, BkError> {
    bk_diagonal_with_rule(potential, hopping, energy, GradRule::Exact)
}

/// [`bk_diagonal`] with another gradient rule for the potential.
///
/// # Errors
/// As [`bk_diagonal`].
pub fn bk_diagonal_with_rule(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    rule: GradRule,
) -> Result<Tensor<3>, BkError> {
    check_inputs("bk_diagonal", &potential, &hopping, &energy)?;
    Ok(Tensor::from_dispatch(Dispatch::bk_diagonal(
        potential.into_dispatch(),
        hopping.into_dispatch(),
        energy.into_dispatch(),
        rule,
    )))
}

/// Where [`bk_solve_causal`] stopped: pass it in to continue the sequence as if it had not been cut (on Flex, to the bit).
#[derive(Clone, Debug)]
pub struct SolveState {
    /// `L_N`, `[batch, 2 * heads]`: Re in the first `heads` columns, Im in the rest.
    pub resolvent: Tensor<2>,
    /// `d_N`, `[batch, heads, 2 * columns]`, Re then Im.
    pub values: Tensor<3>,
}

/// What [`bk_solve_causal`] returns.
#[derive(Clone, Debug)]
pub struct BkSolveCausal {
    /// `d_i` for every position, `[batch, seq, heads, 2 * columns]`: Re in the first `columns` columns, Im in the rest.
    pub values: Tensor<4>,
    /// `L_N` and `d_N`, constant in the length of the sequence.
    pub state: SolveState,
}

/// `x = (H - z)^-1 u`, for several columns of `u` a head, with its exact gradient.
///
/// `H` has the potential on its diagonal, `b` above and `c` below it, each one number a head:
/// `c x_{i-1} + (a_i - z) x_i + b x_{i+1} = u_i`. Every output depends on every input position: not for models that predict
/// the next token, for which there is [`bk_solve_causal`].
///
/// # Shapes
/// - values `u`: `[batch, seq, heads, columns]`
/// - potential `a`: `[batch, seq, heads]`
/// - upper `b` and lower `c`: `[heads]`, with `b c` not negative
/// - energy `z`: `[2, heads]`, row 0 `Re z`, row 1 `Im z > 0`
/// - output: `[batch, seq, heads, 2 * columns]`, Re in the first `columns` columns, Im in the rest
///
/// The values of the parameters are not looked at here; [`check_parameters`] does, given `b c` as hopping.
///
/// # Errors
/// [`BkError::Shape`], [`BkError::Empty`] or [`BkError::DType`].
pub fn bk_solve(
    values: Tensor<4>,
    potential: Tensor<3>,
    upper: Tensor<1>,
    lower: Tensor<1>,
    energy: Tensor<2>,
) -> Result<Tensor<4>, BkError> {
    check_solve("bk_solve", &values, &potential, &upper, &lower, &energy)?;
    Ok(Tensor::from_dispatch(Dispatch::bk_solve(
        potential.into_dispatch(),
        upper.into_dispatch(),
        lower.into_dispatch(),
        energy.into_dispatch(),
        values.into_dispatch(),
    )))
}

/// The causal half of [`bk_solve`], forward elimination: `d_i = L_i (u_i - c d_{i-1})` with the `L_i` of [`bk_left`] at
/// hopping `b c`.
///
/// From a fresh state `d_i` is the last entry of the solution for the leading `i x i` block: it depends on positions up to
/// `i` only, and one more token costs the same whatever came before it. Gradients are exact in all inputs and the state.
///
/// # Shapes
/// - values, potential, upper, lower and energy as in [`bk_solve`]
/// - state: `L_0` `[batch, 2 * heads]` with `Im >= 0`, and `d_0` `[batch, heads, 2 * columns]`; none starts afresh
///
/// # Errors
/// [`BkError::Shape`], [`BkError::Empty`] or [`BkError::DType`].
pub fn bk_solve_causal(
    values: Tensor<4>,
    potential: Tensor<3>,
    upper: Tensor<1>,
    lower: Tensor<1>,
    energy: Tensor<2>,
    state: Option<SolveState>,
) -> Result<BkSolveCausal, BkError> {
    const OP: &str = "bk_solve_causal";
    let dims = check_solve(OP, &values, &potential, &upper, &lower, &energy)?;
    let [batch, seq, heads, columns] = dims;
    let (entering, state) = match state {
        Some(state) => {
            let SolveState { resolvent, values } = state;
            let axes = "[batch, 2 * heads]";
            check_argument(OP, "state.resolvent", axes, &[batch, 2 * heads], &resolvent)?;
            let axes = "[batch, heads, 2 * columns]";
            let expected = [batch, heads, 2 * columns];
            check_argument(OP, "state.values", axes, &expected, &values)?;
            (Some(resolvent), values)
        }
        None => {
            let options = (&values.device(), DType::F32);
            (None, Tensor::zeros([batch, heads, 2 * columns], options))
        }
    };
    let left = bk_left(potential, upper * lower.clone(), energy, entering)?;
    let values = Tensor::<4>::from_dispatch(Dispatch::bk_eliminate(
        left.features.into_dispatch(),
        lower.into_dispatch(),
        values.into_dispatch(),
        state.into_dispatch(),
    ));
    let last = values.clone().narrow(1, seq - 1, 1).squeeze_dim(1);
    Ok(BkSolveCausal {
        values,
        state: SolveState {
            resolvent: left.state,
            values: last,
        },
    })
}

/// Checks the values of the parameters: hopping finite and not negative, energy finite with a positive imaginary part.
///
/// This waits for the device and copies the parameters to the host: call it where parameters are made or loaded, not in
/// every step.
///
/// # Shapes
/// - hopping `[heads]`, energy `[2, heads]`
///
/// # Errors
/// [`BkError::Parameter`] for the first offending value; [`BkError::Shape`]; [`BkError::Readback`].
pub fn check_parameters(hopping: Tensor<1>, energy: Tensor<2>) -> Result<(), BkError> {
    const OP: &str = "check_parameters";
    let [heads] = hopping.dims();
    check_argument(OP, "energy", "[2, heads]", &[2, heads], &energy)?;
    let hopping = read("hopping", hopping)?;
    let energy = read("energy", energy)?;
    let (real, imaginary) = energy.split_at(heads);
    for head in 0..heads {
        let domain = [
            (
                "hopping",
                hopping[head],
                hopping[head] >= 0.0,
                "finite and at least 0",
            ),
            ("Re energy", real[head], true, "finite"),
            (
                "Im energy",
                imaginary[head],
                imaginary[head] > 0.0,
                "finite and above 0",
            ),
        ];
        for (name, value, inside, bound) in domain {
            if !(inside && value.is_finite()) {
                return Err(BkError::Parameter {
                    name,
                    head,
                    value,
                    bound,
                });
            }
        }
    }
    Ok(())
}

fn read<const D: usize>(name: &'static str, tensor: Tensor<D>) -> Result<Vec<f32>, BkError> {
    let failed = |reason: String| BkError::Readback { name, reason };
    let data = tensor
        .try_into_data()
        .map_err(|error| failed(error.to_string()))?;
    Ok(data.iter::<f32>().collect())
}

/// `L_0` of a fresh start, `[batch, 2 * heads]`; as one row first, for CUDA devices pad several, and kernels would copy them.
pub(crate) fn nothing_before(batch: usize, heads: usize, device: &Device) -> Tensor<2> {
    let options = (device, DType::F32);
    match 2 * batch * heads {
        // Refused with its name where it is looked at.
        0 => Tensor::zeros([batch, 2 * heads], options),
        len => Tensor::<1>::zeros([len], options).reshape([batch, 2 * heads]),
    }
}

pub(crate) fn check_inputs(
    op: &'static str,
    potential: &Tensor<3>,
    hopping: &Tensor<1>,
    energy: &Tensor<2>,
) -> Result<[usize; 3], BkError> {
    let dims = potential.dims();
    let [_, _, heads] = dims;
    if dims.contains(&0) {
        return Err(BkError::Empty {
            op,
            found: dims.to_vec(),
        });
    }
    check_argument(op, "potential", "[batch, seq, heads]", &dims, potential)?;
    check_argument(op, "hopping", "[heads]", &[heads], hopping)?;
    check_argument(op, "energy", "[2, heads]", &[2, heads], energy)?;
    Ok(dims)
}

fn check_solve(
    op: &'static str,
    values: &Tensor<4>,
    potential: &Tensor<3>,
    upper: &Tensor<1>,
    lower: &Tensor<1>,
    energy: &Tensor<2>,
) -> Result<[usize; 4], BkError> {
    let [batch, seq, heads] = potential.dims();
    // Whatever number of columns there is, but not none.
    let columns = values.dims()[3].max(1);
    if potential.dims().contains(&0) {
        return Err(BkError::Empty {
            op,
            found: potential.dims().to_vec(),
        });
    }
    let dims = [batch, seq, heads, columns];
    check_argument(op, "values", "[batch, seq, heads, columns]", &dims, values)?;
    let axes = "[batch, seq, heads]";
    check_argument(op, "potential", axes, &[batch, seq, heads], potential)?;
    check_argument(op, "upper", "[heads]", &[heads], upper)?;
    check_argument(op, "lower", "[heads]", &[heads], lower)?;
    check_argument(op, "energy", "[2, heads]", &[2, heads], energy)?;
    Ok(dims)
}

pub(crate) fn check_argument<const D: usize>(
    op: &'static str,
    name: &'static str,
    axes: &'static str,
    expected: &[usize; D],
    tensor: &Tensor<D>,
) -> Result<(), BkError> {
    if tensor.dims() != *expected {
        return Err(BkError::Shape {
            op,
            name,
            axes,
            expected: expected.to_vec(),
            found: tensor.dims().to_vec(),
        });
    }
    match tensor.dtype() {
        DType::F32 => Ok(()),
        found => Err(BkError::DType { op, name, found }),
    }
}
