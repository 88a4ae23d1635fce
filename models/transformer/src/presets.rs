//! Named sizes of the Transformer.

use kiln_backbone::{BackboneConfig, Direction, Positions, Preset};

use crate::AttentionConfig;

/// Every Transformer preset.
pub const PRESETS: &[Preset<AttentionConfig>] = &[
    Preset {
        name: "transformer-tiny",
        purpose: "smallest modern Transformer (RoPE, RMSNorm, SwiGLU), for tests and first steps",
        config: || modern(64, 2, 4, 128),
    },
    Preset {
        name: "transformer-small",
        purpose: "modern Transformer of about 3M parameters for the CPU",
        config: || modern(192, 6, 6, 256),
    },
    Preset {
        name: "nanogpt-cpu",
        purpose: "nanoGPT's character configuration for a CPU: 4 layers, 4 heads, d 128, context 64",
        config: || nanogpt(128, 4, 4, 64, 0.0),
    },
    Preset {
        name: "nanogpt-gpu",
        purpose: "nanoGPT's character configuration for a GPU: 6 layers, 6 heads, d 384, context 256, dropout 0.2",
        config: || nanogpt(384, 6, 6, 256, 0.2),
    },
    Preset {
        name: "gpt2-small",
        purpose: "12 layers, 12 heads, d 768, context 1024: the size of GPT-2 small",
        config: || nanogpt(768, 12, 12, 1024, 0.0),
    },
    Preset {
        name: "gpt-136m",
        purpose: "12 layers, 12 heads, d 768, context 1024, RMSNorm, untied head: 136M parameters at 32,768 tokens, to be timed on GPUs",
        config: || {
            let (backbone, attention) = nanogpt(768, 12, 12, 1024, 0.0);
            (backbone.untied_rms(), attention)
        },
    },
    Preset {
        name: "window-char-cpu",
        purpose: "nanogpt-cpu with a sliding window of 16 tokens and 4 sinks",
        config: || windowed(nanogpt(128, 4, 4, 64, 0.0), 16),
    },
    Preset {
        name: "window-small",
        purpose: "transformer-small with a sliding window of 64 tokens and 4 sinks",
        config: || windowed(modern(192, 6, 6, 256), 64),
    },
    Preset {
        name: "transformer-masked",
        purpose: "bidirectional attention for masked-token training, the size of resnet-bk-masked; cannot generate",
        config: || {
            let (backbone, attention) = modern(64, 2, 4, 128);
            let direction = Direction::Bidirectional;
            (
                backbone,
                AttentionConfig {
                    direction,
                    ..attention
                },
            )
        },
    },
];

/// A window for causal attention, and the four sinks that StreamingLLM found to be enough (arXiv 2309.17453, table 2).
fn windowed(
    (backbone, attention): (BackboneConfig, AttentionConfig),
    window: usize,
) -> (BackboneConfig, AttentionConfig) {
    let attention = AttentionConfig {
        window,
        sinks: 4,
        ..attention
    };
    (backbone, attention)
}

/// GPT-2's shape as nanoGPT trains it: learned positions, LayerNorm, GELU, no biases, tied head. `vocab_size` is left 0 for the
/// tokenizer to fill.
pub fn nanogpt(
    d_model: usize,
    n_layers: usize,
    heads: usize,
    max_seq: usize,
    dropout: f64,
) -> (BackboneConfig, AttentionConfig) {
    let backbone = BackboneConfig {
        positions: Positions::Learned,
        ..BackboneConfig::nanogpt([d_model, n_layers], 4 * d_model, max_seq, dropout)
    };
    let attention = AttentionConfig {
        heads,
        rope: false,
        ..Default::default()
    };
    (backbone, attention)
}

/// The shape current models share: RoPE, RMSNorm, SwiGLU at 8/3 of the width (rounded up to 32), no biases.
fn modern(
    d_model: usize,
    n_layers: usize,
    heads: usize,
    max_seq: usize,
) -> (BackboneConfig, AttentionConfig) {
    let d_hidden = (8 * d_model / 3).next_multiple_of(32);
    let backbone = BackboneConfig::modern([d_model, n_layers], d_hidden, max_seq);
    let attention = AttentionConfig {
        heads,
        ..Default::default()
    };
    (backbone, attention)
}
