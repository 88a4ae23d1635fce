//! Products on CubeCL devices: the vendor's library where it serves, Burn's own kernels elsewhere.

use burn::{
    backend::{Cube, TensorMetadata, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::DType,
};
use kiln_profile::Operation;

use crate::{
    OPERATION,
    backend::{ProductAdjoint, ProductBackend, Sides, of_rows, rounded, rows},
};

impl ProductBackend for Cube {
    fn linear_product(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        _gradient: DType,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype(), x.shape());
        let weight = rounded::<Self>(weight, dtype);
        let y = Self::product(rows::<Self>(x), weight, Sides::Plain, dtype);
        of_rows::<Self>(y, shape)
    }
}

impl ProductAdjoint for Cube {
    fn product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        sides: Sides,
        dtype: DType,
    ) -> FloatTensor<Self> {
        let of = counted(&a, &b, sides, dtype);
        kiln_profile::operation(|| of, || multiplied(a, b, sides, dtype))
    }

    fn add_product(
        sum: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        sides: Sides,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        {
            let of = counted(&a, &b, sides, sum.dtype());
            let add = || crate::cublas::add_product(&sum, &a, &b, sides);
            if kiln_profile::operation(|| of, add) {
                return sum;
            }
        }
        let dtype = sum.dtype();
        Self::float_add(sum, Self::product(a, b, sides, dtype))
    }
}

fn multiplied(
    a: FloatTensor<Cube>,
    b: FloatTensor<Cube>,
    sides: Sides,
    dtype: DType,
) -> FloatTensor<Cube> {
    #[cfg(feature = "cuda")]
    if let Some(product) = crate::cublas::product(&a, &b, sides, dtype) {
        return product;
    }
    let [a, b] = match sides {
        Sides::Plain => [a, b],
        Sides::LeftTransposed => [Cube::float_transpose(a), b],
        Sides::RightTransposed => [a, Cube::float_transpose(b)],
    };
    rounded::<Cube>(Cube::float_matmul(a, b), dtype)
}

/// What a product takes, with every operand read once.
fn counted(a: &FloatTensor<Cube>, b: &FloatTensor<Cube>, sides: Sides, dtype: DType) -> Operation {
    let ([a_rows, a_cols], [b_rows, b_cols]) = (a.shape().dims(), b.shape().dims());
    let [rows, inner, cols] = match sides {
        Sides::Plain => [a_rows, a_cols, b_cols],
        Sides::LeftTransposed => [a_cols, a_rows, b_cols],
        Sides::RightTransposed => [a_rows, a_cols, b_rows],
    };
    let read = rows * inner * a.dtype().size() + inner * cols * b.dtype().size();
    Operation {
        name: OPERATION,
        flops: 2.0 * rows as f64 * inner as f64 * cols as f64,
        bytes: (read + rows * cols * dtype.size()) as f64,
    }
}
