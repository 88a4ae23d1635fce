//! Buffers and launches of the kernels.

use burn::tensor::{DType, Shape, bf16};
use burn_cubecl::{
    cubecl::{
        calculate_cube_count_elemwise,
        ir::{ElemType, FloatKind},
        prelude::*,
        tf32,
    },
    kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

use super::kernels::{self, CHUNK, DimsLaunch, FOUR, Format, PLANE, SIDE, UNITS};

/// Units of a cube of the recurrence over chunks.
const CARRY_UNITS: u32 = 128;
/// Widths of keys and values that the kernels are written for.
const WIDTHS: [usize; 3] = [32, 64, 128];

/// The address type that reaches every element of these tensors.
macro_rules! address_type {
    ($($tensor:expr),*) => {
        [$($tensor.required_address_type()),*].into_iter().max().unwrap_or_default()
    };
}

/// Launches a kernel with a cube for every chunk: `bf16` as it is, `f32` with products in TF32.
macro_rules! launch {
    ($kernel:ident, $problem:expr, $like:expr, [$($buffer:expr),*] $(, $constant:expr)*) => {{
        let problem: Problem = $problem;
        let client = $like.client.clone();
        let (count, dim) = problem.cubes(&client);
        let address = address_type!($($buffer),*);
        let wide = problem.format.wide();
        // SAFETY: cubes stay inside the shapes that `Problem` gives, which are those of the tensors, and surplus ones leave at
        // once.
        unsafe {
            match problem.format.operand {
                2 => kernels::$kernel::launch_unchecked::<bf16, bf16>(
                    &client, count, dim, address, wide,
                    $($buffer.clone().into_buffer_arg(),)*
                    problem.dims(), problem.format $(, $constant)*
                ),
                _ => kernels::$kernel::launch_unchecked::<f32, tf32>(
                    &client, count, dim, address, wide,
                    $($buffer.clone().into_buffer_arg(),)*
                    problem.dims(), problem.format $(, $constant)*
                ),
            }
        }
    }};
}

/// Keys written whole, of operands of one type.
fn format([d_key, d_value]: [usize; 2], dtype: DType) -> Format {
    Format {
        d_key,
        d_value,
        operand: dtype.size(),
        forgotten: false,
    }
}

/// Whether the kernels take keys and values of these widths, and the device can run them: it multiplies the operands that go with their
/// type, its planes have 32 units, and a cube has the shared memory.
pub(super) fn takes(client: &Client, widths: [usize; 2], dtype: DType) -> bool {
    if !widths.iter().all(|width| WIDTHS.contains(width)) {
        return false;
    }
    let kind = match dtype {
        DType::BF16 => FloatKind::BF16,
        DType::F32 => FloatKind::TF32,
        _ => return false,
    };
    let format = format(widths, dtype);
    let properties = client.properties();
    let hardware = &properties.hardware;
    let single = ElemType::Float(FloatKind::F32);
    let multiplies = properties.features.matmul.cmma.iter().any(|unit| {
        [unit.a_type, unit.b_type, unit.cd_type]
            == [ElemType::Float(kind), ElemType::Float(kind), single]
            && [unit.m, unit.n, unit.k].map(|x| x as usize) == [SIDE, SIDE, format.depth()]
    });
    let planes = [hardware.plane_size_min, hardware.plane_size_max];
    let fits = format.shared_bytes() <= hardware.max_shared_memory_size
        && hardware.max_units_per_cube as usize >= UNITS;
    multiplies && planes == [PLANE as u32; 2] && fits
}

/// The shape of a problem that the kernels can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    batch: usize,
    seq: usize,
    heads: usize,
    format: Format,
}

impl Problem {
    /// A problem `[batch, seq, heads, d_key, d_value]`, if the kernels take it; keys are written whole, or by what is forgotten.
    pub fn new(
        [batch, seq, heads, d_key, d_value]: [usize; 5],
        v: &CubeTensor,
        forgotten: bool,
    ) -> Option<Self> {
        takes(&v.client, [d_key, d_value], v.dtype).then(|| Self {
            batch,
            seq,
            heads,
            format: Format {
                forgotten,
                ..format([d_key, d_value], v.dtype)
            },
        })
    }

    fn chunks(&self) -> usize {
        self.seq.div_ceil(CHUNK)
    }

    fn rows(&self) -> usize {
        self.batch * self.heads
    }

    /// `[batch, heads, chunks + 1, d_key, d_value]`
    fn states(&self) -> Shape {
        let Format { d_key, d_value, .. } = self.format;
        [self.batch, self.heads, self.chunks() + 1, d_key, d_value].into()
    }

    fn dims(&self) -> DimsLaunch {
        let total = self.rows() * self.chunks();
        DimsLaunch::new(self.seq, self.heads, self.chunks(), total)
    }

    /// A cube for every chunk.
    fn cubes(&self, client: &Client) -> (CubeCount, CubeDim) {
        let dim = CubeDim::new_1d(UNITS as u32);
        let units = self.rows() * self.chunks() * UNITS;
        (calculate_cube_count_elemwise(client, units, dim), dim)
    }
}

/// A new buffer, not initialised.
pub(crate) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        dtype,
    )
}

/// The states between chunks, `[batch, heads, chunks + 1, d_key, d_value]` in the type of the keys, which they are multiplied in, and the
/// last one in single precision; from keys, values, log_decay and the state that enters, if one does. In reverse, with q for the keys, the
/// gradient of the output for the values and that of the final state: their gradients, the last of which is that of the entering one.
fn states(
    problem: Problem,
    [keys, values, log_decay]: [&CubeTensor; 3],
    entering: Option<&CubeTensor>,
    reverse: bool,
) -> [CubeTensor; 2] {
    let format = problem.format;
    let written = empty(keys, problem.states(), DType::F32);
    let sums = [problem.batch, problem.heads, problem.chunks()];
    let whole = empty(keys, sums, DType::F32);
    launch!(
        write_states,
        problem,
        keys,
        [keys, values, log_decay, written, whole],
        reverse
    );
    let states = empty(keys, problem.states(), keys.dtype);
    let last = [problem.batch, problem.heads, format.d_key, format.d_value];
    let last = empty(keys, last, DType::F32);
    // Where nothing enters, something of the same type stands for it.
    let (enters, entering) = (entering.is_some(), entering.unwrap_or(&written));
    let dim = CubeDim::new_1d(CARRY_UNITS);
    let units = problem.rows() * format.d_key * format.d_value / FOUR;
    let count = calculate_cube_count_elemwise(&keys.client, units, dim);
    macro_rules! carry {
        ($held:ty) => {
            kernels::carry_states::launch_unchecked::<$held>(
                &keys.client,
                count,
                dim,
                address_type!(written),
                entering.clone().into_buffer_arg(),
                whole.into_buffer_arg(),
                written.into_buffer_arg(),
                states.clone().into_buffer_arg(),
                last.clone().into_buffer_arg(),
                problem.rows(),
                problem.chunks(),
                format,
                reverse,
                enters,
            )
        };
    }
    // SAFETY: units stay inside the shapes of the states, and surplus ones leave at once.
    unsafe {
        match format.operand {
            2 => carry!(bf16),
            _ => carry!(f32),
        }
    }
    [states, last]
}

/// Output, states and final state, from q, k, v, log_decay and the entering state.
pub(super) fn forward(
    problem: Problem,
    inputs: [CubeTensor; 4],
    entering: Option<CubeTensor>,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [q, k, v, log_decay] = inputs.map(into_contiguous);
    let entering = entering.map(into_contiguous);
    let [states, last] = states(problem, [&k, &v, &log_decay], entering.as_ref(), false);
    let outputs = empty(&v, v.meta.shape().clone(), v.dtype);
    launch!(
        chunk_output,
        problem,
        v,
        [q, k, v, log_decay, states, outputs]
    );
    (outputs, states, last)
}

/// Gradients of q, k, v, log_decay and the entering state; from q, k, v,
/// log_decay, the states of [`forward`] and the gradients of output and, if it has one, final state.
pub(super) fn adjoint(
    problem: Problem,
    inputs: [CubeTensor; 6],
    d_state: Option<CubeTensor>,
) -> [CubeTensor; 5] {
    let [q, k, v, log_decay, states, d_output] = inputs.map(into_contiguous);
    let d_state = d_state.map(into_contiguous);
    let [d_states, d_entering] =
        self::states(problem, [&q, &d_output, &log_decay], d_state.as_ref(), true);
    let [d_q, d_k, d_v] = [&q, &k, &v].map(|x| empty(x, x.meta.shape().clone(), x.dtype));
    let d_gates = empty(&log_decay, log_decay.meta.shape().clone(), DType::F32);
    launch!(
        chunk_gradient,
        problem,
        v,
        [
            q, k, v, d_output, log_decay, states, d_states, d_q, d_k, d_v, d_gates
        ]
    );
    [d_q, d_k, d_v, d_gates, d_entering]
}
