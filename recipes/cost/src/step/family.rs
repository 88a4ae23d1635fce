//! Which operation of a model a kernel belongs to.

use serde::{Deserialize, Serialize};

/// Kernels that serve the same operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Products of linear layers, forward and backward, and the roundings of their operands.
    Linear,
    /// Softmax attention in blocks.
    Attention,
    /// Gated linear attention, which resolvent attention ends in.
    LinearAttention,
    /// The BK operations.
    Bk,
    /// Norms, convolutions, rotations and what else takes its numbers one by one.
    Elementwise,
    /// Cross-entropy, without the product of its head.
    Loss,
    /// Norm of the gradient, clipping, AdamW.
    Optimizer,
    /// Rows of the embedding, read and added up.
    Embedding,
    /// Products of matrices by Burn's own kernels that are no linear layers.
    BurnProducts,
    /// What else Burn brings: sums, comparisons, copies, numbers drawn.
    Burn,
}

impl Family {
    /// Every family, in the order of tables.
    pub const ALL: [Self; 10] = [
        Self::Linear,
        Self::Attention,
        Self::LinearAttention,
        Self::Bk,
        Self::Elementwise,
        Self::Loss,
        Self::Optimizer,
        Self::Embedding,
        Self::BurnProducts,
        Self::Burn,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear layers",
            Self::Attention => "attention",
            Self::LinearAttention => "gated linear attention",
            Self::Bk => "BK",
            Self::Elementwise => "norms and elementwise",
            Self::Loss => "loss",
            Self::Optimizer => "clipping and optimizer",
            Self::Embedding => "embedding",
            Self::BurnProducts => "Burn's own products",
            Self::Burn => "Burn's own, the rest",
        }
    }

    /// The family of a kernel, issued for an operation that names itself or for none. Kernels are named by the paths of their types.
    pub fn of(kernel: &str, operation: Option<&str>) -> Self {
        if operation == Some(kiln_matmul::OPERATION) {
            return Self::Linear;
        }
        let path = kernel.split('<').next().unwrap_or(kernel);
        let mut parts = path.split("::");
        match parts.next().unwrap_or_default() {
            "kiln_attention" => Self::Attention,
            "kiln_gla" => Self::LinearAttention,
            "kiln_bk" => Self::Bk,
            "kiln_fused" => match path {
                path if ["loss::", "head::"]
                    .iter()
                    .any(|part| path.contains(&format!("::cube::{part}"))) =>
                {
                    Self::Loss
                }
                path if path.contains("::cube::update") => Self::Optimizer,
                // The sums of squares that clipping needs; the other sum of this module is of norms' gradients.
                path if path.contains("::cube::sums::add_run::") => Self::Optimizer,
                path if path.contains("::cube::rows") => Self::Embedding,
                _ => Self::Elementwise,
            },
            first if first.contains("matmul") || parts.any(|part| part == "matmul") => {
                Self::BurnProducts
            }
            _ => Self::Burn,
        }
    }
}

/// A kernel's name without the paths of its types: `BinaryOp<f32>`.
pub fn short_name(kernel: &str) -> String {
    // Of every run of letters and colons what follows the last pair of colons; other signs stay.
    let mut short = String::new();
    let mut word = String::new();
    for sign in kernel.chars() {
        match sign {
            ':' => word.clear(),
            sign if sign.is_alphanumeric() || sign == '_' => word.push(sign),
            sign => {
                short.push_str(&word);
                short.push(sign);
                word.clear();
            }
        }
    }
    short + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_the_family_of_their_module() {
        let families = [
            (
                "kiln_attention::cube::kernels::forward::attend::Attend<f32>",
                Family::Attention,
            ),
            (
                "kiln_gla::cube::kernels::carry::carry_states::CarryStates",
                Family::LinearAttention,
            ),
            (
                "kiln_bk::cube::kernels::left_one_pass::left_look_back::K",
                Family::Bk,
            ),
            (
                "kiln_fused::cube::norm::norm_value::NormValue<f32>",
                Family::Elementwise,
            ),
            (
                "kiln_fused::cube::loss::nats_of_rows::NatsOfRows<f32>",
                Family::Loss,
            ),
            (
                "kiln_fused::cube::head::multiply::Multiply<f32>",
                Family::Loss,
            ),
            (
                "kiln_fused::cube::update::update_adamw::UpdateAdamw<f32>",
                Family::Optimizer,
            ),
            (
                "kiln_fused::cube::sums::add_run::AddRun<f32>",
                Family::Optimizer,
            ),
            (
                "kiln_fused::cube::sums::add_rows_of_group::A",
                Family::Elementwise,
            ),
            (
                "kiln_fused::cube::rows::add_rows::AddRows",
                Family::Embedding,
            ),
            ("cubek_matmul::launch::Matmul<f32>", Family::BurnProducts),
            ("burn_cubecl::kernel::matmul::base::M", Family::BurnProducts),
            (
                "burn_cubecl::kernel::cast::base::Cast<kiln_bk::x>",
                Family::Burn,
            ),
            ("cuBLASLt 8 x 8 x 8, F32", Family::Burn),
        ];
        for (kernel, family) in families {
            assert_eq!(Family::of(kernel, None), family, "{kernel}");
            assert_eq!(Family::of(kernel, Some("another")), family, "{kernel}");
            let layer = Family::of(kernel, Some(kiln_matmul::OPERATION));
            assert_eq!(layer, Family::Linear, "{kernel}");
        }
    }

    #[test]
    fn families_are_listed_once_and_in_order() {
        assert!(Family::ALL.is_sorted());
        let names = Family::ALL.map(Family::name);
        assert!((1..names.len()).all(|at| !names[..at].contains(&names[at])));
    }

    #[test]
    fn short_names_lose_paths_and_nothing_else() {
        for (name, short) in [
            ("a::b::Unary<c::d::Basic, u8>", "Unary<Basic, u8>"),
            ("cuBLASLt 8 x 8 x 8, F32", "cuBLASLt 8 x 8 x 8, F32"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(short_name(name), short);
        }
    }
}
