//! Synthetic tasks and n-gram models from the command line.

use std::fs;

use crate::common::Corner;

const TASK: &str = "
[task]
held_out_examples = 20
[task.induction-heads]
length = 16
vocab = 6
[model]
preset = \"resnet-bk-tiny\"
[train]
steps = 4
batch = 4
eval_every = 2
eval_batches = 2
";

#[test]
fn a_task_is_trained_and_scored_at_other_lengths() {
    let corner = Corner::new();
    fs::write(corner.path("recipe.toml"), TASK).unwrap();
    let said = corner.train("run", &[]);
    let said = said.expect(
        0,
        &[
            "validation  accuracy 0.",
            "test        accuracy 0.",
            "over 20 tokens",
        ],
    );
    assert!(
        !said.out.contains("generate ") && !said.out.contains("bits/byte"),
        "{}",
        said.out
    );
    assert!(!corner.path("run/tokenizer.json").exists());

    let score = |more: &[&str]| {
        let args: Vec<&str> = ["eval", "run"].iter().chain(more).copied().collect();
        corner
            .kiln(&args)
            .expect(
                0,
                &["data        induction-heads", "targets     20", "accuracy"],
            )
            .out
    };
    assert_eq!(score(&["--batch", "3"]), score(&[]));
    assert_ne!(score(&["--split", "test"]), score(&[]));
    assert_ne!(score(&["--seq", "40"]), score(&[]));

    corner
        .kiln(&["eval", "run", "--data", "tiny-shakespeare"])
        .expect(
            2,
            &[
                "--data tiny-shakespeare",
                "trained on the task `induction-heads`",
            ],
        );
    corner
        .kiln(&["eval", "run", "--seq", "2"])
        .expect(1, &["`induction-heads.length` = 2", "at least 3"]);
    let said = corner.kiln(&["generate", "run", "--prompt", "x"]);
    assert_eq!(said.expect(1, &["there is no text to generate"]).out, "");
    let sets = ["--set", "data.tokenizer=chars"];
    corner
        .train("other", &sets)
        .expect(1, &["`data` is rust-deps as chars"]);
}

#[test]
fn ngrams_are_scored_up_to_an_order() {
    let corner = Corner::new();
    let name = format!("text:{}", corner.text("text.txt"));
    let args = [
        "data",
        "ngram",
        &name,
        "--tokenizer",
        "chars",
        "--order",
        "3",
    ];
    let said = corner
        .kiln(&args)
        .expect(0, &["order  nats/token  bits/byte"]);
    let nats: Vec<f64> = said
        .out
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect();
    assert_eq!(nats.len(), 3, "{}", said.out);
    // The text is one sentence over and over: more context tells more of it.
    assert!(nats[0] > nats[1] && nats[1] > nats[2], "{nats:?}");
    corner
        .kiln(&["data", "ngram", &name, "--order", "0"])
        .expect(2, &["--order"]);
}
