//! Every loss against its definition in double precision: value, gradient by finite differences, optimum.

use super::*;
use crate::Target;
use burn::tensor::{Device, TensorData};

const LOSSES: [ResponseLoss; 4] = [
    ResponseLoss::ForwardKl,
    ResponseLoss::ReverseKl,
    ResponseLoss::JensenShannon(0.5),
    ResponseLoss::JensenShannon(0.1),
];
const VOCAB: usize = 5;
/// Kept tokens; 0 is the whole vocabulary without reordering.
const KEPT: [usize; 4] = [0, 1, 3, VOCAB];

/// Scores of two rows, without a tie.
const TEACHER: [f64; 10] = [2.0, -1.0, 0.3, 0.0, 1.1, -3.0, 4.0, 0.2, 1.9, -0.4];
const STUDENT: [f64; 10] = [0.5, 0.1, -0.7, 1.2, 0.0, 1.0, -2.0, 0.4, 0.6, 2.2];

fn softmax(scores: &[f64], temperature: f64) -> Vec<f64> {
    let exp: Vec<f64> = scores.iter().map(|z| (z / temperature).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|x| x / sum).collect()
}

fn kl(p: &[f64], q: &[f64]) -> f64 {
    let terms = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    terms.map(|(p, q)| p * (p / q).ln()).sum()
}

/// Probabilities of the teacher's likeliest tokens, and of all others if there are any.
fn merged(of: &[f64], teacher: &[f64], kept: usize) -> Vec<f64> {
    if kept == 0 {
        return of.to_vec();
    }
    let mut order: Vec<usize> = (0..VOCAB).collect();
    order.sort_by(|a, b| teacher[*b].total_cmp(&teacher[*a]));
    let mut merged: Vec<f64> = order[..kept].iter().map(|&i| of[i]).collect();
    if kept < VOCAB {
        merged.push(order[kept..].iter().map(|&i| of[i]).sum());
    }
    merged
}

/// The definition, summed over both rows.
fn defined(loss: ResponseLoss, temperature: f64, kept: usize, student: &[f64]) -> f64 {
    let row = |at: usize| {
        let at = at * VOCAB..(at + 1) * VOCAB;
        let teacher = softmax(&TEACHER[at.clone()], temperature);
        let q = merged(&softmax(&student[at], temperature), &teacher, kept);
        let p = merged(&teacher, &teacher, kept);
        match loss {
            ResponseLoss::ForwardKl => kl(&p, &q),
            ResponseLoss::ReverseKl => kl(&q, &p),
            ResponseLoss::JensenShannon(b) => {
                let pairs = p.iter().zip(&q);
                let m: Vec<f64> = pairs.map(|(p, q)| b * p + (1.0 - b) * q).collect();
                b * kl(&p, &m) + (1.0 - b) * kl(&q, &m)
            }
        }
    };
    row(0) + row(1)
}

fn scores(values: &[f64], device: &Device) -> Tensor<2> {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let rows = values.len() / VOCAB;
    Tensor::from_data(TensorData::new(values, [rows, VOCAB]), device)
}

/// Value and gradient of the sum over rows.
fn computed(loss: ResponseLoss, temperature: f64, kept: usize, student: &[f64]) -> (f64, Vec<f64>) {
    let device = Device::flex();
    let target = Target::new(scores(&TEACHER, &device), temperature, kept);
    let student = scores(student, &device.autodiff()).require_grad();
    let answers = target.student(student.clone(), temperature);
    let sum = loss.divergence(target.log_probs, answers).sum();
    let value = f64::from(sum.clone().into_scalar::<f32>());
    let gradient = student.grad(&sum.backward()).unwrap().into_data();
    (value, gradient.iter::<f64>().collect())
}

#[test]
fn values_and_gradients_are_the_definitions() {
    for loss in LOSSES {
        for temperature in [0.7, 1.0, 3.0] {
            for kept in KEPT {
                let what = format!("{loss:?} at T {temperature}, {kept} kept");
                let (value, gradient) = computed(loss, temperature, kept, &STUDENT);
                let expected = defined(loss, temperature, kept, &STUDENT);
                assert!(expected > 1e-2, "{what}: a test of nothing");
                assert!(
                    (value - expected).abs() < 1e-5,
                    "{what}: {value} {expected}"
                );
                for (i, found) in gradient.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut student = STUDENT;
                        student[i] += by;
                        defined(loss, temperature, kept, &student)
                    };
                    let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "{what}, {i}: {found} {expected}"
                    );
                }
            }
        }
    }
}

/// Merging classes only makes a divergence smaller, and the whole vocabulary is no truncation.
#[test]
fn fewer_kept_tokens_see_less() {
    for loss in LOSSES {
        let values = [1, 3, VOCAB].map(|kept| computed(loss, 2.0, kept, &STUDENT).0);
        let whole = computed(loss, 2.0, 0, &STUDENT).0;
        assert!(values[0] < values[1] && values[1] < values[2], "{values:?}");
        assert!((values[2] - whole).abs() < 1e-6, "{values:?} {whole}");
    }
}

/// Gradient descent on the student's scores ends at the teacher's distribution, and at no loss.
#[test]
fn the_optimum_is_the_teacher() {
    for loss in LOSSES {
        for kept in [0, VOCAB] {
            let mut student = STUDENT;
            for _ in 0..4000 {
                let (_, gradient) = computed(loss, 1.0, kept, &student);
                student
                    .iter_mut()
                    .zip(&gradient)
                    .for_each(|(z, g)| *z -= 2.0 * g);
            }
            let (value, _) = computed(loss, 1.0, kept, &student);
            assert!(value.abs() < 1e-4, "{loss:?}, {kept} kept: {value}");
            for row in 0..2 {
                let at = row * VOCAB..(row + 1) * VOCAB;
                let (p, q) = (
                    softmax(&TEACHER[at.clone()], 1.0),
                    softmax(&student[at], 1.0),
                );
                for (p, q) in p.iter().zip(&q) {
                    assert!((p - q).abs() < 0.02, "{loss:?}, {kept} kept: {p} {q}");
                }
            }
        }
    }
}

/// A token that the student has given up is still worth learning: the gradient of all others together does not vanish.
#[test]
fn scores_far_apart_stay_finite() {
    for loss in LOSSES {
        for kept in KEPT {
            let mut student = STUDENT;
            student[0] = 300.0;
            student[6] = -300.0;
            let (value, gradient) = computed(loss, 1.0, kept, &student);
            assert!(value.is_finite() && value > 0.0, "{loss:?} {kept}: {value}");
            assert!(
                gradient.iter().all(|g| g.is_finite()),
                "{loss:?} {kept}: {gradient:?}"
            );
        }
    }
}
