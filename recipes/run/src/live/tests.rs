use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn progress(step: u64) -> Progress {
    Progress {
        step,
        total: 5000,
        loss: 1.4823,
        bits_per_byte: Some(2.1385),
        lr: Some(3e-4),
        grad_norm: Some(0.81),
        tokens_per_s: 18_700.0,
        memory_bytes: Some(1_288_490_189),
        elapsed_s: 123.0,
        eta_s: Some(370.0),
    }
}

#[test]
fn a_plain_line_tells_everything() {
    assert_eq!(
        progress(1200).line(),
        "step 1200/5000  24%   loss 1.482   2.139 bits/byte   lr 3.00e-4   grad 0.810   18.7k tok/s   1.2 GiB   \
         2m03s   6m10s left"
    );
    let bare = Progress {
        step: 7,
        total: 5000,
        loss: 2.0,
        ..Progress::default()
    };
    assert_eq!(
        bare.line(),
        "step    7/5000 0.14%   loss 2.000   0 tok/s   0.0s"
    );
}

#[test]
fn plain_lines_keep_their_interval_and_the_last_step() {
    let screen = Screen::default();
    let mut view = View::plain_to(screen.clone(), Duration::from_secs(3600));
    [1, 2, 3]
        .into_iter()
        .for_each(|step| view.update(&progress(step)));
    view.message("eval at 3");
    view.update(&progress(5000));
    view.finish();
    let text = screen.text();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split("   loss").next().unwrap())
        .collect();
    assert_eq!(
        lines,
        ["step    1/5000 0.02%", "eval at 3", "step 5000/5000 100%"]
    );
}

#[test]
fn an_interrupted_run_tells_how_far_it_came() {
    let screen = Screen::default();
    let mut view = View::plain_to(screen.clone(), Duration::from_secs(3600));
    [1, 2, 3]
        .into_iter()
        .for_each(|step| view.update(&progress(step)));
    view.finish();
    assert_eq!(screen.text().lines().count(), 2);
    assert!(screen.text().contains("step    3/5000"));
}

#[test]
fn a_closed_pipe_is_no_panic() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut view = View::plain_to(Closed, Duration::ZERO);
    view.update(&progress(1));
    view.message("x");
}

#[test]
fn the_live_face_takes_every_call() {
    let mut view = View::new(10, Mode::Live);
    view.update(&progress(1));
    view.message("eval");
    view.finish();
}
