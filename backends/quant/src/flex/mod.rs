//! The Flex implementation: vectorised over the outputs of a panel, parallel over panels.

mod columns;
mod few;
mod integer;
mod many;
mod tile;
mod vector;

use burn::{
    backend::{
        Flex, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Shape, TensorData},
};

use crate::{activations::Activations, backend::QuantBackend, format::PackedFormat};

/// Rows up to which reading words and multiplying in registers is faster than unpacking for a matrix product.
const FEW_ROWS: usize = 8;

type FlexTensor = FloatTensor<Flex>;

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Outputs below `d_output`.
fn indices(outputs: IntTensor<Flex>, d_output: usize) -> Vec<usize> {
    let outputs = outputs.to_contiguous();
    let outputs = outputs.storage::<i32>().iter();
    outputs
        .map(|&output| match usize::try_from(output) {
            Ok(output) if output < d_output => output,
            _ => {
                panic!("packed_columns: {output} is not below the {d_output} outputs of the matrix")
            }
        })
        .collect()
}

impl QuantBackend for Flex {
    fn packed_linear(x: FlexTensor, words: IntTensor<Flex>, format: PackedFormat) -> FlexTensor {
        let (x, words) = (x.to_contiguous(), words.to_contiguous());
        let (rows, values) = (x.shape()[0], x.storage::<f32>());
        let y = match rows {
            0 => Vec::new(),
            1..=FEW_ROWS => few::product(words.storage(), values, format),
            _ => many::product(words.storage(), values, format),
        };
        tensor(y, [rows, format.d_output])
    }

    fn integer_linear(
        x: FlexTensor,
        words: IntTensor<Flex>,
        format: PackedFormat,
        activations: Activations,
    ) -> FlexTensor {
        let (x, words) = (x.to_contiguous(), words.to_contiguous());
        let rows = x.shape()[0];
        let y = match rows {
            0 => Vec::new(),
            _ => integer::product(words.storage(), x.storage::<f32>(), format, activations),
        };
        tensor(y, [rows, format.d_output])
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
