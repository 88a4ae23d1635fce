//! Rotary positions on packed projections.

use std::mem::MaybeUninit;

use super::attention::Problem;
use super::parallel::{Output, for_each_piece};
use super::simd::{self, Kernel};

struct Rotate<'a> {
    problem: Problem,
    /// Number of the first row, a row being a position of a batch row.
    first: usize,
    packed: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    /// -1 turns back.
    direction: f32,
    turned: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Problem {
            seq, heads, d_head, ..
        } = self.problem;
        let half = d_head / 2;
        let width = 3 * heads * d_head;
        let rows = self.packed.chunks_exact(width);
        for (i, (x, y)) in rows.zip(self.turned.chunks_exact_mut(width)).enumerate() {
            let position = (self.first + i) % seq * half;
            let cos = &self.cos[position..position + half];
            let sin = &self.sin[position..position + half];
            for (h, (x, y)) in x
                .chunks_exact(d_head)
                .zip(y.chunks_exact_mut(d_head))
                .enumerate()
            {
                if h >= 2 * heads {
                    y.write_copy_of_slice(x);
                    continue;
                }
                let (x_1, x_2) = x.split_at(half);
                let (y_1, y_2) = y.split_at_mut(half);
                let x_2 = &x_2[..half];
                let y_2 = &mut y_2[..half];
                for j in 0..half {
                    let sin = self.direction * sin[j];
                    y_1[j].write(x_1[j] * cos[j] - x_2[j] * sin);
                    y_2[j].write(x_2[j] * cos[j] + x_1[j] * sin);
                }
            }
        }
    }
}

/// Queries and keys turned by position, or back if `direction` is -1.
pub(super) fn rotate(
    problem: Problem,
    packed: &[f32],
    cos: &[f32],
    sin: &[f32],
    direction: f32,
) -> Vec<f32> {
    let width = 3 * problem.heads * problem.d_head;
    let turned = Output::new(packed.len());
    for_each_piece(problem.batch * problem.seq, width, |_, rows| {
        let range = rows.start * width..rows.end * width;
        simd::run(Rotate {
            problem,
            first: rows.start,
            packed: &packed[range.clone()],
            cos,
            sin,
            direction,
            // SAFETY: pieces do not overlap.
            turned: unsafe { turned.part(range) },
        });
    });
    // SAFETY: the pieces cover all rows, and each row is written.
    unsafe { turned.finish() }
}
