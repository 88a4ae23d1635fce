//! What happens while a comparison runs, for whoever shows it.

use std::fmt;
use std::path::PathBuf;

use kiln_run::format;

use crate::{Figures, RunId};

/// A run that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub run: RunId,
    /// Arm, point and seed.
    pub title: String,
    /// How its process ended.
    pub how: String,
    /// Its log.
    pub log: PathBuf,
    /// The last lines of it.
    pub tail: String,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event<'a> {
    /// Runs that were finished before.
    Reused(usize),
    /// A run was started, or resumed.
    Started {
        /// Arm, point and seed.
        title: String,
        /// Its device, where there are several.
        device: Option<usize>,
    },
    /// Some time went by.
    Running {
        /// The runs in progress, in the order they were started.
        runs: Vec<Running>,
        /// Where the comparison stands.
        standing: Standing,
    },
    /// A run reached its end.
    Finished {
        /// Arm, point and seed.
        title: String,
        /// Its figures.
        figures: &'a Figures,
        /// Where the comparison stands.
        standing: Standing,
    },
    /// What a chosen model costs is measured.
    Measuring {
        /// The arm.
        title: String,
        /// Its number among those that are measured, from 1 on.
        number: usize,
        /// How many those are.
        all: usize,
        /// Seconds it is given.
        seconds: f64,
    },
    /// A run failed; the others go on.
    Failed(&'a Failure),
    /// Children were asked to write checkpoints and end.
    Stopping,
}

/// A run in progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Arm, point and seed.
    pub title: String,
    /// Steps made, as far as they are noted.
    pub step: u64,
    /// Steps there will be.
    pub total: u64,
    /// The training loss that was noted last, nats a token.
    pub loss: Option<f64>,
    /// Training tokens a second.
    pub tokens_per_second: Option<f64>,
}

/// Where a comparison stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Runs finished, diverged or failed.
    pub done: usize,
    /// Runs of the protocol.
    pub total: usize,
    /// The best value so far on the task of the run that ended last, in the unit that arms are compared by there, and its run.
    pub best: Option<(f64, String)>,
    /// Estimated seconds to the end.
    pub seconds_left: Option<f64>,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reused(count) => write!(f, "{count} runs are finished already"),
            Self::Started { title, device } => {
                write!(f, "start {title}")?;
                device.map_or(Ok(()), |device| write!(f, " on device {device}"))
            }
            Self::Running { standing, .. } => standing.fmt(f),
            Self::Finished {
                title,
                figures,
                standing,
            } => write!(
                f,
                "{title}: validation {} in {}\n{standing}",
                scores(figures),
                format::duration(figures.seconds)
            ),
            Self::Measuring {
                title,
                number,
                all,
                seconds,
            } => write!(
                f,
                "measuring the cost of {title} ({number} of {all}) for {}",
                format::duration(*seconds)
            ),
            Self::Failed(failure) => {
                let log = failure.log.display();
                writeln!(
                    f,
                    "{} failed: {}. The end of {log}:",
                    failure.title, failure.how
                )?;
                write!(f, "  {}", failure.tail.replace('\n', "\n  "))
            }
            Self::Stopping => {
                f.write_str("waiting for the running ones to write their checkpoints")
            }
        }
    }
}

/// `1.4821 nats/token`, with the accuracy where it was counted.
fn scores(figures: &Figures) -> String {
    let accuracy = figures.validation_accuracy;
    let accuracy = accuracy.map(|share| format!(", accuracy {share:.4}"));
    let loss = figures.validation_loss;
    format!("{loss:.4} nats/token{}", accuracy.unwrap_or_default())
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} runs", self.done, self.total)?;
        if let Some((loss, title)) = &self.best {
            write!(f, "   best so far {loss:.4} ({title})")?;
        }
        if let Some(left) = self.seconds_left {
            write!(f, "   {} left", format::duration(left))?;
        }
        Ok(())
    }
}
