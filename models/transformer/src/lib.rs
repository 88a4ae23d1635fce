//! The Transformer baseline: softmax attention in the shared backbone (arXiv 1706.03762), causal, causal in a sliding window, or
//! bidirectional.

mod attention;
mod presets;
mod rope;

pub use attention::{AttentionConfig, KvCache, SelfAttention};
pub use presets::{PRESETS, nanogpt};
pub use rope::Rope;
