//! Runs with a teacher: that it teaches, that its kept answers are its answers, that such a run resumes, and what is refused.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::fs;

use common::{Corner, KEPT, STUDENT, agreement, with};
use kiln_run::{Interrupt, Kind};
use kiln_train::Stop;

/// Without ever seeing a target, the student predicts what the teacher does. Every loss teaches.
#[test]
fn a_student_learns_from_the_teacher_alone() {
    let (corner, teacher) = Corner::taught();
    let start = with(&STUDENT, &[&teacher, "train.steps=1"]);
    let fresh = corner.finish("fresh", &start).validation;
    assert!(agreement(&fresh) < 0.5, "{}", agreement(&fresh));
    for (name, loss) in [
        ("forward", "distill.loss=forward-kl"),
        ("reverse", "distill.loss=reverse-kl"),
        ("shannon", "distill.loss={jensen-shannon = 0.5}"),
    ] {
        let changes = with(&STUDENT, &[&teacher, loss, "train.steps=80"]);
        let taught = corner.finish(name, &changes).validation;
        let (before, after) = (fresh.teacher.unwrap(), taught.teacher.unwrap());
        assert!(agreement(&taught) > 0.95, "{name}: {}", agreement(&taught));
        assert!(
            after.mean_divergence() < 0.3 * before.mean_divergence(),
            "{name}: {} after {}",
            after.mean_divergence(),
            before.mean_divergence()
        );
        let divergence = corner.series(name, Kind::Train, "distill_loss");
        assert!(divergence[79].1 < 0.3 * divergence[0].1, "{name}");
        for key in ["teacher_tokens_per_s", "student_tokens_per_s"] {
            let rates = corner.series(name, Kind::Train, key);
            assert!(rates.iter().all(|(_, rate)| *rate > 0.0), "{name} {key}");
        }
    }
}

/// A student with the teacher's weights agrees with it everywhere, has its loss, and has nothing to learn from it.
#[test]
fn a_copy_has_no_divergence() {
    let (corner, teacher) = Corner::taught();
    let from = teacher.replace("distill.teacher", "init.from");
    let still = [
        "optimizer.learning_rate=1e-30",
        "train.steps=1",
        "distill.weight=1.0",
    ];
    let changes = with(&still, &[&teacher, &from]);
    let copy = corner.finish("copy", &changes).validation;
    let beside = copy.teacher.unwrap();
    assert_eq!(beside.agreement(), 1.0);
    assert_eq!(beside.teacher, copy.score);
    assert!(beside.mean_divergence().abs() < 1e-6, "{beside:?}");
    let first = corner.series("copy", Kind::Train, "distill_loss")[0].1;
    assert!(first.abs() < 1e-6, "{first}");
    assert!(corner.series("copy", Kind::Train, "grad_norm")[0].1 < 1e-4);
}

/// The weight mixes: at the start of its way it is the one loss, at the end the other.
#[test]
fn the_weight_moves_over_the_run() {
    let (corner, teacher) = Corner::taught();
    let run = |name: &str, weights: &[&str]| {
        let changes = with(&["seed=8", "model.backbone.n_layers=1"], &[&teacher]);
        corner.finish(name, &with(&changes, weights));
        corner.series(name, Kind::Train, "grad_norm")
    };
    let moving = run(
        "moving",
        &["distill.weight=1.0", "distill.final_weight=0.0"],
    );
    let taught = run("taught", &["distill.weight=1.0"]);
    let other = run("other", &["distill.weight=0.3"]);
    assert_eq!(moving[0], taught[0]);
    assert_ne!(moving[0], other[0]);
    assert_ne!(moving[5], taught[5]);
}

/// Features alone teach: what is between the layers comes closer, whatever the student is.
#[test]
fn features_are_learned() {
    let (corner, teacher) = Corner::taught();
    let from = teacher.replace("distill.teacher", "init.from");
    let other = [
        "model.preset=resolvent-tiny",
        "model.resolvent.d_key=8",
        &from,
    ];
    let half = ["model.backbone.n_layers=1", "distill.features.layers=[1]"];
    let narrow = ["model.backbone.d_model=16", "distill.features.layers=[0,1]"];
    let bk = [
        "model.preset=resnet-bk-tiny",
        "model.backbone.n_layers=1",
        "model.backbone.d_model=16",
        "distill.features.layers=[1]",
    ];
    for (kind, student) in [
        ("mixers", &other[..]),
        ("hidden", &half),
        ("relations", &narrow),
        ("attention", &bk),
        ("matrices", &other),
    ] {
        let kind_set = format!("distill.features.kind={kind}");
        let alone = [
            &teacher[..],
            &kind_set,
            "distill.features.weight=1.0",
            "train.steps=80",
        ];
        corner.start(kind, &with(&alone, student)).unwrap();
        let objective = corner.series(kind, Kind::Train, "objective");
        let (first, last) = (objective[0].1, objective[79].1);
        assert!(
            first > 1e-3 && last < 0.5 * first,
            "{kind}: {first} to {last}"
        );
    }
    // Given the teacher's residual stream, mixers are all there is to learn: the rest has no gradient, and stays the teacher's.
    let [taught, source] = ["mixers", "teacher"].map(|run| rest(&corner, run));
    assert!(!taught.is_empty() && taught == source);
}

/// Every tensor of the MLPs, the last norm and the embedding, by name.
fn rest(corner: &Corner, run: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = corner.weights(run);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut rest: Vec<_> = tensors
        .iter()
        .filter(|(name, _)| !name.contains("mixer"))
        .map(|(name, tensor)| (name.to_string(), tensor.data().to_vec()))
        .collect();
    rest.sort();
    rest
}

/// A share of features counts beside the answers, and a copy has none to learn.
#[test]
fn features_are_a_share_of_the_loss() {
    let (corner, teacher) = Corner::taught();
    let from = teacher.replace("distill.teacher", "init.from");
    let still = ["optimizer.learning_rate=1e-30", "train.steps=1"];
    let objective = |name: &str, changes: &[&str]| {
        corner
            .start(name, &with(&with(&still, &[&teacher, "seed=8"]), changes))
            .unwrap();
        let value = |key| corner.series(name, Kind::Train, key)[0].1;
        [value("objective"), value("loss"), value("distill_loss")]
    };
    for kind in ["mixers", "hidden", "relations", "attention", "matrices"] {
        let kind_set = format!("distill.features.kind={kind}");
        let features = |share: &'static str| vec![&kind_set[..], share];
        let name = |what: &str| format!("{kind}-{what}");
        let copy = with(&features("distill.features.weight=1.0"), &[&from]);
        let copied = objective(&name("copy"), &copy);
        // Rows of weights add up to one by rounding only.
        let most = if kind == "attention" { 1e-7 } else { 1e-9 };
        assert!(copied[0].abs() < most, "{kind}: {copied:?}");
        let [alone, ..] = objective(&name("alone"), &features("distill.features.weight=1.0"));
        let [mixed, nats, answers] =
            objective(&name("mixed"), &features("distill.features.weight=0.25"));
        let expected = 0.25 * alone + 0.75 * (0.1 * nats + 0.9 * answers);
        assert!(
            (mixed - expected).abs() < 1e-5,
            "{kind}: {mixed} {expected}"
        );
    }
}

/// Kept answers are the answers: the same run to the last digits of f32, which sums in another order for a batch of windows.
#[test]
fn kept_answers_are_the_answers() {
    let (corner, teacher) = Corner::taught();
    let asked = with(&STUDENT, &[&teacher]);
    for top_k in ["distill.top_k=4", "distill.top_k=36"] {
        let name = |what: &str| format!("{what}-{}", &top_k[14..]);
        let (live, kept) = (name("live"), name("kept"));
        corner.start(&live, &with(&asked, &[top_k])).unwrap();
        let cached = with(&asked, &[top_k, "distill.cache=true"]);
        corner.start(&kept, &cached).unwrap();
        for key in ["distill_loss", "loss"] {
            let found = corner.series(&kept, Kind::Train, key);
            let expected = corner.series(&live, Kind::Train, key);
            for (found, expected) in found.iter().zip(&expected) {
                let apart = (found.1 - expected.1).abs();
                assert!(apart < 1e-4, "{key} {top_k}: {found:?} {expected:?}");
            }
        }
    }
    // With the whole vocabulary kept, nothing is truncated.
    corner
        .start("whole", &with(&asked, &["distill.top_k=0"]))
        .unwrap();
    let whole = corner.series("whole", Kind::Train, "distill_loss");
    let kept = corner.series("kept-36", Kind::Train, "distill_loss");
    let few = corner.series("kept-4", Kind::Train, "distill_loss");
    assert!(
        (whole[0].1 - kept[0].1).abs() < 1e-5,
        "{} {}",
        whole[0].1,
        kept[0].1
    );
    assert!((whole[0].1 - few[0].1).abs() > 1e-4, "the test can tell");
}

#[test]
fn a_damaged_cache_is_found() {
    let (corner, teacher) = Corner::taught();
    let changes = with(&with(&STUDENT, &[&teacher]), &KEPT);
    corner.start("first", &changes).unwrap();
    let shard = corner.shards().pop().unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let error = corner.start("second", &changes).map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("delete the file, and the next run makes it again"),
        "{error}"
    );
    fs::remove_file(&shard).unwrap();
    corner.start("third", &changes).unwrap();
    assert!(corner.weights("third") == corner.weights("first"));
}

/// Whether its answers are kept or not, and with features.
#[test]
fn stopped_and_resumed() {
    let (corner, teacher) = Corner::taught();
    let features = [
        "distill.features.kind=hidden",
        "distill.features.layers=[1]",
    ];
    for (name, more) in [
        ("live", &[][..]),
        ("kept", &KEPT[..]),
        ("features", &features[..]),
    ] {
        let changes = with(&STUDENT, &[&teacher, "distill.final_weight=0.5"]);
        let changes = with(&with(&changes, more), &["train.steps=100"]);
        let names = ["straight", "resumed"].map(|what| format!("{name}-{what}"));
        corner.start(&names[0], &changes).unwrap();
        // The share of the run follows from its length, so it has to be the same.
        let interrupt = Interrupt::none();
        let (run, request) = (corner.path(&names[1]), interrupt.clone());
        let watcher = std::thread::spawn(move || {
            while common::try_records(&run).is_none_or(|records| records.len() < 7) {
                std::thread::yield_now();
            }
            request.request();
        });
        let long = with(&changes, &["train.checkpoint_every=1000"]);
        let stopped = corner.train(&names[1], false, &long, interrupt).unwrap();
        watcher.join().unwrap();
        assert_eq!(stopped.stop, Stop::Interrupted, "{name}: it was too fast");
        let done = corner.resume(&names[1], &long).unwrap();
        assert_eq!((done.step, done.stop), (100, Stop::Finished));
        assert!(
            corner.weights(&names[1]) == corner.weights(&names[0]),
            "{name}"
        );
    }
}

/// Another teacher in the same place is another run.
#[test]
fn a_teacher_that_changed_is_refused() {
    let (corner, teacher) = Corner::taught();
    let changes = with(&STUDENT, &[&teacher]);
    corner
        .start("run", &with(&changes, &["train.steps=6"]))
        .unwrap();
    fs::remove_dir_all(corner.path("teacher")).unwrap();
    corner.start("teacher", &["train.steps=12"]).unwrap();
    let error = corner.resume("run", &changes).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("and the recipe asks for"),
        "{error}"
    );
}

#[test]
fn what_cannot_teach_is_refused() {
    let (corner, teacher) = Corner::taught();
    let nowhere = format!("distill.teacher={}", corner.path("nowhere").display());
    let text = corner.path("text.txt");
    let bytes = format!("data.name=text:{}", text.display());
    for (changes, expected) in [
        (
            vec![&nowhere[..]],
            "it cannot be opened as a finished run: ",
        ),
        (
            vec![&teacher, &bytes, "data.tokenizer=bytes"],
            "so the same id is another token",
        ),
        (
            vec![
                &teacher,
                "model.preset=resnet-bk-masked",
                "objective.kind=masked-token",
            ],
            "take a teacher of the same data",
        ),
        (
            vec![&teacher, "distill.top_k=37"],
            "`distill.top_k` is 37, but there are 36 tokens; 0 keeps all",
        ),
        (
            vec![&teacher, "distill.cache=true"],
            "`distill.cache` is true, but all tokens of every position are too much to keep",
        ),
        (
            vec![&teacher, "distill.cache=true", "distill.top_k=4"],
            "set `train.order = \"fixed\"`",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=hidden",
                "model.backbone.n_layers=1",
            ],
            "`distill.features.layers` is [], but it takes a number below 2, a layer of the teacher, for each of the 1 layers",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=hidden",
                "distill.features.layers=[0,2]",
            ],
            "`distill.features.layers` is [0, 2], but it takes a number below 2",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=mixers",
                "model.backbone.d_model=16",
            ],
            "the model is 16 wide and the teacher 32: only `relations` and `attention` can be matched then, and `hidden` with",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=matrices",
                "model.backbone.d_model=16",
            ],
            "`distill.features.kind` is matrices, but the model is 16 wide",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=attention",
                "model.pattern=[\"attention\", \"conv\"]",
            ],
            "`distill.features.kind` is attention, but layer 1 of the model has no weights of positions (attention, resolvent and causal bk layers do): take `mixers`",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=attention",
                "train.batch=300000",
            ],
            "weights are a square of the sequence: layer 0 of the teacher has ",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=hidden",
                "distill.features.weight=1.5",
            ],
            "`distill.features.weight` is 1.5, but must lie in",
        ),
        (
            vec![
                &teacher,
                "distill.features.kind=hidden",
                "distill.cache=true",
                "distill.top_k=4",
                "train.order=fixed",
            ],
            "features are not kept",
        ),
        (
            vec![&teacher, "distill.weight=0.0"],
            "then nothing is learned from the teacher",
        ),
        (
            vec![&teacher, "distill.temperature=0.0"],
            "`distill.temperature` is 0, but must lie in [1e-2, 1e2]",
        ),
        (
            vec![&teacher, "distill.loss={jensen-shannon = 1.0}"],
            "`distill.loss.jensen-shannon` is 1, but must lie between 0 and 1",
        ),
    ] {
        let error = corner.start("refused", &changes).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(
            !corner.path("refused").exists(),
            "{error}: a folder was made"
        );
    }
}
