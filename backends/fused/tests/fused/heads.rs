//! Projections side by side, heads behind their convolution and the gated readout: each against the operations that it stands for, with
//! all gradients. Devices that do not add up over neighbours have kernels for heads of four channels alone.

use burn::tensor::{DType, Tensor};
use kiln_fused::{self as fused, ConvolvedHeads, Gate, HeadSizes, reference};

use crate::common::{assert_close, bits, compare, device, gradients, on_flex, random};

/// With all but the last output, in the order of the fields.
type Outputs = ([Tensor<4>; 4], Tensor<3>);

const EPSILON: f64 = 1e-5;

/// Sizes that some device takes: heads over one unit, over several, with a rest that fills a line and one that does not.
const SIZES: [HeadSizes; 5] = [
    sizes(1, 4, 4, 0, 1),
    sizes(3, 4, 4, 12, 3),
    sizes(2, 16, 32, 64, 2),
    sizes(3, 32, 64, 0, 3),
    sizes(2, 64, 20, 0, 8),
];

const fn sizes(heads: usize, d_key: usize, d_value: usize, gate: usize, rest: usize) -> HeadSizes {
    HeadSizes {
        heads,
        d_key,
        d_value,
        gate,
        rest,
    }
}

/// The same by separate operations.
fn separate(packed: Tensor<3>, taps: [Tensor<2>; 3], sizes: HeadSizes, scale: f64) -> Outputs {
    let [batch, seq, _] = packed.dims();
    let parts = [sizes.keys(), sizes.keys(), sizes.values()];
    let mut first = 0;
    let mut convolved = parts.into_iter().zip(taps).map(|(channels, taps)| {
        let x = packed.clone().narrow(2, first, channels);
        first += channels;
        let y = reference::causal_conv(x, taps, 0, true);
        y.reshape([batch, seq, sizes.heads, channels / sizes.heads])
    });
    let mut next = || convolved.next().unwrap();
    let (q, k, v) = (next(), next(), next());
    let scales = |scale| Tensor::full([sizes.d_key], scale, &packed.device());
    let q = reference::rms_norm(q, scales(scale), EPSILON);
    let k = reference::rms_norm(k, scales(1.0), EPSILON);
    let rest = packed.narrow(2, sizes.convolved() + sizes.gate, sizes.rest);
    ([q, k, v.clone(), v], rest)
}

/// All outputs as one row, those that are left out as zeros.
fn together((heads, rest): Outputs, read: [bool; 5]) -> Tensor<1> {
    let rows = heads
        .into_iter()
        .map(|x| {
            let len = x.shape().num_elements();
            x.reshape([len])
        })
        .chain({
            let len = rest.shape().num_elements();
            [rest.reshape([len])]
        });
    let kept = rows.zip(read).filter_map(|(row, read)| read.then_some(row));
    Tensor::cat(kept.collect(), 0)
}

fn taken() -> Vec<HeadSizes> {
    let probe = random([1], 1);
    let taken = |sizes: &HeadSizes| fused::takes_convolved_heads(&probe, *sizes, 4);
    SIZES.into_iter().filter(taken).collect()
}

#[test]
fn a_device_of_kernels_takes_some_sizes() {
    assert_eq!(taken().is_empty(), on_flex());
}

#[test]
fn convolved_heads_are_the_operations_that_they_stand_for() {
    for sizes in taken() {
        for ([batch, seq], width) in [([1, 1], 4), ([2, 3], 3), ([2, 37], 4), ([3, 130], 2)] {
            let packed = random([batch, seq, sizes.columns()], 1);
            let [q_taps, k_taps, v_taps] = [
                random([sizes.keys(), width], 2),
                random([sizes.keys(), width], 3),
                random([sizes.values(), width], 4),
            ];
            // All outputs are read, then all but values, one reader of values alone, and the rest alone.
            for read in [
                [true; 5],
                [true, true, false, true, false],
                [false, false, true, false, false],
                [false, true, false, false, true],
            ] {
                let packed = packed.clone().detach();
                let [q_taps, k_taps, v_taps] =
                    [&q_taps, &k_taps, &v_taps].map(|taps| taps.clone().detach());
                let taps =
                    |q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>| [q.clone(), k.clone(), v.clone()];
                compare!(
                    format!("{sizes:?} of {batch} x {seq}, {width} taps, read {read:?}"),
                    [packed, q_taps, k_taps, v_taps],
                    {
                        let taps = taps(&q_taps, &k_taps, &v_taps);
                        let ConvolvedHeads {
                            q, k, v, own, rest, ..
                        } = fused::convolved_heads(packed.clone(), taps, sizes, 0.5, EPSILON);
                        together(([q, k, v, own], rest), read)
                    },
                    {
                        let taps = taps(&q_taps, &k_taps, &v_taps);
                        // What nobody reads has a gradient of zeros, not none.
                        let outputs = separate(packed.clone(), taps, sizes, 0.5);
                        let unread = together(outputs.clone(), [true; 5]).sum() * 0.0;
                        together(outputs, read) + unread
                    }
                );
            }
        }
    }
}

/// The gate of packed rows is read where it is, and its gradient comes back among those of the others.
#[test]
fn a_packed_gate_is_one_of_its_own() {
    for sizes in taken().into_iter().filter(|sizes| sizes.gate > 0) {
        for [batch, seq] in [[1, 1], [2, 37]] {
            let packed = random([batch, seq, sizes.columns()], 1);
            let [q_taps, k_taps, v_taps] = [
                random([sizes.keys(), 4], 2),
                random([sizes.keys(), 4], 3),
                random([sizes.values(), 4], 4),
            ];
            let (skip, gamma) = (random([sizes.gate], 5), random([sizes.d_value], 6));
            // With all that the rows hold in use, and with the gate alone.
            for read in [[true; 5], [false, false, false, true, false]] {
                let packed = packed.clone().detach();
                let [q_taps, k_taps, v_taps] =
                    [&q_taps, &k_taps, &v_taps].map(|taps| taps.clone().detach());
                let (skip, gamma) = (skip.clone().detach(), gamma.clone().detach());
                let taps =
                    |q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>| [q.clone(), k.clone(), v.clone()];
                let gated = |own: &Tensor<4>, gate, skip: &Tensor<1>, gamma: &Tensor<1>| {
                    let (own, gamma) = (own.clone(), gamma.clone());
                    let y =
                        fused::gated_readout(own.clone(), own, skip.clone(), gamma, gate, EPSILON);
                    let len = y.shape().num_elements();
                    y.reshape([len])
                };
                compare!(
                    format!("{sizes:?} of {batch} x {seq}, read {read:?}"),
                    [packed, q_taps, k_taps, v_taps, skip, gamma],
                    {
                        let taps = taps(&q_taps, &k_taps, &v_taps);
                        let heads =
                            fused::convolved_heads(packed.clone(), taps, sizes, 0.5, EPSILON);
                        let gate = Gate::Packed(heads.gate.unwrap());
                        let y = gated(&heads.own, gate, &skip, &gamma);
                        let rest =
                            together(([heads.q, heads.k, heads.v, heads.own], heads.rest), read);
                        Tensor::cat(vec![y, rest], 0)
                    },
                    {
                        let taps = taps(&q_taps, &k_taps, &v_taps);
                        let (heads, rest) = separate(packed.clone(), taps, sizes, 0.5);
                        let gate = packed.clone().narrow(2, sizes.convolved(), sizes.gate);
                        let y = gated(&heads[3], Gate::Rows(gate), &skip, &gamma);
                        let unread = together((heads.clone(), rest.clone()), [true; 5]).sum() * 0.0;
                        Tensor::cat(vec![y, together((heads, rest), read)], 0) + unread
                    }
                );
            }
        }
    }
}

#[test]
fn side_by_side() {
    for (rows, widths, columns) in [
        (1, vec![1, 1, 1, 1], 4),
        (5, vec![8, 3, 16, 2], 32),
        (70, vec![33, 1, 2, 4], 40),
        (7, vec![4, 4, 8, 16, 3], 40),
        (9, vec![4, 4, 8, 16, 12], 48),
    ] {
        let matrices = |widths: &[usize]| {
            let each = |(i, &width): (usize, &usize)| random([rows, width], i as u64);
            widths
                .iter()
                .enumerate()
                .map(each)
                .collect::<Vec<Tensor<2>>>()
        };
        // One matrix of them all, cut apart, so that each has a gradient to be compared.
        let taken: usize = widths.iter().sum();
        let all = Tensor::cat(matrices(&widths), 1);
        let apart = |all: &Tensor<2>| {
            let mut first = 0;
            let each = |&width: &usize| {
                first += width;
                all.clone().narrow(1, first - width, width)
            };
            widths.iter().map(each).collect::<Vec<_>>()
        };
        compare!(
            format!("{widths:?} in {columns}"),
            [all],
            fused::side_by_side(apart(&all), columns, DType::F32),
            match columns > taken {
                true => {
                    let zeros = Tensor::zeros([rows, columns - taken], &device());
                    Tensor::cat(vec![all.clone(), zeros], 1)
                }
                false => all.clone(),
            }
        );
    }
}

#[test]
#[should_panic(expected = "3 matrices are not four or five")]
fn side_by_side_refuses_three() {
    let matrices = [0, 1, 2].map(|i| random([2, 1], i)).to_vec();
    fused::side_by_side(matrices, 3, DType::F32);
}

#[test]
#[should_panic(expected = "do not fit into 3")]
fn side_by_side_refuses_too_few_columns() {
    let matrices = [0, 1, 2, 3].map(|i| random([2, 1], i)).to_vec();
    fused::side_by_side(matrices, 3, DType::F32);
}

#[test]
fn gated_readout() {
    for [batch, seq, heads, width] in [
        [1, 1, 1, 4],
        [2, 5, 3, 4],
        [2, 19, 2, 32],
        [3, 37, 3, 64],
        [1, 7, 2, 6],
        [2, 65, 12, 128],
    ] {
        let [read, own] = [1, 2].map(|seed| random([batch, seq, heads, width], seed));
        let (skip, gamma) = (random([heads * width], 3), random([width], 4));
        let gate = random([batch, seq, heads * width], 5);
        compare!(
            format!("readout of {batch} x {seq}, {heads} heads of {width}"),
            [read, own, skip, gamma, gate],
            fused::gated_readout(
                read.clone(),
                own.clone(),
                skip.clone(),
                gamma.clone(),
                Gate::Rows(gate.clone()),
                EPSILON
            ),
            {
                let flat = |x: &Tensor<4>| x.clone().reshape([batch, seq, heads * width]);
                let y = reference::add_weighted(flat(&read), flat(&own), skip.clone());
                let y = y.reshape([batch, seq, heads, width]);
                let y = reference::rms_norm(y, gamma.clone(), EPSILON);
                reference::swiglu(gate.clone(), y.reshape([batch, seq, heads * width]))
            }
        );
    }
}

/// The same inputs give the same bits.
#[test]
fn heads_repeat_to_the_bit() {
    for sizes in taken() {
        let packed = random([2, 37, sizes.columns()], 1);
        let taps = [
            random([sizes.keys(), 4], 2),
            random([sizes.keys(), 4], 3),
            random([sizes.values(), 4], 4),
        ];
        let once = || {
            let packed = packed.clone().detach().require_grad();
            let heads = fused::convolved_heads(packed.clone(), taps.clone(), sizes, 0.5, EPSILON);
            let ConvolvedHeads {
                q, k, v, own, rest, ..
            } = heads;
            let y = together(([q, k, v, own], rest), [true; 5]);
            let grads = gradients(&y);
            (bits(y), bits(packed.grad(&grads).unwrap()))
        };
        assert!(once() == once(), "{sizes:?}");
    }
}
