//! The Transformer baseline: causal softmax attention in the shared backbone (arXiv 1706.03762).

mod attention;
mod presets;
mod rope;

pub use attention::{AttentionConfig, CausalSelfAttention, KvCache};
pub use presets::PRESETS;
pub use rope::Rope;
