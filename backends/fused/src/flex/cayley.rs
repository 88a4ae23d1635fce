//! The Cayley map on rows whose first half are real parts and whose second half are imaginary parts.

use std::mem::MaybeUninit;

use super::parallel::{Output, for_each_piece};
use super::simd::{self, Kernel};

/// Rows of `width` values; `grad` is none forward.
struct Rows<'a> {
    z: &'a [f32],
    grad: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
    width: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let half = self.width / 2;
        let rows = self.z.chunks_exact(self.width);
        let outs = self.out.chunks_exact_mut(self.width);
        match self.grad {
            None => {
                for (z, out) in rows.zip(outs) {
                    forward_row(z.split_at(half), out.split_at_mut(half));
                }
            }
            Some(grad) => {
                let grads = grad.chunks_exact(self.width);
                for ((z, grad), out) in rows.zip(grads).zip(outs) {
                    adjoint_row(
                        z.split_at(half),
                        grad.split_at(half),
                        out.split_at_mut(half),
                    );
                }
            }
        }
    }
}

type Halves<'a> = (&'a [f32], &'a [f32]);
type OutHalves<'a> = (&'a mut [MaybeUninit<f32>], &'a mut [MaybeUninit<f32>]);

/// `w = (|z|^2 - 1 - 2 i x) / |z + i|^2` for `z = x + i y`
#[inline(always)]
fn forward_row((x, y): Halves<'_>, (re, im): OutHalves<'_>) {
    let len = x.len();
    let (y, re, im) = (&y[..len], &mut re[..len], &mut im[..len]);
    for i in 0..len {
        let (x, y) = (x[i], y[i]);
        let square = x * x + y * y;
        let inverse = 1.0 / (square + 2.0 * y + 1.0);
        re[i].write((square - 1.0) * inverse);
        im[i].write(-2.0 * x * inverse);
    }
}

/// `dw/dz = 2 i / (z + i)^2 = A + i B`; real gradients `(g, h)` of w become `(g A + h B, h A - g B)` of z.
#[inline(always)]
fn adjoint_row((x, y): Halves<'_>, (g, h): Halves<'_>, (d_x, d_y): OutHalves<'_>) {
    let len = x.len();
    let (y, g, h) = (&y[..len], &g[..len], &h[..len]);
    let (d_x, d_y) = (&mut d_x[..len], &mut d_y[..len]);
    for i in 0..len {
        let (p, q) = (x[i], y[i] + 1.0);
        let inverse = 1.0 / (p * p + q * q);
        // Divided one factor at a time: the square of a large |z + i|^2 would overflow.
        let (c, s) = (p * inverse, q * inverse);
        let (a, b) = (4.0 * c * s, 2.0 * (c * c - s * s));
        d_x[i].write(g[i] * a + h[i] * b);
        d_y[i].write(h[i] * a - g[i] * b);
    }
}

fn run(z: &[f32], grad: Option<&[f32]>, width: usize) -> Vec<f32> {
    let out = Output::new(z.len());
    for_each_piece(z.len() / width.max(1), width, |_, rows| {
        let range = rows.start * width..rows.end * width;
        simd::run(Rows {
            z: &z[range.clone()],
            grad: grad.map(|grad| &grad[range.clone()]),
            // SAFETY: pieces do not overlap.
            out: unsafe { out.part(range) },
            width,
        });
    });
    // SAFETY: the pieces cover the buffer, and a row of even width is written whole.
    unsafe { out.finish() }
}

pub(super) fn forward(z: &[f32], width: usize) -> Vec<f32> {
    run(z, None, width)
}

pub(super) fn adjoint(z: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    run(z, Some(grad), width)
}
