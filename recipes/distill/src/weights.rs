//! Likeness of what mixers read: the weights of the positions, rather than what comes of them.
//!
//! ```text
//! attention     mean over rows i of KL(t_i || s_i)     attention is transferred      MiniLM, arXiv 2002.10957
//! ```
//! t_i and s_i are the teacher's and the student's weights at position i, the mean over heads, so that the two may have different
//! numbers of heads and be of different kinds. Axes: batch, seq (reading), seq (read).

use burn::tensor::{DType, Tensor};

/// Where a student's weight counts as zero: it is then 28 nats off whatever the teacher gives, and not infinitely many.
const TINY: f64 = 1e-12;

/// Mean divergence of the rows, each a distribution over positions.
///
/// # Shapes
/// - both `[batch, seq, seq]`, rows of sum one
/// - returns `[1]`
pub fn weight_divergence(student: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
    let [student, teacher] = [student, teacher].map(|x| x.cast(DType::F32));
    let [batch, seq, _] = teacher.dims();
    let log = |x: Tensor<3>| x.add_scalar(TINY).log();
    let apart = log(teacher.clone()) - log(student);
    (teacher * apart).sum().div_scalar((batch * seq) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData, activation::softmax};

    const SHAPE: [usize; 3] = [2, 2, 3];
    /// Rows of a causal map of which the first position is left out, and one that is sharp.
    const TEACHER: [f64; 12] = [
        0.7, 0.3, 0.0, 0.2, 0.3, 0.5, 0.5, 0.5, 0.0, 0.98, 0.01, 0.01,
    ];
    const STUDENT: [f64; 12] = [0.4, 0.6, 0.0, 0.6, 0.3, 0.1, 0.1, 0.9, 0.0, 0.3, 0.3, 0.4];

    fn tensor(values: &[f64], device: &Device) -> Tensor<3> {
        let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
        Tensor::from_data(TensorData::new(values, SHAPE), device)
    }

    fn computed(student: &[f64]) -> (f64, Vec<f64>) {
        let device = Device::flex();
        let student = tensor(student, &device.clone().autodiff()).require_grad();
        let value = weight_divergence(student.clone(), tensor(&TEACHER, &device));
        let gradient = student.grad(&value.backward()).unwrap().into_data();
        let value = f64::from(value.into_scalar::<f32>());
        (value, gradient.iter::<f64>().collect())
    }

    fn defined(student: &[f64]) -> f64 {
        let pairs = TEACHER.iter().zip(student).filter(|(t, _)| **t > 0.0);
        pairs.map(|(t, s)| t * (t / s).ln()).sum::<f64>() / 4.0
    }

    #[test]
    fn values_and_gradients_are_the_definition() {
        let (value, gradient) = computed(&STUDENT);
        let expected = defined(&STUDENT);
        assert!(expected > 0.1, "{expected}");
        assert!((value - expected).abs() < 1e-5, "{value} {expected}");
        for (i, found) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut student = STUDENT;
                student[i] += by;
                defined(&student)
            };
            let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((found - expected).abs() < 1e-4, "{i}: {found} {expected}");
        }
    }

    /// The teacher itself is the optimum, and scores that start elsewhere find it.
    #[test]
    fn the_optimum_is_the_teacher() {
        assert!(computed(&TEACHER).0.abs() < 1e-6);
        let device = Device::flex();
        let teacher = tensor(&TEACHER, &device);
        let mut scores = tensor(&[0.3; 12], &device);
        let mut divergences = Vec::new();
        for _ in 0..4000 {
            let own = Tensor::from_inner(scores.clone()).require_grad();
            let value = weight_divergence(softmax(own.clone(), 2), teacher.clone());
            scores = scores - own.grad(&value.backward()).unwrap() * 10.0;
            divergences.push(value.into_scalar::<f32>());
        }
        let [first, last] = [divergences[0], divergences[3999]];
        assert!(first > 0.1 && last < 1e-3, "{first} to {last}");
    }

    /// A student that does not see what the teacher reads is far off, and has a gradient of some size.
    #[test]
    fn nothing_is_infinite() {
        let mut blind = STUDENT;
        blind[3..6].copy_from_slice(&[1.0, 0.0, 0.0]);
        let (value, gradient) = computed(&blind);
        assert!(value > 4.0 && value < 10.0, "{value}");
        assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
    }
}
