//! What works on elements and rows: norms, activations, rotation, the short convolution, cross-entropy.

use burn::tensor::{Int, Tensor};
use kiln_fused as fused;

use super::catalogue::Sizes;
use super::operation::{Entry, Kind, Place, Prepared, beside, ids_beside};
use crate::trouble::Trouble;

/// Taps of the convolution.
const TAPS: usize = 4;
const EPSILON: f64 = 1e-5;

pub(super) fn entries(sizes: Sizes) -> Vec<Entry> {
    let Sizes {
        d_model, d_hidden, ..
    } = sizes;
    let rows = sizes.rows();
    vec![
        with_gamma("rms_norm", [rows, d_model], |x, gamma| {
            fused::rms_norm(x, gamma, EPSILON)
        }),
        with_gamma("layer_norm", [rows, d_model], |x, gamma| {
            fused::layer_norm(x, gamma, None, EPSILON)
        }),
        entry("gelu", [rows, d_hidden], false, move |place| {
            let inputs = vec![place.activations([rows, d_hidden])];
            Prepared::new(inputs, |x| Ok(fused::gelu(x[0].clone())))
        }),
        entry("swiglu", [rows, d_hidden], false, move |place| {
            let inputs = [(); 2].map(|()| place.activations([rows, d_hidden]));
            let swiglu = |x: &[Tensor<2>]| Ok(fused::swiglu(x[0].clone(), x[1].clone()));
            Prepared::new(inputs.into(), swiglu)
        }),
        rotate(sizes),
        conv(sizes),
        cross_entropy(sizes),
    ]
}

fn entry(
    name: &'static str,
    [rows, width]: [usize; 2],
    single: bool,
    prepare: impl Fn(&Place) -> Prepared + 'static,
) -> Entry {
    Entry {
        name,
        shape: format!("{rows} x {width}"),
        single,
        flops: None,
        kind: Kind::Function(Box::new(move |place| Ok(prepare(place)))),
    }
}

fn with_gamma(
    name: &'static str,
    shape: [usize; 2],
    norm: fn(Tensor<2>, Tensor<1>) -> Tensor<2>,
) -> Entry {
    let [_, width] = shape;
    entry(name, shape, false, move |place| {
        let gamma = place.single([1, width], [0.5, 1.5]);
        let inputs = vec![place.activations(shape), gamma];
        Prepared::new(inputs, move |x| {
            Ok(norm(x[0].clone(), x[1].clone().reshape([width])))
        })
    })
}

fn rotate(sizes: Sizes) -> Entry {
    let Sizes {
        batch,
        seq,
        heads,
        d_model,
        ..
    } = sizes;
    let (rows, width, half) = (sizes.rows(), 3 * d_model, sizes.d_head() / 2);
    entry("rotate", [rows, width], false, move |place| {
        let [cos, sin] = [(); 2].map(|()| place.single([seq, half], [-1.0, 1.0]));
        let inputs = vec![place.activations([rows, width])];
        let constant_bytes = (2 * seq * half * size_of::<f32>()) as f64;
        let prepared = Prepared::new(inputs, move |x| {
            let [cos, sin] = [&cos, &sin].map(|angles| beside(&x[0], angles));
            let packed = x[0].clone().reshape([batch, seq, width]);
            Ok(fused::rotate(packed, cos, sin, heads).reshape([rows, width]))
        });
        Prepared {
            constant_bytes,
            ..prepared
        }
    })
}

fn conv(sizes: Sizes) -> Entry {
    let Sizes {
        batch,
        seq,
        d_model,
        ..
    } = sizes;
    let rows = sizes.rows();
    entry("causal_conv", [rows, d_model], false, move |place| {
        let weight = place.single([d_model, TAPS], [-1.0, 1.0]);
        let inputs = vec![place.activations([rows, d_model]), weight];
        Prepared::new(inputs, move |x| {
            let lanes = x[0].clone().reshape([batch, seq, d_model]);
            let (y, _) = fused::causal_conv(lanes, x[1].clone(), None, true);
            Ok(y.reshape([rows, d_model]))
        })
    })
}

/// Ids below `vocab`.
pub(super) fn targets(place: &Place, rows: usize, vocab: usize) -> Tensor<1, Int> {
    Tensor::<1, Int>::arange(0..rows as i64, &place.device) % vocab as i32
}

fn cross_entropy(sizes: Sizes) -> Entry {
    let (rows, vocab) = (sizes.rows(), sizes.vocab);
    entry("cross_entropy", [rows, vocab], false, move |place| {
        let targets = targets(place, rows, vocab);
        let inputs = vec![place.activations([rows, vocab])];
        Prepared::new(inputs, move |x| {
            let targets = ids_beside(&x[0], &targets);
            Ok::<_, Trouble>(fused::cross_entropy(x[0].clone(), targets).unsqueeze())
        })
    })
}
