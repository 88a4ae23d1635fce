//! GPTQ (arXiv 2210.17323): rounding input by input, with the error of each made up for by the inputs after it.

use super::{Clip, Grid, Level, Quantized, group_size, levels};
use crate::factor::InverseFactor;
use crate::sweep::{Rule, block_of, sweep};
use crate::{Gram, Matrix, MethodError};

/// How GPTQ rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqConfig {
    /// Codes.
    pub grid: Grid,
    /// Inputs that share a scale; 0 for all of a layer.
    pub group: usize,
    /// Range of a group's codes.
    pub clip: Clip,
    /// First damping, as a share of the Hessian's mean diagonal.
    pub damping: f64,
    /// Whether inputs are taken from the strongest to the weakest. The scales then come from the weights as they were, so that a
    /// group stays a group of neighbours and nothing about the order has to be stored.
    pub act_order: bool,
}

/// Quantizes so that the layer's output on the calibration inputs changes little.
///
/// Costs d_input^3 for the factor and d_input^2 d_output for the sweep.
///
/// # Errors
/// No calibration, a grid or group that cannot be, a Hessian that stays indefinite.
pub fn gptq(weights: &Matrix, gram: &Gram, config: GptqConfig) -> Result<Quantized, MethodError> {
    config.grid.check()?;
    gram.check(weights)?;
    let (d_input, d_output) = (weights.d_input(), weights.d_output());
    let group = group_size(d_input, config.group)?;
    let mut order: Vec<usize> = (0..d_input).collect();
    if config.act_order {
        order.sort_by(|&a, &b| gram.product(b, b).total_cmp(&gram.product(a, a)));
    }
    let factor = InverseFactor::new(gram, &order, config.damping)?;
    let mut rows: Vec<f64> = order
        .iter()
        .flat_map(|&input| weights.row(input).iter().map(|&weight| weight.into()))
        .collect();
    // Groups that lie inside a block see the errors before them; a scale for the whole column, or in another order, cannot.
    let follow = !config.act_order && group < d_input;
    let mut rounding = Rounding {
        config,
        group,
        weights,
        order: &order,
        levels: levels(weights, config.grid, group, config.clip),
        codes: vec![0; d_input * d_output],
        follow,
    };
    let block = block_of(if follow { group } else { 1 });
    sweep(&mut rows, &factor, block, &mut rounding);
    let Rounding { levels, codes, .. } = rounding;
    Ok(Quantized {
        grid: config.grid,
        d_input,
        d_output,
        group,
        codes,
        levels,
    })
}

struct Rounding<'a> {
    config: GptqConfig,
    group: usize,
    weights: &'a Matrix,
    order: &'a [usize],
    levels: Vec<Level>,
    codes: Vec<u8>,
    /// Whether scales are fitted anew when a group is reached.
    follow: bool,
}

impl Rule for Rounding<'_> {
    fn before(&mut self, k: usize, rows: &[f64], _factor: &InverseFactor) {
        if !self.follow || !k.is_multiple_of(self.group) {
            return;
        }
        let d_output = self.weights.d_output();
        for output in 0..d_output {
            let group = rows.iter().skip(output).step_by(d_output);
            let values: Vec<f64> = group.take(self.group).copied().collect();
            self.levels[k / self.group * d_output + output] =
                self.config.grid.fit(&values, self.config.clip);
        }
    }

    fn apply(&mut self, k: usize, row: &mut [f64]) {
        let (input, d_output) = (self.order[k], row.len());
        let levels = &self.levels[input / self.group * d_output..][..d_output];
        let codes = &mut self.codes[input * d_output..][..d_output];
        let before = self.weights.row(input);
        for (output, weight) in row.iter_mut().enumerate() {
            let level = levels[output];
            codes[output] = self.config.grid.code(level, *weight, before[output] == 0.0);
            *weight = level.value(codes[output]).into();
        }
    }
}
