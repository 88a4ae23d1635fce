//! Several runs at once: a line for each that redraws itself, and one below them for all.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Mode, is_dumb};

/// One run of a [`Board`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Updates made.
    pub step: u64,
    /// Updates there will be; 0 where it is not known.
    pub total: u64,
    /// What else is known: loss, throughput.
    pub measures: String,
}

/// The view of several runs. Without a terminal only messages are printed.
pub struct Board {
    live: Option<Live>,
}

struct Live {
    all: MultiProgress,
    runs: Vec<ProgressBar>,
    status: ProgressBar,
}

impl Board {
    /// A board on standard error.
    pub fn new(mode: Mode) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        if mode == Mode::Plain || all.is_hidden() || (mode == Mode::Auto && is_dumb()) {
            return Self { live: None };
        }
        let status = all.add(bar("{wide_msg}"));
        let runs = Vec::new();
        Self {
            live: Some(Live { all, runs, status }),
        }
    }

    /// Whether lines are drawn.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Prints a line that stays, above the others.
    pub fn message(&self, text: &str) {
        match &self.live {
            // A closed standard error must not end runs that took hours.
            None => _ = writeln!(io::stderr(), "{text}"),
            Some(live) => _ = live.all.println(text),
        }
    }

    /// Shows the runs in progress, and below them a word about all.
    pub fn update(&mut self, lines: &[Line], status: &str) {
        let Some(live) = &mut self.live else { return };
        for bar in live.runs.drain(lines.len().min(live.runs.len())..) {
            bar.finish_and_clear();
            live.all.remove(&bar);
        }
        while live.runs.len() < lines.len() {
            let template = "{bar:20.green/dim} {percent:>3}%  {prefix}  {wide_msg}";
            live.runs
                .push(live.all.insert_before(&live.status, bar(template)));
        }
        let width = lines.iter().map(|line| line.name.chars().count()).max();
        let width = width.unwrap_or(0);
        for (bar, line) in live.runs.iter().zip(lines) {
            bar.set_length(line.total.max(1));
            bar.set_position(line.step);
            bar.set_prefix(format!("{:width$}", line.name));
            bar.set_message(line.measures.clone());
        }
        live.status.set_message(status.to_string());
    }

    /// Ends the view; the lines of runs are gone, messages stay.
    pub fn finish(mut self) {
        self.update(&[], "");
        if let Some(live) = self.live {
            live.status.finish_and_clear();
        }
    }
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    // The template is a constant, so only a mistake in it could fail; the default face still works then.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs come and go; what is drawn is kept in memory here.
    #[test]
    fn lines_follow_the_runs() {
        let terminal = indicatif::InMemoryTerm::new(10, 80);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let all = MultiProgress::with_draw_target(target);
        let status = all.add(bar("{wide_msg}"));
        let mut board = Board {
            live: Some(Live {
                all,
                runs: Vec::new(),
                status,
            }),
        };
        let line = |name: &str, step| Line {
            name: name.into(),
            step,
            total: 10,
            measures: "loss 2.5".into(),
        };
        let seen = || -> Vec<String> {
            let lines = terminal.contents();
            lines.lines().map(|line| line.trim().to_string()).collect()
        };
        board.update(&[line("a", 5), line("bc", 1)], "1/4 runs");
        let lines = seen();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("50%  a   loss 2.5") && lines[1].ends_with("10%  bc  loss 2.5"));
        assert_eq!(lines[2], "1/4 runs");
        board.message("a is done");
        board.update(&[line("bc", 9)], "2/4 runs");
        let lines = seen();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0] == "a is done" && lines[1].ends_with("90%  bc  loss 2.5"));
        assert!(board.is_live());
        board.finish();
        assert_eq!(seen()[0], "a is done");
    }
}
