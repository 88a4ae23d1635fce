//! What calibration knows of an embedding that is the head too.

use burn::module::Param;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{Embedding, Rows};
use kiln_compress::calibrate;
use kiln_loader::{Loader, LoaderConfig, Order, Split};
use kiln_run::{Mode, View};
use kiln_train::{DeviceBatch, Source};
use kiln_zoo::LanguageModel;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::Corner;
use crate::pipeline::HALF;

/// The divergence that errors aim at, small enough to be of second order.
const DIVERGENCE: f64 = 1e-3;
/// Draws of errors, and windows that each is measured on.
const DRAWS: u64 = 8;
const WINDOWS: usize = 64;

/// Errors of size `size` in one channel of every row, with signs of their own.
fn disturbed(model: &LanguageModel, channel: usize, size: f32, seed: u64) -> LanguageModel {
    let rows = model.embedding().dense();
    let [_, width] = rows.dims();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = rows.to_data().iter::<f32>().collect();
    let disturbed = values.into_iter().enumerate().map(|(at, value)| {
        let sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
        value
            + if at % width == channel {
                sign * size
            } else {
                0.0
            }
    });
    let data = TensorData::new(disturbed.collect(), rows.dims());
    let mut model = model.clone();
    let rows = Param::from_data(data, &Device::flex());
    *model.embedding_mut() = Embedding::Rows(Rows::Dense(rows));
    model
}

fn divergence(before: &Tensor<2>, after: Tensor<2>) -> f64 {
    let [before, after] = [before.clone(), after].map(|scores| log_softmax(scores, 1));
    let divergence = (before.clone().exp() * (before - after)).sum_dim(1).mean();
    f64::from(divergence.into_scalar::<f32>())
}

/// Half of e F e is how far an error of the rows takes the model, through the vectors that enter as through the head: in the channel where
/// it matters most as in that where it matters least.
#[test]
fn curvature_foretells_divergence() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let (run, device) = (corner.open("run"), Device::flex());
        let mut view = View::new(0, Mode::Plain);
        let source = Source::open(&run.data_recipe(None).unwrap(), &corner.data(), &mut view);
        let source = source.unwrap();
        let recipe = corner.recipe(&[HALF], &["calibration.windows=256"]).value;
        let wanted = |name: &str| name == "tokens";
        let calibration = &recipe.calibration;
        let found = calibrate(
            &run.model,
            &run.config,
            &source,
            calibration,
            &wanted,
            &device,
        );
        let gram = &found.unwrap()["tokens"];
        let windows = source.windows(Split::Train, run.config.seq).unwrap();
        let order = LoaderConfig {
            batch: WINDOWS,
            order: Order::Crops,
            seed: 9,
        };
        let batch = Loader::new(windows.unwrap(), order)
            .unwrap()
            .next_batch()
            .unwrap();
        let batch = DeviceBatch::new(&batch, &device);
        let before = batch.logits(&run.model).unwrap();
        let curvature = |channel: usize| gram.product(channel, channel) / gram.tokens() as f64;
        let channels = 0..gram.d_input();
        let by_curvature = |a: &usize, b: &usize| curvature(*a).total_cmp(&curvature(*b));
        let stiff = channels.clone().max_by(by_curvature).unwrap();
        let soft = channels.min_by(by_curvature).unwrap();
        assert!(curvature(stiff) > 2.0 * curvature(soft), "{kind}");
        for channel in [stiff, soft] {
            let size = (2.0 * DIVERGENCE / curvature(channel)).sqrt();
            let draws = (0..DRAWS).map(|seed| {
                let model = disturbed(&run.model, channel, size as f32, seed);
                divergence(&before, batch.logits(&model).unwrap())
            });
            let found = draws.sum::<f64>() / DRAWS as f64;
            assert!(
                (0.6..1.7).contains(&(found / DIVERGENCE)),
                "{kind}: {found} in channel {channel} of {stiff} and {soft}"
            );
        }
    }
}
