//! What a teacher computes in, and where.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::fs;

use common::{Corner, KEPT, STUDENT, agreement, with};
use kiln_run::Kind;

/// A teacher in another precision answers nearly the same, and not the same; its own precision is the default.
#[test]
fn the_teachers_precision_can_be_chosen() {
    let (corner, teacher) = Corner::taught();
    let from = teacher.replace("distill.teacher", "init.from");
    let still = ["optimizer.learning_rate=1e-30", "train.steps=1"];
    let still = with(&still, &[&teacher, &from]);
    let kept = with(&still, &with(&KEPT, &["train.order=fixed"]));
    let found = |name: &str, changes: &[&str]| {
        let held_out = corner.finish(name, changes).validation;
        let loss = held_out.teacher.unwrap().teacher.loss();
        assert!(agreement(&held_out) > 0.98, "{name}");
        [
            loss,
            held_out.score.loss(),
            corner.series(name, Kind::Train, "distill_loss")[0].1,
        ]
    };
    let trained = found("trained", &still);
    assert_eq!(
        found("f32", &with(&still, &["distill.precision=f32"])),
        trained
    );
    assert_eq!(corner.shards().len(), 0);
    found("kept", &kept);
    let one = corner.shards().len();
    found("kept-f32", &with(&kept, &["distill.precision=f32"]));
    assert_eq!(corner.shards().len(), one, "the same answers");
    for (more, precision) in ["bf16", "f16"].into_iter().enumerate() {
        let set = format!("distill.precision={precision}");
        let [teacher, student, divergence] = found(precision, &with(&still, &[&set]));
        // The student has the same weights, and stays in f32.
        assert_eq!(student, trained[1]);
        let report = fs::read_to_string(corner.path(precision).join("report.html")).unwrap();
        for part in [
            "weights of the teacher",
            &format!("a token, in {precision}"),
        ] {
            assert!(report.contains(part), "{part}");
        }
        let apart = (teacher / trained[0] - 1.0).abs();
        assert!(apart > 0.0 && apart < 0.02, "{precision}: {apart}");
        assert!(
            divergence > trained[2].abs() && divergence < 0.01,
            "{precision}: {divergence}"
        );
        // Kept answers of another precision are others.
        found(&format!("kept-{precision}"), &with(&kept, &[&set]));
        assert_eq!(corner.shards().len(), (more + 2) * one);
    }
}

/// A teacher with a device of its own says the same, whatever is asked of it: the run is that of one device, to the bit.
#[test]
fn a_teacher_on_its_own_device_is_the_same() {
    let (corner, teacher) = Corner::taught();
    let asked = with(&STUDENT, &[&teacher, "train.steps=12"]);
    let features = |kind: &'static str| {
        let other = [
            "distill.features.layers=[1]",
            "distill.features.weight=0.5",
            kind,
        ];
        with(&asked, &other)
    };
    for (name, changes) in [
        ("answers", with(&asked, &["distill.precision=bf16"])),
        ("kept", with(&asked, &KEPT)),
        ("mixers", features("distill.features.kind=mixers")),
        ("hidden", features("distill.features.kind=hidden")),
        ("attention", features("distill.features.kind=attention")),
        ("matrices", features("distill.features.kind=matrices")),
    ] {
        let together = corner.finish(name, &changes).validation;
        let name = |what: &str| format!("{name}-{what}");
        let apart = corner.start_apart(&name("apart"), &changes).unwrap();
        assert_eq!(
            apart.result.unwrap().validation,
            together,
            "{}",
            name("apart")
        );
    }
    let error = corner.start_apart("alone", &[]).map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("there is no teacher to be on `flex`"),
        "{error}"
    );
}
