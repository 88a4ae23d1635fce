//! Linear layers, dense and packed, and the head with its loss.

use burn::tensor::{Int, Tensor};
use kiln_fused::{LossOptions, linear, linear_cross_entropy};
use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix, QuantError, packed_linear};

use super::catalogue::Sizes;
use super::operation::{Entry, Kind, Prepared, ids_beside};
use super::rows::targets;
use crate::trouble::Trouble;

/// Inputs that share a scale in the packed layers, where they are that many.
const GROUP: usize = 64;

pub(super) fn entries(sizes: Sizes) -> Vec<Entry> {
    let Sizes {
        d_model,
        d_hidden,
        vocab,
        ..
    } = sizes;
    let rows = sizes.rows();
    let layers = [
        [d_model, 3 * d_model],
        [d_model, d_model],
        [d_model, d_hidden],
        [d_hidden, d_model],
        [d_model, vocab],
    ];
    let mut all: Vec<_> = layers.map(|layer| dense(rows, layer)).into();
    all.push(head(sizes));
    for (name, encoding) in [
        ("packed_int8", Encoding::Int8),
        ("packed_int4", Encoding::Int4),
    ] {
        // One row is a token that is generated, many are a prompt.
        for rows in [1, rows] {
            all.push(packed(name, encoding, rows, [d_model, d_hidden]));
        }
    }
    all
}

/// Products forward, and of both passes with the gradients of `operands` operands.
fn flops([rows, d_in, d_out]: [usize; 3], operands: f64) -> [f64; 2] {
    let product = 2.0 * (rows * d_in * d_out) as f64;
    [product, (1.0 + operands) * product]
}

fn dense(rows: usize, [d_in, d_out]: [usize; 2]) -> Entry {
    Entry {
        name: "linear",
        shape: format!("{rows} x {d_in} to {d_out}"),
        single: false,
        flops: Some(flops([rows, d_in, d_out], 2.0)),
        kind: Kind::Function(Box::new(move |place| {
            let weight = place.single([d_in, d_out], [-1.0, 1.0]);
            let inputs = vec![place.activations([rows, d_in]), weight];
            Ok(Prepared::new(inputs, |x| {
                Ok(linear(x[0].clone(), x[1].clone(), None))
            }))
        })),
    }
}

fn head(sizes: Sizes) -> Entry {
    let Sizes { d_model, vocab, .. } = sizes;
    let rows = sizes.rows();
    Entry {
        name: "linear_cross_entropy",
        shape: format!("{rows} x {d_model} to {vocab}"),
        single: false,
        flops: Some(flops([rows, d_model, vocab], 2.0)),
        kind: Kind::Function(Box::new(move |place| {
            let weight = place.single([vocab, d_model], [-0.1, 0.1]);
            let targets = targets(place, rows, vocab);
            let inputs = vec![place.activations([rows, d_model]), weight];
            Ok(Prepared::new(inputs, move |x| {
                let targets = ids_beside(&x[0], &targets);
                let options = LossOptions::default();
                let found = linear_cross_entropy(x[0].clone(), x[1].clone(), targets, options);
                Ok(found.minimised.unsqueeze())
            }))
        })),
    }
}

/// Levels without meaning.
fn matrix(encoding: Encoding, [d_input, d_output]: [usize; 2]) -> Result<PackedMatrix, QuantError> {
    let format = PackedFormat {
        encoding,
        asymmetric: false,
        d_input,
        d_output,
        group: if d_input.is_multiple_of(GROUP) {
            GROUP
        } else {
            d_input
        },
        scales: FloatType::F16,
    };
    let levels: Vec<i16> = (0..format.entries())
        .map(|at| (at * 7919 % 13) as i16 - 6)
        .collect();
    let scales = vec![0.01; format.groups() * d_output];
    PackedMatrix::pack(format, &levels, &scales, None)
}

fn packed(name: &'static str, encoding: Encoding, rows: usize, layer: [usize; 2]) -> Entry {
    let [d_in, d_out] = layer;
    Entry {
        name,
        shape: format!("{rows} x {d_in} to {d_out}"),
        single: true,
        flops: Some(flops([rows, d_in, d_out], 1.0)),
        kind: Kind::Function(Box::new(move |place| {
            let matrix =
                matrix(encoding, layer).map_err(|error| Trouble::Panic(error.to_string()))?;
            let (words, format): (Tensor<1, Int>, _) =
                (matrix.to_tensor(&place.device), matrix.format());
            let inputs = vec![place.single([rows, d_in], [-1.0, 1.0])];
            let prepared = Prepared::new(inputs, move |x| {
                let words = ids_beside(&x[0], &words);
                Ok(packed_linear(x[0].clone(), words, format))
            });
            Ok(Prepared {
                constant_bytes: matrix.bytes() as f64,
                ..prepared
            })
        })),
    }
}
