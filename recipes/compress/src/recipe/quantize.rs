//! Stages that quantize.

use std::fmt;

use kiln_train::matches;
use serde::{Deserialize, Serialize};

use crate::quantize::{Clip, Grid};

/// Packed groups are multiples of this many inputs.
const GROUP_ALIGN: usize = 32;

/// A stage that quantizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    /// How codes are chosen.
    pub method: QuantizeMethod,
    /// Codes of a weight.
    pub grid: Grid,
    /// Which layers get how many bits is found out, if this is there.
    pub auto: Option<Auto>,
    /// Layers with bits of their own, by pattern; the first that matches counts.
    pub bits_of: Vec<(String, u8)>,
    /// Inputs that share a scale; 0 for all of a layer.
    pub group: usize,
    /// Whether a layer whose inputs the group does not divide takes the next smaller one that does, or else one scale an output.
    /// Otherwise it is an error.
    pub nearest_group: bool,
    /// Range of a group's codes.
    pub clip: Clip,
    /// How complex layers are scaled: those of BK mixers whose inputs or outputs are real and imaginary parts. Without it they are taken as
    /// real matrices.
    pub complex: Option<Complex>,
}

/// Scales of a group of complex numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Complex {
    /// One for both parts.
    Shared,
    /// One for the real parts and one for the imaginary ones.
    Separate,
}

/// Bits for each layer by what they are worth there, within a budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auto {
    /// Share of the layers' bytes in 32 bits that they may take, scales included.
    pub budget: f64,
    /// Windows of the calibration's text that every layer is measured on with every number of bits.
    pub windows: usize,
}

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QuantizeMethod {
    /// Each weight by itself.
    RoundToNearest,
    /// With compensation.
    Gptq {
        /// See [`crate::quantize::GptqConfig::damping`].
        damping: f64,
        /// See [`crate::quantize::GptqConfig::act_order`].
        act_order: bool,
    },
    /// With inputs scaled by what they carry.
    Awq,
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            QuantizeMethod::RoundToNearest => "rtn",
            QuantizeMethod::Gptq {
                act_order: false, ..
            } => "gptq",
            QuantizeMethod::Gptq {
                act_order: true, ..
            } => "gptq by activation",
            QuantizeMethod::Awq => "awq",
        };
        match self.auto {
            Some(auto) => write!(f, "{method}, bits within {}", auto.budget)?,
            None => write!(f, "{method}, {} bits", self.grid.bits)?,
        }
        match self.group {
            0 => f.write_str(", scales by output")?,
            group => write!(f, ", groups of {group}")?,
        }
        if self.clip == Clip::Mse {
            f.write_str(", clipped")?;
        }
        match self.complex {
            Some(Complex::Shared) => f.write_str(", parts share scales")?,
            Some(Complex::Separate) => f.write_str(", parts have their scales")?,
            None => {}
        }
        Ok(())
    }
}

impl Quantize {
    /// The largest group up to the asked for one that divides `d_input` and that there is a packed storage for (a multiple of 32);
    /// 0, one scale an output, if there is none.
    pub fn group_that_fits(&self, d_input: usize) -> usize {
        let fits = |group: &usize| d_input.is_multiple_of(*group);
        let most = self.group / GROUP_ALIGN;
        let groups = (1..=most).rev().map(|count| count * GROUP_ALIGN);
        groups.into_iter().find(fits).unwrap_or(0)
    }

    /// The bits of a layer that has its own.
    pub fn own_bits(&self, layer: &str) -> Option<u8> {
        let mut all = self.bits_of.iter();
        let own = all.find(|(pattern, _)| matches(pattern, layer));
        own.map(|(_, bits)| *bits)
    }

    /// The grid of a layer.
    pub fn grid_of(&self, layer: &str) -> Grid {
        Grid {
            bits: self.own_bits(layer).unwrap_or(self.grid.bits),
            ..self.grid
        }
    }
}
