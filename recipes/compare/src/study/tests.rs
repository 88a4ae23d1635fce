use super::*;

const STUDY: &str = r#"
# Which rate is best?
seeds = [1, 2]
set = { "train.steps" = 20 }
grid = { "optimizer.learning_rate" = [1e-3, 2e-3], "optimizer.clip_norm" = [1.0, 3] }
[[arm]]
name = "a"
recipe = "one"
[[arm]]
name = "b"
recipe = "two"
set = { "model.bk.grad_rule" = { blend = 0.5 }, "data.name" = "text:x y" }
grid = {}
"#;

fn read(text: &str) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("study.toml"), text).unwrap();
    load(folder.path(), "study").map_err(|error| error.to_string())
}

fn refused(from: &str, to: &str) -> String {
    assert!(STUDY.contains(from), "{from}");
    read(&STUDY.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn a_grid_is_a_product_and_an_arm_can_bring_its_own() {
    let loaded = read(STUDY).unwrap();
    assert_eq!(
        (loaded.name.as_str(), loaded.header.as_str()),
        ("study", "Which rate is best?")
    );
    let study = loaded.study;
    let names: Vec<_> = study
        .points(&study.arm[0], None)
        .into_iter()
        .map(|p| p.name)
        .collect();
    assert_eq!(
        names,
        [
            "clip_norm=1.0,learning_rate=0.001",
            "clip_norm=1.0,learning_rate=0.002",
            "clip_norm=3,learning_rate=0.001",
            "clip_norm=3,learning_rate=0.002"
        ]
    );
    let own = study.points(&study.arm[1], None);
    assert_eq!((own.len(), own[0].name.as_str()), (1, "default"));
    assert_eq!(study.parameters_within, 0.02);
}

/// What the child process reads from `--set` must be what the study says.
#[test]
fn overrides_read_back_as_the_same_values() {
    let study = read(STUDY).unwrap().study;
    for text in overrides(&[&study.arm[1].set]) {
        let (key, value) = text.split_once('=').unwrap();
        let table: toml::Table = format!("v = {value}").parse().unwrap();
        assert_eq!(table["v"], study.arm[1].set[key], "{text}");
    }
}

#[test]
fn equal_ends_of_keys_are_written_in_full() {
    let values = |text: &str| vec![Value::String(text.into())];
    let study = read(STUDY).unwrap().study;
    let arm = Arm {
        grid: Some(Grid::from([
            ("model.bk.eta".into(), values("[0.1, 1]")),
            ("model.resolvent.eta".into(), values("x/y")),
        ])),
        ..study.arm[0].clone()
    };
    assert_eq!(
        study.points(&arm, None)[0].name,
        "model.bk.eta=0.1_1,model.resolvent.eta=x_y"
    );
}

#[test]
fn what_a_study_does_not_have_is_named() {
    let error = refused("seeds", "seed_list = [1]\nseeds");
    assert!(
        error.contains("unknown key `seed_list` in study.toml; did you mean `seeds`?"),
        "{error}"
    );
    let error = refused("recipe = \"one\"", "recipe = \"one\"\nstart = 1");
    assert!(error.contains("unknown key `arm.0.start`"), "{error}");
    let error = refused("grid = {}", "grid = {}\n[more]\n");
    assert!(error.contains("more"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path(), "nowhere").unwrap_err().to_string();
    assert!(error.starts_with("no study `nowhere` in "), "{error}");
}

#[test]
fn what_cannot_be_is_refused() {
    for (from, to, message) in [
        (
            "[1, 2]",
            "[]",
            "study: `seeds` is [], but a study needs at least one seed",
        ),
        (
            "[1, 2]",
            "[3, 3]",
            "study: `seeds` is 3, but it is there twice",
        ),
        (
            "\"b\"",
            "\"a\"",
            "study: `arm.name` is a, but it is there twice",
        ),
        (
            "\"b\"",
            "\"../b\"",
            "study: `arm.name` is `../b`, but a name has letters",
        ),
        (
            "train.steps",
            "seed",
            "study: `set.seed` is 20, but seeds are the study's",
        ),
        (
            "[1.0, 3]",
            "[]",
            "study: `grid.optimizer.clip_norm` is [], but there is nothing to try",
        ),
        (
            "[1.0, 3]",
            "[2, 2]",
            "study: `grid.optimizer.clip_norm` is 2, but it is there twice",
        ),
        (
            "optimizer.clip_norm",
            "seed",
            "study: `grid.seed` is a grid of seeds, but",
        ),
        (
            "grid = {}",
            "grid = { seed = [1] }",
            "study: `arm.grid.seed` is",
        ),
        (
            "seeds",
            "parameters_within = -1.0\nseeds",
            "study: `parameters_within` is -1, but",
        ),
        (
            "\"data.name\" = \"text:x y\"",
            "\"model.bk\" = { heads = 4 }",
            "study: `arm.set.model.bk.grad_rule` is set twice, but `model.bk` of the same table has it too; write one of them",
        ),
        (
            "\"optimizer.clip_norm\"",
            "optimizer",
            "study: `grid.optimizer.learning_rate` is set twice, but `optimizer` of",
        ),
        (
            "\"data.name\" = \"text:x y\"",
            "\"model. bk .grad_rule\" = \"exact\"",
            "is set twice, but",
        ),
        ("seeds", "allow = [\"date\"]\nseeds", "did you mean `data`?"),
        (
            "recipe = \"one\"",
            "recipe = \"one\"\ntasks = [\"x\"]",
            "study: `arm.tasks` is x, but the study has no [[task]]",
        ),
    ] {
        let error = refused(from, to);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn tasks_that_cannot_be_are_refused() {
    let tasks = "[[task]]\nname = \"t\"\n[[task]]\nname = \"u\"\nMORE\n[[arm]]";
    for (more, arm, message) in [
        ("set = { seed = 1 }", "", "`task.set.seed` is 1, but seeds"),
        (
            "grid = { \"x.y\" = [] }",
            "",
            "`task.grid.x.y` is [], but there",
        ),
        (
            "parameters_within = nan",
            "",
            "`task.parameters_within` is NaN, but it must be",
        ),
        ("measure = \"loose\"", "", "loose"),
        (
            "[[task]]\nname = \"t\"",
            "",
            "`task.name` is t, but it is there twice",
        ),
        (
            "[[task]]\nname = \"a/b\"",
            "",
            "`task.name` is `a/b`, but a name",
        ),
        (
            "",
            "tasks = []",
            "`arm.tasks` is [], but the arm would run nothing",
        ),
        (
            "",
            "tasks = [\"v\"]",
            "`arm.tasks` is v, but the study's tasks are t, u",
        ),
        (
            "",
            "tasks = [\"t\", \"t\"]",
            "`arm.tasks` is t, but it is there twice",
        ),
    ] {
        let text = STUDY.replacen("[[arm]]", &tasks.replace("MORE", more), 1);
        let text = text.replacen("recipe = \"one\"", &format!("recipe = \"one\"\n{arm}"), 1);
        let error = read(&text).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    // Every arm leaves `u` out.
    let text = STUDY.replacen("[[arm]]", &tasks.replace("MORE", ""), 1);
    let text = ["one", "two"].iter().fold(text, |text, recipe| {
        let from = format!("recipe = \"{recipe}\"");
        text.replace(&from, &format!("{from}\ntasks = [\"t\"]"))
    });
    let error = read(&text).unwrap_err();
    assert!(
        error.contains("`task.name` is u, but no arm runs it"),
        "{error}"
    );
}

#[test]
fn an_arm_may_count() {
    let counting = STUDY.replacen("recipe = \"one\"", "recipe = \"one\"\nngram = [5, 2]", 1);
    let study = read(&counting).unwrap().study;
    let points = study.points(&study.arm[0], None);
    let names: Vec<_> = points.iter().map(|point| point.name.as_str()).collect();
    assert_eq!(names, ["order=5", "order=2"]);
    assert_eq!(points[1].settings[ORDER], Value::Integer(2));
    for (orders, more, why) in [
        ("[]", "", "a list of orders from 1 to 32"),
        ("[0]", "", "a list of orders from 1 to 32"),
        ("[3, 3]", "", "it is there twice"),
        ("[3]", "grid = {}", "nothing is trained"),
    ] {
        let arm = format!("recipe = \"one\"\nngram = {orders}\n{more}");
        let error = refused("recipe = \"one\"", &arm);
        assert!(
            error.contains("`arm.ngram`") && error.contains(why),
            "{error}"
        );
    }
    let by_accuracy = format!("{counting}[[task]]\nname = \"t\"\nmeasure = \"accuracy\"\n");
    let error = read(&by_accuracy).unwrap_err();
    assert!(
        error.contains("`t` is measured by accuracy, which is not counted"),
        "{error}"
    );
}

#[test]
fn costs_have_defaults_and_what_cannot_be_measured_is_refused() {
    let with = |lines: &str| read(&STUDY.replacen("[[arm]]", &format!("{lines}\n[[arm]]"), 1));
    assert_eq!(with("").unwrap().study.cost, None);
    let plan = with("[cost]").unwrap().study.cost.unwrap();
    assert_eq!(plan.settings(), kiln_cost::Settings::default());
    for (lines, message) in [
        (
            "cost = { lengths = [] }",
            "study: `cost.lengths` is empty, but at least one is needed",
        ),
        (
            "cost = { seconds = 0.0 }",
            "study: `cost.seconds` is 0, but must lie in",
        ),
        (
            "cost = { reference = 'z' }",
            "study: `cost.reference` is z, but there is no such arm",
        ),
        (
            "cost = { tasks = ['z'] }",
            "study: `cost.tasks` is z, but the study has no such [[task]]",
        ),
        (
            "cost = { tasks = [] }",
            "study: `cost.tasks` is [], but nothing would be measured",
        ),
        ("cost = { length = [1] }", "did you mean `lengths`?"),
    ] {
        let error = with(lines).unwrap_err();
        assert!(error.contains(message), "{lines}: {error}");
    }
}
