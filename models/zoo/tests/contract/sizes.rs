//! Parameter counts by hand, weights as files, and seeds.

use burn::module::Module;
use burn::store::{ModuleSnapshot, SafetensorsStore};
use kiln_zoo::{MixerKind, MlpKind, ModelConfig, NormKind, Positions, presets};

use crate::common::{SEQ, bits, cases, device, ids, params, tokens, vector};

/// Weights and biases of a matrix.
fn matrix(rows: usize, cols: usize, bias: bool) -> usize {
    rows * cols + if bias { cols } else { 0 }
}

/// Scale, and shift where a LayerNorm has one.
fn norm(config: &ModelConfig) -> usize {
    let shift = config.backbone.norm == NormKind::Layer && config.backbone.bias;
    config.backbone.d_model * if shift { 2 } else { 1 }
}

fn mlp(config: &ModelConfig) -> usize {
    let backbone = &config.backbone;
    let (d, hidden, bias) = (backbone.d_model, backbone.d_hidden, backbone.bias);
    let into = match backbone.mlp {
        MlpKind::Gelu => 1,
        MlpKind::Swiglu => 2,
    };
    match hidden {
        0 => 0,
        _ => norm(config) + into * matrix(d, hidden, bias) + matrix(hidden, d, bias),
    }
}

/// Query, key and value together, and the output.
fn attention(config: &ModelConfig) -> usize {
    let (d, bias) = (config.backbone.d_model, config.backbone.bias);
    let width = match config.attention.d_head {
        0 => d,
        d_head => config.attention.heads * d_head,
    };
    norm(config) + matrix(d, 3 * width, bias) + matrix(width, d, bias)
}

/// Potential, gate of both features, output; then Re z, Im z and beta of each head.
fn bk(config: &ModelConfig) -> usize {
    let (d, heads, bias) = (
        config.backbone.d_model,
        config.bk.heads,
        config.backbone.bias,
    );
    let gate = if config.bk.gate {
        matrix(d, 2 * heads, bias)
    } else {
        0
    };
    norm(config) + matrix(d, heads, bias) + gate + matrix(2 * heads, d, bias) + 3 * heads
}

/// Width of the values of a head.
fn value_width(d_model: usize, heads: usize, given: usize) -> usize {
    match given {
        0 => d_model / heads,
        d_value => d_value,
    }
}

/// Queries, keys and values with their convolution, potential, weights of own values, gate, scale of the heads' norm, output; then Re z, Im z and
/// hopping of each head.
fn resolvent(config: &ModelConfig) -> usize {
    let (d, bias, mixer) = (
        config.backbone.d_model,
        config.backbone.bias,
        &config.resolvent,
    );
    let heads = mixer.heads;
    let d_value = value_width(d, heads, mixer.d_value);
    let (keys, values) = (heads * mixer.d_key, heads * d_value);
    let conv = match mixer.conv_width {
        0 | 1 => 0,
        width => (2 * keys + values) * width,
    };
    let projections = 2 * matrix(d, keys, bias) + matrix(d, values, bias) + conv;
    let gate = if mixer.gate {
        matrix(d, values, bias)
    } else {
        0
    };
    let potential = matrix(d, heads, bias);
    let skip = if mixer.skip { values } else { 0 };
    let read = skip + gate + d_value + matrix(values, d, bias);
    norm(config) + projections + potential + read + 3 * heads
}

/// Value, gate and output, and the taps.
fn conv(config: &ModelConfig) -> usize {
    let (d, bias) = (config.backbone.d_model, config.backbone.bias);
    norm(config) + 3 * matrix(d, d, bias) + d * config.conv.width
}

/// Queries, keys and values with their convolution, forget gate with its bias, weights of own values, gate, scale of the heads' norm, output.
fn gla(config: &ModelConfig) -> usize {
    let (d, bias, mixer) = (config.backbone.d_model, config.backbone.bias, &config.gla);
    let (heads, keys) = (mixer.heads, mixer.heads * mixer.d_key);
    let d_value = value_width(d, heads, mixer.d_value);
    let values = heads * d_value;
    let conv = match mixer.conv_width {
        0 | 1 => 0,
        width => (2 * keys + values) * width,
    };
    let projections = 2 * matrix(d, keys, bias) + matrix(d, values, bias) + conv;
    let gate = if mixer.gate {
        matrix(d, values, bias)
    } else {
        0
    };
    let skip = if mixer.skip { values } else { 0 };
    let read = skip + gate + d_value + matrix(values, d, bias);
    norm(config) + projections + matrix(d, heads, true) + read
}

/// Taps, gate with its bias, candidate and output.
fn min_gru(config: &ModelConfig) -> usize {
    let (d, bias, mixer) = (
        config.backbone.d_model,
        config.backbone.bias,
        &config.min_gru,
    );
    let conv = match mixer.conv_width {
        0 | 1 => 0,
        width => d * width,
    };
    let gates = matrix(d, mixer.channels, true) + matrix(d, mixer.channels, bias);
    norm(config) + conv + gates + matrix(mixer.channels, d, bias)
}

/// All parameters.
fn count(config: &ModelConfig) -> usize {
    let backbone = &config.backbone;
    let (vocab, d) = (backbone.vocab_size, backbone.d_model);
    let positions = match backbone.positions {
        Positions::Learned => backbone.max_seq * d,
        Positions::None => 0,
    };
    let head = if backbone.tie_embeddings {
        0
    } else {
        vocab * d
    };
    let layers: usize = (0..backbone.n_layers)
        .map(|layer| mixer(config, layer) + mlp(config))
        .sum();
    vocab * d + positions + layers + norm(config) + head
}

fn mixer(config: &ModelConfig, layer: usize) -> usize {
    let count = match config.mixer(layer) {
        MixerKind::Attention => attention,
        MixerKind::Bk => bk,
        MixerKind::Resolvent => resolvent,
        MixerKind::Conv => conv,
        MixerKind::Gla => gla,
        MixerKind::MinGru => min_gru,
        MixerKind::Fnet => norm,
    };
    count(config)
}

#[test]
fn parameters_are_what_the_formulas_say() {
    let device = device();
    for case in cases() {
        for (tied, bias) in [(true, false), (false, false), (true, true)] {
            let mut config = case.config.clone();
            config.backbone.tie_embeddings = tied;
            config.backbone.bias = bias;
            let model = config.init(1, &device).unwrap();
            assert_eq!(
                model.num_params(),
                count(&config),
                "{} tied {tied} bias {bias}",
                case.name
            );
        }
    }
}

/// At full size, for the presets that are small enough to be built here.
#[test]
fn small_presets_have_their_parameters_at_full_size() {
    let device = device();
    let mut built = 0;
    for info in presets() {
        let mut config = ModelConfig::preset(info.name).unwrap();
        config.backbone.vocab_size = 65;
        let expected = count(&config);
        if expected < 1_000_000 {
            built += 1;
            let model = config.init(1, &device).unwrap();
            assert_eq!(model.num_params(), expected, "{}", info.name);
        }
    }
    assert!(built >= 5, "only {built} presets are small");
}

fn preset(name: &str, vocab_size: usize) -> ModelConfig {
    let mut config = ModelConfig::preset(name).unwrap();
    config.backbone.vocab_size = vocab_size;
    config
}

/// nanoGPT prints its sizes without position embeddings: 0.80M and 10.65M for its two character configurations, and
/// 123.59M for GPT-2 small at its vocabulary of 50304 without biases.
#[test]
fn nanogpt_presets_have_the_published_sizes() {
    for (name, vocab, expected) in [
        ("nanogpt-cpu", 65, 795_904),
        ("nanogpt-gpu", 65, 10_646_784),
        ("gpt2-small", 50_304, 123_587_328),
    ] {
        let config = preset(name, vocab);
        let positions = config.backbone.max_seq * config.backbone.d_model;
        assert_eq!(count(&config) - positions, expected, "{name}");
    }
}

/// The model that PyTorch is timed with: 136.1M parameters, embedding and head each of their own.
#[test]
fn the_timed_preset_has_its_size() {
    let (vocab, d, seq) = (32_768, 768, 1024);
    let layer = 2 * d + 4 * d * d + 8 * d * d;
    let expected = 2 * vocab * d + seq * d + 12 * layer + d;
    assert_eq!(count(&preset("gpt-136m", vocab)), expected);
    assert_eq!(expected, 136_071_936);
}

/// Models that are compared have the same size to 1 %, so that neither wins by being larger.
#[test]
fn presets_that_are_compared_are_of_one_size() {
    for (name, transformer, vocab) in [
        ("resnet-bk-char-cpu", "nanogpt-cpu", 65),
        ("resnet-bk-char-gpu", "nanogpt-gpu", 65),
        ("resnet-bk-small", "transformer-small", 1024),
        ("resolvent-char-cpu", "nanogpt-cpu", 65),
        ("resolvent-complex-char-cpu", "nanogpt-cpu", 65),
        ("resolvent-char-gpu", "nanogpt-gpu", 65),
        ("resolvent-small", "transformer-small", 1024),
        ("resolvent-gpt", "gpt2-small", 50_304),
        ("resolvent-136m", "gpt-136m", 32_768),
        ("conv3-char-cpu", "nanogpt-cpu", 65),
        ("conv3-char-gpu", "nanogpt-gpu", 65),
        ("window-char-cpu", "nanogpt-cpu", 65),
        ("window-small", "transformer-small", 1024),
        ("student-resolvent-char-cpu", "nanogpt-cpu", 65),
        ("student-resolvent-code-cpu", "nanogpt-cpu", 65),
        ("student-hybrid-char-cpu", "nanogpt-cpu", 65),
        ("transformer-masked", "resnet-bk-masked", 66),
        ("fnet-masked", "resnet-bk-masked", 66),
        ("gla-tiny", "transformer-tiny", 65),
        ("gla-small", "transformer-small", 1024),
        ("gla-char-cpu", "nanogpt-cpu", 65),
        ("gla-char-gpu", "nanogpt-gpu", 65),
        ("min-gru-tiny", "transformer-tiny", 65),
        ("min-gru-small", "transformer-small", 1024),
        ("min-gru-char-cpu", "nanogpt-cpu", 65),
        ("min-gru-char-gpu", "nanogpt-gpu", 65),
    ] {
        let a = count(&preset(name, vocab)) as f64;
        let b = count(&preset(transformer, vocab)) as f64;
        assert!(
            (a / b - 1.0).abs() < 0.01,
            "{name} has {a}, {transformer} {b}"
        );
    }
}

#[test]
fn saved_weights_give_the_same_bits() {
    let device = device();
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let path = folder.path().join(format!("{}.safetensors", case.name));
        let store = || {
            SafetensorsStore::from_file(&path)
                .overwrite(true)
                .skip_enum_variants(true)
        };
        let saved = case.model(5, &device);
        saved.save_into(&mut store()).unwrap();
        let mut loaded = case.model(6, &device);
        assert_ne!(params(&loaded), params(&saved), "{}", case.name);
        let result = loaded.load_from(&mut store()).unwrap();
        assert!(result.is_success(), "{}: {result}", case.name);
        assert_eq!(result.unused, Vec::<String>::new(), "{}", case.name);
        // Names, ids, which of them train, and values.
        assert_eq!(params(&loaded), params(&saved), "{}", case.name);
        let input = ids(&tokens(2, SEQ), 2, &device);
        let run =
            |model: &kiln_zoo::LanguageModel| bits(&vector(model.forward(input.clone()).unwrap()));
        assert_eq!(run(&loaded), run(&saved), "{}", case.name);
    }
}

#[test]
fn names_in_files_have_no_enum_variants() {
    let device = device();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    for case in cases() {
        let mut store = SafetensorsStore::from_file(&path)
            .overwrite(true)
            .skip_enum_variants(true);
        case.model(1, &device).save_into(&mut store).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
        assert!(header.contains("\"tokens\""), "{}: {header}", case.name);
        assert!(
            header.contains("\"blocks.0.norm_mixer.gamma\""),
            "{}: {header}",
            case.name
        );
        for variant in [
            "Attention",
            "Bk.",
            "Resolvent",
            "Conv.",
            "Gla",
            "MinGru",
            "Fnet",
            "Rms",
            "Layer",
        ] {
            assert!(!header.contains(variant), "{}: {header}", case.name);
        }
    }
}

#[test]
fn a_seed_is_a_model() {
    let device = device();
    for case in cases() {
        let of = |seed| params(&case.model(seed, &device));
        let first = of(7);
        assert_eq!(first, of(7), "{}", case.name);
        let other = of(8);
        // Scales and energies are not drawn, so not everything differs.
        for (a, b) in first.iter().zip(&other) {
            assert_eq!((&a.path, a.id), (&b.path, b.id), "{}", case.name);
        }
        let drawn = |params: &[crate::common::NamedParam]| params[0].values.clone();
        assert_ne!(drawn(&first), drawn(&other), "{}", case.name);
    }
}

/// Optimizer state is keyed by these ids: two that collide would share their moments.
#[test]
fn ids_are_distinct() {
    for case in cases() {
        let params = params(&case.model(1, &device()));
        let mut ids: Vec<u64> = params.iter().map(|param| param.id.val()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), params.len(), "{}", case.name);
    }
}
