//! AdamW and the norm of a gradient.

use super::parallel::for_each_piece;
use super::simd::{self, Kernel, sum};
use crate::optimizer::Factors;

struct Update<'a> {
    factors: Factors,
    values: [&'a mut [f32]; 3],
    grad: &'a [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let f = self.factors;
        let [parameter, moment_1, moment_2] = self.values;
        let moments = moment_1.iter_mut().zip(moment_2);
        for ((p, (m, v)), &g) in parameter.iter_mut().zip(moments).zip(self.grad) {
            *m = *m * f.betas[0] + g * f.shares[0];
            *v = *v * f.betas[1] + g * g * f.shares[1];
            let denominator = (*v * f.correction).sqrt() + f.epsilon;
            *p = *p * f.keep - *m / denominator * f.rate;
        }
    }
}

/// A buffer whose pieces are handed to several threads.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: `adamw` hands out pieces that do not overlap.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// Updates parameter and moments in place.
pub(super) fn adamw(factors: Factors, values: [&mut [f32]; 3], grad: &[f32]) {
    let len = grad.len();
    assert!(values.iter().all(|value| value.len() == len));
    let values = values.map(|value| Shared(value.as_mut_ptr()));
    for_each_piece(len, 1, |_, range| {
        simd::run(Update {
            factors,
            // SAFETY: pieces do not overlap, and lie inside the buffers by the assertion.
            values: values.map(|value| unsafe {
                std::slice::from_raw_parts_mut(value.at(range.start), range.len())
            }),
            grad: &grad[range],
        });
    });
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        // Short runs in f32, so that the sum is as exact as its terms.
        let runs = self.0.chunks(1024);
        runs.map(|run| f64::from(sum(run, run, |x, _| x * x))).sum()
    }
}

/// `sum x^2`: memory-bound, and small beside the update, so on one thread.
pub(super) fn square_sum(x: &[f32]) -> f32 {
    simd::run(Squares(x)) as f32
}
