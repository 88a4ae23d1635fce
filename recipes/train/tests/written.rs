//! Students of text that the teacher writes and of streams of another width, and what runs say of their context.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::fs;
use std::path::PathBuf;

use burn::tensor::Device;
use common::{CYCLE, Corner, with};
use kiln_run::Kind;
use kiln_train::{Run, RunResult};

/// Two shards of text, and nothing else of the teacher.
const WRITTEN: [&str; 6] = [
    "seed=8",
    "model.backbone.n_layers=1",
    "distill.weight=0.0",
    "distill.text.windows=1100",
    "train.steps=80",
    // The best weights by the data are not those that learned from the teacher.
    "train.eval_every=1000",
];

fn shards(corner: &Corner) -> Vec<PathBuf> {
    let caches = fs::read_dir(corner.path("cache/teachers")).unwrap();
    let files = caches.flat_map(|cache| fs::read_dir(cache.unwrap().path()).unwrap());
    let mut shards: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    shards.retain(|path| path.extension().is_some_and(|ext| ext == "tokens"));
    shards.sort();
    shards
}

/// The student's data runs backwards, and the teacher knows the way forwards: what the student writes then it has from the teacher.
#[test]
fn a_student_learns_what_the_teacher_writes() {
    let (corner, teacher) = Corner::taught();
    let backwards: String = CYCLE.chars().rev().collect();
    fs::write(corner.path("back.txt"), backwards.repeat(120)).unwrap();
    let data = format!("data.name=text:{}", corner.path("back.txt").display());
    let changes = with(&WRITTEN, &[&teacher, &data]);
    let agreement = |result: &RunResult| result.validation.teacher.unwrap().agreement();
    let whole = corner.finish("whole", &changes);
    assert!(agreement(&whole) > 0.9, "{}", agreement(&whole));
    let records = common::try_records(&corner.path("whole")).unwrap();
    let is_asked = |record: &kiln_run::Record| record.values.contains_key("distill_loss");
    assert!(!records.iter().any(is_asked));
    // One share is the data's: both ways are learned of, and the way of the data is known a little.
    let mixed = corner.finish("mixed", &with(&changes, &["distill.text.share=0.5"]));
    assert!(mixed.validation.score.loss() < 0.7 * whole.validation.score.loss());

    // What was written is read again; what is damaged is found; what is missing is written again, as it was.
    assert_eq!(shards(&corner).len(), 2, "one text for both shares");
    corner.finish("again", &changes);
    let weights = corner.weights("whole");
    assert!(corner.weights("again") == weights);
    let shard = shards(&corner).pop().unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let error = corner.start("damaged", &changes).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("token sha256"), "{error}");
    fs::remove_file(&shard).unwrap();
    corner.finish("mended", &changes);
    assert!(corner.weights("mended") == weights);
}

/// The tokens that a window begins with are the data's, and no targets; answers may be learned from as well.
#[test]
fn a_prompt_is_given_and_not_learned() {
    let (corner, teacher) = Corner::taught();
    let few = with(
        &WRITTEN,
        &[&teacher, "train.steps=6", "distill.text.prompt=5"],
    );
    corner
        .start("given", &with(&few, &["distill.weight=0.5"]))
        .unwrap();
    let records = common::try_records(&corner.path("given")).unwrap();
    let first = records
        .iter()
        .find(|record| record.kind == Kind::Train)
        .unwrap();
    assert_eq!(first.tokens, 4 * (16 - 4));
    assert_eq!(corner.series("given", Kind::Train, "distill_loss").len(), 6);
}

#[test]
fn what_cannot_be_written_is_refused() {
    let (corner, teacher) = Corner::taught();
    for (changes, expected) in [
        (
            vec!["distill.text.windows=0"],
            "`distill.text.windows` is 0, but must be at least 1",
        ),
        (
            vec!["distill.text.share=0.0"],
            "`distill.text.share` is 0, but must lie in",
        ),
        (
            vec!["distill.text.prompt=17"],
            "`distill.text.prompt` is 17, but a window has 17 tokens",
        ),
        (
            vec!["distill.cache=true", "distill.top_k=4", "train.order=fixed"],
            "and the teacher writes others",
        ),
        (
            vec!["train.contexts=[8,4]"],
            "`train.contexts` is [8, 4], but it must be a list",
        ),
        (
            vec!["train.contexts=[8]", "train.context_stride=9"],
            "`train.context_stride` is 9, but",
        ),
        (
            vec!["train.context_stride=9"],
            "no length of context is asked for",
        ),
    ] {
        let changes = with(&with(&WRITTEN, &[&teacher]), &changes);
        let error = corner.start("refused", &changes).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Losses against context are in the result, the final record and the report; longer contexts know more.
#[test]
fn a_run_says_what_context_is_worth() {
    // After an `a` comes what came after it two tokens before, or the other one: one token of context cannot tell.
    let corner = Corner::new(&"abac".repeat(1000));
    let changes = [
        "train.contexts=[1,4,16]",
        "train.steps=60",
        "train.sweep_windows=8",
    ];
    let result = corner.finish("run", &changes);
    let losses: Vec<f64> = result
        .contexts
        .iter()
        .map(|found| found.score.loss())
        .collect();
    let tokens: Vec<u64> = result
        .contexts
        .iter()
        .map(|found| found.score.tokens)
        .collect();
    assert_eq!(tokens, [128; 3]);
    assert!(
        losses[0] > 0.25 && losses[2] < 0.5 * losses[0],
        "{losses:?}"
    );
    let last = corner.series("run", Kind::Final, "validation_loss_context_4");
    assert!((last[0].1 - losses[1]).abs() < 1e-12);
    let page = fs::read_to_string(corner.path("run").join("report.html")).unwrap();
    assert!(page.matches("Loss against context").count() >= 2);
}

/// A narrower student meets the teacher's stream through matrices that are learned, resumed, and gone at the end.
#[test]
fn projections_are_learned_and_left_behind() {
    let (corner, teacher) = Corner::taught();
    let narrow = [
        &teacher[..],
        "model.backbone.d_model=16",
        "distill.features.kind=hidden",
        "distill.features.project=true",
        "distill.features.weight=1.0",
        "train.steps=80",
    ];
    let end = |run: &str| {
        let objective = corner.series(run, Kind::Train, "objective");
        let (first, last) = (objective[0].1, objective[79].1);
        assert!(
            first > 0.1 && last < 0.4 * first,
            "{run}: {first} to {last}"
        );
    };
    corner.start("straight", &narrow).unwrap();
    end("straight");
    let bytes = corner.weights("straight");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(tensors.names().iter().all(|name| !name.contains("learned")));
    Run::open(&corner.path("straight"), &Device::flex()).unwrap();

    corner
        .start("resumed", &with(&narrow, &["train.steps=24"]))
        .unwrap();
    corner.resume("resumed", &narrow).unwrap();
    assert!(corner.weights("resumed") == bytes);
    for (change, expected) in [
        (
            "distill.features.kind=relations",
            "only `hidden` compares streams",
        ),
        ("quantize.encoding=int4", "leave it or [quantize] out"),
    ] {
        let error = corner
            .start("refused", &with(&narrow, &[change]))
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
