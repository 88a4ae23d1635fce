//! Which runs are wanted: every grid with the first seed, then the best point of each arm on each task with the remaining seeds.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Figures, Layout, RunId};

/// The runs that are done and those that failed.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Figures of finished runs.
    pub finished: BTreeMap<RunId, Figures>,
    /// Runs that ended because their loss or gradient was not finite. Their settings are out of the choice.
    pub diverged: BTreeSet<RunId>,
    /// Runs that failed otherwise since the comparison was started, which says nothing about their settings. Neither these nor
    /// the diverged ones are tried again before the next start.
    pub failed: BTreeSet<RunId>,
}

impl State {
    /// The best point of a cell at the first seed by its task's measure, of those that finished with a number; ties go to the
    /// earlier point.
    pub fn best_point(&self, layout: &Layout, cell: usize) -> Option<usize> {
        let seed = *layout.study.seeds.first()?;
        let measure = layout.measure(cell);
        let score = |point| {
            let figures = self.finished.get(&RunId { cell, point, seed })?;
            let score = measure.of(figures);
            score.is_finite().then_some((score, point))
        };
        let points = 0..layout.cells[cell].points.len();
        let best = points
            .filter_map(score)
            .min_by(|a, b| measure.order(a.0, b.0));
        best.map(|(_, point)| point)
    }

    /// Whether every point of a cell's grid has finished or diverged, so that its best point is decided.
    pub fn is_decided(&self, layout: &Layout, cell: usize) -> bool {
        grid(layout, cell)
            .all(|run| self.finished.contains_key(&run) || self.diverged.contains(&run))
    }

    /// Whether a point of a cell's grid failed without having diverged, so that its best point stays open until the next start.
    pub fn is_held_up(&self, layout: &Layout, cell: usize) -> bool {
        grid(layout, cell).any(|run| self.failed.contains(&run))
    }

    /// Whether a cell can be judged: its grid is decided, and the chosen point finished with a finite loss for every seed. The
    /// mean of the seeds that happened to survive would be too good.
    pub fn is_complete(&self, layout: &Layout, cell: usize) -> bool {
        let is_scored = |run| {
            let figures = self.finished.get(&run);
            let measure = layout.measure(cell);
            figures.is_some_and(|figures| measure.of(figures).is_finite())
        };
        let seeds = &layout.study.seeds;
        self.is_decided(layout, cell)
            && self.best_point(layout, cell).is_some_and(|point| {
                seeds
                    .iter()
                    .all(|&seed| is_scored(RunId { cell, point, seed }))
            })
    }

    /// Runs to make now, in order. Those of a cell's remaining seeds come up once its grid is decided, and those of an arm that takes
    /// as long as another once that one's grid is.
    pub fn wanted(&self, layout: &Layout) -> Vec<RunId> {
        let mut grids = Vec::new();
        let mut seeds = Vec::new();
        for cell in 0..layout.cells.len() {
            if self.is_waiting(layout, cell) {
                continue;
            }
            grids.extend(grid(layout, cell).filter(|run| !self.is_ended(*run)));
            if self.is_decided(layout, cell)
                && let Some(point) = self.best_point(layout, cell)
            {
                let later = layout.study.seeds.iter().skip(1);
                let runs = later.map(|&seed| RunId { cell, point, seed });
                seeds.extend(runs.filter(|run| !self.is_ended(*run)));
            }
        }
        grids.extend(seeds);
        grids
    }

    /// Finished, diverged and failed runs of the protocol. Runs of another point than the best, which an earlier choice left, do not
    /// count.
    pub fn settled(&self, layout: &Layout) -> usize {
        let cells = 0..layout.cells.len();
        let of = |cell| {
            let later = self.best_point(layout, cell).into_iter().flat_map(|point| {
                let seeds = layout.study.seeds.iter().skip(1);
                seeds.map(move |&seed| RunId { cell, point, seed })
            });
            let runs = grid(layout, cell).chain(later);
            runs.filter(|run| self.is_ended(*run)).count()
        };
        cells.map(of).sum()
    }

    fn is_ended(&self, run: RunId) -> bool {
        self.finished.contains_key(&run)
            || self.diverged.contains(&run)
            || self.failed.contains(&run)
    }
}

fn grid(layout: &Layout, cell: usize) -> impl Iterator<Item = RunId> {
    let points = 0..layout.cells[cell].points.len();
    let seed = layout.study.seeds.first().copied();
    points.filter_map(move |point| seed.map(|seed| RunId { cell, point, seed }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;

    fn finish(state: &mut State, layout: &Layout, run: RunId, loss: f64) {
        state.finished.insert(run, figures(layout, run, loss));
    }

    #[test]
    fn the_best_point_of_the_first_seed_runs_with_the_others() {
        let head = "seeds = [7, 8, 9]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3, 4e-3] }";
        let layout = layout(head, &["a", "b"]);
        let mut state = State::default();
        let run = |cell, point, seed| RunId { cell, point, seed };
        let all: Vec<_> = (0..2)
            .flat_map(|arm| (0..3).map(move |point| run(arm, point, 7)))
            .collect();
        assert_eq!(state.wanted(&layout), all);
        for (point, loss) in [(0, 2.0), (2, 1.8)] {
            finish(&mut state, &layout, run(0, point, 7), loss);
        }
        // The grid of `a` is not decided: the best so far is not run yet.
        assert_eq!(
            (state.best_point(&layout, 0), state.is_decided(&layout, 0)),
            (Some(2), false)
        );
        assert_eq!(state.wanted(&layout)[0], run(0, 1, 7));
        assert_eq!(state.wanted(&layout).len(), 4);
        // A point that failed holds the choice up, and is not tried again before the next start.
        state.failed.insert(run(0, 1, 7));
        assert_eq!(state.wanted(&layout), all[3..]);
        assert!(state.is_held_up(&layout, 0) && !state.is_decided(&layout, 0));
        state.failed.clear();
        // One that diverged is out of the choice and does not hold it up; nor does one without a number.
        state.diverged.insert(run(0, 1, 7));
        assert_eq!(state.wanted(&layout)[3..], [run(0, 2, 8), run(0, 2, 9)]);
        finish(&mut state, &layout, run(0, 2, 8), 5.0);
        assert_eq!(
            (state.best_point(&layout, 0), state.settled(&layout)),
            (Some(2), 4)
        );
        for (point, loss) in [(0, f64::NAN), (1, 1.5), (2, 1.5)] {
            finish(&mut state, &layout, run(1, point, 7), loss);
        }
        assert_eq!(
            state.best_point(&layout, 1),
            Some(1),
            "ties go to the earlier point"
        );
        assert_eq!(
            state.wanted(&layout),
            [run(0, 2, 9), run(1, 1, 8), run(1, 1, 9)]
        );
        for run in state.wanted(&layout) {
            assert!(!state.is_complete(&layout, run.cell));
            finish(&mut state, &layout, run, 1.0);
        }
        assert!((0..2).all(|arm| state.is_complete(&layout, arm)));
        assert!(state.wanted(&layout).is_empty());
        assert_eq!((state.settled(&layout), layout.total()), (10, 10));
    }

    #[test]
    fn an_arm_whose_points_all_diverged_asks_for_nothing_more() {
        let layout = layout("seeds = [7, 8]", &["a"]);
        let mut state = State::default();
        state.diverged.insert(RunId {
            cell: 0,
            point: 0,
            seed: 7,
        });
        assert!(state.wanted(&layout).is_empty() && state.best_point(&layout, 0).is_none());
        assert!(state.is_decided(&layout, 0) && !state.is_complete(&layout, 0));
    }

    #[test]
    fn an_arm_is_complete_with_a_finite_loss_for_every_seed() {
        let layout = layout("seeds = [7, 8]", &["a"]);
        let [first, second] = [7, 8].map(|seed| RunId {
            cell: 0,
            point: 0,
            seed,
        });
        let mut state = State::default();
        finish(&mut state, &layout, first, 1.0);
        for (loss, complete) in [(1.1, true), (f64::NAN, false), (f64::INFINITY, false)] {
            finish(&mut state, &layout, second, loss);
            assert_eq!(state.is_complete(&layout, 0), complete, "{loss}");
        }
        state.finished.remove(&second);
        for ended in [State::default().failed, [second].into()] {
            state.diverged = ended;
            assert!(!state.is_complete(&layout, 0));
        }
    }
}
