//! `[quantize]`: training with weights as they will be packed.
//!
//! ```text
//! w' = s (q - z)          s, z, q of w as it stands: what the forward pass computes with
//! w -= rate g(w')         the gradient of w' moves w, straight through the rounding (Bengio et al., arXiv 1308.3432)
//! ```
//! Steps may be learned too (see `learned.rs`). Otherwise integer levels get their scale from the range of their group (arXiv 1712.05877), clipped where that has less squared error if
//! asked for; ternary ones from the mean size (BitNet b1.58, arXiv 2402.17764); signs too (XNOR-Net, arXiv 1603.05279). With signs
//! inputs can be rounded as well, to their signs and mean size (see [`kiln_quant::signs`]).

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix, QuantError};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::selection::{Selection, every_layer, matches};
use crate::storage::InputSteps;

/// Groups of packed weights are multiples of this many inputs.
const GROUP_ALIGN: usize = 32;
/// Shares of a group's range that are tried with clipping.
const CLIPS: [f64; 8] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];
/// The least scale: below it, half precision loses digits, and what is packed would be another number.
const LEAST_SCALE: f64 = 6.103_515_625e-5;
/// 2^13 + 1: takes a number of 24 bits apart into its upper 11 and the rest (Veltkamp).
const SPLIT: f64 = 8193.0;

/// Settings of training with rounded weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizeConfig {
    /// Levels of a weight: `int8`, `int4`, `int3`, `int2`, `ternary` or `sign`.
    pub encoding: Encoding,
    /// Inputs that share a scale; 0 is one scale an output. A layer whose inputs it does not divide takes the next smaller multiple
    /// of 32 that does, or one scale an output.
    #[serde(default)]
    pub group: usize,
    /// Whether integer levels are about zero; otherwise they have zero points.
    #[serde(default)]
    pub symmetric: bool,
    /// Whether the range of integer levels is clipped to the share that has the least squared error.
    #[serde(default)]
    pub clip: bool,
    /// Whether the steps are learned as the weights are (LSQ, arXiv 1902.08153), from those that they would have otherwise. For levels
    /// about zero: `symmetric` integers, and ternary ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learned: bool,
    /// What the inputs of linear layers of signs are rounded to: `sign`, their signs times the mean size of a token's. As they are without
    /// it. Such layers have one scale an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<InputSteps>,
    /// Levels of layers by patterns of their names; the first that matches counts, and `encoding` where none does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encoding_of: BTreeMap<String, Encoding>,
    /// Layers by patterns of their names, `*` standing for anything; the embedding is `tokens`.
    #[serde(default = "every_layer")]
    pub layers: Vec<String>,
    /// And none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

impl QuantizeConfig {
    /// The section with nothing but levels: one scale an output, with zero points where there can be some.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            group: 0,
            symmetric: false,
            clip: false,
            learned: false,
            inputs: None,
            encoding_of: BTreeMap::new(),
            layers: every_layer(),
            except: Vec::new(),
        }
    }

    /// The layers that it is about.
    pub fn selection(&self) -> Selection {
        Selection::of(&self.layers, &self.except)
    }

    /// Checks every key, and what no single one shows.
    ///
    /// # Errors
    /// A group that cannot be packed, levels of floating point, a range of levels that have none, learned steps of levels that are not about zero,
    /// inputs that are rounded without weights that are signs.
    pub fn check(&self) -> Result<(), TrainError> {
        if !self.group.is_multiple_of(GROUP_ALIGN) {
            let why = "groups of packed weights are multiples of 32; 0 is one scale an output";
            return Err(TrainError::setting("quantize.group", self.group, why));
        }
        let all = || self.encoding_of.values().chain([&self.encoding]);
        if all().any(|encoding| *encoding == Encoding::E4m3) {
            return Err(TrainError::setting(
                "quantize.encoding",
                "e4m3",
                "weights are not trained in floating point of 8 bits: store the trained model so, with a stage `method = \"fp8\"`",
            ));
        }
        let has_range = all().any(|encoding| encoding.has_zero_points());
        for (key, given) in [
            ("quantize.symmetric", self.symmetric),
            ("quantize.clip", self.clip),
        ] {
            if given && !has_range {
                let why = "ternary levels and signs are about zero and have no range to clip: leave the key out";
                return Err(TrainError::setting(key, true, why));
            }
        }
        self.check_inputs()?;
        let unlike = |encoding: &&Encoding| match encoding {
            Encoding::Ternary => false,
            Encoding::Sign => true,
            _ => !self.symmetric,
        };
        match all().find(unlike).filter(|_| self.learned) {
            None => Ok(()),
            Some(encoding) => Err(TrainError::setting(
                "quantize.learned",
                "true",
                format!(
                    "steps are learned of levels about zero, and {encoding:?} here has others: take integers with `symmetric = true`, or `ternary`"
                ),
            )),
        }
    }

    fn check_inputs(&self) -> Result<(), TrainError> {
        let key = "quantize.inputs";
        let refused = |value, why| Err(TrainError::setting(key, value, why));
        let later = "training rounds inputs to signs alone: take \"sign\", or leave it out; inputs become integers after training, by a stage `method = \"w8a8\"`";
        let mut all = self.encoding_of.values().chain([&self.encoding]);
        match self.inputs {
            None => Ok(()),
            Some(InputSteps::Static) => refused("static", later),
            Some(InputSteps::Dynamic) => refused("dynamic", later),
            Some(InputSteps::Sign) if !all.any(|encoding| *encoding == Encoding::Sign) => {
                let why = "inputs become signs where weights are signs: take those (`encoding = \"sign\"`, in a compression `method = \"sign\"`), or leave it out";
                refused("sign", why)
            }
            Some(InputSteps::Sign) if self.group > 0 => {
                let why = "products of signs have one scale an output: set it to 0, or leave `inputs` out";
                Err(TrainError::setting("quantize.group", self.group, why))
            }
            Some(InputSteps::Sign) => Ok(()),
        }
    }

    /// Whether the inputs of a layer become signs, if it is a linear one.
    pub(crate) fn takes_signs(&self, layer: &str) -> bool {
        self.inputs == Some(InputSteps::Sign) && self.encoding_of(layer) == Encoding::Sign
    }

    /// The levels of a layer.
    pub fn encoding_of(&self, layer: &str) -> Encoding {
        let mut own = self.encoding_of.iter();
        let own = own.find(|(pattern, _)| matches(pattern, layer));
        own.map_or(self.encoding, |(_, encoding)| *encoding)
    }

    /// How a matrix of this shape is packed in a layer.
    pub fn format(&self, layer: &str, [d_input, d_output]: [usize; 2]) -> PackedFormat {
        let encoding = self.encoding_of(layer);
        let multiples = (1..=self.group / GROUP_ALIGN).rev();
        let mut groups = multiples.map(|count| count * GROUP_ALIGN);
        PackedFormat {
            encoding,
            asymmetric: encoding.has_zero_points() && !self.symmetric,
            d_input,
            d_output,
            group: groups
                .find(|group| d_input.is_multiple_of(*group))
                .unwrap_or(d_input),
            scales: FloatType::F16,
        }
    }
}

/// Weights as levels with scales.
pub(crate) struct Rounded {
    format: PackedFormat,
    /// `[groups, group, d_output]`
    levels: Tensor<3>,
    /// `[groups, 1, d_output]`
    scales: Tensor<3>,
    /// `[groups, 1, d_output]`, if there are zero points.
    zeros: Option<Tensor<3>>,
}

impl Rounded {
    /// The levels nearest to `[d_input, d_output]`.
    pub fn new(weights: Tensor<2>, format: PackedFormat, clip: bool) -> Self {
        let PackedFormat {
            d_output, group, ..
        } = format;
        let weights = weights.reshape([format.groups(), group, d_output]);
        let of = |share| Self::with_range(weights.clone(), format, share);
        match (clip, format.encoding) {
            (true, Encoding::Int8 | Encoding::Int4 | Encoding::Int3 | Encoding::Int2) => {
                let error = |rounded: &Self| {
                    let gone = rounded.grouped() - weights.clone();
                    (gone.clone() * gone).sum_dim(1) // [groups, 1, d_output]
                };
                let whole = of(CLIPS[0]);
                let start = (error(&whole), whole);
                let shares = CLIPS[1..].iter();
                let (_, best) = shares.fold(start, |(least, best), share| {
                    let other = of(*share);
                    let found = error(&other);
                    let better = found.clone().lower(least.clone());
                    let least = least.mask_where(better.clone(), found);
                    (least, best.replaced(better, other))
                });
                best
            }
            _ => of(1.0),
        }
    }

    /// The levels nearest to `[d_input, d_output]` with steps that are given, `[groups, 1, d_output]`, for levels about zero.
    pub fn with_steps(weights: Tensor<2>, format: PackedFormat, steps: Tensor<3>) -> Self {
        let range = format.encoding.levels(false);
        let (least, most) = (f64::from(*range.start()), f64::from(*range.end()));
        let weights = weights.reshape([format.groups(), format.group, format.d_output]);
        let scales = half_precision(steps);
        Self {
            format,
            levels: (weights / scales.clone()).round().clamp(least, most),
            scales,
            zeros: None,
        }
    }

    /// The scales, `[groups, 1, d_output]`.
    pub fn scales(&self) -> Tensor<3> {
        self.scales.clone()
    }

    /// The levels, `[groups, group, d_output]`.
    pub fn levels(&self) -> Tensor<3> {
        self.levels.clone()
    }

    /// The levels of `[groups, group, d_output]` within a share of the range of each group.
    fn with_range(weights: Tensor<3>, format: PackedFormat, share: f64) -> Self {
        let range = format.encoding.levels(format.asymmetric);
        let (least, most) = (f64::from(*range.start()), f64::from(*range.end()));
        let mean_size = |weights: Tensor<3>| half_precision(weights.abs().mean_dim(1));
        let (levels, scales, zeros) = match format.encoding {
            Encoding::Sign => {
                let scales = mean_size(weights.clone());
                let below = weights.clone().lower_elem(0.0);
                let levels = weights.ones_like();
                (levels.clone().mask_where(below, levels.neg()), scales, None)
            }
            Encoding::Ternary => {
                let scales = mean_size(weights.clone());
                let levels = (weights / scales.clone()).round().clamp(least, most);
                (levels, scales, None)
            }
            _ if format.asymmetric => {
                let low = weights.clone().min_dim(1).clamp_max(0.0).mul_scalar(share);
                let high = weights.clone().max_dim(1).clamp_min(0.0).mul_scalar(share);
                let scales = half_precision((high - low.clone()).div_scalar(most));
                let zeros = (low.neg() / scales.clone()).round().clamp(least, most);
                let levels = (weights / scales.clone()).round() + zeros.clone();
                (levels.clamp(least, most), scales, Some(zeros))
            }
            _ => {
                let size = weights.clone().abs().max_dim(1).mul_scalar(share);
                let scales = half_precision(size.div_scalar(most));
                let levels = (weights / scales.clone()).round().clamp(least, most);
                (levels, scales, None)
            }
        };
        Self {
            format,
            levels,
            scales,
            zeros,
        }
    }

    /// Those of another rounding where `other_is_better` says so, `[groups, 1, d_output]`.
    fn replaced(self, other_is_better: Tensor<3, burn::tensor::Bool>, other: Self) -> Self {
        let group = self.format.group as i64;
        let wide = other_is_better.clone().expand([-1, group, -1]);
        let zeros = match (self.zeros, other.zeros) {
            (Some(zeros), Some(others)) => Some(zeros.mask_where(other_is_better.clone(), others)),
            _ => None,
        };
        Self {
            format: self.format,
            levels: self.levels.mask_where(wide, other.levels),
            scales: self.scales.mask_where(other_is_better, other.scales),
            zeros,
        }
    }

    fn grouped(&self) -> Tensor<3> {
        let levels = match &self.zeros {
            Some(zeros) => self.levels.clone() - zeros.clone(),
            None => self.levels.clone(),
        };
        levels * self.scales.clone()
    }

    /// The numbers that the levels stand for, `[d_input, d_output]`.
    pub fn values(&self) -> Tensor<2> {
        let PackedFormat {
            d_input, d_output, ..
        } = self.format;
        self.grouped().reshape([d_input, d_output])
    }

    /// The same numbers, packed.
    ///
    /// # Errors
    /// Weights that are not finite.
    pub fn packed(self) -> Result<PackedMatrix, QuantError> {
        let numbers = |tensor: Tensor<3>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
        let levels: Vec<i16> = numbers(self.levels).iter().map(|q| *q as i16).collect();
        let zeros = self.zeros.map(numbers);
        let zeros: Option<Vec<u8>> =
            zeros.map(|zeros| zeros.iter().map(|zero| *zero as u8).collect());
        PackedMatrix::pack(
            self.format,
            &levels,
            &numbers(self.scales),
            zeros.as_deref(),
        )
    }
}

/// Positive numbers with the 11 bits of half precision, so that what is trained with is what is stored.
fn half_precision(scales: Tensor<3>) -> Tensor<3> {
    let scales = scales.clamp_min(LEAST_SCALE);
    let high = scales.clone().mul_scalar(SPLIT);
    high.clone() - (high - scales)
}

/// A matrix of some values on a device.
pub(crate) fn matrix(
    values: Vec<f32>,
    shape: [usize; 2],
    device: &burn::tensor::Device,
) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests;
