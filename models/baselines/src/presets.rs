//! Named sizes of the baselines.

use kiln_backbone::{BackboneConfig, Preset};

use crate::ConvConfig;

/// Every preset of the gated short convolution.
pub const PRESETS: &[Preset<ConvConfig>] = &[
    Preset {
        name: "conv3-char-cpu",
        purpose: "the parameters of nanogpt-cpu with a convolution of three tokens for a mixer: 4 layers, d 128, context 64",
        config: || like_nanogpt(128, 4, 584, 64, 0.0),
    },
    Preset {
        name: "conv3-char-gpu",
        purpose: "the parameters of nanogpt-gpu with a convolution of three tokens for a mixer: 6 layers, d 384, context 256, dropout 0.2",
        config: || like_nanogpt(384, 6, 1744, 256, 0.2),
    },
];

/// nanoGPT's backbone without positions: its attention (4 d^2 weights a layer) replaced by 3 d^2 and the taps, the rest given
/// to the MLP.
fn like_nanogpt(
    d_model: usize,
    n_layers: usize,
    d_hidden: usize,
    max_seq: usize,
    dropout: f64,
) -> (BackboneConfig, ConvConfig) {
    let backbone = BackboneConfig::nanogpt([d_model, n_layers], d_hidden, max_seq, dropout);
    (backbone, ConvConfig::default())
}
