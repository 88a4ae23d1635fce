//! Measures chosen models once all runs are made.

use super::{Launch, PAUSE};
use crate::child::{Job, tail};
use crate::events::{Event, Failure};
use crate::protocol::State;
use crate::{CompareError, Layout, costs};

/// Measures what is asked for and was not measured, one model after the other and alone: runs beside it would take its time.
/// Whether it was stopped before the last.
///
/// # Errors
/// A process that cannot be started, a `cost.json` that cannot be read. A measurement that fails is added to `failures`.
pub(super) fn measure(
    layout: &Layout,
    launch: &Launch,
    state: &State,
    failures: &mut Vec<Failure>,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<bool, CompareError> {
    let wanted = costs::wanted(layout, state)?;
    let all = wanted.len();
    for (number, (run, plan)) in wanted.into_iter().enumerate() {
        if launch.interrupt.requested() {
            return Ok(true);
        }
        let title = layout.cells[run.cell].title.clone();
        report(Event::Measuring {
            title: title.clone(),
            number: number + 1,
            all,
            seconds: plan.seconds,
        });
        let mut job = Job::measure(layout, run, plan, launch)?;
        let status = loop {
            if let Some(status) = job.ended()? {
                break status;
            }
            if launch.interrupt.requested() {
                // Dropped, it is asked to end and waited for; its rows are not all there, so the next start measures anew.
                return Ok(true);
            }
            std::thread::sleep(PAUSE);
        };
        if !status.success() {
            let failure = Failure {
                run,
                title: format!("cost of {title}"),
                how: status.to_string(),
                tail: tail(&job.log),
                log: job.log.clone(),
            };
            report(Event::Failed(&failure));
            failures.push(failure);
        }
    }
    Ok(false)
}
