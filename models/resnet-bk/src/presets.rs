//! Named sizes of ResNet-BK.

use kiln_backbone::{BackboneConfig, Direction, Preset};

use crate::{BkConfig, Chart};

/// Every ResNet-BK preset.
pub const PRESETS: &[Preset<BkConfig>] = &[
    Preset {
        name: "resnet-bk-tiny",
        purpose: "smallest causal ResNet-BK, for tests and first steps",
        config: || sized(64, 2, 128, 64, 128),
    },
    Preset {
        name: "resnet-bk-small",
        purpose: "causal ResNet-BK of about 3M parameters for the CPU, the size of transformer-small",
        config: || sized(192, 6, 384, 128, 256),
    },
    Preset {
        name: "resnet-bk-char-cpu",
        purpose: "the parameters of nanogpt-cpu: 4 layers, d 128, context 64",
        config: || like_nanogpt(128, 4, 256, 132, 64, 0.0),
    },
    Preset {
        name: "resnet-bk-char-gpu",
        purpose: "the parameters of nanogpt-gpu: 6 layers, d 384, context 256, dropout 0.2",
        config: || like_nanogpt(384, 6, 768, 396, 256, 0.2),
    },
    Preset {
        name: "resnet-bk-paper",
        purpose: "the published mixer: one head, h0 = -2, b = c = 1, z = i, nothing learned but the potential",
        config: || {
            let (backbone, _) = like_nanogpt(64, 4, 1, 256, 128, 0.0);
            (backbone, paper())
        },
    },
    Preset {
        name: "resnet-bk-masked",
        purpose: "bidirectional (G_ii) for masked-token training; cannot generate",
        config: || {
            let (backbone, mixer) = sized(64, 2, 128, 64, 128);
            let direction = Direction::Bidirectional;
            (backbone, BkConfig { direction, ..mixer })
        },
    },
];

fn paper() -> BkConfig {
    BkConfig {
        heads: 1,
        h0: -2.0,
        potential_bound: 0.0,
        energy: [0.0, 0.0],
        eta: [1.0, 1.0],
        learn_energy: false,
        hopping: 1.0,
        learn_hopping: false,
        chart: Chart::Raw,
        gate: false,
        ..BkConfig::default()
    }
}

/// RMSNorm and SwiGLU, tied head, no positions: order comes from the mixer. At equal parameters two heads a channel and a
/// narrow MLP did better than fewer heads and the usual MLP (docs/src/results.md), so that is how sizes are dealt out.
fn sized(
    d_model: usize,
    n_layers: usize,
    heads: usize,
    d_hidden: usize,
    max_seq: usize,
) -> (BackboneConfig, BkConfig) {
    let backbone = BackboneConfig::modern([d_model, n_layers], d_hidden, max_seq);
    let mixer = BkConfig {
        heads,
        ..Default::default()
    };
    (backbone, mixer)
}

/// nanoGPT's backbone with its attention (4 d^2 weights a layer) and its MLP (8 d^2) replaced by a mixer of 5 d heads weights and
/// a GELU MLP of 2 d d_hidden.
fn like_nanogpt(
    d_model: usize,
    n_layers: usize,
    heads: usize,
    d_hidden: usize,
    max_seq: usize,
    dropout: f64,
) -> (BackboneConfig, BkConfig) {
    let (_, mixer) = sized(d_model, n_layers, heads, d_hidden, max_seq);
    let backbone = BackboneConfig::nanogpt([d_model, n_layers], d_hidden, max_seq, dropout);
    (backbone, mixer)
}
