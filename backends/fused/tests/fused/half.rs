//! In bf16 and f16: outputs of x's type, gradients of weights in f32, and both those of f32 to the roundings of in- and outputs.

use burn::tensor::{DType, Int, Tensor};
use kiln_fused as fused;

use crate::common::{device, gradients, random, values, window};

/// With the largest difference relative to the largest element: four roundings of 2^-9 and of 2^-12, of the output, its gradient
/// and what lies between a product and the next.
const HALVES: [(DType, f64); 2] = [(DType::BF16, 8e-3), (DType::F16, 1e-3)];

/// Those of [`HALVES`] that the device has.
fn halves() -> impl Iterator<Item = (DType, f64)> {
    HALVES.into_iter().filter(|(dtype, _)| {
        let has = device().supports_dtype(*dtype);
        if !has {
            eprintln!("skipped: no {dtype:?} on this device");
        }
        has
    })
}

#[track_caller]
fn assert_near<const D: usize>(what: &str, found: Tensor<D>, exact: Tensor<D>, tolerance: f64) {
    assert_eq!(found.dims(), exact.dims(), "{what}");
    let (found, exact) = (values(found.cast(DType::F32)), values(exact));
    let largest = exact
        .iter()
        .fold(0.0, |m: f64, &x| m.max(f64::from(x).abs()));
    for (f, e) in found.iter().zip(&exact) {
        let error = (f64::from(*f) - f64::from(*e)).abs() / largest;
        assert!(error <= tolerance, "{what}: {f}, not {e}: off by {error:e}");
    }
}

/// An operation of x and a weight in both types, beside itself in f32 at the same rounded x and weight.
fn check<const D: usize, const W: usize>(
    what: &str,
    x: Tensor<D>,
    weight: Tensor<W>,
    f: impl Fn(Tensor<D>, Tensor<W>) -> Tensor<D>,
) {
    for (dtype, tolerance) in halves() {
        let x = x.clone().cast(dtype).cast(DType::F32);
        let weight = weight.clone().cast(dtype).cast(DType::F32);
        let (x, weight) = (x.detach().require_grad(), weight.detach().require_grad());
        let exact = f(x.clone(), weight.clone());
        let y = f(x.clone().cast(dtype), weight.clone());
        assert_eq!(y.dtype(), dtype, "{what}");
        let (grads, exact_grads) = (gradients(&y.clone().cast(DType::F32)), gradients(&exact));
        assert_near(what, y, exact, tolerance);
        let of_x = x.grad(&grads).unwrap();
        assert_near(what, of_x, x.grad(&exact_grads).unwrap(), tolerance);
        if let Some(exact) = weight.grad(&exact_grads) {
            let found = weight.grad(&grads).unwrap();
            assert_eq!(found.dtype(), DType::F32, "{what}");
            assert_near(what, found, exact, tolerance);
        }
    }
}

#[test]
fn linear() {
    let (x, weight) = (random([5, 33, 65], 1), random([65, 40], 2));
    for bias in [None, Some(random([40], 3))] {
        check("linear", x.clone(), weight.clone(), |x, weight| {
            let y = fused::linear(x, weight, bias.clone());
            assert_eq!(y.dims(), [5, 33, 40]);
            y
        });
    }
    let tied = random([40, 65], 2);
    check("tied head", x, tied, |x, weight| {
        fused::linear(x, weight.transpose(), None)
    });
}

#[test]
fn norms() {
    let (x, gamma) = (random([7, 130], 4), random([130], 5));
    check("rms", x.clone(), gamma.clone(), |x, gamma| {
        fused::rms_norm(x, gamma, 1e-5)
    });
    let beta = random([130], 6);
    check("layer", x, gamma.clone(), |x, gamma| {
        fused::layer_norm(x, gamma, Some(beta.clone()), 1e-5)
    });
    // Squares of 300 are above the largest f16, and their sum is not.
    let large = random([3, 130], 7) * 300.0;
    check("rms of large rows", large, gamma, |x, gamma| {
        fused::rms_norm(x, gamma, 1e-5)
    });
}

#[test]
fn elementwise() {
    let (x, up) = (random([7, 130], 8), random([7, 130], 9));
    check("gelu", x.clone() * 2.0, up.clone(), |x, _| fused::gelu(x));
    check("swiglu", x.clone(), up.clone(), |gate, up| {
        let up = up.cast(gate.dtype());
        fused::swiglu(gate, up)
    });
    check("softplus", x.clone(), up.clone(), |x, _| {
        fused::softplus(x, 1e-3)
    });
    let weight = random([130], 12);
    check("add weighted", x.clone(), weight, |x, weight| {
        fused::add_weighted(x.clone() * 0.5, x, weight)
    });
    let kept = random([1, 7, 2], 13).abs().neg();
    let read = x.clone().reshape([1, 7, 2, 65]);
    check("scale written", read, kept, fused::scale_written);
    check("bound", x.clone(), up.clone(), |x, _| {
        fused::soft_bound(x, 1.5)
    });
    let positive = x.abs() + 0.2;
    check("cayley", positive, up, |z, _| fused::cayley(z));
}

#[test]
fn sequences() {
    let (x, weight) = (random([2, 9, 30], 10), random([30, 4], 11));
    check("conv", x, weight, |x, weight| {
        // A history of f32, as states begin with.
        let history = Tensor::zeros([2, 3, 30], &device());
        let dtype = x.dtype();
        let (y, history) = fused::causal_conv(x, weight, Some(history), true);
        assert_eq!(history.unwrap().dtype(), dtype);
        y
    });
    let (packed, none) = (random([2, 9, 48], 12), random([1], 13));
    let (cos, sin) = (random([9, 4], 14), random([9, 4], 15));
    check("rotate", packed.clone(), none.clone(), |x, _| {
        fused::rotate(x, cos.clone(), sin.clone(), 2)
    });
    for mask in [fused::AttentionMask::Causal, window(4, 1)] {
        check("attention", packed.clone(), none.clone(), |x, _| {
            fused::attention(x, 2, mask)
        });
        let dropout = fused::WeightDropout::seeded(0.3, [5, 6], &device());
        check("dropout", packed.clone(), none.clone(), |x, _| {
            fused::attention_with_dropout(x, 2, mask, dropout.clone())
        });
    }
}

/// The loss is f32, of the rounded logits to the last bit but a few.
#[test]
fn cross_entropy() {
    let targets = || Tensor::<1, Int>::from_ints([5, 0, 31, 17], &device());
    for (dtype, tolerance) in halves() {
        let logits = (random([4, 32], 16) * 5.0).cast(dtype).cast(DType::F32);
        let logits = logits.detach().require_grad();
        let exact = fused::cross_entropy(logits.clone(), targets());
        let loss = fused::cross_entropy(logits.clone().cast(dtype), targets());
        assert_eq!(loss.dtype(), DType::F32);
        let [found, exact_grad] = [&loss, &exact].map(|y| logits.grad(&gradients(y)).unwrap());
        assert_near("loss", loss, exact, 1e-6);
        assert_near("gradient", found, exact_grad, tolerance);
    }
}
