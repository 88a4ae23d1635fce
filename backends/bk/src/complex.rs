//! Complex numbers as pairs of plain tensors, so that the reference reads like the equations.

use burn::tensor::Tensor;

/// A complex tensor, `[batch, heads]` or `[batch, heads, columns]`; an axis of length one broadcasts.
#[derive(Clone)]
pub(crate) struct Complex<const D: usize = 2> {
    pub re: Tensor<D>,
    pub im: Tensor<D>,
}

impl Complex {
    /// Splits the energy `[2, heads]` into two rows `[1, heads]`.
    pub fn energy(energy: Tensor<2>) -> Self {
        Self {
            re: energy.clone().narrow(0, 0, 1),
            im: energy.narrow(0, 1, 1),
        }
    }

    /// With an axis for columns, `[batch, heads, 1]`.
    pub fn per_column(self) -> Complex<3> {
        Complex {
            re: self.re.unsqueeze_dim(2),
            im: self.im.unsqueeze_dim(2),
        }
    }
}

impl<const D: usize> Complex<D> {
    /// Splits the last axis, Re then Im.
    pub fn split(packed: Tensor<D>) -> Self {
        let half = packed.dims()[D - 1] / 2;
        Self {
            re: packed.clone().narrow(D - 1, 0, half),
            im: packed.narrow(D - 1, half, half),
        }
    }

    /// Zeros with the shape and device of `like`.
    pub fn zeros(like: &Tensor<D>) -> Self {
        let zeros = like.zeros_like();
        Self {
            re: zeros.clone(),
            im: zeros,
        }
    }

    /// Re then Im along the last axis.
    pub fn join(self) -> Tensor<D> {
        Tensor::cat(vec![self.re, self.im], D - 1)
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

    pub fn sub(self, other: Self) -> Self {
        Self {
            re: self.re - other.re,
            im: self.im - other.im,
        }
    }

    /// `real - self`, with a real left-hand side.
    pub fn subtract_from(self, real: Tensor<D>) -> Self {
        Self {
            re: real - self.re,
            im: -self.im,
        }
    }

    pub fn scale(self, factor: Tensor<D>) -> Self {
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
    pub fn norm(&self) -> Tensor<D> {
        self.re.clone() * self.re.clone() + self.im.clone() * self.im.clone()
    }

    /// `1 / self = conj(self) / |self|^2`
    pub fn inverse(self) -> Self {
        let factor = self.norm().recip();
        self.conj().scale(factor)
    }
}

/// Position `i` of `[batch, seq, ..]`, as `[batch, ..]`.
pub(crate) fn position<const D: usize, const R: usize>(
    sequence: &Tensor<D>,
    i: usize,
) -> Tensor<R> {
    sequence.clone().narrow(1, i, 1).squeeze_dim(1)
}
