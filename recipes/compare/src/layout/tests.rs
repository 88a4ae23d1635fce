use super::*;
use crate::fairness::testing::layout;

#[test]
fn runs_have_their_recipe_and_their_place() {
    let layout = layout(
        "seeds = [4, 5]\ngrid = { \"train.steps\" = [3, 6] }",
        &["a", "b"],
    );
    assert_eq!((layout.total(), layout.all().count()), (6, 8));
    let run = RunId {
        cell: 1,
        point: 1,
        seed: 5,
    };
    let recipe = layout.recipe(run);
    assert_eq!((recipe.value.train.steps, recipe.value.seed), (6, 5));
    assert_eq!(layout.folder(run), layout.out.join("runs/b/steps=6/seed-5"));
    assert_eq!(
        layout.log(run),
        layout.out.join("logs/b/steps=6/seed-5.log")
    );
    assert_eq!(layout.title(run), "b steps=6 seed 5");
}

/// Study < arm < grid, whichever key is a part of the other and whichever comes first in the alphabet.
#[test]
fn overlapping_keys_keep_their_precedence() {
    let overrides = |head: &str, arm: &str| {
        let layout = layout(&format!("seeds = [4]\n{head}"), &[&format!("a\n{arm}")]);
        layout.cells[0].points[0].clone()
    };
    let heads = |point: &LaidPoint| point.recipe.value.model.bk["heads"].as_integer();
    let inner = "set = { 'model.bk.heads' = 8 }";
    let outer = "set = { 'model.bk' = { heads = 4, h0 = 0.5 } }";
    let point = overrides(inner, outer);
    assert_eq!(heads(&point), Some(4));
    assert_eq!(
        point.overrides,
        ["model.bk.heads=8", "model.bk={ h0 = 0.5, heads = 4 }"]
    );
    assert_eq!(heads(&overrides(outer, inner)), Some(8));
    let grid = "grid = { 'model.bk' = [{ heads = 2 }] }";
    let point = overrides(outer, &format!("{inner}\n{grid}"));
    assert_eq!(heads(&point), Some(2));
    assert_eq!(
        point.overrides,
        ["model.bk.heads=8", "model.bk={ heads = 2 }"]
    );
    // The same key is replaced as a whole: no `h0` is left.
    let point = overrides(outer, "set = { 'model.bk' = { heads = 3 } }");
    assert_eq!(point.overrides, ["model.bk={ heads = 3 }"]);
    assert_eq!(
        (heads(&point), point.recipe.value.model.bk.len()),
        (Some(3), 1)
    );
}

#[test]
fn tasks_have_settings_grids_and_folders_of_their_own() {
    let head = r#"
seeds = [4, 5]
set = { "train.steps" = 5, "train.batch" = 2 }
grid = { "optimizer.learning_rate" = [1e-3, 2e-3] }
allow = ["tokens"]
[[task]]
name = "short-t8"
set = { "train.steps" = 6, "train.batch" = 3 }
length = 8
[[task]]
name = "recall"
grid = { "optimizer.clip_norm" = [1.0, 2.0, 3.0] }
measure = "accuracy"
allow = ["parameters"]
parameters_within = 0.5
"#;
    let arms = [
        "a",
        "b\nset = { 'train.steps' = 7 }\ntasks = ['short-t8']",
        "c\ngrid = {}",
    ];
    let layout = layout(head, &arms);
    let titles: Vec<_> = layout
        .cells
        .iter()
        .map(|cell| cell.title.as_str())
        .collect();
    let expected = [
        "short-t8/a",
        "short-t8/b",
        "short-t8/c",
        "recall/a",
        "recall/c",
    ];
    assert_eq!(titles, expected);
    let points: Vec<_> = layout.cells.iter().map(|cell| cell.points.len()).collect();
    assert_eq!((points, layout.total()), (vec![2, 2, 1, 3, 1], 9 + 5));
    let run = |cell| RunId {
        cell,
        point: 0,
        seed: 5,
    };
    // Study < task < arm.
    let train = |cell| layout.recipe(run(cell)).value.train;
    let steps = [0, 1, 3].map(|cell| (train(cell).steps, train(cell).batch));
    assert_eq!(steps, [(6, 3), (7, 3), (5, 2)]);
    let place = layout.place(run(3));
    assert_eq!(place, Path::new("recall/a/clip_norm=1.0/seed-5"));
    assert_eq!(layout.title(run(4)), "recall/c seed 5");
    let [short, recall] = &layout.tasks[..] else {
        panic!()
    };
    assert_eq!(short.length, Some(("short".into(), 8)));
    assert_eq!(
        [short.measure, recall.measure],
        [Measure::NatsPerToken, Measure::Accuracy]
    );
    assert_eq!(
        [short.parameters_within, recall.parameters_within],
        [0.02, 0.5]
    );
    let allows = |task: &LaidTask| {
        [Difference::Tokens, Difference::Parameters].map(|what| task.allows(what))
    };
    assert_eq!(
        [allows(short), allows(recall)],
        [[true, false], [true, true]]
    );
    assert_eq!(layout.cells_of(1).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn a_bad_recipe_names_its_arm_and_point() {
    let study = "seeds = [4]\ngrid = { \"train.step\" = [3, 6] }";
    let error = crate::fairness::testing::try_layout(study, &["a"])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(
            "arm `a`, step=3: unknown key `train.step` in --set train.step=3; did you mean `steps`?"
        ),
        "{error}"
    );
}

/// Its recipe says data and windows, and its order is no key of it; budgets of operations leave it the whole text.
#[test]
fn an_arm_that_counts_has_orders_for_a_grid() {
    let head = "seeds = [4]\nset = { 'train.steps' = 7 }";
    let arms = ["a", "n\nngram = [2, 3]"];
    let laid = layout(head, &arms);
    let run = |point| RunId {
        cell: 1,
        point,
        seed: 4,
    };
    assert_eq!(
        (laid.ngram(run(1)), laid.place(run(1))),
        (Some(3), "n/order=3/seed-4".into())
    );
    assert_eq!(laid.point(run(1)).overrides, ["train.steps=7"]);
    assert_eq!(laid.cells[1].length, crate::Length::Recipe);
    let paid = layout("seeds = [4]\nbudget = { flops = 1e9 }", &arms);
    assert_eq!(paid.cells[1].length, crate::Length::Whole);
    let by_tokens = layout("seeds = [4]\nbudget = { tokens = 99 }", &arms);
    assert_eq!(by_tokens.cells[1].length, crate::Length::Tokens(99));
}
