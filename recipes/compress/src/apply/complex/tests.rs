use super::*;
use crate::apply::{Calibrated, LayerFigures, float};
use crate::recipe::Stage;
use crate::toy;

/// Heads of the mixer: as many complex numbers.
const HEADS: usize = 64;
const WIDTH: usize = 32;

/// The gate and the output of a BK mixer, and a layer that is real. Imaginary parts are a tenth of the real ones.
fn model() -> StoredModel {
    let mut gate = toy::weights(WIDTH, 2 * HEADS, 1).into_values();
    for row in gate.chunks_exact_mut(2 * HEADS) {
        row[HEADS..].iter_mut().for_each(|value| *value *= 0.1);
    }
    let mut output = toy::weights(2 * HEADS, WIDTH, 2).into_values();
    let imaginary = &mut output[HEADS * WIDTH..];
    imaginary.iter_mut().for_each(|value| *value *= 0.1);
    let matrix = |rows, cols, values| float(Matrix::new(rows, cols, values).unwrap());
    let energy = Stored::Float {
        kind: FloatType::F32,
        shape: vec![HEADS],
        values: vec![0.5; HEADS],
    };
    let tensors = [
        ("blocks.0.mixer.energy", energy),
        ("blocks.0.mixer.gate.weight", matrix(WIDTH, 2 * HEADS, gate)),
        (
            "blocks.0.mixer.output.weight",
            matrix(2 * HEADS, WIDTH, output),
        ),
        (
            "blocks.0.mixer.potential.weight",
            float(toy::weights(WIDTH, HEADS, 3)),
        ),
    ];
    StoredModel {
        tensors: tensors
            .map(|(name, stored)| (name.to_string(), stored))
            .into(),
    }
}

fn grams() -> Calibrated {
    [
        ("blocks.0.mixer.gate", toy::correlated(WIDTH, 300, &[], 5)),
        (
            "blocks.0.mixer.potential",
            toy::correlated(WIDTH, 300, &[], 5),
        ),
        (
            "blocks.0.mixer.output",
            toy::correlated(2 * HEADS, 300, &[3], 6),
        ),
    ]
    .map(|(name, gram)| (name.to_string(), gram))
    .into()
}

fn run(text: &str) -> Result<(StoredModel, Vec<LayerFigures>), CompressError> {
    let stage: Stage = toml::from_str(text).unwrap();
    let grams = grams();
    let job = Job {
        number: 1,
        stage: &stage,
        grams: &grams,
    };
    job.check_complex(&model())?;
    job.apply(&model())
}

fn stage(method: &str, complex: &str) -> String {
    format!(
        "kind = \"quantize\"\nmethod = \"{method}\"\nbits = 4\ngroup = 32\ncomplex = \"{complex}\"\nsymmetric = true"
    )
}

/// The stored matrix of a tensor, which may be behind divisors.
fn complex(stored: &Stored) -> &ComplexMatrix {
    match stored {
        Stored::Complex(matrix) => matrix,
        Stored::Scaled { weights, .. } => complex(weights),
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_share_scales_and_the_layer_is_what_it_was_up_to_rounding() {
    for method in ["rtn", "gptq", "awq"] {
        let (after, figures) = run(&stage(method, "shared")).unwrap();
        for (name, pairs, dims) in [
            ("gate", Pairs::Outputs, [WIDTH, 2 * HEADS]),
            ("output", Pairs::Inputs, [2 * HEADS, WIDTH]),
        ] {
            let stored = &after.tensors[&format!("blocks.0.mixer.{name}.weight")];
            let format = complex(stored).format();
            assert_eq!((format.pairs, format.dims()), (pairs, dims));
            assert_eq!(format.stored.group, 64, "32 numbers of two parts");
        }
        // A layer of real numbers is quantized as ever.
        let potential = &after.tensors["blocks.0.mixer.potential.weight"];
        assert!(
            matches!(potential, Stored::Packed(_) | Stored::Scaled { .. }),
            "{method}"
        );
        for figures in figures {
            // A step of 1/7 of uniform weights is 0.005 of their energy; compensation pays with weights for outputs.
            assert!(
                figures.weight_error < 0.05 && figures.output_error.unwrap() < 0.02,
                "{method} {figures:?}"
            );
        }
    }
}

/// The weights of one part of the gate, as they were and as they are.
fn imaginary_error(complex: &str) -> f64 {
    let after = run(&stage("rtn", complex)).unwrap().0;
    let name = "blocks.0.mixer.gate.weight";
    let [before, after] = [&model(), &after].map(|model| model.tensors[name].values());
    let imaginary = |at: &usize| at % (2 * HEADS) >= HEADS;
    let all = (0..before.len()).filter(imaginary);
    let squares = all.map(|at| f64::from(before[at] - after[at]).powi(2));
    squares.sum()
}

/// Parts of unlike size are where scales of their own are worth it: a tenth of the step is a hundredth of the error.
#[test]
fn small_parts_are_finer_with_scales_of_their_own() {
    let (shared, separate) = (imaginary_error("shared"), imaginary_error("separate"));
    assert!(separate < 0.03 * shared, "{separate} {shared}");
}

#[test]
fn half_of_the_scales_are_stored() {
    let bytes = |complex: &str| run(&stage("rtn", complex)).unwrap().0.bytes();
    // Of the gate 1 group of 128 outputs, of the output 4 groups of 32: scales of 2 bytes, filled up to lines of 64 bytes a panel.
    let panel = |groups: u64| (groups * 32).next_multiple_of(64);
    let gate = 8 * panel(1) - 4 * panel(1);
    let output = 2 * (panel(4) - panel(2));
    assert_eq!(bytes("separate") - bytes("shared"), gate + output);
}

/// With compensation a layer's output is nearer, in the order that the parts are stored in too.
#[test]
fn gptq_makes_up_for_errors_across_parts() {
    let [plain, compensated] =
        ["rtn", "gptq"].map(|method| run(&stage(method, "shared")).unwrap().1);
    for (plain, compensated) in plain.iter().zip(&compensated) {
        let (plain, compensated) = (
            plain.output_error.unwrap(),
            compensated.output_error.unwrap(),
        );
        assert!(compensated < 0.8 * plain, "{compensated} {plain}");
    }
}

/// A group that spans both parts of the outputs' inputs would share their scale: separate ones need one that divides the heads.
#[test]
fn groups_divide_the_complex_numbers() {
    let text = stage("rtn", "separate").replace("group = 32", "group = 128");
    let refused = run(&text).unwrap_err().to_string();
    assert!(
        refused.contains("number of a layer's complex inputs is"),
        "{refused}"
    );
    let (after, _) = run(&format!("{text}\nnearest_group = true")).unwrap();
    let Stored::Packed(output) = &after.tensors["blocks.0.mixer.output.weight"] else {
        unreachable!()
    };
    assert_eq!(output.format().group, HEADS);
    let whole = stage("rtn", "shared").replace("group = 32", "group = 0");
    let (after, _) = run(&whole).unwrap();
    let output = complex(&after.tensors["blocks.0.mixer.output.weight"]);
    assert_eq!(output.format().stored.groups(), 1);
}

#[test]
fn a_stage_without_complex_layers_is_refused() {
    let text = format!("{}\nlayers = [\"*.potential\"]", stage("rtn", "shared"));
    assert_eq!(
        run(&text).unwrap_err().to_string(),
        "recipe: `stage.complex` is shared, but only the gate and the output of a BK mixer have real and imaginary parts, and stage 1 works on blocks.0.mixer.potential: leave the key out"
    );
}
