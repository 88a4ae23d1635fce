//! Rows of a table by number.

use burn::{
    backend::{
        Cube,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, IndexingUpdateOp, Int, Shape, Tensor},
};
use burn_cubecl::{
    cubecl::{
        self, calculate_cube_count_elemwise,
        ir::{ElemType, FloatKind, Type, features::AtomicUsage},
        prelude::*,
    },
    kernel::into_contiguous,
    ops::numeric::zeros_client,
};

use super::{CUBE_UNITS, address_type, lift, lower};
use crate::rows::{RowsAdjoint, RowsBackend};

impl RowsBackend for Cube {
    fn fused_select_rows(table: FloatTensor<Self>, numbers: IntTensor<Self>) -> FloatTensor<Self> {
        let numbers = Tensor::<1, Int>::from_primitive::<Cube>(numbers);
        lower(lift::<2>(table).select(0, numbers))
    }
}

impl RowsAdjoint for Cube {
    fn select_rows_adjoint(
        shape: Shape,
        numbers: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let dtype = grad.dtype;
        let atomic = Type::atomic(ElemType::Float(FloatKind::F32));
        let usage = grad.client.properties().atomic_type_usage(atomic);
        if usage.contains(AtomicUsage::Add) && numbers.dtype == DType::I32 {
            let grad = lower(lift::<2>(grad).cast(DType::F32));
            return lower(lift::<2>(added_up(shape, numbers, grad)).cast(dtype));
        }
        let grad = lift::<2>(grad);
        let numbers = Tensor::<1, Int>::from_primitive::<Cube>(numbers);
        let zeros = Tensor::<2>::zeros(shape, (&grad.device(), dtype));
        lower(zeros.select_assign(0, numbers, grad, IndexingUpdateOp::Add))
    }
}

/// Rows of `grad [count, width]`, each added to its row of a table of `shape`.
fn added_up(shape: Shape, numbers: IntTensor<Cube>, grad: FloatTensor<Cube>) -> FloatTensor<Cube> {
    let (grad, numbers) = (into_contiguous(grad), into_contiguous(numbers));
    let (client, device) = (grad.client.clone(), grad.device.clone());
    let [rows, width] = shape.dims();
    // Packed: asked for by rows, CUDA would pad them, and the kernel would write the padding.
    let sum = zeros_client(client.clone(), device, [rows * width].into(), DType::F32);
    let total = grad.meta.num_elements();
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: the kernel checks the number of a row, and surplus units leave at once.
    unsafe {
        add_rows::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, total, dim),
            dim,
            address_type!(sum, grad, numbers),
            numbers.into_buffer_arg(),
            grad.into_buffer_arg(),
            sum.clone().into_buffer_arg(),
            rows,
            width,
            total,
        );
    }
    burn_cubecl::ops::reshape(sum, shape)
}

/// Adds row i of `grad [count, width]` to row `numbers_i` of `sum [rows, width]`; rows that are not there are left out.
#[cube(launch_unchecked, address_type = "dynamic")]
fn add_rows(
    numbers: &[i32],
    grad: &[f32],
    sum: &[Atomic<f32>],
    rows: usize,
    width: usize,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let row = numbers[ABSOLUTE_POS / width];
    if row >= 0 && (row as usize) < rows {
        sum[row as usize * width + ABSOLUTE_POS % width].fetch_add(grad[ABSOLUTE_POS]);
    }
}
