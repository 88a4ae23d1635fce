//! Dropout whose masks follow from a seed of the thread.
//!
//! Burn's backends have one generator a process, whose numbers go to whoever asks next: to another replica, or to weights that another
//! thread starts. A thread that was given a seed takes none of them: each mask follows from two numbers of its own, which
//! [`kiln_fused::dropout()`] makes it of.
//!
//! Those numbers come from the host, which a recorded step would repeat. Within [`with_step_seed`] they follow from two numbers on the
//! device instead, which are written there before each step.

use std::cell::{Cell, RefCell};

use burn::nn::Dropout;
use burn::tensor::{DType, Device, Int, Tensor};
use kiln_fused::WeightDropout;

thread_local! {
    /// Where this thread's stream of seeds is; none draws from the backend's generator as it stands.
    static STREAM: Cell<Option<u64>> = const { Cell::new(None) };
}

thread_local! {
    /// The seed of a step on its device, `[2]`, and how many masks were drawn from it.
    static STEP: RefCell<Option<(Tensor<1, Int>, i32)>> = const { RefCell::new(None) };
}

/// Lets the masks that this thread draws from now on follow from `seed`; with none, from the generator of the device, which
/// [`Device::seed`](burn::tensor::Device::seed) seeds for all threads.
pub fn seed_dropout(seed: Option<u64>) {
    STREAM.set(seed);
}

/// Does work whose masks all follow from the seed of a step, `[2]` of `i32` below 2^30, on the device of the model.
pub fn with_step_seed<T>(seed: Tensor<1, Int>, work: impl FnOnce() -> T) -> T {
    /// Takes the seed away again, also where the work panics.
    struct Taken;
    impl Drop for Taken {
        fn drop(&mut self) {
            STEP.set(None);
        }
    }
    STEP.set(Some((seed, 0)));
    let _taken = Taken;
    work()
}

/// The next mask's seed, `[2]`: of the step, or else of this thread's stream. None where there is neither.
fn next_seed(device: &Device) -> Option<Tensor<1, Int>> {
    let of_step = STEP.with_borrow_mut(|step| {
        let (seed, drawn) = step.as_mut()?;
        *drawn += 1;
        // Far apart in Philox, whose key it is.
        Some(seed.clone() + *drawn)
    });
    of_step.or_else(|| {
        let stream = STREAM.get()?;
        STREAM.set(Some(stream.wrapping_add(GOLDEN)));
        let mixed = scatter(stream);
        let words = [mixed as i32, (mixed >> 32) as i32];
        Some(Tensor::from_data(words, (device, DType::I32)))
    })
}

/// [`Dropout::forward`] with a mask of the step's seed, or else of this thread's stream.
///
/// # Shapes
/// - `x`: any; returns the same
pub fn dropout<const D: usize>(layer: &Dropout, x: Tensor<D>) -> Tensor<D> {
    let device = x.device();
    if layer.prob == 0.0 || !layer.training.is_enabled() || !device.is_autodiff() {
        return layer.forward(x);
    }
    match next_seed(&device) {
        Some(seed) => kiln_fused::dropout(x, layer.prob, seed),
        None => layer.forward(x),
    }
}

/// Dropout of attention weights in training, with a seed as [`dropout`] takes it.
pub fn weight_dropout(probability: f64, device: &Device) -> WeightDropout {
    match next_seed(device) {
        Some(seed) => WeightDropout::new(probability, seed),
        None => WeightDropout::draw(probability, device),
    }
}

/// The step of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What SplitMix64 makes of its state.
fn scatter(state: u64) -> u64 {
    let mut x = state.wrapping_add(GOLDEN);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use burn::nn::DropoutConfig;

    use super::*;

    /// Several masks in a row, as a model with layers draws them.
    fn masks(seed: u64) -> Vec<f32> {
        seed_dropout(Some(seed));
        let layer = DropoutConfig::new(0.5).init();
        let drawn = (0..8).flat_map(|_| {
            let ones = Tensor::<2>::ones([8, 16], &Device::flex().autodiff());
            dropout(&layer, ones)
                .into_data()
                .iter::<f32>()
                .collect::<Vec<_>>()
        });
        drawn.collect()
    }

    /// Whoever else draws at the same time, a thread's masks follow from its seed; other seeds and layers have others.
    #[test]
    fn masks_follow_from_the_seed_of_the_thread() {
        let alone: Vec<_> = (0..4)
            .map(|seed| thread::spawn(move || masks(seed)).join().unwrap())
            .collect();
        let threads: Vec<_> = (0..4)
            .map(|seed| thread::spawn(move || masks(seed)))
            .collect();
        let together: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(alone, together);
        for (at, of) in together.iter().enumerate() {
            assert!(of.contains(&0.0) && of.contains(&2.0));
            assert!(together[at + 1..].iter().all(|other| other != of));
            assert_ne!(of[..128], of[128..256], "two layers have one mask");
        }
    }
}
