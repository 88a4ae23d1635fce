//! The Flex implementation.

mod columns;

use burn::{
    backend::{
        Flex,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape, TensorData},
};

use crate::{backend::QuantBackend, format::PackedFormat};

type FlexTensor = FloatTensor<Flex>;

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Outputs below `d_output`.
fn indices(outputs: IntTensor<Flex>, d_output: usize) -> Vec<usize> {
    let outputs: Vec<usize> = match outputs.dtype() {
        DType::I32 => outputs
            .to_contiguous()
            .storage::<i32>()
            .iter()
            .map(|&output| output as usize)
            .collect(),
        _ => outputs
            .into_data()
            .iter::<i64>()
            .map(|output| output as usize)
            .collect(),
    };
    if let Some(output) = outputs.iter().find(|&&output| output >= d_output) {
        panic!("packed_columns: {output} is not below the {d_output} outputs of the matrix");
    }
    outputs
}

impl QuantBackend for Flex {
    fn packed_linear(x: FlexTensor, words: IntTensor<Flex>, format: PackedFormat) -> FlexTensor {
        let words = words.to_contiguous();
        let outputs: Vec<usize> = (0..format.d_output).collect();
        let columns = columns::read(words.storage(), &outputs, format);
        let transposed = tensor(columns, [format.d_output, format.d_input]);
        Flex::float_matmul(x, Flex::float_transpose(transposed))
    }

    fn packed_columns(
        words: IntTensor<Flex>,
        outputs: IntTensor<Flex>,
        format: PackedFormat,
    ) -> FlexTensor {
        let words = words.to_contiguous();
        let outputs = indices(outputs, format.d_output);
        let columns = columns::read(words.storage(), &outputs, format);
        tensor(columns, [outputs.len(), format.d_input])
    }
}
