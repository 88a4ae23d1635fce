//! Named sizes of the baselines.

use kiln_backbone::{BackboneConfig, Positions, Preset};

use crate::{ConvConfig, GlaConfig, MinGruConfig};

/// Every preset of the gated short convolution.
pub const CONV_PRESETS: &[Preset<ConvConfig>] = &[
    Preset {
        name: "conv3-char-cpu",
        purpose: "the parameters of nanogpt-cpu with a convolution of three tokens for a mixer: 4 layers, d 128, context 64",
        config: || conv_like_nanogpt(128, 4, 584, 64, 0.0),
    },
    Preset {
        name: "conv3-char-gpu",
        purpose: "the parameters of nanogpt-gpu with a convolution of three tokens for a mixer: 6 layers, d 384, context 256, dropout 0.2",
        config: || conv_like_nanogpt(384, 6, 1744, 256, 0.2),
    },
];

/// Every preset of gated linear attention.
pub const GLA_PRESETS: &[Preset<GlaConfig>] = &[
    Preset {
        name: "gla-tiny",
        purpose: "smallest gated linear attention, for tests and first steps",
        config: || gla_modern([64, 2], [4, 16], 164, 128),
    },
    Preset {
        name: "gla-small",
        purpose: "gated linear attention of about 3M parameters for the CPU, the size of transformer-small",
        config: || gla_modern([192, 6], [6, 32], 444, 256),
    },
    Preset {
        name: "gla-char-cpu",
        purpose: "gated linear attention with the parameters of nanogpt-cpu: 4 layers, d 128, context 64",
        config: gla_char_cpu,
    },
    Preset {
        name: "gla-char-gpu",
        purpose: "gated linear attention with the parameters of nanogpt-gpu: 6 layers, d 384, context 256, dropout 0.2",
        config: || gla_like_nanogpt([384, 6], [12, 32], 1352, 256, 0.2),
    },
];

/// Windows of 64 characters: ranges up to 16 tokens did better than longer ones in 400 steps (docs/src/methods/baselines.md), as
/// they did for resolvent attention, whose preset starts alike.
fn gla_char_cpu() -> (BackboneConfig, GlaConfig) {
    let (backbone, mixer) = gla_like_nanogpt([128, 4], [4, 32], 448, 64, 0.0);
    let range = [0.5, 16.0];
    (backbone, GlaConfig { range, ..mixer })
}

/// Every preset of minGRU, with twice as many channels as the model is wide (arXiv 2410.01201).
pub const MIN_GRU_PRESETS: &[Preset<MinGruConfig>] = &[
    Preset {
        name: "min-gru-tiny",
        purpose: "smallest minGRU, for tests and first steps",
        config: || min_gru(BackboneConfig::modern([64, 2], 148, 128)),
    },
    Preset {
        name: "min-gru-small",
        purpose: "minGRU of about 3M parameters for the CPU, the size of transformer-small",
        config: || min_gru(BackboneConfig::modern([192, 6], 382, 256)),
    },
    Preset {
        name: "min-gru-char-cpu",
        purpose: "minGRU with the parameters of nanogpt-cpu: 4 layers, d 128, context 64",
        config: || min_gru(BackboneConfig::nanogpt([128, 4], 388, 64, 0.0)),
    },
    Preset {
        name: "min-gru-char-gpu",
        purpose: "minGRU with the parameters of nanogpt-gpu: 6 layers, d 384, context 256, dropout 0.2",
        config: || min_gru(BackboneConfig::nanogpt([384, 6], 1168, 256, 0.2)),
    },
];

/// Every preset of Fourier mixing, which has no settings.
pub const FNET_PRESETS: &[Preset<()>] = &[Preset {
    name: "fnet-masked",
    purpose: "Fourier mixing for masked-token training, the size of resnet-bk-masked; cannot generate",
    // Learned positions, as FNet has them; what its mixer does not need goes to the MLP.
    config: || {
        let backbone = BackboneConfig {
            positions: Positions::Learned,
            ..BackboneConfig::modern([64, 2], 256, 128)
        };
        (backbone, ())
    },
}];

/// nanoGPT's backbone without positions: its attention (4 d^2 weights a layer) replaced by 3 d^2 and the taps, the rest given
/// to the MLP.
fn conv_like_nanogpt(
    d_model: usize,
    n_layers: usize,
    d_hidden: usize,
    max_seq: usize,
    dropout: f64,
) -> (BackboneConfig, ConvConfig) {
    let backbone = BackboneConfig::nanogpt([d_model, n_layers], d_hidden, max_seq, dropout);
    (backbone, ConvConfig::default())
}

/// Twice as many channels as the backbone is wide.
fn min_gru(backbone: BackboneConfig) -> (BackboneConfig, MinGruConfig) {
    let mixer = MinGruConfig {
        channels: 2 * backbone.d_model,
        ..Default::default()
    };
    (backbone, mixer)
}

/// RMSNorm and SwiGLU, tied head, no positions: order comes from the mixer.
fn gla_modern(
    width_and_depth: [usize; 2],
    [heads, d_key]: [usize; 2],
    d_hidden: usize,
    max_seq: usize,
) -> (BackboneConfig, GlaConfig) {
    let backbone = BackboneConfig::modern(width_and_depth, d_hidden, max_seq);
    let mixer = GlaConfig {
        heads,
        d_key,
        ..Default::default()
    };
    (backbone, mixer)
}

/// nanoGPT's backbone without positions: its attention (4 d^2 weights a layer) replaced by linear attention (3 d^2 and
/// 2 d heads d_key), the rest left to the MLP.
fn gla_like_nanogpt(
    width_and_depth: [usize; 2],
    heads_and_key: [usize; 2],
    d_hidden: usize,
    max_seq: usize,
    dropout: f64,
) -> (BackboneConfig, GlaConfig) {
    let (_, mixer) = gla_modern(width_and_depth, heads_and_key, d_hidden, max_seq);
    let backbone = BackboneConfig::nanogpt(width_and_depth, d_hidden, max_seq, dropout);
    (backbone, mixer)
}
