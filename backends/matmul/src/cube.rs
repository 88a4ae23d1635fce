//! Products on CubeCL devices: the vendor's library where it serves, Burn's own kernels elsewhere.

use burn::{
    backend::{Cube, TensorMetadata, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::DType,
};

use crate::backend::{ProductAdjoint, ProductBackend, Sides};

impl ProductBackend for Cube {
    fn linear_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = x.dtype();
        let weight = cast(weight, dtype);
        Self::product(x, weight, Sides::Plain, dtype)
    }
}

impl ProductAdjoint for Cube {
    fn product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        sides: Sides,
        dtype: DType,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let Some(product) = crate::cublas::product(&a, &b, sides, dtype) {
            return product;
        }
        let [a, b] = match sides {
            Sides::Plain => [a, b],
            Sides::LeftTransposed => [Self::float_transpose(a), b],
            Sides::RightTransposed => [a, Self::float_transpose(b)],
        };
        cast(Self::float_matmul(a, b), dtype)
    }

    fn add_product(
        sum: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        sides: Sides,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if crate::cublas::add_product(&sum, &a, &b, sides) {
            return sum;
        }
        let dtype = sum.dtype();
        Self::float_add(sum, Self::product(a, b, sides, dtype))
    }
}

fn cast(tensor: FloatTensor<Cube>, dtype: DType) -> FloatTensor<Cube> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => Cube::float_cast(tensor, dtype.into()),
    }
}
