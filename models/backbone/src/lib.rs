//! The one backbone of every Kiln model: embedding -> blocks(mixer, MLP) -> norm -> head.
//!
//! A model crate brings a [`Mixer`]; everything around it (embedding, pre-norm residual blocks, MLP, final
//! norm, head, generation state) lives here once. The layout is the pre-norm Transformer of GPT-2 with the
//! token mixer left open, so that two models differ in nothing but what they are compared for.
//!
//! Axes: `batch`, `seq`, `d_model`, `vocab`. Nothing here reads a file or the environment; devices are passed in.

mod backbone;
mod block;
mod config;
mod conv;
mod decoder;
mod dropout;
mod embedding;
mod energies;
mod error;
mod init;
mod layers;
mod linear;
mod mixer;
mod precision;
mod preset;
mod projection;
mod weights;

pub use backbone::{Backbone, BackboneState};
pub use block::Block;
pub use config::{BackboneConfig, Positions};
pub use conv::ShortConv;
pub use dropout::{dropout, seed_dropout, weight_dropout, with_step_seed};
pub use embedding::{Embedding, Factorised, Rows};
pub use energies::{inverse_softplus, spread_energies};
pub use error::ModelError;
pub use init::{InitRng, stable_param_ids};
pub use layers::{Mlp, MlpKind, Norm, NormKind};
pub use linear::{InputSink, Linear, LowRank, Matrix, PackedWeight, Weight, project};
pub use mixer::{Direction, Mixer, tensor_bytes};
pub use precision::{Precision, UnknownPrecision, attention_operand, single};
pub use preset::Preset;
pub use projection::{
    ConvHistory, ConvProjection, HeadInputs, QueryKeyValue, QueryKeyValueConfig, Readout,
    unit_spread,
};
pub use weights::{NamedLinears, NormReaders, below, fields};
