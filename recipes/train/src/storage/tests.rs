use kiln_quant::{Encoding, Pairs, SparsePattern};

use super::*;

fn float(kind: FloatType, shape: &[usize]) -> Stored {
    let count = shape.iter().product::<usize>();
    Stored::Float {
        kind,
        shape: shape.to_vec(),
        // Numbers that half precision has.
        values: (0..count).map(|at| at as f32 / 8.0 - 2.0).collect(),
    }
}

fn packed(d_input: usize, d_output: usize) -> PackedMatrix {
    let format = PackedFormat {
        encoding: Encoding::Int4,
        asymmetric: true,
        d_input,
        d_output,
        group: d_input,
        scales: FloatType::F16,
    };
    let levels: Vec<i16> = (0..d_input * d_output)
        .map(|at| (at * 7 % 16) as i16)
        .collect();
    let scales: Vec<f32> = (0..d_output).map(|at| 0.5 + at as f32).collect();
    PackedMatrix::pack(format, &levels, &scales, Some(&vec![3; d_output])).unwrap()
}

fn sparse(d_input: usize, d_output: usize) -> SparseMatrix {
    let format = SparseFormat {
        pattern: SparsePattern::Mask,
        d_input,
        d_output,
        values: FloatType::F32,
    };
    let dense: Vec<f32> = (0..d_input * d_output)
        .map(|at| if at % 3 == 0 { at as f32 } else { 0.0 })
        .collect();
    SparseMatrix::pack(format, &dense).unwrap()
}

fn signs(d_input: usize, d_output: usize) -> Stored {
    let format = PackedFormat {
        encoding: Encoding::Sign,
        asymmetric: false,
        ..packed(d_input, d_output).format()
    };
    let levels: Vec<i16> = (0..d_input * d_output)
        .map(|at| if at % 3 == 0 { -1 } else { 1 })
        .collect();
    Stored::Integer {
        activations: Activations::Signs,
        weights: PackedMatrix::pack(format, &levels, &vec![0.5; d_output], None).unwrap(),
    }
}

/// One of everything.
fn model() -> StoredModel {
    let low_rank = Stored::LowRank {
        first: Box::new(Stored::Packed(packed(6, 2))),
        second: Box::new(float(FloatType::F32, &[2, 5])),
    };
    let scaled = Stored::Scaled {
        divisors: vec![1.0, 2.0, 0.5, 4.0],
        weights: Box::new(Stored::Packed(packed(4, 3))),
    };
    let tensors = [
        ("norm.gamma", float(FloatType::F16, &[4])),
        ("tokens", Stored::PackedRows(packed(4, 7))),
        ("up.weight", Stored::Packed(packed(4, 6))),
        ("down.weight", Stored::Sparse(sparse(5, 4))),
        ("gate.weight", low_rank),
        ("signs.weight", signs(40, 3)),
        ("output.weight", scaled),
        (
            "complex.weight",
            Stored::Complex(ComplexMatrix::new(Pairs::Outputs, packed(8, 3)).unwrap()),
        ),
    ];
    StoredModel {
        tensors: tensors
            .map(|(name, stored)| (name.to_string(), stored))
            .into(),
    }
}

#[test]
fn every_storage_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = model();
    model.write(&path).unwrap();
    let table = model.table();
    let text = serde_json::to_string(&table).unwrap();
    let table: StorageTable = serde_json::from_str(&text).unwrap();
    let read = StoredModel::read(&path, Some(&table)).unwrap();
    assert_eq!(read, model);
    // What is on disk is what the parts count, and a header.
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(
        (model.bytes()..model.bytes() + 2048).contains(&size),
        "{size}"
    );
    // Equal models are equal files.
    let again = folder.path().join("again.safetensors");
    read.write(&again).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        std::fs::read(&again).unwrap()
    );
}

#[test]
fn values_are_those_of_the_tensor() {
    let model = model();
    let packed = packed(4, 7);
    let rows = model.tensors["tokens"].values();
    assert_eq!(model.tensors["tokens"].shape(), [7, 4]);
    // Row 2 is column 2 of the packed matrix.
    let column: Vec<f32> = (0..4)
        .map(|input| packed.dequantize()[input * 7 + 2])
        .collect();
    assert_eq!(rows[8..12], column);
    let scaled = &model.tensors["output.weight"];
    let Stored::Scaled { weights, .. } = scaled else {
        unreachable!()
    };
    assert_eq!(
        scaled.values()[3..6],
        weights.values()[3..6]
            .iter()
            .map(|x| x / 2.0)
            .collect::<Vec<_>>()
    );
    let low_rank = &model.tensors["gate.weight"];
    let Stored::LowRank { first, second } = low_rank else {
        unreachable!()
    };
    let (a, b) = (first.values(), second.values());
    assert_eq!(low_rank.shape(), [6, 5]);
    assert_eq!(low_rank.values()[5 + 3], a[2] * b[3] + a[3] * b[8]);
}

#[test]
fn what_does_not_fit_its_table_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    model().write(&path).unwrap();
    let said = |change: &dyn Fn(&mut StorageTable)| {
        let mut table = model().table();
        change(&mut table);
        StoredModel::read(&path, Some(&table))
            .unwrap_err()
            .to_string()
    };
    for (words, part) in [
        (
            said(&|table| table.layout = 9),
            "have layout 9, and this Kiln reads",
        ),
        (
            said(&|table| {
                table.tensors.remove("tokens");
            }),
            "it has a part `tokens.words` that config.json does not name",
        ),
        (
            said(&|table| {
                let storage = Storage::Float(FloatType::F32);
                table.tensors.insert("bias".into(), storage);
            }),
            "the part `bias` is missing",
        ),
        (
            said(&|table| {
                let storage = Storage::Float(FloatType::F32);
                table.tensors.insert("norm.gamma".into(), storage);
            }),
            "`norm.gamma` is of type F16, but has to be F32",
        ),
        (
            said(&|table| {
                if let Some(Storage::Packed(format)) = table.tensors.get_mut("up.weight") {
                    format.d_output += 16;
                }
            }),
            "`up.weight` is damaged",
        ),
        (
            said(&|table| {
                if let Some(Storage::Integer { inputs, .. }) = table.tensors.get_mut("signs.weight")
                {
                    *inputs = InputSteps::Dynamic;
                }
            }),
            "`signs.weight` is damaged: these weights make no integer product, as its encoding is not int8",
        ),
    ] {
        assert!(words.contains(part), "{words}");
    }
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let words = StoredModel::read(&path, Some(&model().table())).unwrap_err();
    assert!(
        words.to_string().contains("no readable safetensors file"),
        "{words}"
    );
}

/// Who knows packed weights only must not take shared scales for them, nor leave inputs as they are that become signs.
#[test]
fn a_table_asks_for_the_version_of_its_latest_storage() {
    let mut table = model().table();
    assert_eq!(table.config_version(), SIGNS_CONFIG_VERSION);
    table.tensors.remove("signs.weight");
    assert_eq!(table.config_version(), COMPLEX_CONFIG_VERSION);
    table.tensors.remove("complex.weight");
    assert_eq!(table.config_version(), COMPRESSED_CONFIG_VERSION);
}

/// The shape is the real matrix's: 8 stored rows of both parts are 4 inputs, 3 complex outputs are 6.
#[test]
fn complex_layers_have_the_shape_of_their_parts() {
    let model = model();
    let complex = &model.tensors["complex.weight"];
    assert_eq!(complex.shape(), [4, 6]);
    let stored = packed(8, 3).dequantize();
    let values = complex.values();
    assert_eq!(values[6..9], stored[3..6], "real parts of row 1");
    assert_eq!(values[9..12], stored[15..18], "imaginary parts of row 1");
}

#[test]
fn storage_that_is_not_known_is_refused() {
    let text = r#"{"layout": 1, "tensors": {"up.weight": {"holographic": 7}}}"#;
    let words = serde_json::from_str::<StorageTable>(text)
        .unwrap_err()
        .to_string();
    assert!(words.contains("unknown variant `holographic`"), "{words}");
}
