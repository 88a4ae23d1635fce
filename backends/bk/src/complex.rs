//! Complex numbers as pairs of plain tensors, so that the reference reads like the equations.

use burn::tensor::Tensor;

/// A complex tensor `[batch, heads]`; an axis of length one broadcasts.
#[derive(Clone)]
pub(crate) struct Complex {
    pub re: Tensor<2>,
    pub im: Tensor<2>,
}

impl Complex {
    /// Splits `[batch, 2 * heads]`, Re then Im.
    pub fn split(packed: Tensor<2>) -> Self {
        let heads = packed.dims()[1] / 2;
        Self {
            re: packed.clone().narrow(1, 0, heads),
            im: packed.narrow(1, heads, heads),
        }
    }

    /// Splits the energy `[2, heads]` into two rows `[1, heads]`.
    pub fn energy(energy: Tensor<2>) -> Self {
        Self {
            re: energy.clone().narrow(0, 0, 1),
            im: energy.narrow(0, 1, 1),
        }
    }

    /// Zeros with the shape and device of `like`.
    pub fn zeros(like: &Tensor<2>) -> Self {
        let zeros = like.zeros_like();
        Self {
            re: zeros.clone(),
            im: zeros,
        }
    }

    /// `[batch, 2 * heads]`, Re then Im.
    pub fn join(self) -> Tensor<2> {
        Tensor::cat(vec![self.re, self.im], 1)
    }

    pub fn conj(self) -> Self {
        Self {
            re: self.re,
            im: -self.im,
        }
    }

    pub fn add(self, other: Self) -> Self {
        Self {
            re: self.re + other.re,
            im: self.im + other.im,
        }
    }

    /// `real - self`, with a real left-hand side.
    pub fn subtract_from(self, real: Tensor<2>) -> Self {
        Self {
            re: real - self.re,
            im: -self.im,
        }
    }

    pub fn scale(self, factor: Tensor<2>) -> Self {
        Self {
            re: self.re * factor.clone(),
            im: self.im * factor,
        }
    }

    pub fn mul(self, other: Self) -> Self {
        Self {
            re: self.re.clone() * other.re.clone() - self.im.clone() * other.im.clone(),
            im: self.re * other.im + self.im * other.re,
        }
    }

    pub fn square(self) -> Self {
        self.clone().mul(self)
    }

    /// `|self|^2`
    pub fn norm(&self) -> Tensor<2> {
        self.re.clone() * self.re.clone() + self.im.clone() * self.im.clone()
    }

    /// `1 / self = conj(self) / |self|^2`
    pub fn inverse(self) -> Self {
        let factor = self.norm().recip();
        self.conj().scale(factor)
    }
}

/// Position `i` of `[batch, seq, width]`, as `[batch, width]`.
pub(crate) fn position(sequence: &Tensor<3>, i: usize) -> Tensor<2> {
    sequence.clone().narrow(1, i, 1).squeeze_dim(1)
}
