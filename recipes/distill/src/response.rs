//! Divergences between the answers of teacher and student.
//!
//! ```text
//! forward-kl          KL(p || q)  = sum_i p_i ln(p_i / q_i)              covers what the teacher covers     arXiv 1503.02531
//! reverse-kl          KL(q || p)                                         seeks its modes                    arXiv 2306.08543
//! jensen-shannon b    b KL(p || m) + (1 - b) KL(q || m),  m = b p + (1 - b) q     between the two           arXiv 2306.13649
//! ```
//! p is the teacher's distribution, q the student's. Axes: rows, classes.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The divergence that a student makes smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResponseLoss {
    /// KL(p || q).
    #[default]
    ForwardKl,
    /// KL(q || p).
    ReverseKl,
    /// The generalised Jensen-Shannon divergence, with its b in (0, 1): 0.5 is the symmetric one.
    JensenShannon(f64),
}

impl ResponseLoss {
    /// The divergence of every row in nats.
    ///
    /// # Shapes
    /// - `teacher`, `student`: logarithms of probabilities, `[rows, classes]`
    /// - returns `[rows]`
    pub fn divergence(self, teacher: Tensor<2>, student: Tensor<2>) -> Tensor<1> {
        match self {
            Self::ForwardKl => kl(teacher, student),
            Self::ReverseKl => kl(student, teacher),
            Self::JensenShannon(b) => {
                let mean = log_mixture(teacher.clone(), student.clone(), b);
                let of_teacher = kl(teacher, mean.clone()).mul_scalar(b);
                of_teacher + kl(student, mean).mul_scalar(1.0 - b)
            }
        }
    }
}

/// KL(p || q) of every row, from logarithms.
fn kl(p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    (p.clone().exp() * (p - q)).sum_dim(1).squeeze_dim(1)
}

/// ln(b e^p + (1 - b) e^q), with the larger of the two taken out.
fn log_mixture(p: Tensor<2>, q: Tensor<2>, b: f64) -> Tensor<2> {
    let p = p.add_scalar(b.ln());
    let q = q.add_scalar((1.0 - b).ln());
    let larger = p.clone().detach().max_pair(q.clone().detach());
    ((p - larger.clone()).exp() + (q - larger.clone()).exp()).log() + larger
}

#[cfg(test)]
mod tests;
