use kiln_backbone::{Weight, project};

use super::*;

fn backbone(d_model: usize) -> BackboneConfig {
    let (backbone, _) = (crate::PRESETS[0].config)();
    BackboneConfig {
        d_model,
        ..backbone
    }
}

/// One head at z = i with beta = 3 and no potential, q = k = 1 and v = x. L_1 = i, so p_2 = 1 / (1 + 3): the second token
/// reads three quarters of the first and one of itself. Divided by its root mean square, (3, 1)/4 is (3, 1)/sqrt(5).
#[test]
fn two_tokens_by_hand() {
    let device = Device::flex();
    let config = ResolventConfig {
        heads: 1,
        d_key: 1,
        conv_width: 0,
        energy: [0.0, 0.0],
        eta: [1.0, 1.0],
        hopping: 3.0,
        qk_norm: false,
        skip: false,
        gate: false,
        ..Default::default()
    };
    let mut mixer = config
        .init(&backbone(2), &mut InitRng::new(1), &device)
        .unwrap();
    let matrix = |rows: [&[f32]; 2]| {
        let (values, cols) = (rows.concat(), rows[0].len());
        Weight::dense(Tensor::from_data(
            TensorData::new(values, [2, cols]),
            &device,
        ))
    };
    mixer.inputs.query.linear.weight = matrix([&[1.0], &[1.0]]);
    mixer.inputs.key.linear.weight = matrix([&[1.0], &[1.0]]);
    mixer.inputs.value.linear.weight = matrix([&[1.0, 0.0], &[0.0, 1.0]]);
    mixer.potential.weight = matrix([&[0.0], &[0.0]]);
    mixer.readout.output.weight = matrix([&[1.0, 0.0], &[0.0, 1.0]]);
    let x = Tensor::<3>::from_floats([[[1.0, 0.0], [0.0, 1.0]]], &device);
    let y: Vec<f32> = mixer.forward(x, None).0.into_data().try_to_vec().unwrap();
    let (root_two, root_five) = (2.0_f32.sqrt(), 5.0_f32.sqrt());
    let exact = [root_two, 0.0, 3.0 / root_five, 1.0 / root_five];
    for (found, exact) in y.iter().zip(exact) {
        // The norm's epsilon takes 1e-5 of a mean square of 0.3 to 0.5.
        assert!((found - exact).abs() < 5e-5, "{y:?}");
    }
}

/// The same head's weights, before a wall and behind an endless chain: L_0 = i (sqrt(13) - 1) / 6 is what the recurrence leaves as it is,
/// and p = 1 / (1 + 3 Im L_0) then of every token, so that the second row is (1 - p, 1) over 2 - p.
#[test]
fn weights_of_two_tokens_by_hand() {
    let device = Device::flex();
    let p = 1.0 / (1.0 + 3.0 * (13.0_f32.sqrt() - 1.0) / 6.0);
    for (boundary, second) in [
        (Boundary::Wall, [0.75, 0.25]),
        (Boundary::Open, [(1.0 - p) / (2.0 - p), 1.0 / (2.0 - p)]),
    ] {
        for form in [ResolventForm::Born, ResolventForm::Complex] {
            let config = ResolventConfig {
                heads: 1,
                d_key: 1,
                energy: [0.0, 0.0],
                eta: [1.0, 1.0],
                hopping: 3.0,
                form,
                boundary,
                ..Default::default()
            };
            let mixer = config.init(&backbone(2), &mut InitRng::new(1), &device);
            let weights = mixer.unwrap().weights(Tensor::zeros([1, 2, 2], &device));
            let found: Vec<f32> = weights.unwrap().into_data().try_to_vec().unwrap();
            for (found, exact) in found.iter().zip([[1.0, 0.0], second].concat()) {
                assert!(
                    (found - exact).abs() < 1e-5,
                    "{boundary:?}: {found} {exact}"
                );
            }
        }
    }
}

/// Anderson localisation, from the mixer's own settings: of two heads that differ in the spread of their potentials alone, the
/// milder one still reads what stands 64 tokens back, and the other, at the default, has lost it.
#[test]
fn milder_potentials_reach_further() {
    let device = Device::flex();
    let reach = |potential_std: f64| {
        let config = ResolventConfig {
            heads: 8,
            d_key: 1,
            conv_width: 0,
            eta: [0.01, 0.01],
            energy: [-1.0, 1.0],
            potential_std,
            qk_norm: false,
            skip: false,
            gate: false,
            ..Default::default()
        };
        let mut rng = InitRng::new(5);
        let mixer = config.init(&backbone(32), &mut rng, &device).unwrap();
        let x = rng.normal(65 * 32, 1.0);
        let x = Tensor::<3>::from_data(TensorData::new(x, [1, 65, 32]), &device);
        let ones = |tokens| Tensor::<4>::ones([1, tokens, 8, 1], &device);
        // Only the first token has a value: what is read of it 64 tokens on is its weight there.
        let zeros = Tensor::zeros([1, 64, 8, 1], &device);
        let first = Tensor::cat(vec![ones(1), zeros], 1);
        let (z, hopping) = mixer.energies();
        let inputs = ResolventInputs {
            q: ones(65),
            k: ones(65),
            v: first,
            potential: project(&mixer.potential, x),
            bound: Some(mixer.potential_bound),
            hopping,
            energy: z,
            state: None,
        };
        let mixed = resolvent_attention(inputs, mixer.form);
        let last = mixed.unwrap().output.narrow(1, 64, 1);
        // The geometric mean over heads, as weights fade exponentially.
        f64::from(last.log().mean().into_scalar::<f32>())
    };
    let (mild, strong) = (reach(0.2), reach(1.0));
    assert!(mild > -8.0 && strong < mild - 4.0, "{mild} {strong}");
}

/// Weights of the last of nine tokens on all of them, and what a chain of that many leaves of L: one head without potentials.
fn weights_without_potentials(energy: f64, boundary: Boundary) -> Vec<f64> {
    let device = Device::flex();
    let config = ResolventConfig {
        heads: 1,
        d_key: 1,
        d_value: 9,
        conv_width: 0,
        energy: [energy, energy],
        eta: [0.01, 0.01],
        hopping: 1.0,
        boundary,
        ..Default::default()
    };
    let mixer = config.init(&backbone(2), &mut InitRng::new(1), &device);
    let mixer = mixer.unwrap();
    let ones = Tensor::<4>::ones([1, 9, 1, 1], &device);
    let each = Tensor::<2>::eye(9, &device).reshape([1, 9, 1, 9]);
    let potential = Tensor::zeros([1, 9, 1], &device);
    let (z, hopping) = mixer.energies();
    let state = mixer.left(1).map(|left| mixer.fresh(left));
    let inputs = ResolventInputs {
        q: ones.clone(),
        k: ones,
        v: each,
        potential,
        bound: None,
        hopping,
        energy: z,
        state,
    };
    let mixed = resolvent_attention(inputs, mixer.form);
    let last = mixed.unwrap().output.narrow(1, 8, 1);
    last.into_data().iter::<f32>().map(f64::from).collect()
}

/// At Re z = 0 a chain that begins with the first token reads the odd ones alike and the even ones not at all. Behind an open
/// beginning weights fade evenly, inside of the band and outside: by 1 - p a token, p = eta / (eta + Im L).
#[test]
fn waves_stand_before_a_wall_only() {
    let wall = weights_without_potentials(0.0, Boundary::Wall);
    for (at, weight) in wall.iter().enumerate() {
        let expected = [0.2, 0.0][at % 2];
        assert!((weight - expected).abs() < 2e-3, "{wall:?}");
    }
    // L of the half-infinite chain, (sqrt(z^2 - 4) - z) / 2, in double precision elsewhere.
    for (energy, im_left) in [
        (0.0, 0.995_012_5),
        (1.2, 0.795_024_4),
        (-1.2, 0.795_024_4),
        (2.5, 0.003_333_004),
        (-2.5, 0.003_333_004),
    ] {
        let open = weights_without_potentials(energy, Boundary::Open);
        let p = 0.01 / (0.01 + im_left);
        for (at, weight) in open.iter().enumerate() {
            let expected = p * (1.0_f64 - p).powi(8 - at as i32);
            let error = (weight / expected - 1.0).abs();
            assert!(error < 1e-4, "{energy}, {at}: {weight} {expected}");
        }
    }
}

/// A token that a head forgets is read by no query, and the scale of the others keeps the mean.
#[test]
fn key_dropout_takes_out_whole_tokens() {
    let device = Device::flex().autodiff();
    let config = ResolventConfig {
        key_dropout: 0.25,
        ..Default::default()
    };
    let mixer = config
        .init(&backbone(8), &mut InitRng::new(1), &device)
        .unwrap();
    let keys = mixer.forget(Tensor::ones([40, 50, 4, 3], &device));
    let keys: Vec<f32> = keys.into_data().try_to_vec().unwrap();
    for key in keys.chunks(3) {
        let whole = key.iter().all(|&k| k == key[0]);
        let scaled = key[0] == 0.0 || (key[0] - 4.0 / 3.0).abs() < 1e-6;
        assert!(whole && scaled, "{key:?}");
    }
    // 8,000 draws: five standard errors of the mean.
    let mean = keys.iter().map(|&k| f64::from(k)).sum::<f64>() / keys.len() as f64;
    assert!(
        (mean - 1.0).abs() < 5.0 * (1.0 / 3.0_f64 / 8000.0).sqrt(),
        "{mean}"
    );
}
