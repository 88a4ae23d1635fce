//! Quantization of weights: from real numbers to codes of a few bits with scales.
//!
//! A weight is w' = s (q - z) with a code q in 0 .. 2^bits, a scale s and an integer zero point z for each output and group of
//! inputs. Scales are rounded to half precision before codes are chosen, so that what is stored is what was optimised. A weight
//! that is exactly zero stays so, whatever the method: quantization after pruning keeps the zeros.

mod awq;
mod gptq;
mod grid;
mod smooth;

pub use awq::{AwqConfig, Scaled, awq};
pub use gptq::{GptqConfig, gptq};
pub use grid::{Clip, Grid, Level};
pub use smooth::smoothing;

use crate::{Matrix, MethodError};

/// Weights as codes and scales. Element (input, output) of group g = input / group is `scales[g][output] *
/// (codes[input][output] - zeros[g][output])`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// How codes stand for numbers.
    pub grid: Grid,
    /// Inputs of a layer.
    pub d_input: usize,
    /// Outputs of a layer.
    pub d_output: usize,
    /// Inputs that share a scale; `d_input` for one scale an output.
    pub group: usize,
    /// One code a weight, `[d_input, d_output]`.
    pub codes: Vec<u8>,
    /// One level a group and output, `[groups, d_output]`.
    pub levels: Vec<Level>,
}

impl Quantized {
    /// The weights that the codes stand for.
    pub fn dequantize(&self) -> Vec<f32> {
        let group_of = |at: usize| at / self.d_output / self.group;
        self.codes
            .iter()
            .enumerate()
            .map(|(at, code)| {
                self.levels[group_of(at) * self.d_output + at % self.d_output].value(*code)
            })
            .collect()
    }
}

/// Rounds every weight to the nearest code of its group.
///
/// # Errors
/// A grid or a group that cannot be.
pub fn round_to_nearest(
    weights: &Matrix,
    grid: Grid,
    group: usize,
    clip: Clip,
) -> Result<Quantized, MethodError> {
    grid.check()?;
    let group = group_size(weights.d_input(), group)?;
    let d_output = weights.d_output();
    let levels = levels(weights, grid, group, clip);
    let codes = weights
        .values()
        .iter()
        .enumerate()
        .map(|(at, &weight)| {
            let level = levels[at / d_output / group * d_output + at % d_output];
            grid.code(level, weight.into(), weight == 0.0)
        })
        .collect();
    Ok(Quantized {
        grid,
        d_input: weights.d_input(),
        d_output,
        group,
        codes,
        levels,
    })
}

/// Levels of every group and output, `[groups, d_output]`.
fn levels(weights: &Matrix, grid: Grid, group: usize, clip: Clip) -> Vec<Level> {
    let width = weights.d_output();
    let rows = weights.values();
    (0..weights.d_input())
        .step_by(group)
        .flat_map(|first| {
            (0..width).map(move |output| {
                let values: Vec<f64> = (first..first + group)
                    .map(|input| rows[input * width + output].into())
                    .collect();
                grid.fit(&values, clip)
            })
        })
        .collect()
}

/// The inputs of a group; 0 stands for all of a layer.
fn group_size(d_input: usize, group: usize) -> Result<usize, MethodError> {
    match group {
        0 => Ok(d_input),
        group if d_input.is_multiple_of(group) => Ok(group),
        _ => Err(MethodError::Shape {
            what: "number of a layer's inputs",
            value: d_input,
            why: format!(
                "`group` = {group} does not divide it; choose a divisor, or 0 for one scale an output"
            ),
        }),
    }
}

#[cfg(test)]
mod tests;
