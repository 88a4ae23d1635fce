//! Likeness of what stands between the layers, rather than of the answers.
//!
//! ```text
//! mixers, hidden    |s - t|^2 / |t|^2                                        FitNets' hints, relative        arXiv 1412.6550
//! relations         mean over i, j of (cos(s_i, s_j) - cos(t_i, t_j))^2      similarities are preserved      arXiv 1907.09682
//! ```
//! Of `matrices` s and t are rows of weights, of which [`weight_divergence`](crate::weight_divergence) is another distance.
//! s and t are the student's and the teacher's vectors at every position of a lane. Relations are between positions, so the two
//! may be of different widths. Axes: batch, seq, d_model.

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// What is matched between the layers of student and teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureKind {
    /// What each mixer makes of the teacher's residual stream: layer by layer, each without the errors of those before it, as
    /// MOHAWK's second stage (arXiv 2408.10189). Needs equal widths.
    Mixers,
    /// The residual stream after each layer. Needs equal widths, or projections.
    Hidden,
    /// The cosines between the positions of the residual stream after each layer.
    Relations,
    /// How strongly each mixer reads each position, as distributions: MiniLM's attention transfer (arXiv 2002.10957), the mean over
    /// heads. Needs mixers that have such weights, on both sides.
    Attention,
    /// The same weights as matrices, each mixer given the teacher's residual stream: MOHAWK's first stage (arXiv 2408.10189). Needs
    /// equal widths as well.
    Matrices,
}

impl FeatureKind {
    /// The name that recipes use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixers => "mixers",
            Self::Hidden => "hidden",
            Self::Relations => "relations",
            Self::Attention => "attention",
            Self::Matrices => "matrices",
        }
    }

    /// Whether it compares how strongly positions are read.
    pub fn compares_weights(self) -> bool {
        matches!(self, Self::Attention | Self::Matrices)
    }

    /// Whether the two models must be of one width, unless there are projections.
    pub fn needs_equal_widths(self) -> bool {
        matches!(self, Self::Mixers | Self::Hidden | Self::Matrices)
    }
}

/// Settings of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureConfig {
    /// What is matched.
    pub kind: FeatureKind,
    /// Share of the whole loss, in (0, 1]; at 1 nothing else is learned.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// Whether each layer's stream meets the teacher's through a matrix of its own, which is learned with the model and thrown away; of
    /// `hidden` only.
    #[serde(default)]
    pub project: bool,
    /// The teacher's layer that each layer is matched with; without it, the one of its own number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

fn default_weight() -> f64 {
    0.5
}

/// Squared distance relative to the teacher's squared length, over the whole batch.
///
/// # Shapes
/// - both `[batch, seq, d_model]`, or `[batch, seq, seq]` of weights
/// - returns `[1]`
pub fn relative_error(student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
    let [student, teacher] = [student, teacher].map(|x| x.cast(DType::F32));
    let length = teacher.clone().square().sum().add_scalar(TINY);
    (student - teacher).square().sum() / length
}

/// Mean squared difference of the cosines between all positions of a lane.
///
/// # Shapes
/// - `student` `[batch, seq, d]`, `teacher` `[batch, seq, e]`
/// - returns `[1]`
pub fn relation_error(student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
    let [student, teacher] = [student, teacher].map(|x| cosines(x.cast(DType::F32)));
    (student - teacher).square().mean()
}

/// Keeps lengths of zero out of denominators.
const TINY: f64 = 1e-12;

/// `[batch, seq, d]` to `[batch, seq, seq]`.
fn cosines(x: Tensor<3>) -> Tensor<3> {
    let length = x.clone().square().sum_dim(2).add_scalar(TINY).sqrt();
    let unit = x / length;
    unit.clone().matmul(unit.swap_dims(1, 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    type Loss = fn(Tensor<3>, Tensor<3>) -> Tensor<1>;

    const SHAPE: [usize; 3] = [2, 3, 2];
    const TEACHER: [f64; 12] = [
        1.0, -0.5, 0.3, 2.0, -1.2, 0.7, 0.4, 0.9, -0.8, -1.1, 1.5, 0.2,
    ];
    const STUDENT: [f64; 12] = [
        0.2, 1.4, -0.6, 0.5, 0.9, -1.0, 1.1, -0.3, 0.6, 0.8, -0.7, 1.3,
    ];

    fn tensor(values: &[f64], device: &Device) -> Tensor<3> {
        let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
        Tensor::from_data(TensorData::new(values, SHAPE), device)
    }

    fn computed(loss: Loss, student: &[f64]) -> (f64, Vec<f64>) {
        let device = Device::flex();
        let student = tensor(student, &device.clone().autodiff()).require_grad();
        let value = loss(student.clone(), tensor(&TEACHER, &device));
        let gradient = student.grad(&value.backward()).unwrap().into_data();
        let value = f64::from(value.into_scalar::<f32>());
        (value, gradient.iter::<f64>().collect())
    }

    /// The definitions, in double precision.
    fn relative(student: &[f64]) -> f64 {
        let pairs = student.iter().zip(&TEACHER);
        let apart: f64 = pairs.map(|(s, t)| (s - t).powi(2)).sum();
        apart / TEACHER.iter().map(|t| t * t).sum::<f64>()
    }

    fn relation(student: &[f64]) -> f64 {
        let cosine = |of: &[f64], lane: usize, i: usize, j: usize| {
            let row = |i: usize| &of[lane * 6 + 2 * i..lane * 6 + 2 * i + 2];
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            dot(row(i), row(j)) / (dot(row(i), row(i)) * dot(row(j), row(j))).sqrt()
        };
        let mut sum = 0.0;
        for lane in 0..2 {
            for (i, j) in (0..9).map(|at| (at / 3, at % 3)) {
                sum += (cosine(student, lane, i, j) - cosine(&TEACHER, lane, i, j)).powi(2);
            }
        }
        sum / 18.0
    }

    #[test]
    fn values_and_gradients_are_the_definitions() {
        type Definition = fn(&[f64]) -> f64;
        let table: [(Loss, Definition); 2] =
            [(relative_error, relative), (relation_error, relation)];
        for (loss, defined) in table {
            let (value, gradient) = computed(loss, &STUDENT);
            let expected = defined(&STUDENT);
            assert!(
                expected > 0.1 && (value - expected).abs() < 1e-5,
                "{value} {expected}"
            );
            for (i, found) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut student = STUDENT;
                    student[i] += by;
                    defined(&student)
                };
                let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((found - expected).abs() < 1e-5, "{i}: {found} {expected}");
            }
        }
    }

    /// The teacher itself is an optimum; of relations, so is every turned and stretched one.
    #[test]
    fn the_optimum_is_the_teacher() {
        let turned: Vec<f64> = TEACHER
            .chunks(2)
            .flat_map(|xy| [-3.0 * xy[1], 3.0 * xy[0]])
            .collect();
        assert!(computed(relative_error, &TEACHER).0 == 0.0);
        assert!(computed(relative_error, &turned).0 > 1.0);
        for same in [&TEACHER[..], &turned] {
            let (value, gradient) = computed(relation_error, same);
            assert!(value < 1e-12, "{value}");
            assert!(gradient.iter().all(|g| g.abs() < 1e-6), "{gradient:?}");
        }
        let mut student = STUDENT;
        for _ in 0..3000 {
            let (_, gradient) = computed(relation_error, &student);
            student.iter_mut().zip(&gradient).for_each(|(x, g)| *x -= g);
        }
        let value = computed(relation_error, &student).0;
        assert!(value < 1e-4, "{value}");
    }
}
