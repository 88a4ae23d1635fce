//! Stages that train.

use std::fmt;

use kiln_quant::Encoding;
use kiln_train::{AdaptersConfig, PruneConfig, QuantizeConfig};

/// A stage that trains the model for a while, in the form that the stage before left it in.
#[derive(Clone, Debug, PartialEq)]
pub struct Recover {
    /// Updates.
    pub steps: u64,
    /// Peak learning rate, after a warm-up of a twentieth of the steps; half a cosine to a tenth of it.
    pub learning_rate: f64,
    /// Sequences of an update; 0 takes as many as the run was trained with.
    pub batch: usize,
    /// Share of the loss that is the divergence from the original model's answers; the rest is cross-entropy.
    pub distill: f64,
    /// Temperature of both distributions there.
    pub temperature: f64,
    /// Weights that are trained as they will be packed, and are packed after the last step.
    pub quantize: Option<QuantizeConfig>,
    /// Weights that become zero one after the other meanwhile.
    pub prune: Option<PruneConfig>,
    /// What linear layers move by, if not by themselves.
    pub adapters: Option<AdaptersConfig>,
}

impl Recover {
    /// Its kind, as recipes call it.
    pub fn kind(&self) -> &'static str {
        match (&self.quantize, &self.prune) {
            (Some(_), _) => "qat",
            (None, Some(_)) => "gradual",
            (None, None) => "recover",
        }
    }
}

impl fmt::Display for Recover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.quantize, &self.prune) {
            (None, None) => f.write_str("recovery")?,
            (None, Some(config)) => write!(f, "gradual pruning, {} zeros", config.sparsity)?,
            (Some(config), _) => {
                match config.encoding {
                    Encoding::Ternary => f.write_str("ternary qat")?,
                    Encoding::Sign => f.write_str("sign qat")?,
                    encoding => write!(f, "qat, {} bits", encoding.bits())?,
                }
                if config.inputs.is_some() {
                    f.write_str(", sign inputs")?;
                }
                match config.group {
                    0 => f.write_str(", scales by output")?,
                    group => write!(f, ", groups of {group}")?,
                }
                if config.clip {
                    f.write_str(", clipped")?;
                }
            }
        }
        if let Some(adapters) = &self.adapters {
            write!(f, ", adapters of rank {}", adapters.rank)?;
        }
        write!(f, ", {} steps", self.steps)?;
        match self.distill {
            0.0 => Ok(()),
            share => write!(f, ", {share} from the original"),
        }
    }
}
