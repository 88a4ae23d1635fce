//! Every other kernel against its equation, and reproducibility to the bit.

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_fused::{self as fused, AttentionMask, reference};

use crate::common::{
    assert_close, bits, compare, device, gelu as exact_gelu, gradients, on_flex, random, values,
    window,
};

#[test]
fn linear() {
    if !on_flex() {
        return;
    }
    for [batch, seq, d_in, d_out] in [
        [1, 1, 1, 1],
        [2, 3, 5, 7],
        [3, 64, 65, 33],
        [4, 63, 128, 130],
    ] {
        let x = random([batch, seq, d_in], 1);
        let weight = random([d_in, d_out], 2);
        let bias = random([d_out], 3);
        compare!(
            format!("linear {batch} {seq} {d_in} {d_out}"),
            [x, weight, bias],
            fused::linear(x.clone(), weight.clone(), Some(bias.clone())),
            reference::linear(x.clone(), weight.clone(), Some(bias.clone()))
        );
    }
}

#[test]
fn linear_takes_transposed_weights_and_untracked_inputs() {
    if !on_flex() {
        return;
    }
    let x = random([9, 17], 1);
    let weight = random([11, 17], 2);
    compare!(
        "tied head",
        [x, weight],
        fused::linear(x.clone(), weight.clone().transpose(), None),
        reference::linear(x.clone(), weight.clone().transpose(), None)
    );
    let x = random([9, 17], 1);
    let weight = random([17, 3], 2);
    compare!(
        "frozen input",
        [weight],
        fused::linear(x.clone(), weight.clone(), None),
        reference::linear(x.clone(), weight.clone(), None)
    );
}

#[test]
fn gelu() {
    for shape in [[1, 1], [3, 17], [70, 513]] {
        let x = random(shape, 4) * 3.0;
        let x = x.detach();
        compare!("gelu", [x], fused::gelu(x.clone()), exact_gelu(x.clone()));
    }
}

#[test]
fn swiglu() {
    for shape in [[1, 1], [3, 17], [70, 513]] {
        let gate = random(shape, 5);
        let up = random(shape, 6);
        compare!(
            "swiglu",
            [gate, up],
            fused::swiglu(gate.clone(), up.clone()),
            reference::swiglu(gate.clone(), up.clone())
        );
    }
}

#[test]
fn soft_bound() {
    for (shape, bound) in [([1, 1], 4.0), ([3, 17], 1.0), ([70, 513], 0.5)] {
        let x = random(shape, 40);
        compare!(
            "soft bound",
            [x],
            fused::soft_bound(x.clone(), bound),
            reference::soft_bound(x.clone(), bound)
        );
    }
    let far = Tensor::<1>::from_floats([-1e6, 1e6, 0.0], &device());
    assert_eq!(values(fused::soft_bound(far, 4.0)), [-4.0, 4.0, 0.0]);
}

/// Far out softplus is the identity or nothing; at zero it is ln 2.
#[test]
fn softplus() {
    for (shape, floor) in [([1, 1], 0.0), ([3, 17], 1e-3), ([70, 513], 0.0)] {
        let x = random(shape, 43) * 6.0;
        let x = x.detach();
        compare!(
            "softplus",
            [x],
            fused::softplus(x.clone(), floor),
            reference::softplus(x.clone(), floor)
        );
    }
    let x = Tensor::<1>::from_floats([-100.0, -8.0, 0.0, 100.0], &device());
    let y = values(fused::softplus(x, 0.0));
    for (found, exact) in y
        .iter()
        .zip([0.0, 3.354_063_7e-4, std::f32::consts::LN_2, 100.0])
    {
        assert!((found - exact).abs() <= 3e-7 * exact + 1e-40, "{y:?}");
    }
}

/// A stream that a norm and a sum read gets both gradients, where it is computed and where it is given, whatever else reads it.
#[test]
fn a_norm_adds_to_what_its_input_has() {
    for (shape, others) in [([1, 1], 0), ([37, 64], 1), ([5, 4100], 2)] {
        let x = random(shape, 47).require_grad();
        let gain = random([shape[1]], 48).require_grad();
        for given in [true, false] {
            let sum = |norm: &dyn Fn(Tensor<2>) -> Tensor<2>,
                       add: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let x = match given {
                    true => x.clone(),
                    false => x.clone() * 1.5,
                };
                let read = x.clone().sin() * f64::from(others);
                add(x.clone(), norm(x.clone()) * 0.7) + read + norm(x)
            };
            let fused_norm = |x| fused::rms_norm(x, gain.clone(), 1e-5);
            let plain_norm = |x| reference::rms_norm(x, gain.clone(), 1e-5);
            let found = gradients(&sum(&fused_norm, &fused::add_residual));
            let expected = gradients(&sum(&plain_norm, &|x, y| x + y));
            let of = |grads| (x.grad(grads).unwrap(), gain.grad(grads).unwrap());
            let (found, expected) = (of(&found), of(&expected));
            assert_close("stream", found.0, expected.0);
            assert_close("gain", found.1, expected.1);
        }
    }
}

#[test]
fn add_weighted() {
    for [rows, width] in [[1, 1], [3, 17], [70, 513], [1030, 64]] {
        let x = random([rows, width], 44);
        let y = random([rows, width], 45);
        let weight = random([width], 46);
        compare!(
            format!("add weighted {rows} {width}"),
            [x, y, weight],
            fused::add_weighted(x.clone(), y.clone(), weight.clone()),
            reference::add_weighted(x.clone(), y.clone(), weight.clone())
        );
    }
}

/// Factors from all to hardly anything: what is written keeps its digits where nearly all is kept.
#[test]
fn scale_written() {
    for [batch, seq, heads, width] in [[1, 1, 1, 1], [2, 3, 5, 7], [2, 65, 3, 64], [1, 9, 2, 130]] {
        let x = random([batch, seq, heads, width], 47);
        let kept = random([batch, seq, heads], 48).abs().neg() * 2.0;
        let kept = kept.detach();
        compare!(
            format!("scale written {width}"),
            [x, kept],
            fused::scale_written(x.clone(), kept.clone()),
            reference::scale_written(x.clone(), kept.clone())
        );
    }
    for kept in [-1e-7_f32, -1e-3, -0.2, -0.3, -5.0, -40.0] {
        let x = Tensor::<4>::ones([1, 1, 1, 4], &device());
        let log_kept = Tensor::<3>::full([1, 1, 1], kept, &device());
        let written = values(fused::scale_written(x, log_kept))[0];
        let exact = -f64::from(kept).exp_m1();
        let error = (f64::from(written) - exact).abs();
        assert!(error <= 1e-6 * exact, "{kept}: {written} and not {exact}");
    }
}

#[test]
fn cayley() {
    for [batch, seq, heads] in [[1, 1, 1], [2, 3, 5], [3, 65, 130]] {
        // The upper half plane, from near the real axis on.
        let re = random([batch, seq, heads], 41) * 3.0;
        let im = random([batch, seq, heads], 42).abs() + 1e-3;
        let z = Tensor::cat(vec![re, im], 2).detach();
        compare!(
            "cayley",
            [z],
            fused::cayley(z.clone()),
            reference::cayley(z.clone())
        );
    }
    // By hand: i goes to 0, 1 + i to (1 - 2i)/5, and what is far goes to 1.
    let z = Tensor::<1>::from_floats([0.0, 1.0, 1e6, 1.0, 1.0, 1e-3], &device());
    let w = values(fused::cayley(z));
    for (got, want) in w.iter().zip([0.0, 0.2, 1.0, 0.0, -0.4, -2e-6]) {
        assert!((got - want).abs() < 1e-6, "{w:?}");
    }
}

#[test]
#[should_panic(expected = "cayley: the last axis is 3")]
fn cayley_refuses_odd_rows() {
    let _ = fused::cayley(random([2, 3], 1));
}

#[test]
fn norms() {
    // Of two elements every gradient is a difference of equal numbers, so rows start at three.
    for [batch, seq, width] in [[1, 1, 3], [2, 3, 7], [5, 33, 128], [3, 171, 65]] {
        let x = random([batch, seq, width], 7);
        let gamma = random([width], 8);
        let beta = random([width], 9);
        compare!(
            format!("layer norm {width}"),
            [x, gamma, beta],
            fused::layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), 1e-5),
            reference::layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), 1e-5)
        );
    }
    for [batch, seq, width] in [[1, 1, 3], [2, 3, 7], [5, 33, 128], [3, 171, 65]] {
        let x = random([batch, seq, width], 7);
        let gamma = random([width], 8);
        compare!(
            format!("rms norm {width}"),
            [x, gamma],
            fused::rms_norm(x.clone(), gamma.clone(), 1e-5),
            reference::rms_norm(x.clone(), gamma.clone(), 1e-5)
        );
    }
}

/// A gain that takes no gradient, in rows that a few units of a plane share.
#[test]
fn norms_with_a_frozen_gain() {
    for width in [8, 32, 64, 100] {
        let x = random([3, 171, width], 7);
        let gamma = random([width], 8).detach();
        compare!(
            format!("frozen gain {width}"),
            [x],
            fused::rms_norm(x.clone(), gamma.clone(), 1e-5),
            reference::rms_norm(x.clone(), gamma.clone(), 1e-5)
        );
    }
}

/// A row of one element: LayerNorm gives 0 and RMSNorm the sign, up to epsilon; both are flat, so that gradients of x are
/// differences of equal numbers of order 1 and vanish to rounding.
#[test]
fn norms_of_one_element() {
    for centred in [true, false] {
        let x = Tensor::<2>::from_floats([[1.5], [-0.7]], &device()).require_grad();
        let gamma = Tensor::<1>::from_floats([2.0], &device()).require_grad();
        let y = match centred {
            true => fused::layer_norm(x.clone(), gamma.clone(), None, 1e-5),
            false => fused::rms_norm(x.clone(), gamma.clone(), 1e-5),
        };
        let grads = y.clone().sum().backward();
        let exact = |x: f32| match centred {
            true => 0.0,
            false => x / (x * x + 1e-5).sqrt(),
        };
        let near = |found: Vec<f32>, expected: Vec<f32>, slack: f32| {
            for (f, e) in found.iter().zip(&expected) {
                assert!((f - e).abs() <= slack, "{found:?} instead of {expected:?}");
            }
        };
        let signs = [exact(1.5), exact(-0.7)];
        near(values(y), signs.map(|sign| 2.0 * sign).to_vec(), 1e-6);
        near(
            values(gamma.grad(&grads).unwrap()),
            vec![signs[0] + signs[1]],
            1e-6,
        );
        let d_x = |x: f32| match centred {
            true => 0.0,
            false => 2e-5 / (x * x + 1e-5).powf(1.5),
        };
        near(
            values(x.grad(&grads).unwrap()),
            vec![d_x(1.5), d_x(-0.7)],
            1e-6,
        );
    }
}

#[test]
fn rotate() {
    for [batch, seq, heads, d_head] in [[1, 1, 1, 2], [2, 5, 3, 6], [3, 64, 4, 32]] {
        let packed = random([batch, seq, 3 * heads * d_head], 10);
        let [cos, sin] = [11, 12].map(|seed| random([seq, d_head / 2], seed).detach());
        compare!(
            "rotate",
            [packed],
            fused::rotate(packed.clone(), cos.clone(), sin.clone(), heads),
            reference::rotate(packed.clone(), cos.clone(), sin.clone(), heads)
        );
    }
}

fn targets(tokens: usize, vocab: usize) -> Tensor<1, Int> {
    let ids: Vec<i32> = (0..tokens).map(|i| ((i * 7 + 3) % vocab) as i32).collect();
    Tensor::from_data(TensorData::new(ids, [tokens]), &device())
}

#[test]
fn cross_entropy() {
    for [tokens, vocab] in [[1, 1], [3, 2], [100, 65], [7, 1000]] {
        let logits = random([tokens, vocab], 14) * 4.0;
        let logits = logits.detach();
        compare!(
            format!("cross entropy {tokens} {vocab}"),
            [logits],
            fused::cross_entropy(logits.clone(), targets(tokens, vocab)),
            reference::cross_entropy(logits.clone(), targets(tokens, vocab))
        );
    }
}

/// Softmax of (0, ln 3) is (1/4, 3/4); large logits neither overflow nor lose the loss.
#[test]
fn cross_entropy_by_hand() {
    let ln3 = 3.0_f32.ln();
    let logits = Tensor::<2>::from_floats([[0.0, ln3], [0.0, ln3], [1e4, 1e4]], &device());
    let ids = Tensor::<1, Int>::from_ints([0, 1, 1], &device());
    let nats = values(fused::cross_entropy(logits, ids));
    for (found, exact) in nats
        .iter()
        .zip([4.0_f64.ln(), (4.0_f64 / 3.0).ln(), 2.0_f64.ln()])
    {
        assert!((f64::from(*found) - exact).abs() < 1e-6, "{nats:?}");
    }
}

/// Operations keep inputs through the checkpointer, which recomputes those that cheap operations made.
#[test]
fn gradient_checkpointing_changes_nothing() {
    let run = |device: Device| {
        let place = |x: Tensor<2>| Tensor::<2>::from_data(x.into_data(), &device).require_grad();
        let x = place(random([33, 12], 60));
        let weight = place(random([12, 20], 61));
        let gamma = place(random([1, 20], 62));
        let hidden = fused::linear(x.clone() * 0.5 + 0.1, weight.clone(), None);
        let normed = fused::rms_norm(hidden, gamma.clone().reshape([20]), 1e-5);
        let y = fused::swiglu(fused::gelu(normed.clone()), normed * 2.0);
        let grads = y.sum().backward();
        [x, weight, gamma].map(|leaf| bits(leaf.grad(&grads).unwrap()))
    };
    assert!(run(device()) == run(device().gradient_checkpointing()));
}

/// An id that is not in the vocabulary ends the program on the CPU; a device cannot, and makes the row not a number.
#[test]
fn cross_entropy_refuses_foreign_ids() {
    for id in [65, -1] {
        let ids = Tensor::<1, Int>::from_ints([0, id], &device());
        let found =
            std::panic::catch_unwind(|| values(fused::cross_entropy(random([2, 65], 1), ids)));
        match on_flex() {
            true => {
                let message = *found.unwrap_err().downcast::<String>().unwrap();
                assert!(
                    message.ends_with("is not below the vocabulary of 65"),
                    "{message}"
                );
            }
            false => {
                let nats = found.unwrap();
                assert!(nats[0].is_finite() && nats[1].is_nan(), "{nats:?}");
            }
        }
    }
}

/// One value and its gradients, to the bit, for each operation.
fn everything() -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    let mut note = |y: Tensor<3>, inputs: &[&Tensor<3>]| {
        let grads = gradients(&y);
        all.push(bits(y));
        all.extend(inputs.iter().map(|x| bits(x.grad(&grads).unwrap())));
    };
    // A graph serves one backward pass, so every operation gets a leaf of its own.
    let leaf = || random([12, 64, 384], 20).require_grad();
    if on_flex() {
        let x = leaf();
        note(fused::attention(x.clone(), 4, AttentionMask::Causal), &[&x]);
        let x = leaf();
        note(fused::attention(x.clone(), 4, window(16, 4)), &[&x]);
    }
    let x = leaf();
    note(fused::gelu(x.clone()), &[&x]);
    let (x, up) = (leaf(), random([12, 64, 384], 21).require_grad());
    note(fused::swiglu(x.clone(), up.clone()), &[&x, &up]);
    if on_flex() {
        let (x, weight) = (leaf(), random([384, 130], 22).require_grad());
        let y = fused::linear(x.clone(), weight.clone(), None);
        let grads = gradients(&y);
        all.push(bits(y));
        all.push(bits(x.grad(&grads).unwrap()));
        all.push(bits(weight.grad(&grads).unwrap()));
    }
    let (x, gamma) = (leaf(), random([384], 23).require_grad());
    let y = fused::layer_norm(x.clone(), gamma.clone(), None, 1e-5);
    let grads = gradients(&y);
    all.push(bits(y));
    all.push(bits(x.grad(&grads).unwrap()));
    all.push(bits(gamma.grad(&grads).unwrap()));
    let logits = random([768, 65], 24).require_grad();
    let y = fused::cross_entropy(logits.clone(), targets(768, 65));
    let grads = gradients(&y);
    all.push(bits(y));
    all.push(bits(logits.grad(&grads).unwrap()));
    let (rows, weight) = (random([768, 40], 26), random([300, 40], 27));
    let (rows, weight) = (rows.require_grad(), weight.require_grad());
    let options = fused::LossOptions {
        chunk_bytes: 200 * 300 * 4,
        ..fused::LossOptions::default()
    };
    let ids = targets(768, 300);
    let found = fused::linear_cross_entropy(rows.clone(), weight.clone(), ids, options);
    let grads = found.minimised.backward();
    all.push(bits(found.nats));
    all.push(bits(rows.grad(&grads).unwrap()));
    all.push(bits(weight.grad(&grads).unwrap()));
    all.push(bits(fused::square_sum(random([300, 300], 25).inner())));
    all
}

#[test]
fn results_do_not_depend_on_threads_or_runs() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(everything)
    };
    let one = with(1);
    for threads in [1, 2, 3, 7] {
        assert!(with(threads) == one, "{threads} threads");
    }
}

/// What is dropped follows from the seed and the place alone, whatever the shape: the kernel drops what the definition on the host does,
/// forward and backward.
#[test]
fn dropout() {
    let seed = |words: [i32; 2], device: &Device| {
        Tensor::<1, Int>::from_data(TensorData::from(words), device)
    };
    let on_host = Device::flex().autodiff();
    let mut dropped = 0;
    for (shape, words, probability) in [
        ([1, 1], [5, 9], 0.5),
        ([3, 17], [1, 2], 0.2),
        ([70, 512], [1 << 29, 12345], 0.1),
        ([70, 512], [12345, 1 << 29], 0.1),
        ([9, 30], [7, 7], 0.9),
    ] {
        let x = random(shape, 4);
        let by_definition = Tensor::<2>::from_data(x.clone().inner().into_data(), &on_host);
        let [x, by_definition] = [x, by_definition].map(Tensor::require_grad);
        let found = fused::dropout(x.clone(), probability, seed(words, &x.device()));
        let exact = fused::dropout(by_definition.clone(), probability, seed(words, &on_host));
        let weights = random(shape, 99).into_data();
        let slope = |x: &Tensor<2>, y: &Tensor<2>| {
            let weights = Tensor::<2>::from_data(weights.clone(), &y.device());
            let grads = (y.clone() * weights).sum().backward();
            values(x.grad(&grads).unwrap())
        };
        assert_eq!(
            slope(&x, &found),
            slope(&by_definition, &exact),
            "{shape:?}"
        );
        assert_eq!(values(found.clone()), values(exact), "{shape:?}");
        let zeros = values(found).into_iter().filter(|&y| y == 0.0).count();
        dropped += zeros;
        let count = (shape[0] * shape[1]) as f64;
        let off = (zeros as f64 - count * probability).abs();
        // Five standard deviations.
        assert!(off <= 5.0 * (count * probability * (1.0 - probability)).sqrt() + 1.0);
    }
    assert!(dropped > 0);
    let x = random([2, 3], 1);
    let none = fused::dropout(x.clone(), 0.0, seed([1, 1], &x.device()));
    assert_eq!(bits(none), bits(x));
}
