//! Tables for a terminal and the page of a compression, `report.html`.

use std::path::Path;

use kiln_run::report::{Chart, Part, Section, Series, Style, Table};
use kiln_run::{FileError, Report, format};

use crate::apply::LayerFigures;
use crate::figures::{Compression, StageFigures};

/// Every stage beside the original.
pub fn stages(compression: &Compression) -> Table {
    let original = &compression.original;
    let unit = match original.quality.bits_per_byte {
        Some(_) => "bits/byte",
        None => "nats/token",
    };
    let columns = [
        "stage",
        "what",
        "file",
        "of original",
        "memory",
        "of original",
        unit,
        "change",
        "KL, nats",
        "same top token",
        "decode tok/s",
        "time",
    ];
    Table {
        title: "Stages".into(),
        columns: columns.map(String::from).to_vec(),
        rows: [original]
            .into_iter()
            .chain(&compression.stages)
            .map(|stage| row(stage, original))
            .collect(),
        note: "File: model.safetensors and config.json. Memory: weights as opened. ± is the 95 % interval over windows; the change is \
               measured window by window against the original."
            .into(),
        ..Table::default()
    }
}

/// A row of that table.
pub(crate) fn row(stage: &StageFigures, original: &StageFigures) -> Vec<String> {
    let quality = &stage.quality;
    let loss = quality.bits_per_byte.unwrap_or(quality.loss);
    let with = |value: String, margin: Option<String>| match margin {
        Some(margin) => format!("{value} ± {margin}"),
        None => value,
    };
    let change = |share: f64| format!("{:+.2}%", 100.0 * share);
    let is_original = stage.number == 0;
    let beside = |text: String| {
        if is_original {
            format::NONE.into()
        } else {
            text
        }
    };
    vec![
        stage.number.to_string(),
        stage.what.clone(),
        format::bytes(stage.file_bytes),
        beside(format!("{:.3}x", stage.file_ratio(original))),
        format::bytes(stage.memory_bytes),
        beside(format!("{:.3}x", stage.memory_ratio(original))),
        with(
            format!("{loss:.4}"),
            quality
                .loss_margin
                .map(|margin| format!("{:.4}", margin * loss)),
        ),
        beside(with(
            change(quality.change),
            quality
                .change_margin
                .map(|margin| format!("{:.2}%", 100.0 * margin)),
        )),
        beside(format::number(quality.divergence)),
        beside(format!("{:.2}%", 100.0 * quality.agreement)),
        stage.decode.map_or(format::NONE.into(), |decode| {
            format::count(decode.tokens_per_second)
        }),
        beside(format::duration(stage.seconds)),
    ]
}

/// How fast every stage writes text, and what it takes for it; none where that was not measured.
pub fn decoding(compression: &Compression) -> Option<Table> {
    let columns = [
        "stage",
        "what",
        "first token, ms",
        "cold tok/s",
        "of original",
        "memory",
        "warm tok/s",
        "of original",
        "J/token",
    ];
    let original = &compression.original;
    original.decode?;
    let stages = || [original].into_iter().chain(&compression.stages);
    let cell = |text: Option<String>| text.unwrap_or(format::NONE.into());
    let rate = |rate: Option<f64>| cell(rate.map(format::count));
    let beside = |of: &dyn Fn(&StageFigures) -> Option<f64>, stage: &StageFigures| {
        let ratio = of(stage).zip(of(original)).filter(|_| stage.number > 0);
        cell(ratio.map(|(after, before)| format!("{:.2}x", after / before)))
    };
    let cold = |stage: &StageFigures| stage.cold.map(|cold| cold.tokens_per_second);
    let warm = |stage: &StageFigures| stage.decode.map(|decode| decode.tokens_per_second);
    let row = |stage: &StageFigures| {
        let first = stage.cold.map(|cold| cold.first_token_seconds);
        let memory = stage.cold.and_then(|cold| cold.memory_bytes);
        let energy = stage.decode.and_then(|decode| decode.energy);
        vec![
            stage.number.to_string(),
            stage.what.clone(),
            cell(first.map(|seconds| format::number(1e3 * seconds))),
            rate(cold(stage)),
            beside(&cold, stage),
            cell(memory.map(format::bytes)),
            rate(warm(stage)),
            beside(&warm, stage),
            cell(energy.map(|energy| format::number(energy.joules_per_token))),
        ]
    };
    Some(Table {
        title: "Decoding".into(),
        columns: columns.map(String::from).to_vec(),
        rows: stages().map(row).collect(),
        note: "One sequence. Cold: from the folder on, the file read and the prompt taken in, 32 tokens at most; memory: what that took beyond \
               what was in use before. Warm: a token after the other. Energy: of the whole device, where it has a counter."
            .into(),
        ..Table::default()
    })
}

/// What became of every layer of a stage, the one that lost most first.
pub fn layers(stage: &StageFigures) -> Table {
    let columns = [
        "layer",
        "shape",
        "now",
        "bytes",
        "of before",
        "KL alone, nats",
        "output error",
        "weight error",
        "zeros",
        "rank",
    ];
    let loss = |figures: &LayerFigures| {
        let errors = [figures.sensitivity, figures.output_error];
        let known = errors.into_iter().flatten().next();
        known.unwrap_or(figures.weight_error)
    };
    let mut layers: Vec<&LayerFigures> = stage.layers.iter().collect();
    layers.sort_by(|a, b| loss(b).total_cmp(&loss(a)));
    let row = |figures: &&LayerFigures| {
        let [rows, cols] = figures.shape;
        vec![
            figures.layer.clone(),
            format!("{rows} x {cols}"),
            figures.form.clone(),
            format::bytes(figures.bytes_after),
            format!(
                "{:.3}x",
                figures.bytes_after as f64 / figures.bytes_before as f64
            ),
            figures
                .sensitivity
                .map_or(format::NONE.into(), format::number),
            figures
                .output_error
                .map_or(format::NONE.into(), format::number),
            format::number(figures.weight_error),
            format::percent(figures.zeros),
            figures
                .rank
                .map_or(format::NONE.into(), |rank| rank.to_string()),
        ]
    };
    Table {
        title: format!("Layers of stage {}: {}", stage.number, stage.what),
        columns: columns.map(String::from).to_vec(),
        rows: layers.iter().map(row).collect(),
        note: "KL alone: what the model loses when this layer alone is changed. Errors are squared, as a share of the layer's own output on the calibration inputs, and of its weights.".into(),
        ..Table::default()
    }
}

/// What every number of bits would cost in every layer, where a budget decided; none elsewhere.
pub fn bits(stage: &StageFigures) -> Option<Table> {
    let all = &stage.bits;
    let mut numbers: Vec<u8> = all.iter().map(|figures| figures.bits).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut names: Vec<&str> = all.iter().map(|figures| figures.layer.as_str()).collect();
    names.dedup();
    let row = |name: &&str| {
        let own = || all.iter().filter(|figures| figures.layer == *name);
        let chosen = own().find(|figures| figures.chosen);
        let loss = |bits: &u8| {
            let figures = own().find(|figures| figures.bits == *bits);
            figures.map_or(format::NONE.into(), |figures| format::number(figures.loss))
        };
        let mut row = vec![
            name.to_string(),
            chosen.map_or(format::NONE.into(), |figures| figures.bits.to_string()),
            chosen.map_or(format::NONE.into(), |figures| format::bytes(figures.bytes)),
        ];
        row.extend(numbers.iter().map(loss));
        row
    };
    let heads = ["layer", "bits", "bytes"].map(String::from).into_iter();
    let losses = numbers
        .iter()
        .map(|bits| format!("KL at {bits} bits, nats"));
    (!all.is_empty()).then(|| Table {
        title: format!("Bits of stage {}: {}", stage.number, stage.what),
        columns: heads.chain(losses).collect(),
        rows: names.iter().map(row).collect(),
        note: "KL: how far the layer alone, in so many bits, takes the model from what it was before the stage, on text of the calibration.".into(),
        ..Table::default()
    })
}

/// Writes the page.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(compression: &Compression, path: &Path) -> Result<(), FileError> {
    let mut parts = vec![Part::Table(stages(compression))];
    parts.extend(decoding(compression).map(Part::Table));
    parts.push(Part::Chart(chart(compression)));
    let worked = compression
        .stages
        .iter()
        .filter(|stage| !stage.layers.is_empty());
    parts.extend(compression.stages.iter().filter_map(bits).map(Part::Folded));
    parts.extend(worked.map(|stage| Part::Folded(layers(stage))));
    if let Ok(text) = kiln_run::recipe::to_toml(&compression.recipe) {
        parts.push(Part::Source {
            title: "Recipe".into(),
            text,
        });
    }
    let description = &compression.recipe.description;
    let report = Report {
        title: format!("{}: {}", compression.name, compression.recipe.from),
        subtitle: match description.is_empty() {
            true => format!("A model of {} made smaller", compression.corpus),
            false => description.clone(),
        },
        highlights: highlights(compression),
        sections: vec![Section {
            title: "What every stage cost and saved".into(),
            parts,
        }],
        ..Report::default()
    };
    report.write(path)
}

fn highlights(compression: &Compression) -> Vec<(String, String)> {
    let (first, last) = (&compression.original, compression.last());
    let mut all = vec![
        (
            "file".to_string(),
            format!("{:.3}x", last.file_ratio(first)),
        ),
        ("memory".into(), format!("{:.3}x", last.memory_ratio(first))),
        (
            "loss".into(),
            format!("{:+.2}%", 100.0 * last.quality.change),
        ),
        (
            "same top token".into(),
            format!("{:.2}%", 100.0 * last.quality.agreement),
        ),
    ];
    if let (Some(before), Some(after)) = (first.decode, last.decode) {
        let speed = after.tokens_per_second / before.tokens_per_second;
        all.push(("decoding speed".into(), format!("{speed:.2}x")));
    }
    all
}

/// Quality over size, a point for every stage.
fn chart(compression: &Compression) -> Chart {
    let all = [&compression.original]
        .into_iter()
        .chain(&compression.stages);
    let point = |stage: &StageFigures| {
        let loss = stage.quality.bits_per_byte.unwrap_or(stage.quality.loss);
        let size = stage.file_bytes as f64 / f64::from(1 << 20);
        let name = format!("{} {}", stage.number, stage.what);
        Series::new(name, vec![(size, loss)]).style(Style::Points)
    };
    Chart {
        title: "Loss over size".into(),
        x_label: "file, MiB".into(),
        y_label: match compression.original.quality.bits_per_byte {
            Some(_) => "bits per byte".into(),
            None => "nats per token".into(),
        },
        series: all.map(point).collect(),
        log_x: true,
        plain_legend: true,
        ..Chart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cell for every column: a missing one would put the others under the wrong heads.
    #[test]
    fn rows_are_as_wide_as_their_heads() {
        let figures = LayerFigures {
            layer: "blocks.0.mlp.up".into(),
            tensor: "blocks.0.mlp.up.weight".into(),
            shape: [4, 8],
            form: "quantized".into(),
            bytes_before: 128,
            bytes_after: 32,
            weight_error: 0.25,
            output_error: Some(0.125),
            zeros: 0.5,
            rank: None,
            sensitivity: Some(0.75),
        };
        let text = r#"{"version":1,"number":1,"what":"x","seconds":0,"calibration_tokens":0,"file_bytes":1,"memory_bytes":1,
                "weights":"","decode":null,"layers":[],"quality":{"loss":1,"tokens":1,"accuracy":0,"bits_per_byte":null,
                "loss_margin":null,"change":0,"change_margin":null,"divergence":0,"agreement":1}}"#;
        let mut stage: StageFigures = serde_json::from_str(text).unwrap();
        stage.layers.push(figures);
        let table = layers(&stage);
        let at = |column: &str| {
            table
                .columns
                .iter()
                .position(|name| name == column)
                .unwrap()
        };
        let row = &table.rows[0];
        assert_eq!(row.len(), table.columns.len());
        assert_eq!(row[at("KL alone, nats")], format::number(0.75));
        assert_eq!(row[at("output error")], format::number(0.125));
    }
}
