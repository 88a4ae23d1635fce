use super::testing::layout;
use super::*;

fn checked(head: &str, arms: &[&str]) -> Result<Vec<CellCost>, String> {
    let layout = layout(head, arms);
    let costs = costs(&layout, &Device::flex(), &mut |_| Ok(256)).unwrap();
    check(&layout.tasks, &costs).map_err(|error| error.to_string())?;
    Ok(costs)
}

#[test]
fn equal_arms_pass_and_are_counted() {
    let head = "seeds = [1]\nset = { 'train.steps' = 5, 'train.accumulate' = 3 }";
    let grid = "grid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }";
    let costs = checked(&format!("{head}\n{grid}"), &["a", "b"]).unwrap();
    let (name, facts) = &costs[1].points[1];
    assert_eq!(
        (name.as_str(), facts.tokens),
        ("learning_rate=0.002", Some(5 * 3 * 2 * 8))
    );
    assert_eq!(facts, &costs[0].points[0].1);
    // Frozen energies and hoppings do not count: three numbers a head and layer.
    let frozen = "set = { 'model.bk.learn_energy' = false, 'model.bk.learn_hopping' = false }";
    let costs = checked(head, &["a", &format!("b\n{frozen}")]).unwrap();
    let [all, less] = [0, 1].map(|arm: usize| costs[arm].points[0].1.parameters.unwrap());
    assert_eq!(all - less, 2 * 3 * 128);
}

/// The teacher need not be there for this: what is compared is the recipes.
#[test]
fn a_student_needs_its_control() {
    let taught = "set = { 'distill.teacher' = 'runs/teacher' }";
    let other = "set = { 'distill.teacher' = 'runs/teacher', 'model.backbone.n_layers' = 1 }";
    let head = "seeds = [1]\nallow = ['parameters']";
    checked(head, &["alone", &format!("student\n{taught}")]).unwrap();
    let words = checked(head, &["alone", &format!("student\n{other}")]).unwrap_err();
    assert_eq!(
        words,
        "arm `student` learns from a teacher, and no arm trains its model without one: add that control (the same recipe without [distill], \
         as much to spend; one with `time_of` for equal time), or write allow = [\"control\"] into the study where it asks something else"
    );
    let allowed = "seeds = [1]\nallow = ['parameters', 'control']";
    checked(allowed, &["alone", &format!("student\n{other}")]).unwrap();
}

/// The same windows in batches of another size are the same evaluation.
#[test]
fn evaluations_are_compared_by_their_windows() {
    let head = "seeds = [1]\nset = { 'train.batch' = 4, 'train.eval_batches' = 6 }";
    let other = "b\nset = { 'train.batch' = 2, 'train.eval_batches' = 12, 'train.accumulate' = 2 }";
    checked(head, &["a", other]).unwrap();
}

#[test]
fn unequal_arms_are_refused_unless_allowed() {
    for (set, allow, message) in [
        (
            "'data.tokenizer' = 'bpe:256'",
            "data",
            "arms `a` and `b` differ in data: rust-deps (16777216 bytes at most) as bytes against rust-deps \
             (16777216 bytes at most) as bpe:256; make them equal, or write allow = [\"data\"] into the study",
        ),
        (
            "'train.accumulate' = 2",
            "tokens",
            "arms `a` and `b` differ in tokens: 16000 tokens against 32000 tokens; make",
        ),
        (
            "'train.seq' = 4, 'train.batch' = 4",
            "scoring",
            "arms `a` and `b` differ in scoring: all windows of 8 tokens, next tokens, evaluated every 250 steps on 40 \
             windows against all windows of 4 tokens, next tokens, evaluated every 250 steps on 80 windows; make",
        ),
        (
            "'train.eval_every' = 10",
            "scoring",
            "evaluated every 250 steps on 40 windows against all windows of 8 tokens, next tokens, evaluated every 10 steps on",
        ),
        (
            "'train.eval_batches' = 5",
            "scoring",
            "windows against all windows of 8 tokens, next tokens, evaluated every 250 steps on 10 windows;",
        ),
        (
            "'model.backbone.d_hidden' = 200",
            "parameters",
            "% apart, 2 % are allowed); make them equal, or write allow = [\"parameters\"]",
        ),
        (
            "'train.max_seconds' = 9.0",
            "tokens",
            "arm `b`: `train.max_seconds` is 9, which ends runs before their last step",
        ),
        (
            "'train.patience' = 3",
            "tokens",
            "arm `b`: `train.patience` is 3, which ends",
        ),
    ] {
        let arms = ["a", &format!("b\nset = {{ {set} }}")];
        let error = checked("seeds = [1]", &arms).unwrap_err();
        assert!(error.contains(message), "{error}");
        checked(&format!("seeds = [1]\nallow = ['{allow}']"), &arms).unwrap();
    }
}

/// Tasks may differ from each other in anything; within one, arms may not.
#[test]
fn fairness_holds_within_a_task() {
    let tasks = |more: &str| {
        format!(
            "seeds = [1]\n[[task]]\nname = 't'\n[[task]]\nname = 'u'\nset = {{ 'train.steps' = 3 }}\n{more}"
        )
    };
    let costs = checked(&tasks(""), &["a", "b"]).unwrap();
    let cells: Vec<_> = costs
        .iter()
        .map(|cell| (cell.task, cell.title.as_str()))
        .collect();
    assert_eq!(cells, [(0, "t/a"), (0, "t/b"), (1, "u/a"), (1, "u/b")]);
    let longer = "b\nset = { 'train.accumulate' = 2 }";
    let only = format!("{longer}\ntasks = ['u']");
    let error = checked(&tasks(""), &["a", &only]).unwrap_err();
    assert!(
        error.starts_with("arms `u/a` and `u/b` differ in tokens: 48 tokens against 96 tokens;"),
        "{error}"
    );
    checked(&tasks("allow = ['tokens']"), &["a", &only]).unwrap();
    let error = checked(&tasks("allow = ['tokens']"), &["a", longer]).unwrap_err();
    assert!(error.starts_with("arms `t/a` and `t/b` differ"), "{error}");
}

/// The bound is on the share, both ways; it holds for the points of one arm as well.
#[test]
fn parameters_have_a_bound() {
    let costs = checked("seeds = [1]", &["a"]).unwrap();
    let facts = |parameters| Facts {
        parameters: Some(parameters),
        ..costs[0].points[0].1.clone()
    };
    let tasks = layout("seeds = [1]\nparameters_within = 0.1", &["a"]).tasks;
    let arm = |points: &[usize]| CellCost {
        task: 0,
        title: "x".into(),
        length: Length::Recipe,
        points: points
            .iter()
            .map(|&n| (format!("n={n}"), facts(n)))
            .collect(),
    };
    for (points, fair) in [
        ([1000, 1099], true),
        ([1000, 1101], false),
        ([1000, 899], false),
    ] {
        assert_eq!(check(&tasks, &[arm(&points)]).is_ok(), fair, "{points:?}");
        let arms = points.map(|n| arm(&[n]));
        assert_eq!(check(&tasks, &arms).is_ok(), fair, "{points:?}");
    }
}
