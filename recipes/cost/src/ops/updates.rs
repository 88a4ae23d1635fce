//! What an update does with a gradient.

use burn::optim::Optimizer;
use kiln_fused::{AdamW, square_sum};

use super::catalogue::Sizes;
use super::operation::{Entry, Kind, Place, PrepareStep};

/// Bytes of a parameter, of each moment and of its gradient.
const SIZE: usize = size_of::<f32>();

/// On a parameter as large as the embedding.
pub(super) fn entries(sizes: Sizes) -> Vec<Entry> {
    let shape = [sizes.vocab, sizes.d_model];
    let numbers = (shape[0] * shape[1]) as f64;
    let entry = |name, prepare: PrepareStep| Entry {
        name,
        shape: format!("{} x {}", shape[0], shape[1]),
        single: true,
        flops: None,
        kind: Kind::Step(prepare),
    };
    let adamw = move |place: &Place| {
        let optimizer = AdamW {
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let grad = place.single(shape, [-1.0, 1.0]);
        let mut now = Some((place.single(shape, [-1.0, 1.0]), None));
        let step: Box<dyn FnMut()> = Box::new(move || {
            if let Some((parameter, state)) = now.take() {
                now = Some(optimizer.step(1e-3, parameter, grad.clone(), state));
            }
        });
        // Parameter and moments are read and written, the gradient is read.
        (step, 7.0 * SIZE as f64 * numbers)
    };
    let norm = move |place: &Place| {
        let grad = place.single(shape, [-1.0, 1.0]);
        let step: Box<dyn FnMut()> = Box::new(move || drop(square_sum(grad.clone())));
        (step, SIZE as f64 * numbers)
    };
    vec![
        entry("adamw", Box::new(adamw)),
        entry("square_sum", Box::new(norm)),
    ]
}
