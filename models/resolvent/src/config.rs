//! Settings of the resolvent mixer.

use kiln_backbone::{BackboneConfig, ModelError};
use kiln_bk::ResolventForm;
use serde::{Deserialize, Serialize};

/// Learned widths stay above this. The range of a head is about 1/eta tokens, so this one is out of the way of training.
pub(crate) const ETA_FLOOR: f64 = 1e-4;

/// What stands before the first token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// Nothing: the chain begins there. Waves are thrown back by its end, and where nothing scatters them the weights of a row
    /// stand still as sin^2(j theta), with 2 cos(theta) = Re z / sqrt(beta): at Re z = 0 every other token has none.
    #[default]
    Wall,
    /// A chain without end and without potentials, in which waves go on: where nothing scatters them weights fade evenly, from the
    /// first token on. It holds no tokens, so that its share of a row is lost to the sum.
    Open,
}

/// Settings of the resolvent mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolventConfig {
    /// Number of heads, each with its own energy, hopping and potential; divides `d_model` where `d_value` follows from it.
    pub heads: usize,
    /// Width of a head's queries and keys.
    pub d_key: usize,
    /// Width of a head's values; 0 is d_model / heads. A model that has lost heads keeps the width of those that stay.
    #[serde(default)]
    pub d_value: usize,
    /// Tokens that the convolution of queries, keys and values sees, the present one included; 0 or 1 leaves it out.
    pub conv_width: usize,
    /// Weights of the past: probabilities |G_ij|^2 (born), or G_ij with its phase (complex).
    pub form: ResolventForm,
    /// Initial Re z of the first and the last head; the others are spaced evenly between.
    pub energy: [f64; 2],
    /// Initial Im z of the narrowest and the widest head, spaced evenly in the logarithm and dealt out in an order that does
    /// not follow the energies. A head's range is at most about 1 / Im z tokens.
    pub eta: [f64; 2],
    /// Initial beta = b c of every head.
    pub hopping: f64,
    /// Whether z is trained.
    pub learn_energy: bool,
    /// Whether the hopping is trained.
    pub learn_hopping: bool,
    /// Bound on |v|; 0 leaves the potential unbounded.
    pub potential_bound: f64,
    /// What stands before the first token.
    #[serde(default)]
    pub boundary: Boundary,
    /// Initial standard deviation of the potential, before its bound, of inputs with a mean square of one. Potentials that differ
    /// from token to token localise: a head reaches no further than some 8 / potential_std^2 tokens, whatever its width.
    #[serde(default = "unit")]
    pub potential_std: f64,
    /// Whether queries and keys are divided by their root mean square.
    pub qk_norm: bool,
    /// Whether a position's own value, weighted a channel, is added to what it reads: a way past the resolvent for what the
    /// convolution found. Weights of the past add up to one, so that what is read of one token fades with the range, and the own
    /// value does not: heads that are to find single tokens far back do without it.
    pub skip: bool,
    /// Whether the output is gated by silu(W_g x).
    pub gate: bool,
    /// Probability that a head forgets a token in training: its key is left out for all queries alike, and the others are
    /// scaled so that weights keep their mean.
    pub key_dropout: f64,
}

/// Recipes of before there was a choice.
fn unit() -> f64 {
    1.0
}

impl Default for ResolventConfig {
    fn default() -> Self {
        Self {
            heads: 4,
            d_key: 32,
            d_value: 0,
            conv_width: 4,
            form: ResolventForm::Born,
            energy: [-1.8, 1.8],
            eta: [0.01, 2.0],
            hopping: 1.0,
            learn_energy: true,
            learn_hopping: true,
            potential_bound: 4.0,
            boundary: Boundary::Wall,
            potential_std: unit(),
            qk_norm: true,
            skip: true,
            gate: true,
            key_dropout: 0.0,
        }
    }
}

impl ResolventConfig {
    /// Width of a head's values, of a valid configuration.
    pub fn value_width(&self, backbone: &BackboneConfig) -> usize {
        match self.d_value {
            0 => backbone.d_model / self.heads,
            d_value => d_value,
        }
    }

    /// Checks every size and range against the backbone's.
    ///
    /// # Errors
    /// If `heads` does not divide `d_model`; else names the first setting out of its range.
    pub fn validate(&self, backbone: &BackboneConfig) -> Result<(), ModelError> {
        for (name, value) in [
            ("resolvent.heads", self.heads),
            ("resolvent.d_key", self.d_key),
        ] {
            if value == 0 {
                let least = 1;
                return Err(ModelError::TooSmall { name, value, least });
            }
        }
        if self.d_value == 0 && !backbone.d_model.is_multiple_of(self.heads) {
            return Err(ModelError::NotDivisible {
                part: "resolvent.heads",
                part_value: self.heads,
                whole: "d_model",
                whole_value: backbone.d_model,
            });
        }
        let range = |name, value: f64, ok: bool, range| match ok && value.is_finite() {
            true => Ok(()),
            false => Err(ModelError::OutOfRange { name, value, range }),
        };
        for eta in self.eta {
            range("resolvent.eta", eta, eta > ETA_FLOOR, "(0.0001, inf)")?;
        }
        for energy in self.energy {
            range("resolvent.energy", energy, true, "the finite numbers")?;
        }
        let hopping = self.hopping;
        range("resolvent.hopping", hopping, hopping > 0.0, "(0, inf)")?;
        let bound = self.potential_bound;
        range("resolvent.potential_bound", bound, bound >= 0.0, "[0, inf)")?;
        let std = self.potential_std;
        range("resolvent.potential_std", std, std >= 0.0, "[0, inf)")?;
        let dropout = self.key_dropout;
        let inside = (0.0..1.0).contains(&dropout);
        range("resolvent.key_dropout", dropout, inside, "[0, 1)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        type Change = fn(&mut ResolventConfig);
        let table: [(Change, &str); 8] = [
            (
                |c| c.heads = 0,
                "`resolvent.heads` is 0, but must be at least 1",
            ),
            (
                |c| c.heads = 5,
                "`resolvent.heads` = 5 does not divide `d_model` = 64; choose a divisor of 64",
            ),
            (
                |c| c.d_key = 0,
                "`resolvent.d_key` is 0, but must be at least 1",
            ),
            (
                |c| c.eta = [1e-4, 1.0],
                "`resolvent.eta` is 0.0001, but must lie in (0.0001, inf)",
            ),
            (
                |c| c.hopping = 0.0,
                "`resolvent.hopping` is 0, but must lie in (0, inf)",
            ),
            (
                |c| c.potential_bound = -1.0,
                "`resolvent.potential_bound` is -1, but must lie in [0, inf)",
            ),
            (
                |c| c.potential_std = -0.5,
                "`resolvent.potential_std` is -0.5, but must lie in [0, inf)",
            ),
            (
                |c| c.key_dropout = 1.0,
                "`resolvent.key_dropout` is 1, but must lie in [0, 1)",
            ),
        ];
        let (backbone, _) = (crate::PRESETS[0].config)();
        for (change, expected) in table {
            let mut config = ResolventConfig::default();
            change(&mut config);
            let error = config.validate(&backbone).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
