//! `[quantize]`: training with weights as they will be packed.
//!
//! ```text
//! w' = s (q - z)          s, z, q of w as it stands: what the forward pass computes with
//! w -= rate g(w')         the gradient of w' moves w, straight through the rounding (Bengio et al., arXiv 1308.3432)
//! ```
//! Integer levels get their scale from the range of their group (arXiv 1712.05877), clipped where that has less squared error if
//! asked for; ternary ones from the mean size (BitNet b1.58, arXiv 2402.17764); signs too (XNOR-Net, arXiv 1603.05279).

use burn::tensor::{Tensor, TensorData};
use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix, QuantError};
use serde::{Deserialize, Serialize};

use crate::selection::Selection;

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
    /// Layers by patterns of their names, `*` standing for anything; the embedding is `tokens`.
    #[serde(default = "all")]
    pub layers: Vec<String>,
    /// And none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

fn all() -> Vec<String> {
    Selection::default().layers
}

impl QuantizeConfig {
    /// The section with nothing but levels: one scale an output, with zero points where there can be some.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            group: 0,
            symmetric: false,
            clip: false,
            layers: all(),
            except: Vec::new(),
        }
    }

    /// The layers that it is about.
    pub fn selection(&self) -> Selection {
        Selection {
            layers: self.layers.clone(),
            except: self.except.clone(),
        }
    }

    /// How a matrix of this shape is packed.
    pub fn format(&self, [d_input, d_output]: [usize; 2]) -> PackedFormat {
        let multiples = (1..=self.group / GROUP_ALIGN).rev();
        let mut groups = multiples.map(|count| count * GROUP_ALIGN);
        PackedFormat {
            encoding: self.encoding,
            asymmetric: self.encoding.has_zero_points() && !self.symmetric,
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
mod tests {
    use burn::tensor::Device;

    use super::*;

    const ENCODINGS: [Encoding; 6] = Encoding::ALL;

    fn weights() -> Vec<f32> {
        let value =
            |at: u32| ((at.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.4) * 0.3;
        (0..64 * 6).map(value).collect()
    }

    fn config(encoding: Encoding) -> QuantizeConfig {
        QuantizeConfig {
            group: 32,
            ..QuantizeConfig::new(encoding)
        }
    }

    /// What is trained with is bit for bit what comes out of the packed words.
    #[test]
    fn packed_numbers_are_those_that_were_trained_with() {
        for encoding in ENCODINGS {
            for (symmetric, clip) in [(false, false), (true, false), (false, true), (true, true)] {
                let config = QuantizeConfig {
                    symmetric,
                    clip,
                    ..config(encoding)
                };
                let matrix = matrix(weights(), [64, 6], &Device::flex());
                let rounded = Rounded::new(matrix, config.format([64, 6]), clip);
                let trained: Vec<f32> = rounded.values().into_data().iter().collect();
                let packed = rounded.packed().unwrap();
                assert_eq!(packed.format().group, 32);
                assert_eq!(
                    packed.dequantize(),
                    trained,
                    "{encoding:?} {symmetric} {clip}"
                );
            }
        }
    }

    /// More levels are nearer, no weight is further than half a step, and clipping pays at few bits.
    #[test]
    fn levels_are_the_nearest() {
        let error = |encoding, clip| {
            let matrix = matrix(weights(), [64, 6], &Device::flex());
            let format = config(encoding).format([64, 6]);
            let rounded = Rounded::new(matrix, format, clip).values().into_data();
            let pairs = weights().into_iter().zip(rounded.iter::<f32>());
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let errors: Vec<f64> = ENCODINGS
            .iter()
            .map(|encoding| error(*encoding, false))
            .collect();
        assert!(errors.is_sorted(), "{errors:?}");
        assert!(error(Encoding::Int2, true) <= error(Encoding::Int2, false));
        // A step is at most 0.3 / 15 of these weights.
        let bound = 64.0 * 6.0 * (0.5 * 0.3 / 15.0_f64).powi(2);
        assert!(errors[1] < bound, "{errors:?}");
    }

    /// Zeros stay zeros, groups of zeros too.
    #[test]
    fn zeros_stay() {
        let mut values = weights();
        values.iter_mut().step_by(3).for_each(|value| *value = 0.0);
        values[..32 * 6].fill(0.0);
        for encoding in &ENCODINGS[..5] {
            let matrix = matrix(values.clone(), [64, 6], &Device::flex());
            let rounded = Rounded::new(matrix, config(*encoding).format([64, 6]), false);
            let found = rounded.packed().unwrap().dequantize();
            for (before, after) in values.iter().zip(found) {
                assert!(*before != 0.0 || after == 0.0, "{encoding:?}");
            }
        }
    }

    #[test]
    fn a_group_gives_way_to_the_width() {
        let group = |d_input| {
            let config = QuantizeConfig {
                group: 64,
                ..QuantizeConfig::new(Encoding::Int4)
            };
            config.format([d_input, 4]).group
        };
        assert_eq!([128, 96, 100].map(group), [64, 32, 100]);
    }
}
