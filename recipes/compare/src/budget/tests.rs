use burn::tensor::Device;

use super::*;
use crate::fairness::testing::{layout, try_layout};
use crate::fairness::{CellCost, check, costs};
use crate::figures::testing::figures;

fn counted(layout: &Layout) -> Vec<CellCost> {
    costs(layout, &Device::flex(), &mut |_| Ok(256)).unwrap()
}

fn refused(head: &str, arms: &[&str]) -> String {
    try_layout(head, arms).unwrap_err().to_string()
}

#[test]
fn a_budget_says_one_thing_and_says_it_alone() {
    let set = "b\nset = { 'train.steps' = 7 }";
    let time = |of: &str| format!("b\ntime_of = '{of}'");
    let (itself, nobody, both) = (
        time("b"),
        time("c"),
        time("a") + "\nset = { 'train.steps' = 7 }",
    );
    let cases: [(&str, &str, &str); 9] = [
        ("budget = {}", "b", "`budget` is {}, but it says nothing"),
        (
            "budget = { tokens = 9, seconds = 1.0 }",
            "b",
            "one of tokens, flops and seconds says how long",
        ),
        (
            "budget = { flops = -1.0 }",
            "b",
            "`budget.flops` is -1, but it must be a number above 0",
        ),
        (
            "budget = { tokens = 9 }\nset = { 'train.steps' = 3 }",
            "b",
            "`set.train.steps` is set, but the budget says",
        ),
        (
            "budget = { flops = 1e9 }",
            set,
            "arm `b` would have another budget than the others",
        ),
        (
            "allow = ['budget']",
            "b",
            "no budget says how long a run is",
        ),
        ("", &itself, "arm `b` would wait for itself"),
        (
            "",
            &nobody,
            "arm `b` waits for it, and there is no such arm",
        ),
        ("", &both, "arm `b` also states `train.steps`"),
    ];
    for (head, arm, message) in cases {
        let error = refused(&format!("seeds = [1]\n{head}"), &["a", arm]);
        assert!(error.contains(message), "{head}: {error}");
    }
    // An arm may have another length where the study names that.
    let allowed = layout(
        "seeds = [1]\nbudget = { tokens = 160 }\nallow = ['budget']",
        &["a", set],
    );
    let lengths: Vec<_> = allowed.cells.iter().map(|cell| cell.length).collect();
    assert_eq!(lengths, [Length::Tokens(160), Length::Recipe]);
    let tokens = counted(&allowed)
        .into_iter()
        .map(|cell| cell.points[0].1.tokens);
    assert_eq!(tokens.collect::<Vec<_>>(), [Some(160), Some(7 * 16)]);
    check(&allowed.tasks, &counted(&allowed)).unwrap();
}

/// Steps that cost more are fewer, and every arm spends all that a step less than it would exceed.
#[test]
fn operations_pay_for_steps() {
    let arms = ["a", "b\nset = { 'train.accumulate' = 3 }"];
    let head = "seeds = [1]\nset = { 'model.backbone.dropout' = 0.0 }";
    let step = counted(&layout(head, &["a"]))[0].points[0].1.step_flops;
    let budget = 10.5 * step;
    let head = format!("{head}\nbudget = {{ flops = {budget:?} }}");
    let mut spent = layout(&head, &arms);
    let mut facts = counted(&spent);
    spent.spend(&mut facts).unwrap();
    check(&spent.tasks, &facts).unwrap();
    let steps = [0, 1].map(|cell: usize| spent.cells[cell].points[0].recipe.value.train.steps);
    assert_eq!(steps, [10, 3]);
    let flops = facts.iter().map(|cell| cell.points[0].1.flops.unwrap());
    assert!(
        flops
            .into_iter()
            .all(|flops| flops <= budget && flops > budget - 3.0 * step)
    );
    let last = spent.cells[1].points[0].overrides.last().unwrap();
    assert_eq!(last, "train.steps=3");

    let little = format!("seeds = [1]\nbudget = {{ flops = {:?} }}", 2.0 * step);
    let mut poor = layout(&little, &arms);
    let mut facts = counted(&poor);
    let error = poor.spend(&mut facts).unwrap_err().to_string();
    assert!(error.starts_with("arm `b`: one step takes"), "{error}");

    // A report has no model to count with: it reads what the runs were made with, of this budget and no other.
    let folder = tempfile::tempdir().unwrap();
    spent.out = folder.path().into();
    spent.write_budget().unwrap();
    let read = |head: &str| {
        let mut again = layout(head, &arms);
        again.out = folder.path().into();
        again.read_budget().map(|()| again)
    };
    let again = read(&head).unwrap();
    assert_eq!(
        again.cells[1].points[0].overrides,
        spent.cells[1].points[0].overrides
    );
    let error = read(&little).unwrap_err().to_string();
    assert!(
        error.contains("budget.json is not usable: it has no steps of `a`, default"),
        "{error}"
    );
}

#[test]
fn seconds_end_runs_of_unknown_tokens() {
    let head = "seeds = [1]\nset = { 'train.batch' = 4 }\nbudget = { seconds = 1.5 }";
    let layout = layout(
        head,
        &["a", "b\nset = { 'train.seq' = 8, 'train.accumulate' = 2 }"],
    );
    let costs = counted(&layout);
    check(&layout.tasks, &costs).unwrap();
    let train = &layout.cells[1].points[0].recipe.value.train;
    assert_eq!((train.max_seconds, train.tokens), (1.5, 0));
    assert!(costs.iter().all(|cell| cell.points[0].1.tokens.is_none()));
    // What else ends runs early is still refused.
    let patient = "b\nset = { 'train.patience' = 3 }";
    let layout = super::super::fairness::testing::layout(head, &["a", patient]);
    let error = check(&layout.tasks, &counted(&layout))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`train.patience` is 3"), "{error}");
}

#[test]
fn models_have_the_size_of_the_budget() {
    let plain = layout("seeds = [1]", &["a"]);
    let size = counted(&plain)[0].points[0].1.parameters.unwrap();
    let checked = |parameters: usize, more: &str| {
        let head = format!("seeds = [1]\nbudget = {{ parameters = {parameters} }}\n{more}");
        let layout = layout(&head, &["a"]);
        check(&layout.tasks, &counted(&layout)).map_err(|error| error.to_string())
    };
    checked(size * 100 / 101, "").unwrap();
    let error = checked(size / 2, "").unwrap_err();
    let start = format!(
        "arm `a` has {size} trainable parameters, and the budget is {}",
        size / 2
    );
    assert!(error.starts_with(&start), "{error}");
    checked(size / 2, "allow = ['parameters']").unwrap();
}

/// The control waits until the other arm's grid is decided, and then has the time of its chosen point.
#[test]
fn an_arm_has_the_time_of_another() {
    let head = "seeds = [7, 8]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }";
    let arms = ["control\ntime_of = 'student'", "student", "plain"];
    let layout = layout(head, &arms);
    check(&layout.tasks, &counted(&layout)).unwrap();
    assert_eq!(layout.cells[0].length, Length::TimeOf(1));
    let mut state = State::default();
    let run = |cell, point, seed| RunId { cell, point, seed };
    assert_eq!(state.wanted(&layout).len(), 4, "the grids of the others");
    for (point, loss, seconds) in [(0, 1.0, 12.25), (1, 1.5, 99.0)] {
        assert!(state.is_waiting(&layout, 0));
        let seen = crate::Figures {
            seconds,
            ..figures(&layout, run(1, point, 7), loss)
        };
        state.finished.insert(run(1, point, 7), seen);
    }
    let timed = layout.timed(&state);
    assert_eq!(state.wanted(&timed)[..2], [run(0, 0, 7), run(0, 1, 7)]);
    let recipe = timed.recipe(run(0, 1, 7)).value.train;
    assert_eq!(recipe.max_seconds, 12.25);
    let overrides = &timed.point(run(0, 1, 7)).overrides;
    assert_eq!(overrides.last().unwrap(), "train.max_seconds=12.25");
    assert_eq!(layout.recipe(run(0, 1, 7)).value.train.max_seconds, 0.0);
}
