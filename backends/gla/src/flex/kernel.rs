//! A problem cut into units of work, (batch row, head) pairs, and those into chunks: where their matrices lie.

use rayon::prelude::*;

use super::{
    output::Output,
    product::{Target, View},
    simd::{Decay, Rows},
};

/// Positions in a chunk.
const CHUNK: usize = 64;
/// Below this many multiplications the problem takes about as long as waking other threads up.
const PARALLEL_MIN_PRODUCTS: usize = 128 * 1024;

/// The dimensions of a problem.
#[derive(Clone, Copy)]
pub(super) struct Problem {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub d_key: usize,
    pub d_value: usize,
}

impl Problem {
    pub fn chunks(self) -> usize {
        self.seq.div_ceil(CHUNK)
    }

    pub fn state(self) -> usize {
        self.d_key * self.d_value
    }

    pub fn units(self) -> usize {
        self.batch * self.heads
    }

    /// Offset of position `first` of a unit in `[batch, seq, heads, width]`; the next is `heads * width` later.
    fn at(self, unit: usize, first: usize, width: usize) -> usize {
        let (row, head) = (unit / self.heads, unit % self.heads);
        ((row * self.seq + first) * self.heads + head) * width
    }

    /// First position and number of positions of every chunk.
    pub fn spans(self) -> impl DoubleEndedIterator<Item = (usize, usize)> + ExactSizeIterator {
        (0..self.chunks()).map(move |chunk| {
            let first = chunk * CHUNK;
            (first, CHUNK.min(self.seq - first))
        })
    }

    pub fn for_each_unit(self, work: impl Fn(&mut Scratch, usize) + Sync + Send) {
        let products = self.units() * self.seq * (self.d_key + CHUNK) * self.d_value;
        if products < PARALLEL_MIN_PRODUCTS {
            let mut scratch = Scratch::new(self);
            (0..self.units()).for_each(|unit| work(&mut scratch, unit));
        } else {
            (0..self.units())
                .into_par_iter()
                .for_each_init(|| Scratch::new(self), work);
        }
    }
}

/// What a thread needs for a chunk, and reuses for the next.
pub(super) struct Scratch {
    pub decay: Decay,
    /// `[CHUNK, CHUNK]`
    pub squares: [Vec<f32>; 3],
    /// `[CHUNK, d_key]`
    pub keys: Vec<f32>,
    /// `[CHUNK, d_value]`
    pub values: Vec<f32>,
    /// `[CHUNK]`
    pub columns: [Vec<f32>; 4],
    /// `[d_key, d_value]`
    pub state: Vec<f32>,
}

impl Scratch {
    fn new(problem: Problem) -> Self {
        let chunk = CHUNK.min(problem.seq);
        Self {
            decay: Decay::default(),
            squares: [(); 3].map(|()| vec![0.0; chunk * chunk]),
            keys: vec![0.0; chunk * problem.d_key],
            values: vec![0.0; chunk * problem.d_value],
            columns: [(); 4].map(|()| vec![0.0; chunk]),
            state: vec![0.0; problem.state()],
        }
    }
}

/// The arguments, contiguous, `f32`, in the layouts of the operation.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub log_decay: &'a [f32],
}

/// The rows of one chunk of one unit.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub count: usize,
    pub q: Rows<'a>,
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    pub log_decay: Rows<'a>,
}

impl<'a> Inputs<'a> {
    pub fn check(self, problem: Problem) {
        let positions = problem.units() * problem.seq;
        assert_eq!(self.q.len(), positions * problem.d_key);
        assert_eq!(self.k.len(), positions * problem.d_key);
        assert_eq!(self.v.len(), positions * problem.d_value);
        assert_eq!(self.log_decay.len(), positions);
    }

    pub fn chunk(self, problem: Problem, unit: usize, (first, count): (usize, usize)) -> Chunk<'a> {
        let rows = |values: &'a [f32], width| rows(problem, values, unit, first, width);
        Chunk {
            count,
            q: rows(self.q, problem.d_key),
            k: rows(self.k, problem.d_key),
            v: rows(self.v, problem.d_value),
            log_decay: rows(self.log_decay, 1),
        }
    }
}

/// The rows of a unit from position `first` on.
pub(super) fn rows(
    problem: Problem,
    values: &[f32],
    unit: usize,
    first: usize,
    width: usize,
) -> Rows<'_> {
    Rows {
        values: &values[problem.at(unit, first, width)..],
        stride: problem.heads * width,
        width,
    }
}

pub(super) fn view(rows: Rows) -> View {
    View::rows(rows.values.as_ptr(), rows.stride)
}

pub(super) fn matrix(values: &[f32], width: usize) -> View {
    View::rows(values.as_ptr(), width)
}

/// A scratch matrix, overwritten.
pub(super) fn fresh(values: &mut [f32], width: usize) -> Target {
    Target {
        start: values.as_mut_ptr(),
        stride: width,
        add: false,
    }
}

/// The part of a result `[batch, seq, heads, width]` that belongs to a chunk of a unit, overwritten.
pub(super) fn own(
    problem: Problem,
    output: &Output,
    unit: usize,
    span: (usize, usize),
    width: usize,
) -> Target {
    let stride = problem.heads * width;
    let len = (span.1 - 1) * stride + width;
    Target {
        start: output.start(problem.at(unit, span.0, width), len),
        stride,
        add: false,
    }
}

/// Added to rather than overwritten.
pub(super) fn adding(target: Target) -> Target {
    Target {
        add: true,
        ..target
    }
}

pub(super) fn is_zero(state: &[f32]) -> bool {
    state.iter().all(|&x| x == 0.0)
}

/// # Safety
/// There is room for the state at the target, and nothing else uses it.
pub(super) unsafe fn write(state: &[f32], target: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { target.copy_from_nonoverlapping(state.as_ptr(), state.len()) };
}

/// A scratch matrix as rows.
pub(super) fn packed(values: &[f32], width: usize) -> Rows<'_> {
    Rows {
        values,
        stride: width,
        width,
    }
}

/// Copies a scratch matrix to the rows of the target.
///
/// # Safety
/// Nothing else uses these rows.
pub(super) unsafe fn copy(values: &[f32], width: usize, target: Target) {
    for (i, row) in values.chunks_exact(width).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { write(row, target.start.add(i * target.stride)) };
    }
}
