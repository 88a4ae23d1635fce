//! What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere. Both
//! go to standard error, so that standard output stays free for results.

mod board;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use board::{Board, Line};

use crate::format;

/// How often a plain line is printed at most.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Which face the view shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Live on a terminal that can redraw, plain elsewhere.
    #[default]
    Auto,
    /// A progress bar that redraws itself, on any terminal; plain where there is none.
    Live,
    /// A line now and then, for logs.
    Plain,
}

/// Where a run stands. What is `None` is not shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Updates made so far.
    pub step: u64,
    /// Updates there will be.
    pub total: u64,
    /// Training loss, in nats a token.
    pub loss: f64,
    /// The same in bits per byte of text, where the data tells bytes a token.
    pub bits_per_byte: Option<f64>,
    /// Learning rate of the last update.
    pub lr: Option<f64>,
    /// Global norm of the last gradient, before clipping.
    pub grad_norm: Option<f64>,
    /// Training tokens a second.
    pub tokens_per_s: f64,
    /// Memory in use, in bytes: of the device where it tells, else of the process.
    pub memory_bytes: Option<u64>,
    /// Seconds of training so far.
    pub elapsed_s: f64,
    /// Seconds left, as estimated by the caller.
    pub eta_s: Option<f64>,
}

impl Progress {
    /// Share of the updates made, between 0 and 1.
    pub fn share(&self) -> f64 {
        if self.total == 0 {
            1.0
        } else {
            (self.step as f64 / self.total as f64).min(1.0)
        }
    }

    /// The measures, without step and time: `loss 1.482   2.138 bits/byte   18.7k tok/s`.
    fn measures(&self) -> String {
        let mut parts = vec![format!("loss {}", format::number(self.loss))];
        parts.extend(
            self.bits_per_byte
                .map(|bits| format!("{} bits/byte", format::number(bits))),
        );
        parts.extend(self.lr.map(|lr| format!("lr {}", format::number(lr))));
        parts.extend(
            self.grad_norm
                .map(|norm| format!("grad {}", format::number(norm))),
        );
        parts.push(format!("{} tok/s", format::count(self.tokens_per_s)));
        parts.extend(self.memory_bytes.map(format::bytes));
        parts.join("   ")
    }

    fn times(&self) -> String {
        let left = self
            .eta_s
            .map(|eta| format!("   {} left", format::duration(eta)));
        format!(
            "{}{}",
            format::duration(self.elapsed_s),
            left.unwrap_or_default()
        )
    }

    /// One line for a log. Steps are padded to the width of the total, so that lines stand in
    /// columns.
    fn line(&self) -> String {
        let width = self.total.to_string().len();
        let share = format::percent(self.share());
        format!(
            "step {:>width$}/{} {share:>4}   {}   {}",
            self.step,
            self.total,
            self.measures(),
            self.times()
        )
    }
}

/// The view of one run.
pub struct View {
    face: Face,
}

enum Face {
    Live(ProgressBar),
    Plain {
        out: Box<dyn Write + Send>,
        interval: Duration,
        last: Option<Instant>,
        /// The newest line that was not due yet.
        waiting: Option<String>,
    },
}

impl View {
    /// A view of a run of `total_steps` updates, on standard error.
    pub fn new(total_steps: u64, mode: Mode) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total_steps), ProgressDrawTarget::stderr());
        // A hidden bar swallows messages too, so without a terminal the view is plain whatever was
        // asked for.
        if mode == Mode::Plain || bar.is_hidden() || (mode == Mode::Auto && is_dumb()) {
            return Self::plain_to(io::stderr(), PLAIN_INTERVAL);
        }
        let template = "{bar:36.green/dim} {percent:>3}%   step {pos}/{len}   {prefix}\n{wide_msg}";
        // The template is a constant, so only a mistake in it could fail; the default face still
        // works then.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self {
            face: Face::Live(bar),
        }
    }

    /// A plain view that writes to `out`, a progress line at most once an `interval`.
    pub fn plain_to(out: impl Write + Send + 'static, interval: Duration) -> Self {
        Self {
            face: Face::Plain {
                out: Box::new(out),
                interval,
                last: None,
                waiting: None,
            },
        }
    }

    /// Prints a line that stays: an evaluation, a checkpoint, a warning. On a terminal it goes
    /// above the bar.
    pub fn message(&mut self, text: &str) {
        match &mut self.face {
            Face::Live(bar) => bar.println(text),
            Face::Plain { out, .. } => print(out, text),
        }
    }

    /// Shows where the run stands. Call it as often as there is news: the view draws no more often
    /// than is of use, and always the first and the last step.
    pub fn update(&mut self, progress: &Progress) {
        match &mut self.face {
            Face::Live(bar) => {
                bar.set_length(progress.total);
                bar.set_position(progress.step);
                bar.set_prefix(progress.times());
                bar.set_message(progress.measures());
            }
            Face::Plain {
                out,
                interval,
                last,
                waiting,
            } => {
                let due = last.is_none_or(|last| last.elapsed() >= *interval);
                if due || progress.step >= progress.total {
                    *last = Some(Instant::now());
                    *waiting = None;
                    print(out, &progress.line());
                } else {
                    *waiting = Some(progress.line());
                }
            }
        }
    }

    /// Ends the view, leaving its last state on the screen.
    pub fn finish(self) {
        match self.face {
            Face::Live(bar) => bar.abandon(),
            // A run that was interrupted tells how far it came.
            Face::Plain {
                mut out,
                waiting: Some(line),
                ..
            } => print(&mut out, &line),
            Face::Plain { .. } => {}
        }
    }
}

/// Whether the terminal says that it cannot redraw.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// A closed pipe must not end a run that took hours, so errors are left aside.
fn print(out: &mut Box<dyn Write + Send>, text: &str) {
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests;
