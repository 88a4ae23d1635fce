//! Stages that train another model in the place of the one before.

use std::fmt;

use kiln_train::ModelSection;
use kiln_zoo::Part;

use super::Recover;

/// A stage that trains a model of another shape, taught by the original (Hinton et al., arXiv 1503.02531).
#[derive(Clone, Debug, PartialEq)]
pub struct Student {
    /// A preset, and the keys that differ. Vocabulary and, where the keys say nothing, the longest sequence are the original's.
    pub model: ModelSection,
    /// Layer of the model before that each of its layers starts from; without it, the one of its own number.
    pub layers: Option<Vec<usize>>,
    /// Parts that start from random weights. Mixers of another kind than those before do in any case.
    pub fresh: Vec<Part>,
    /// How it is trained.
    pub training: Recover,
}

impl fmt::Display for Student {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let training = &self.training;
        write!(f, "student {}, {} steps", self.model.preset, training.steps)?;
        match training.distill {
            0.0 => Ok(()),
            share => write!(f, ", {share} from the original"),
        }
    }
}
