//! What mixes positions: the BK operations, gated linear and resolvent attention, softmax attention.

use burn::tensor::Tensor;
use kiln_bk::{
    BkError, ResolventForm, ResolventInputs, bk_diagonal, bk_left, bk_solve, resolvent_attention,
};
use kiln_fused::AttentionMask;
use kiln_gla::gated_linear_attention;

use super::catalogue::Sizes;
use super::operation::{Entry, Kind, Place, Prepared};
use crate::trouble::Trouble;

/// Columns that the resolvent is applied to.
const COLUMNS: usize = 4;
/// Positions of a chunk of gated linear attention, by which its operations are counted.
const CHUNK: f64 = 64.0;

pub(super) fn entries(sizes: Sizes) -> Vec<Entry> {
    vec![
        bk(
            "bk_left",
            sizes,
            [10.0, 32.0],
            |potential, hopping, energy| Ok(bk_left(potential, hopping, energy, None)?.features),
        ),
        bk("bk_diagonal", sizes, [22.0, 82.0], bk_diagonal),
        solve(sizes),
        gated(sizes),
        resolvent(sizes),
        attention(sizes),
    ]
}

fn failed(error: impl ToString) -> Trouble {
    Trouble::Panic(error.to_string())
}

/// Channels of the width of the model, each a head.
fn bk(
    name: &'static str,
    sizes: Sizes,
    flops: [f64; 2],
    f: fn(Tensor<3>, Tensor<1>, Tensor<2>) -> Result<Tensor<3>, BkError>,
) -> Entry {
    let Sizes {
        batch,
        seq,
        d_model: heads,
        ..
    } = sizes;
    let rows = sizes.rows();
    Entry {
        name,
        shape: format!("{batch} x {seq}, {heads} heads"),
        single: true,
        flops: Some(flops.map(|flops| flops * (rows * heads) as f64)),
        kind: Kind::Function(Box::new(move |place| {
            let inputs = bk_inputs(place, rows, heads);
            Ok(Prepared::new(inputs, move |x| {
                let [potential, hopping, energy] = [0, 1, 2].map(|at: usize| x[at].clone());
                let potential = potential.reshape([batch, seq, heads]);
                let found = f(potential, hopping.reshape([heads]), energy).map_err(failed)?;
                Ok(found.reshape([rows, 2 * heads]))
            }))
        })),
    }
}

/// Potential, hopping and energy.
fn bk_inputs(place: &Place, rows: usize, heads: usize) -> Vec<Tensor<2>> {
    vec![
        place.single([rows, heads], [-1.0, 1.0]),
        place.single([1, heads], [0.5, 1.0]),
        place.single([2, heads], [0.5, 1.0]),
    ]
}

fn solve(sizes: Sizes) -> Entry {
    let Sizes {
        batch, seq, heads, ..
    } = sizes;
    let rows = sizes.rows();
    // Each column, and the recurrence that all columns share.
    let of_columns = [18.0, 53.0].map(|flops| flops * COLUMNS as f64);
    let flops = [of_columns[0] + 10.0, of_columns[1] + 32.0];
    Entry {
        name: "bk_solve",
        shape: format!("{batch} x {seq}, {heads} heads of {COLUMNS} columns"),
        single: true,
        flops: Some(flops.map(|flops| flops * (rows * heads) as f64)),
        kind: Kind::Function(Box::new(move |place| {
            let mut inputs = bk_inputs(place, rows, heads);
            inputs.push(place.single([1, heads], [0.5, 1.0]));
            inputs.push(place.single([rows, heads * COLUMNS], [-1.0, 1.0]));
            Ok(Prepared::new(inputs, move |x| {
                let potential = x[0].clone().reshape([batch, seq, heads]);
                let [upper, lower] = [1, 3].map(|at: usize| x[at].clone().reshape([heads]));
                let values = x[4].clone().reshape([batch, seq, heads, COLUMNS]);
                let energy = x[2].clone();
                let found = bk_solve(values, potential, upper, lower, energy).map_err(failed)?;
                Ok(found.reshape([rows, 2 * heads * COLUMNS]))
            }))
        })),
    }
}

/// Queries, keys and values of the width of the model.
fn operands(place: &Place, rows: usize, width: usize) -> Vec<Tensor<2>> {
    let mut operands = vec![place.activations([rows, width]); 3];
    for operand in &mut operands[1..] {
        *operand = place.activations([rows, width]);
    }
    operands
}

/// Linear attention takes `f32` and `bf16`.
fn linear_operands(place: &Place, rows: usize, width: usize) -> Vec<Tensor<2>> {
    let operands = operands(place, rows, width).into_iter();
    operands.map(kiln_backbone::attention_operand).collect()
}

/// Operations of all positions and heads, with keys and values of one width.
fn gated_flops(sizes: Sizes) -> [f64; 2] {
    let (d_head, count) = (sizes.d_head() as f64, (sizes.rows() * sizes.heads) as f64);
    let forward = 4.0 * CHUNK * d_head + 4.0 * d_head * d_head;
    let backward = 10.0 * CHUNK * d_head + 10.0 * d_head * d_head;
    [forward * count, (forward + backward) * count]
}

fn gated(sizes: Sizes) -> Entry {
    let Sizes {
        batch,
        seq,
        heads,
        d_model,
        ..
    } = sizes;
    let (rows, d_head) = (sizes.rows(), sizes.d_head());
    let of_heads = [batch, seq, heads, d_head];
    Entry {
        name: "gated_linear_attention",
        shape: format!("{batch} x {seq}, {heads} heads of {d_head}"),
        single: false,
        flops: Some(gated_flops(sizes)),
        kind: Kind::Function(Box::new(move |place| {
            let mut inputs = linear_operands(place, rows, d_model);
            inputs.push(place.single([rows, heads], [-0.2, 0.0]));
            Ok(Prepared::new(inputs, move |x| {
                let [q, k, v] = [0, 1, 2].map(|at: usize| x[at].clone().reshape(of_heads));
                let decay = x[3].clone().reshape([batch, seq, heads]);
                let found = gated_linear_attention(q, k, v, decay, None).map_err(failed)?;
                Ok(found.output.reshape([rows, d_model]))
            }))
        })),
    }
}

fn resolvent(sizes: Sizes) -> Entry {
    let Sizes {
        batch,
        seq,
        heads,
        d_model,
        ..
    } = sizes;
    let (rows, d_head) = (sizes.rows(), sizes.d_head());
    let of_heads = [batch, seq, heads, d_head];
    Entry {
        name: "resolvent_attention",
        shape: format!("{batch} x {seq}, {heads} heads of {d_head}"),
        single: false,
        flops: Some(gated_flops(sizes)),
        kind: Kind::Function(Box::new(move |place| {
            let mut inputs = linear_operands(place, rows, d_model);
            inputs.extend(bk_inputs(place, rows, heads));
            Ok(Prepared::new(inputs, move |x| {
                let [q, k, v] = [0, 1, 2].map(|at: usize| x[at].clone().reshape(of_heads));
                let potential = x[3].clone().reshape([batch, seq, heads]);
                let (hopping, energy) = (x[4].clone().reshape([heads]), x[5].clone());
                let inputs = ResolventInputs {
                    q,
                    k,
                    v,
                    potential,
                    bound: None,
                    hopping,
                    energy,
                    state: None,
                };
                let found = resolvent_attention(inputs, ResolventForm::Born);
                Ok(found.map_err(failed)?.output.reshape([rows, d_model]))
            }))
        })),
    }
}

/// Causal: two products of every pair forward, and five backward.
fn attention(sizes: Sizes) -> Entry {
    let Sizes {
        batch,
        seq,
        heads,
        d_model,
        ..
    } = sizes;
    let (rows, d_head) = (sizes.rows(), sizes.d_head());
    let pairs = (batch * heads * seq * (seq + 1) / 2) as f64;
    Entry {
        name: "attention",
        shape: format!("{batch} x {seq}, {heads} heads of {d_head}, causal"),
        single: false,
        flops: Some([4.0, 14.0].map(|flops| flops * pairs * d_head as f64)),
        kind: Kind::Function(Box::new(move |place| {
            let inputs = vec![place.activations([rows, 3 * d_model])];
            Ok(Prepared::new(inputs, move |x| {
                let packed = x[0].clone().reshape([batch, seq, 3 * d_model]);
                let found = kiln_fused::attention(packed, heads, AttentionMask::Causal);
                Ok(found.reshape([rows, d_model]))
            }))
        })),
    }
}
