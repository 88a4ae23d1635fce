//! Gradient rules for the potential: the exact one, and the approximations that the literature trains with.

use serde::{Deserialize, Serialize};

/// `|L^2|` (or `|G_ii^2|`) is taken to be at least this large where [`GradRule::Hyp7`] divides by it.
pub const HYP7_FLOOR: f32 = 1e-6;

/// How the cotangent `g_i` of an output `X_i` (`L_i` or `G_ii`) becomes the cotangent `d alpha_i` of `alpha_i = a_i - z`.
///
/// The potential receives `Re d alpha_i` and the energy `-sum_i d alpha_i`, whatever the rule. Hopping and entering state
/// always receive their exact gradients, because the approximate rules say nothing about them.
///
/// | rule | `d alpha_i` |
/// |---|---|
/// | `Exact` | the full Jacobian, by the reverse sweeps of [`adjoint`](crate::adjoint) |
/// | `Local` | `-g_i X_i^2`, the diagonal of the Jacobian |
/// | `Hyp7` | `-g_i / X_i^2`, with the modulus of the divisor floored at [`HYP7_FLOOR`] |
/// | `Blend(t)` | `(1 - t) Local + t Hyp7` |
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradRule {
    /// The exact vector-Jacobian product.
    #[default]
    Exact,
    /// Only the diagonal of the Jacobian.
    Local,
    /// The "hypothesis 7" rule: division by the squared resolvent where calculus multiplies.
    Hyp7,
    /// A mixture: 0 is [`Local`](Self::Local), 1 is [`Hyp7`](Self::Hyp7).
    Blend(f32),
}

impl GradRule {
    /// The weight of the hypothesis-7 part, or `None` for the exact rule.
    pub(crate) fn blend(self) -> Option<f32> {
        match self {
            Self::Exact => None,
            Self::Local => Some(0.0),
            Self::Hyp7 => Some(1.0),
            Self::Blend(t) => Some(t),
        }
    }
}
