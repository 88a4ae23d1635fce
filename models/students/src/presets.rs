//! Named students of nanoGPT's configuration for a CPU (`nanogpt-cpu`), each smaller or of other mixers in one way.
//!
//! All keep the teacher's learned positions, norms and kind of MLP, so that those weights fit (see [`crate::transplant`]); the
//! resolvent layers have half the usual key width, with which a layer has the teacher's parameters to 1 % and the MLP its width.

use kiln_backbone::{BackboneConfig, Preset};
use kiln_resolvent::{Boundary, ResolventConfig};
use kiln_transformer::{AttentionConfig, nanogpt};

use StudentMixer::{Attention, Resolvent};

/// The mixers of a student.
#[derive(Clone, Debug, PartialEq)]
pub struct Student {
    /// Mixers of the first layers, repeated to the last.
    pub pattern: Vec<StudentMixer>,
    /// Settings of the attention layers.
    pub attention: AttentionConfig,
    /// Settings of the resolvent layers.
    pub resolvent: ResolventConfig,
}

/// A kind of mixer that students have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StudentMixer {
    /// Softmax attention.
    Attention,
    /// Resolvent attention.
    Resolvent,
}

/// Every student preset.
pub const PRESETS: &[Preset<Student>] = &[
    Preset {
        name: "student-half-char-cpu",
        purpose: "nanogpt-cpu at half its depth: 2 layers",
        config: || char_cpu([128, 2], &[Attention]),
    },
    Preset {
        name: "student-narrow-char-cpu",
        purpose: "nanogpt-cpu at half its width: d 64",
        config: || char_cpu([64, 4], &[Attention]),
    },
    Preset {
        name: "student-resolvent-char-cpu",
        purpose: "nanogpt-cpu with resolvent attention in every layer, everything else being the teacher's",
        config: || char_cpu([128, 4], &[Resolvent]),
    },
    Preset {
        name: "student-resolvent-code-cpu",
        purpose: "the same for text that repeats itself from far back, as code does: one head with keys of 64, which reaches 100 tokens",
        config: || far(char_cpu([128, 4], &[Resolvent])),
    },
    Preset {
        name: "student-hybrid-char-cpu",
        purpose: "nanogpt-cpu with resolvent attention in the first and third layer, and attention kept in the others",
        config: || char_cpu([128, 4], &[Resolvent, Attention]),
    },
];

/// Resolvent layers with a state of four times the size at the same number of weights, that reach ten times as far. Of some twenty settings
/// on Rust source code these took most off the loss (docs/src/results.md, "Students on code").
fn far((backbone, student): (BackboneConfig, Student)) -> (BackboneConfig, Student) {
    let resolvent = ResolventConfig {
        heads: 1,
        d_key: student.resolvent.heads * student.resolvent.d_key,
        eta: [0.01, 0.01],
        potential_bound: 1.0,
        potential_std: 0.2,
        boundary: Boundary::Open,
        ..student.resolvent
    };
    let student = Student {
        resolvent,
        ..student
    };
    (backbone, student)
}

/// nanoGPT's character configuration for a CPU with another width, depth or mixers.
fn char_cpu(
    [d_model, n_layers]: [usize; 2],
    pattern: &[StudentMixer],
) -> (BackboneConfig, Student) {
    let (backbone, attention) = nanogpt(d_model, n_layers, 4, 64, 0.0);
    let student = Student {
        pattern: pattern.to_vec(),
        attention,
        // 3 d^2 + 2 d heads d_key weights are attention's 4 d^2 at heads d_key = d / 2; ranges as in `resolvent-char-cpu`.
        resolvent: ResolventConfig {
            heads: 4,
            d_key: d_model / 8,
            eta: [0.1, 4.0],
            ..Default::default()
        },
    };
    (backbone, student)
}
