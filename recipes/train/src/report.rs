//! `report.html` of a training run.

mod sides;

use kiln_loader::Split;
use kiln_run::report::{Chart, Sample, Series, Style, Table};
use kiln_run::{Kind, Record, Report, format, metrics};
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::contexts::ContextScore;
use crate::data::Source;
use crate::loss::words_of;
use crate::outcome::{HeldOut, RunResult};
use crate::setup::Setup;
use crate::state::Position;
use crate::tutor::Tutor;

/// Writes the report from the run's own metrics file, so that it shows a resumed run whole.
pub(crate) fn write(
    setup: &Setup,
    tutor: Option<&Tutor>,
    model: &LanguageModel,
    position: &Position,
    result: &RunResult,
) -> Result<(), TrainError> {
    let records = metrics::read(&setup.folder.metrics())?;
    let recipe = &setup.resolved.recipe;
    let report = Report {
        title: format!(
            "{} on {}",
            recipe.value.model.preset,
            setup.data.source.name()?
        ),
        subtitle: match recipe.value.description.is_empty() {
            true => recipe.name.clone(),
            false => format!("{}: {}", recipe.name, recipe.value.description),
        },
        highlights: highlights(result, position),
        facts: facts(setup, model, position, result)?
            .into_iter()
            .chain(sides::facts(model, tutor))
            .collect(),
        charts: charts(&records, setup, result),
        tables: [table(result)]
            .into_iter()
            .chain(contexts_table(setup, result))
            .collect(),
        samples: result
            .sample
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| Sample {
                title: format!(
                    "Temperature {}, top-p {}, seed {}",
                    recipe.value.sample.temperature,
                    recipe.value.sample.top_p,
                    recipe.value.sample.seed
                ),
                prompt: recipe.value.sample.prompt.clone(),
                text: text.clone(),
            })
            .collect(),
        ..Report::default()
    };
    Ok(report.write(&setup.folder.report())?)
}

fn highlights(result: &RunResult, position: &Position) -> Vec<(String, String)> {
    let mut all = vec![match result.validation.bits_per_byte {
        Some(bits) => ("validation bits per byte".to_string(), format::number(bits)),
        None => {
            let accuracy = result.validation.score.accuracy();
            ("validation accuracy".into(), format!("{accuracy:.4}"))
        }
    }];
    if let Some(bigram) = &result.bigram {
        all.push((
            "bigram baseline".into(),
            format::number(bigram.bits_per_byte),
        ));
    }
    all.push((
        "validation loss, nats a token".into(),
        format::number(result.validation.score.loss()),
    ));
    if let Some(beside) = &result.validation.teacher {
        let agreement = format!("{:.1} %", 100.0 * beside.agreement());
        all.push(("agreement with the teacher".into(), agreement));
    }
    all.push(("parameters".into(), format::count(result.params as f64)));
    all.push((
        "training tokens".into(),
        format::count(position.tokens as f64),
    ));
    all.push(("time".into(), format::duration(position.elapsed_s)));
    all
}

fn facts(
    setup: &Setup,
    model: &LanguageModel,
    position: &Position,
    result: &RunResult,
) -> Result<Vec<(String, String)>, TrainError> {
    let resolved = &setup.resolved;
    let recipe = &resolved.recipe.value;
    let source = &setup.data.source;
    let seq = resolved.seq;
    let config = &resolved.model;
    let size = |split: &kiln_text::SplitInfo| {
        format!(
            "{} tokens of {}",
            format::count(split.tokens as f64),
            format::bytes(split.bytes)
        )
    };
    let named = |name: &str, value: String| (name.to_string(), value);
    let terms = recipe.train.loss_terms();
    let minimised = words_of(terms).unwrap_or_else(|| "cross-entropy".into());
    let mut facts = vec![
        named("device", setup.device_name.clone()),
        named("seed", recipe.seed.to_string()),
        named(
            "data",
            format!("{} ({})", source.name()?, source.hash()?.short()),
        ),
        named("vocabulary", source.vocab_size()?.to_string()),
        named(
            "layers x width",
            format!("{} x {}", config.backbone.n_layers, config.backbone.d_model),
        ),
        named("sequence", format!("{seq} tokens")),
        named("tokens a step", recipe.tokens_per_step(seq).to_string()),
        named(
            "steps",
            format!("{} (best: {})", position.step, result.best_step),
        ),
        named("skipped steps", position.skipped.to_string()),
        named("minimised", minimised),
        named("learning rate", recipe.optimizer.learning_rate.to_string()),
        named(
            "forward FLOPs a token",
            format::count(config.flops_per_token(model, seq) as f64),
        ),
    ];
    match source {
        Source::Text(text) => {
            facts.push(named("train", size(&text.manifest.train)));
            facts.push(named("validation", size(&text.manifest.validation)));
        }
        Source::Task(task) => {
            let examples = match task.train_examples {
                0 => "drawn without end".into(),
                examples => examples.to_string(),
            };
            facts.push(named("training examples", examples));
            let held_out = task.held_out_examples.to_string();
            facts.push(named("examples of a held-out split", held_out));
        }
    }
    if config.is_causal() {
        facts.push(named(
            "generation state a sequence",
            format::bytes(model.state_bytes(seq)),
        ));
    }
    Ok(facts)
}

fn charts(records: &[Record], setup: &Setup, result: &RunResult) -> Vec<Chart> {
    let series = |kind: Kind, key: &str| -> Vec<(f64, f64)> {
        records
            .iter()
            .filter(|record| record.kind == kind)
            .filter_map(|record| Some((record.step as f64, *record.values.get(key)?)))
            .collect()
    };
    let one = |title: &str, label: &str, kind: Kind, key: &str| Chart {
        title: title.into(),
        x_label: "step".into(),
        y_label: label.into(),
        series: vec![Series::new(label, series(kind, key))],
        ..Default::default()
    };
    let train_chart = |title, label, key| one(title, label, Kind::Train, key);
    let bits_per_nat = setup.data.bits_per_byte(Split::Train, 1.0);
    let (unit, measure) = match bits_per_nat {
        Some(_) => ("bits per byte", "validation_bits_per_byte"),
        None => ("nats per token", "validation_loss"),
    };
    let train = series(Kind::Train, "loss")
        .into_iter()
        .map(|(step, loss)| (step, loss * bits_per_nat.unwrap_or(1.0)));
    let loss = Chart {
        title: "Loss".into(),
        x_label: "step".into(),
        y_label: unit.into(),
        series: vec![
            Series::new("training", train.collect()).style(Style::Faint),
            Series::new("validation", series(Kind::Eval, measure)),
        ],
        references: result
            .bigram
            .iter()
            .map(|bigram| ("bigram baseline".to_string(), bigram.bits_per_byte))
            .collect(),
        ..Default::default()
    };
    let mut charts = vec![
        loss,
        one(
            "Accuracy",
            "share of targets",
            Kind::Eval,
            "validation_accuracy",
        ),
        train_chart("Learning rate", "learning rate", "learning_rate"),
        train_chart(
            "Gradient norm before clipping",
            "gradient norm",
            "grad_norm",
        ),
        throughput(series),
        train_chart(
            "Divergence from the teacher in training",
            "nats per token, times the squared temperature",
            "distill_loss",
        ),
        one(
            "KL(teacher || student)",
            "nats per token",
            Kind::Eval,
            "validation_teacher_kl",
        ),
        context_chart(result),
        train_chart("Memory", "bytes", "memory_bytes"),
    ];
    charts.retain(|chart| chart.series.iter().any(|series| !series.points.is_empty()));
    charts
}

fn context_chart(result: &RunResult) -> Chart {
    let point = |score: &ContextScore| (score.context as f64, score.score.loss());
    let points = result.contexts.iter().map(point).collect();
    Chart {
        title: "Loss against context".into(),
        x_label: "most tokens seen".into(),
        y_label: "nats per token".into(),
        series: vec![Series::new("validation", points)],
        log_x: true,
        ..Default::default()
    }
}

/// Loss against context, where the recipe asks for it.
fn contexts_table(setup: &Setup, result: &RunResult) -> Option<Table> {
    let row = |score: &ContextScore| {
        let loss = score.score.loss();
        let bits = setup.data.bits_per_byte(Split::Validation, loss);
        vec![
            score.context.to_string(),
            score.least.to_string(),
            format!("{loss:.4}"),
            format!("{:.2}", score.score.perplexity()),
            bits.map_or(format::NONE.into(), |bits| format!("{bits:.4}")),
            score.score.tokens.to_string(),
        ]
    };
    let columns = [
        "most tokens seen",
        "least",
        "nats a token",
        "perplexity",
        "bits a byte",
        "targets",
    ];
    (!result.contexts.is_empty()).then(|| Table {
        title: "Loss against context".into(),
        columns: columns.map(String::from).to_vec(),
        rows: result.contexts.iter().map(row).collect(),
        note: "Validation, sliding windows: at every length the same targets, each once.".into(),
        ..Table::default()
    })
}

/// Tokens a second, of teacher and student by themselves where there is a teacher.
fn throughput(series: impl Fn(Kind, &str) -> Vec<(f64, f64)>) -> Chart {
    let names = [
        ("tokens_per_s", "tokens per second"),
        ("teacher_tokens_per_s", "teacher alone"),
        ("student_tokens_per_s", "student alone"),
    ];
    let all = names.map(|(key, name)| Series::new(name, series(Kind::Train, key)));
    let all = all.into_iter().filter(|series| !series.points.is_empty());
    Chart {
        title: "Throughput".into(),
        x_label: "step".into(),
        y_label: "tokens per second".into(),
        series: all.collect(),
        ..Default::default()
    }
}

fn table(result: &RunResult) -> Table {
    let none = || format::NONE.to_string();
    let row = |name: &str, loss: f64, accuracy: Option<f64>, bits: Option<f64>, tokens: u64| {
        vec![
            name.to_string(),
            format!("{loss:.4}"),
            format!("{:.2}", loss.exp()),
            bits.map_or_else(none, |bits| format!("{bits:.4}")),
            accuracy.map_or_else(none, |accuracy| format!("{accuracy:.4}")),
            tokens.to_string(),
        ]
    };
    let model = |name: &str, held_out: &HeldOut| {
        let score = &held_out.score;
        let (loss, accuracy) = (score.loss(), score.accuracy());
        row(
            name,
            loss,
            Some(accuracy),
            held_out.bits_per_byte,
            score.tokens,
        )
    };
    let mut rows = vec![model("model, validation", &result.validation)];
    if let Some(beside) = &result.validation.teacher {
        let (teacher, held_out) = (&beside.teacher, &result.validation);
        let bits = held_out.bits_per_byte;
        // Both are of the same text, so one factor goes from nats to bits.
        let bits = bits.map(|bits| bits / held_out.score.loss() * teacher.loss());
        let (loss, accuracy) = (teacher.loss(), teacher.accuracy());
        rows.push(row(
            "teacher, validation",
            loss,
            Some(accuracy),
            bits,
            teacher.tokens,
        ));
    }
    if let Some(bigram) = &result.bigram {
        rows.push(row(
            "bigram, validation",
            bigram.nats_per_token,
            None,
            Some(bigram.bits_per_byte),
            bigram.tokens,
        ));
    }
    if let Some(test) = &result.test {
        rows.push(model("model, test", test));
    }
    Table {
        title: "Held-out data".into(),
        columns: [
            "",
            "nats a token",
            "perplexity",
            "bits a byte",
            "accuracy",
            "targets",
        ]
        .map(String::from)
        .to_vec(),
        rows,
        note: "Means over tokens. The weights are those of the best evaluation.".into(),
        ..Table::default()
    }
}
