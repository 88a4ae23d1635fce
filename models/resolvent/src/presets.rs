//! Named sizes of the resolvent model.

use kiln_backbone::{BackboneConfig, Preset};

use crate::{ResolventConfig, ResolventForm};

/// Every resolvent preset.
pub const PRESETS: &[Preset<ResolventConfig>] = &[
    Preset {
        name: "resolvent-tiny",
        purpose: "smallest resolvent attention, for tests and first steps",
        config: || modern([64, 2], [4, 16], 168, 128),
    },
    Preset {
        name: "resolvent-small",
        purpose: "resolvent attention of about 3M parameters for the CPU, the size of transformer-small",
        config: || modern([192, 6], [6, 32], 444, 256),
    },
    Preset {
        name: "resolvent-char-cpu",
        purpose: "the parameters of nanogpt-cpu: 4 layers, d 128, context 64",
        config: char_cpu,
    },
    Preset {
        name: "resolvent-complex-char-cpu",
        purpose: "resolvent-char-cpu with the phases of the resolvent kept",
        config: || {
            let (backbone, mixer) = char_cpu();
            let form = ResolventForm::Complex;
            (backbone, ResolventConfig { form, ..mixer })
        },
    },
    Preset {
        name: "resolvent-char-gpu",
        purpose: "the parameters of nanogpt-gpu: 6 layers, d 384, context 256, dropout 0.2",
        config: || like_nanogpt([384, 6], [12, 32], 1352, 256, 0.2),
    },
    Preset {
        name: "resolvent-gpt",
        purpose: "the parameters of gpt2-small: 12 layers, d 768, context 1024",
        config: || like_nanogpt([768, 12], [12, 32], 3096, 1024, 0.0),
    },
    Preset {
        name: "resolvent-136m",
        purpose: "the parameters of gpt-136m; all widths are multiples of 128, as matrix units want them",
        config: || {
            let (backbone, mixer) = like_nanogpt([768, 12], [12, 32], 3072, 1024, 0.0);
            (backbone.untied_rms(), mixer)
        },
    },
];

/// Windows of 64 characters: widths for ranges up to about ten tokens did better than longer ones in 2,000 steps.
fn char_cpu() -> (BackboneConfig, ResolventConfig) {
    let (backbone, mixer) = like_nanogpt([128, 4], [4, 32], 448, 64, 0.0);
    let eta = [0.1, 4.0];
    (backbone, ResolventConfig { eta, ..mixer })
}

/// RMSNorm and SwiGLU, tied head, no positions: order comes from the mixer.
fn modern(
    [d_model, n_layers]: [usize; 2],
    [heads, d_key]: [usize; 2],
    d_hidden: usize,
    max_seq: usize,
) -> (BackboneConfig, ResolventConfig) {
    let backbone = BackboneConfig::modern([d_model, n_layers], d_hidden, max_seq);
    let mixer = ResolventConfig {
        heads,
        d_key,
        ..Default::default()
    };
    (backbone, mixer)
}

/// nanoGPT's backbone without positions: its attention (4 d^2 weights a layer) replaced by resolvent attention (3 d^2 and
/// 2 d heads d_key), the rest left to the MLP.
fn like_nanogpt(
    width_and_depth: [usize; 2],
    heads_and_key: [usize; 2],
    d_hidden: usize,
    max_seq: usize,
    dropout: f64,
) -> (BackboneConfig, ResolventConfig) {
    let (_, mixer) = modern(width_and_depth, heads_and_key, d_hidden, max_seq);
    let backbone = BackboneConfig::nanogpt(width_and_depth, d_hidden, max_seq, dropout);
    (backbone, mixer)
}
