use burn::{
    optim::{AdamWConfig, GradientsParams},
    tensor::{Device, Int, Tensor, TensorData, activation::log_softmax},
};
use kiln_zoo::ModelConfig;
use std::time::Instant;
fn main() {
    let name = std::env::args().nth(1).unwrap_or("nanogpt-cpu".into());
    let mut c = ModelConfig::preset(&name).unwrap();
    c.backbone.vocab_size = 65;
    let device = Device::flex().autodiff();
    let mut model = c.init(1, &device).unwrap();
    let (b, s) = (12, c.backbone.max_seq);
    let mut optim = AdamWConfig::new().init();
    let toks = |o: usize| {
        Tensor::<2, Int>::from_data(
            TensorData::new(
                (0..b * s)
                    .map(|i| ((i * 7 + o * 13 + i * i) % 65) as i32)
                    .collect::<Vec<_>>(),
                [b, s],
            ),
            &device,
        )
    };
    let mut tt = [0.0; 4];
    let n = 30;
    for i in 0..n + 5 {
        if i == 5 {
            tt = [0.0; 4];
        }
        let t0 = Instant::now();
        let logits = model.forward(toks(i)).unwrap();
        let t1 = Instant::now();
        let loss = log_softmax(logits.reshape([b * s, 65]), 1)
            .gather(1, toks(i + 1).reshape([b * s, 1]))
            .mean()
            .neg();
        let lv = loss.clone().into_data();
        let t2 = Instant::now();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let t3 = Instant::now();
        model = optim.step(1e-3, model, grads);
        let t4 = Instant::now();
        for (k, d) in [t1 - t0, t2 - t1, t3 - t2, t4 - t3].iter().enumerate() {
            tt[k] += d.as_secs_f64() * 1e3;
        }
        if i % 10 == 0 {
            println!("{i} {lv:?}");
        }
    }
    println!(
        "{name} ms: fwd {:.2} loss {:.2} bwd {:.2} opt {:.2} total {:.2}",
        tt[0] / n as f64,
        tt[1] / n as f64,
        tt[2] / n as f64,
        tt[3] / n as f64,
        tt.iter().sum::<f64>() / n as f64
    );
}
