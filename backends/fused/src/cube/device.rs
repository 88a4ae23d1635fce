//! The operations that have kernels here alone.

use burn::backend::{Cube, ops::FloatTensorOps};

use super::{Primitive, elementwise, written};
use crate::device::{DeviceAdjoint, DeviceBackend};

impl DeviceBackend for Cube {
    fn fused_softplus(x: Primitive, floor: f32) -> Primitive {
        elementwise::softplus(x, floor)
    }

    fn fused_add_residual(x: Primitive, y: Primitive) -> Primitive {
        Self::float_add(x, y)
    }

    fn fused_add_weighted(x: Primitive, y: Primitive, weight: Primitive) -> Primitive {
        written::add_weighted(x, y, weight)
    }

    fn fused_scale_written(x: Primitive, log_kept: Primitive) -> Primitive {
        written::scale(x, log_kept)
    }
}

impl DeviceAdjoint for Cube {
    fn softplus_adjoint(x: Primitive, grad: Primitive) -> Primitive {
        elementwise::softplus_adjoint(x, grad)
    }

    fn add_weighted_adjoint(y: Primitive, weight: Primitive, grad: Primitive) -> [Primitive; 2] {
        written::add_weighted_adjoint(y, weight, grad)
    }

    fn scale_written_adjoint(x: Primitive, log_kept: Primitive, grad: Primitive) -> [Primitive; 2] {
        written::scale_adjoint(x, log_kept, grad)
    }
}
