//! Models of packed weights: the same function as the dense model of the weights that the codes stand for, in every layer of every
//! preset.

use std::sync::{Arc, Mutex};

use burn::module::{Module, Param};
use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::{Tensor, TensorData};
use kiln_backbone::{
    Embedding, Factorised, InputSink, LowRank, Matrix, PackedWeight, Rows, Weight,
};
use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix};
use kiln_zoo::LanguageModel;

use crate::common::{
    Case, SEQ, VOCAB, assert_close, bits, cases, causal_cases, device, ids, tokens, vector,
};

/// Rounds to the nearest level, with the largest entry of a group as the largest level.
fn pack(weight: Tensor<2>, encoding: Encoding) -> PackedMatrix {
    let [d_input, d_output] = weight.dims();
    let format = PackedFormat {
        encoding,
        asymmetric: false,
        d_input,
        d_output,
        group: if d_input % 32 == 0 { 32 } else { d_input },
        scales: FloatType::F16,
    };
    let weight = vector(weight);
    let most = f32::from(*encoding.levels(false).end());
    let mut scales = vec![0.0_f32; d_input / format.group * d_output];
    let shared = |at: usize| at / d_output / format.group * d_output + at % d_output;
    for (at, w) in weight.iter().enumerate() {
        let scale = &mut scales[shared(at)];
        *scale = scale.max(w.abs() / most);
    }
    let level = |(at, w): (usize, &f32)| {
        let scale = format.scales.round(scales[shared(at)]);
        (w / scale).round().clamp(-most, most) as i16
    };
    let levels: Vec<i16> = weight.iter().enumerate().map(level).collect();
    PackedMatrix::pack(format, &levels, &scales, None).unwrap()
}

/// The case's model with all linear layers and the embedding packed, and the dense model of the weights that these stand for.
fn packed(case: &Case, encoding: Encoding) -> [LanguageModel; 2] {
    let device = device();
    let mut packed = case.model(3, &device);
    let mut dense = packed.clone();
    let layers = packed.linears_mut().into_iter().zip(dense.linears_mut());
    for ((name, packed), (_, dense)) in layers {
        let matrix = pack(packed.weight.to_dense(), encoding);
        packed.weight = Weight::packed(&matrix, &device);
        let [d_input, d_output] = packed.dims();
        let twin = TensorData::new(matrix.dequantize(), [d_input, d_output]);
        dense.weight = Weight::dense(Tensor::from_data(twin, &device));
        let same = vector(packed.weight.to_dense()) == vector(dense.weight.to_dense());
        assert!(same, "{} {name}", case.name);
    }
    let rows = pack(packed.embedding().dense().transpose(), encoding);
    let twin = TensorData::new(rows.dequantize(), [case.config.backbone.d_model, VOCAB]);
    let twin = Tensor::<2>::from_data(twin, &device).transpose();
    *packed.embedding_mut() = Embedding::Rows(Rows::Packed(PackedWeight::new(&rows, &device)));
    *dense.embedding_mut() = Embedding::Rows(Rows::Dense(Param::from_tensor(twin)));
    [packed, dense]
}

#[test]
fn a_packed_model_equals_the_dense_one_it_stands_for() {
    let device = device();
    for case in cases() {
        for encoding in [Encoding::Int8, Encoding::Int4, Encoding::Int3] {
            let [packed, dense] = packed(&case, encoding);
            for (batch, seq) in [(1, 1), (2, SEQ)] {
                let input = ids(&tokens(batch, seq), batch, &device);
                let found = vector(packed.forward(input.clone()).unwrap());
                let expected = vector(dense.forward(input).unwrap());
                assert_close(&format!("{} {encoding:?}", case.name), &found, &expected);
            }
        }
    }
}

#[test]
fn a_packed_model_steps_as_it_goes_forward() {
    let device = device();
    for case in causal_cases() {
        let [model, _] = packed(&case, Encoding::Int4);
        let all = tokens(2, SEQ);
        let whole = vector(model.forward(ids(&all, 2, &device)).unwrap());
        let mut state = model.initial_state(2, &device).unwrap();
        for t in 0..SEQ {
            let column = ids(&[all[t], all[SEQ + t]], 2, &device).squeeze_dim(1);
            let (scores, next) = model.step(column, state).unwrap();
            state = next;
            let expected: Vec<f32> = [0, 1]
                .iter()
                .flat_map(|lane| &whole[(lane * SEQ + t) * VOCAB..][..VOCAB])
                .copied()
                .collect();
            assert_close(&format!("{} {t}", case.name), &vector(scores), &expected);
        }
    }
}

#[test]
fn a_packed_model_is_causal_to_the_bit() {
    let device = device();
    for case in causal_cases() {
        let [model, _] = packed(&case, Encoding::Int8);
        let run = |tokens: &[i32]| vector(model.forward(ids(tokens, 2, &device)).unwrap());
        let before = tokens(2, SEQ);
        let expected = run(&before);
        for t in [1, 16, SEQ - 1] {
            let mut changed = before.clone();
            changed[t] = (changed[t] + 1) % VOCAB as i32;
            let found = run(&changed);
            let at = t * VOCAB;
            assert_eq!(
                bits(&found[..at]),
                bits(&expected[..at]),
                "{} {t}",
                case.name
            );
            assert_ne!(
                bits(&found[at..at + VOCAB]),
                bits(&expected[at..at + VOCAB]),
                "{}",
                case.name
            );
        }
    }
}

/// Parameters are counted as before, bytes as they are now, and operations do not change.
#[test]
fn a_packed_model_knows_its_size() {
    for case in cases() {
        let [packed, dense] = packed(&case, Encoding::Int4);
        let floats = |model: &LanguageModel| model.num_params() as u64;
        assert_eq!(dense.parameters(), floats(&dense), "{}", case.name);
        assert_eq!(dense.weight_bytes(), 4 * floats(&dense), "{}", case.name);
        assert_eq!(packed.parameters(), dense.parameters(), "{}", case.name);
        for seq in [1, SEQ] {
            let flops = |model| case.config.flops_per_token(model, seq);
            assert_eq!(flops(&packed), flops(&dense), "{}", case.name);
        }
        let mut model = packed.clone();
        let mut formats: Vec<PackedFormat> = Vec::new();
        for (name, layer) in model.linears_mut() {
            match &layer.weight {
                Weight::Matrix(Matrix::Packed(weight)) => formats.push(weight.format()),
                other => panic!("{} {name}: {other:?}", case.name),
            }
        }
        if let Embedding::Rows(Rows::Packed(rows)) = packed.embedding() {
            formats.push(rows.format());
        }
        let words: u64 = formats.iter().map(PackedFormat::bytes).sum();
        let entries: u64 = formats.iter().map(|format| format.entries() as u64).sum();
        assert_eq!(
            floats(&packed) + entries,
            dense.parameters(),
            "{}",
            case.name
        );
        assert_eq!(
            packed.weight_bytes(),
            4 * floats(&packed) + words,
            "{}",
            case.name
        );
    }
}

/// Through a file and back: names follow from paths, and words come back as they were.
#[test]
fn packed_weights_are_stored_as_words() {
    let folder = tempfile::tempdir().unwrap();
    let device = device();
    for case in cases() {
        let path = folder.path().join(format!("{}.safetensors", case.name));
        let store = || {
            SafetensorsStore::from_file(&path)
                .overwrite(true)
                .skip_enum_variants(true)
        };
        let [saved, _] = packed(&case, Encoding::Int4);
        saved.save_into(&mut store()).unwrap();
        let header = std::fs::read(&path).unwrap();
        let header = String::from_utf8_lossy(&header);
        for name in ["\"tokens.words\"", ".weight.words\""] {
            assert!(
                header.contains(name) || case.config.backbone.d_hidden == 0,
                "{}",
                case.name
            );
        }
        let mut loaded = saved.clone();
        for (_, layer) in loaded.linears_mut() {
            let zeros = Tensor::zeros(layer.dims(), &device);
            layer.weight = Weight::packed(&pack(zeros, Encoding::Int4), &device);
        }
        let result = loaded.load_from(&mut store()).unwrap();
        assert!(result.is_success(), "{}: {result}", case.name);
        let mut saved = saved;
        for ((name, loaded), (_, saved)) in
            loaded.linears_mut().into_iter().zip(saved.linears_mut())
        {
            match (&loaded.weight, &saved.weight) {
                (Weight::Matrix(Matrix::Packed(a)), Weight::Matrix(Matrix::Packed(b))) => {
                    assert_eq!(
                        a.to_host().unwrap(),
                        b.to_host().unwrap(),
                        "{} {name}",
                        case.name
                    );
                }
                other => panic!("{} {name}: {other:?}", case.name),
            }
        }
    }
}

/// What a sink takes times the dense weights is what the layer gives; every layer of every preset is observed.
#[test]
fn inputs_of_layers_can_be_observed() {
    let device = device();
    for case in cases() {
        let mut model = case.model(4, &device);
        let seen = Arc::new(Mutex::new(Vec::<(usize, [usize; 2])>::new()));
        let mut expected = Vec::new();
        for (at, (_, layer)) in model.linears_mut().into_iter().enumerate() {
            let seen = seen.clone();
            layer.observe_inputs(Some(InputSink::new(move |x| {
                seen.lock().unwrap().push((at, x.dims()));
            })));
            expected.push((at, [3 * 5, layer.dims()[0]]));
        }
        model.forward(ids(&tokens(3, 5), 3, &device)).unwrap();
        let mut found = std::mem::take(&mut *seen.lock().unwrap());
        found.sort_unstable();
        assert_eq!(found, expected, "{}", case.name);
        for (_, layer) in model.linears_mut() {
            layer.observe_inputs(None);
        }
        model.forward(ids(&tokens(3, 5), 3, &device)).unwrap();
        assert!(seen.lock().unwrap().is_empty(), "{}", case.name);
    }
}

/// Layers and embedding as products of two matrices, with the first of them packed, equal the dense model of the products.
#[test]
fn factors_equal_their_product() {
    let device = device();
    for case in cases() {
        let mut factored = case.model(5, &device);
        let mut dense = factored.clone();
        let rank = 5;
        let factors = |weight: Tensor<2>| {
            let [d_input, d_output] = weight.dims();
            let narrow = weight.clone().narrow(1, 0, rank.min(d_output));
            let [_, rank] = narrow.dims();
            [
                narrow,
                weight
                    .narrow(0, 0, rank.min(d_input))
                    .repeat_dim(0, rank.div_ceil(d_input))
                    .narrow(0, 0, rank),
            ]
        };
        for ((_, factored), (_, dense)) in
            factored.linears_mut().into_iter().zip(dense.linears_mut())
        {
            let [down, up] = factors(factored.weight.to_dense());
            let down = Matrix::Packed(PackedWeight::new(&pack(down, Encoding::Int8), &device));
            dense.weight = Weight::dense(down.dense().matmul(up.clone()));
            let up = Matrix::Dense(Param::from_tensor(up));
            factored.weight = Weight::LowRank(LowRank { down, up });
            assert_eq!(factored.dims(), dense.dims());
        }
        let [rows, up] = factors(dense.embedding().dense());
        *dense.embedding_mut() = Embedding::Rows(Rows::Dense(Param::from_tensor(
            rows.clone().matmul(up.clone()),
        )));
        *factored.embedding_mut() = Embedding::Factorised(Factorised {
            rows: Rows::Dense(Param::from_tensor(rows)),
            up: Param::from_tensor(up),
        });
        let input = ids(&tokens(2, SEQ), 2, &device);
        let found = vector(factored.forward(input.clone()).unwrap());
        let expected = vector(dense.forward(input).unwrap());
        assert_close(case.name, &found, &expected);
    }
}
