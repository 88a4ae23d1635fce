//! What chosen models cost: which are to be measured, and what was measured.

use kiln_cost::Cost;
use kiln_run::RunFolder;

use crate::protocol::State;
use crate::results::chosen_runs;
use crate::study::CostPlan;
use crate::{CompareError, Layout, Length, RunId};

/// The measurement that a study asks for of an arm on a task.
fn plan(layout: &Layout, cell: usize) -> Option<&CostPlan> {
    let task = layout.task_of(cell).name.as_deref();
    layout.study.cost.as_ref().filter(|plan| plan.asks(task))
}

/// The runs whose models are to be measured, and were not: the chosen point's first seed of every arm that has a model and a grid
/// that is decided.
///
/// # Errors
/// A `cost.json` that is damaged, or of another layout.
pub fn wanted<'a>(
    layout: &'a Layout,
    state: &State,
) -> Result<Vec<(RunId, &'a CostPlan)>, CompareError> {
    let mut wanted = Vec::new();
    for cell in 0..layout.cells.len() {
        let seed = layout.study.seeds.first().copied();
        let point = state.best_point(layout, cell);
        let Some(((plan, seed), point)) = plan(layout, cell).zip(seed).zip(point) else {
            continue;
        };
        let run = RunId { cell, point, seed };
        // A model that is scored on a second task is measured on its own.
        let of_another = matches!(layout.cells[cell].length, Length::ModelsOf(_));
        if of_another || layout.ngram(run).is_some() || !state.is_decided(layout, cell) {
            continue;
        }
        let found = of_run(&RunFolder::open(layout.folder(run)))?;
        if !found.is_some_and(|cost| plan.is_met_by(&cost)) {
            wanted.push((run, plan));
        }
    }
    Ok(wanted)
}

/// Seconds that measurements will take once all runs are made, one after the other, loading aside.
///
/// # Errors
/// As [`wanted`].
pub(crate) fn seconds_ahead(layout: &Layout, state: &State) -> Result<f64, CompareError> {
    let now = wanted(layout, state)?;
    let has_model = |cell: &usize| {
        let stated = &layout.cells[*cell];
        let of_another = matches!(stated.length, Length::ModelsOf(_));
        !of_another && stated.points.iter().any(|point| point.ngram.is_none())
    };
    let undecided = (0..layout.cells.len())
        .filter(|cell| !state.is_decided(layout, *cell) && has_model(cell))
        .filter_map(|cell| plan(layout, cell));
    let plans = now.into_iter().map(|(_, plan)| plan).chain(undecided);
    Ok(plans.map(|plan| plan.seconds).sum())
}

/// What was measured of an arm's chosen model: as the study asks, or else by hand of any of its seeds.
///
/// # Errors
/// As [`wanted`].
pub(crate) fn measured(
    layout: &Layout,
    state: &State,
    cell: usize,
) -> Result<Option<Cost>, CompareError> {
    for figures in chosen_runs(layout, state, cell) {
        let path = layout.out.join("runs").join(&figures.folder);
        let Some(cost) = of_run(&RunFolder::open(path))? else {
            continue;
        };
        if plan(layout, cell).is_none_or(|plan| plan.is_met_by(&cost)) {
            return Ok(Some(cost));
        }
    }
    Ok(None)
}

/// `cost.json` of a folder, if it has one.
fn of_run<E>(folder: &Result<RunFolder, E>) -> Result<Option<Cost>, CompareError> {
    let path = folder.as_ref().ok().map(RunFolder::cost);
    match path.filter(|path| path.is_file()) {
        Some(path) => Ok(Some(Cost::read(&path)?)),
        None => Ok(None),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use kiln_cost::{
        COST_VERSION, Outcome, Pace, Parameters, Row, RowCost, Settings, Spread, Weights,
    };

    use super::*;
    use crate::Figures;

    fn pace(median: f64) -> Pace {
        Pace {
            seconds: Spread {
                median,
                lower_quartile: median,
                upper_quartile: median,
                repeats: 3,
            },
            tokens_per_second: 1.0 / median,
            energy: None,
        }
    }

    /// A cost of one sequence whose prompts and steps take these seconds by length.
    pub(crate) fn cost(run: &Figures, rows: &[(usize, [f64; 2])]) -> Cost {
        let row = |&(length, [prefill, decode]): &(usize, [f64; 2])| Row {
            batch: 1,
            length,
            outcome: Outcome::Measured(RowCost {
                prefill: Some(pace(prefill)),
                decode: Some(pace(decode)),
                forward: pace(prefill),
                state_bytes: Some(2048),
                counted_state_bytes: Some(2048),
                peak_memory_bytes: None,
            }),
        };
        Cost {
            version: COST_VERSION,
            name: run.arm.clone(),
            weights: Weights::Trained,
            backend: "flex".into(),
            precision: Default::default(),
            provenance: run.provenance.clone().unwrap(),
            settings: Settings {
                lengths: rows.iter().map(|(length, _)| *length).collect(),
                batches: vec![1],
                seconds: 1.0,
            },
            parameters: Parameters {
                trainable: 1,
                all: 1,
            },
            weight_bytes: 4,
            files: None,
            training: Outcome::LeftOut {
                reason: "not asked".into(),
            },
            rows: rows.iter().map(row).collect(),
        }
    }

    /// Writes it into the run's folder.
    pub(crate) fn write(layout: &Layout, run: &Figures, cost: &Cost) {
        let folder = layout.out.join("runs").join(&run.folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("recipe.toml"), "").unwrap();
        cost.write(&folder.join("cost.json")).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{cost, write};
    use super::*;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;

    const ROWS: [(usize, [f64; 2]); 2] = [(64, [0.5, 0.5]), (128, [1.0, 0.5])];

    #[test]
    fn a_model_is_measured_once_and_whole() {
        let root = tempfile::tempdir().unwrap();
        let head = "seeds = [7, 8]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }\n\
                    cost = { lengths = [64, 128], batches = [1], seconds = 1.0 }";
        let mut layout = layout(head, &["a"]);
        layout.out = root.path().into();
        let mut state = State::default();
        let mut finish = |cell, point, seed, loss| {
            let run = RunId { cell, point, seed };
            let made = figures(&layout, run, loss);
            state.finished.insert(run, made.clone());
            (run, made, state.clone())
        };
        let wanted = |state: &State| -> Vec<RunId> {
            let wanted = wanted(&layout, state).unwrap().into_iter();
            wanted.map(|(run, _)| run).collect()
        };
        let ahead = |state: &State| seconds_ahead(&layout, state).unwrap();
        let (_, _, state) = finish(0, 0, 7, 2.0);
        assert!(wanted(&state).is_empty(), "the grid is not decided");
        assert_eq!(ahead(&state), 1.0);
        let (best, made, state) = finish(0, 1, 7, 1.0);
        assert_eq!((wanted(&state), ahead(&state)), (vec![best], 1.0));
        // One that was cut off after its first row is none, nor is one of other lengths.
        for rows in [&ROWS[..1], &[(64, [0.5, 0.5]), (256, [1.0, 0.5])]] {
            let mut found = cost(&made, rows);
            if rows.len() == 1 {
                found.settings.lengths = vec![64, 128];
            }
            write(&layout, &made, &found);
            assert_eq!(wanted(&state), [best]);
            assert!(measured(&layout, &state, 0).unwrap().is_none());
        }
        write(&layout, &made, &cost(&made, &ROWS));
        assert_eq!((wanted(&state), ahead(&state)), (vec![], 0.0));
        assert!(measured(&layout, &state, 0).unwrap().is_some());
        let mut other = cost(&made, &ROWS);
        other.version += 1;
        write(&layout, &made, &other);
        assert!(super::wanted(&layout, &state).is_err());
    }

    #[test]
    fn without_a_plan_what_was_measured_by_hand_counts() {
        let root = tempfile::tempdir().unwrap();
        let mut layout = layout("seeds = [7, 8]", &["a"]);
        layout.out = root.path().into();
        let mut state = State::default();
        for run in layout.all() {
            let made = figures(&layout, run, 1.0);
            if run.seed == 8 {
                write(&layout, &made, &cost(&made, &ROWS));
            }
            state.finished.insert(run, made);
        }
        assert!(wanted(&layout, &state).unwrap().is_empty());
        assert!(measured(&layout, &state, 0).unwrap().is_some());
    }
}
