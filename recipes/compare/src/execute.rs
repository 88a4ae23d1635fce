//! Runs the protocol: child processes side by side, stopped and resumed cleanly.

mod cost;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kiln_run::Interrupt;

use crate::child::{Job, Jobs, tail};
use crate::events::{Event, Failure, Standing};
use crate::figures::{check_data, has_diverged, read};
use crate::protocol::State;
use crate::{CompareError, Layout, Length, RunId, costs};

/// Exit status of `kiln train` for a run that ended because its loss or gradient was not finite. Only this failure says something
/// about the run's settings, and takes a point out of its grid; a full disk or a folder in use says nothing about them.
pub const DIVERGED_STATUS: u8 = 3;

/// How often children are looked at.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is told how far they are.
const NEWS: Duration = Duration::from_millis(500);

/// How runs are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The `kiln` binary.
    pub program: PathBuf,
    /// Arguments of `kiln train` beside recipe, settings, folder and device: the backend.
    pub arguments: Vec<OsString>,
    /// Arguments of every run: the data folder.
    pub data: Vec<OsString>,
    /// Runs at once on each device, at least one.
    pub jobs: usize,
    /// Numbers of the devices that runs are dealt to, at least one.
    pub devices: Vec<usize>,
    /// Processor threads to divide among them.
    pub cores: usize,
    /// Asks for a clean stop.
    pub interrupt: Interrupt,
}

impl Launch {
    /// Processor threads of one run. The same for every run, also for the last ones, so that timings are comparable.
    pub fn threads(&self) -> usize {
        (self.cores / self.at_once()).max(1)
    }

    /// Runs at once on all devices together.
    pub fn at_once(&self) -> usize {
        self.jobs.max(1) * self.devices.len().max(1)
    }

    /// The device with the fewest runs, given those in progress.
    fn free_device(&self, running: &[Job]) -> usize {
        let load = |device: &usize| running.iter().filter(|job| job.device == *device).count();
        self.devices.iter().copied().min_by_key(load).unwrap_or(0)
    }
}

/// How a comparison ended.
#[derive(Debug)]
pub struct Execution {
    /// What is done.
    pub state: State,
    /// What failed, in the order it did.
    pub failures: Vec<Failure>,
    /// Whether it was stopped before all runs were made; the next start goes on.
    pub interrupted: bool,
}

/// Reads the runs that are finished, and those that diverged.
///
/// # Errors
/// Those of [`crate::figures::read`] and [`check_data`].
pub fn finished(layout: &Layout) -> Result<State, CompareError> {
    let mut state = State::default();
    let waits = |run: &RunId| {
        let length = layout.cells[run.cell].length;
        matches!(length, Length::TimeOf(_) | Length::ModelsOf(_))
    };
    let (later, first): (Vec<_>, Vec<_>) = layout.all().partition(waits);
    note_finished(&mut state, layout, &first)?;
    // What an arm's recipe is follows from the time that another took, and what it loads from what another chose.
    let timed = layout.timed(&state);
    let known = later.into_iter();
    let known: Vec<_> = known
        .filter(|run| !state.is_waiting(layout, run.cell))
        .collect();
    note_finished(&mut state, &timed, &known)?;
    check_data(layout, state.finished.values())?;
    Ok(state)
}

fn note_finished(state: &mut State, layout: &Layout, runs: &[RunId]) -> Result<(), CompareError> {
    for &run in runs {
        if let Some(figures) = read(layout, run)? {
            state.finished.insert(run, figures);
        } else if has_diverged(layout, run)? {
            state.diverged.insert(run);
        }
    }
    Ok(())
}

/// Makes every run of the protocol that is not finished, `launch.jobs` at once on each device, and then measures what chosen models
/// cost, where the study asks for that.
///
/// # Errors
/// A process that cannot be started, a folder that is not the study's. A run that fails is no error: it is in
/// [`Execution::failures`], and the rest goes on.
pub fn execute(
    layout: &Layout,
    launch: &Launch,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Execution, CompareError> {
    let stated = layout;
    let mut state = finished(stated)?;
    let mut timed = stated.timed(&state);
    // Another machine or version may get further.
    state.diverged.clear();
    if !state.finished.is_empty() {
        report(Event::Reused(state.finished.len()));
    }
    let mut failures = Vec::new();
    let mut running = Jobs::default();
    let mut stopping = false;
    let mut told = Instant::now();
    let mut last_task = 0;
    loop {
        if launch.interrupt.requested() && !stopping {
            stopping = true;
            if !running.0.is_empty() {
                report(Event::Stopping);
            }
            running.ask_to_stop();
        }
        let layout = &timed;
        let mut ended = false;
        let mut at = 0;
        while at < running.0.len() {
            let Some(status) = running.0[at].ended()? else {
                at += 1;
                continue;
            };
            let job = running.0.swap_remove(at);
            ended = true;
            let title = layout.title(job.run);
            let task = layout.cells[job.run.cell].task;
            last_task = task;
            match read(layout, job.run)? {
                Some(figures) if status.success() => {
                    check_data(layout, state.finished.values().chain([&figures]))?;
                    state.finished.insert(job.run, figures);
                    report(Event::Finished {
                        title,
                        figures: &state.finished[&job.run],
                        standing: standing(layout, &state, &running.0, launch.at_once(), task),
                    });
                }
                _ if stopping => {}
                _ => {
                    let failure = Failure {
                        run: job.run,
                        title,
                        how: status.to_string(),
                        tail: tail(&job.log),
                        log: job.log.clone(),
                    };
                    report(Event::Failed(&failure));
                    match status.code() == Some(DIVERGED_STATUS.into()) {
                        true => state.diverged.insert(job.run),
                        false => state.failed.insert(job.run),
                    };
                    failures.push(failure);
                }
            }
        }
        // A run that ended may be the one whose time another arm has.
        if ended {
            timed = stated.timed(&state);
        }
        let layout = &timed;
        if !stopping {
            for run in state.wanted(layout) {
                if running.0.len() >= launch.at_once() {
                    break;
                }
                if running.0.iter().all(|job| job.run != run) {
                    let device = launch.free_device(&running.0);
                    report(Event::Started {
                        title: layout.title(run),
                        device: (launch.devices.len() > 1).then_some(device),
                    });
                    running.0.push(Job::start(layout, run, launch, device)?);
                }
            }
        }
        if running.0.is_empty() {
            break;
        }
        if told.elapsed() >= NEWS {
            told = Instant::now();
            report(Event::Running {
                runs: running.0.iter().map(|job| job.progress(layout)).collect(),
                standing: standing(layout, &state, &running.0, launch.at_once(), last_task),
            });
        }
        std::thread::sleep(PAUSE);
    }
    let unmeasured = cost::measure(&timed, launch, &state, &mut failures, report)?;
    Ok(Execution {
        interrupted: unmeasured || stopping && !state.wanted(stated).is_empty(),
        state,
        failures,
    })
}

/// `task` is the one that the best run is looked for in.
fn standing(layout: &Layout, state: &State, running: &[Job], jobs: usize, task: usize) -> Standing {
    let measure = layout.tasks[task].measure;
    let of_task = |run: &RunId| layout.cells[run.cell].task == task;
    let best = state
        .finished
        .iter()
        .filter(|(run, _)| of_task(run))
        .map(|(run, figures)| (measure.of(figures), layout.title(*run)))
        .filter(|(value, _)| value.is_finite())
        .min_by(|a, b| measure.order(a.0, b.0));
    let spent: f64 = running.iter().map(|job| job.elapsed().as_secs_f64()).sum();
    let (done, total) = (state.settled(layout), layout.total());
    // A `cost.json` that cannot be read is told when it is asked for.
    let ahead = costs::seconds_ahead(layout, state).unwrap_or(0.0);
    Standing {
        done,
        total,
        best,
        seconds_left: seconds_left(layout, state)
            .map(|left| (left - spent).max(0.0) / jobs.max(1) as f64 + ahead),
    }
}

/// Seconds of all runs that are missing, one after the other: each as long as its cell's finished runs took in the mean; where
/// the cell has none, as those of its task, or all finished ones. None before the first is finished.
pub fn seconds_left(layout: &Layout, state: &State) -> Option<f64> {
    let mean = |of: &dyn Fn(usize) -> bool| {
        let runs = state.finished.iter().filter(|(run, _)| of(run.cell));
        let seconds: Vec<_> = runs.map(|(_, figures)| figures.seconds).collect();
        crate::statistics::Summary::of(&seconds).map(|summary| summary.mean)
    };
    let overall = mean(&|_| true)?;
    let wanted = state.wanted(layout);
    let missing = |cell: usize| {
        let named = match state.is_waiting(layout, cell) {
            true => layout.cells[cell].points.len(),
            false => wanted.iter().filter(|run| run.cell == cell).count(),
        };
        // Runs with the remaining seeds are not named before the grid is decided. If a run of it failed, they will not be made.
        let later = match state.is_decided(layout, cell) || state.is_held_up(layout, cell) {
            true => 0,
            false => layout.study.seeds.len() - 1,
        };
        let task = layout.cells[cell].task;
        let seconds = mean(&|other| other == cell)
            .or_else(|| mean(&|other| layout.cells[other].task == task))
            .unwrap_or(overall);
        (named + later) as f64 * seconds
    };
    Some((0..layout.cells.len()).map(missing).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Figures;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;

    #[test]
    fn time_left_is_that_of_the_missing_runs() {
        let head = "seeds = [7, 8, 9]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }";
        let layout = layout(head, &["a", "b"]);
        let mut state = State::default();
        assert_eq!(seconds_left(&layout, &state), None);
        let mut finish = |cell, point, seed, seconds| {
            let run = RunId { cell, point, seed };
            let figures = Figures {
                seconds,
                ..figures(&layout, run, 1.0)
            };
            state.finished.insert(run, figures);
            seconds_left(&layout, &state).unwrap()
        };
        // One of four is done: three more of `a` and four of `b`.
        assert_eq!(finish(0, 0, 7, 10.0), 70.0);
        assert_eq!(finish(0, 1, 7, 20.0), 2.0 * 15.0 + 4.0 * 15.0);
        assert_eq!(finish(1, 0, 7, 3.0), 2.0 * 15.0 + 3.0 * 3.0);
        let standing = standing(&layout, &state, &[], 3, 0);
        assert_eq!(
            standing.to_string(),
            "3/8 runs   best so far 1.0000 (a learning_rate=0.001 seed 7)   13s left"
        );
    }

    #[test]
    fn threads_are_shared_out() {
        let launch = |jobs, cores| Launch {
            program: "kiln".into(),
            arguments: Vec::new(),
            data: Vec::new(),
            jobs,
            devices: vec![0],
            cores,
            interrupt: Interrupt::none(),
        };
        assert_eq!(
            [launch(1, 8), launch(3, 8), launch(9, 8)].map(|l| l.threads()),
            [8, 2, 1]
        );
        let two = Launch {
            devices: vec![0, 3],
            ..launch(2, 8)
        };
        assert_eq!((two.at_once(), two.threads()), (4, 2));
    }
}
