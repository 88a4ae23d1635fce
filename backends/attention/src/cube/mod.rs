//! The CubeCL implementation: which devices it serves, buffers and launches.

mod kernels;

use burn::{
    backend::{
        Cube,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape, bf16, f16},
};
use burn_cubecl::{
    CubeDevice,
    cubecl::{
        calculate_cube_count_elemwise,
        features::MmaConfig,
        ir::{ElemType, FloatKind},
        prelude::*,
    },
    kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

use self::kernels::{DimsLaunch, Format, PLANE, UNITS, WIDE};
use crate::backend::{FlashAdjoint, FlashBackend, Heads};

/// Widths of heads that the kernels are compiled for.
const WIDTHS: [usize; 3] = [32, 64, 128];
/// Units of a cube of the pass over gradient and output.
const DELTA_UNITS: u32 = 256;

/// Whether the kernels take heads of this width and element type on a device.
pub(crate) fn serves(device: &CubeDevice, dtype: DType, d_head: usize) -> bool {
    let kind = match dtype {
        DType::BF16 => FloatKind::BF16,
        DType::F16 => FloatKind::F16,
        _ => return false,
    };
    if !WIDTHS.contains(&d_head) {
        return false;
    }
    let client = device.client();
    let properties = client.properties();
    let (hardware, matmul) = (&properties.hardware, &properties.features.matmul);
    // Neither mask nor dropout takes memory.
    const HEADS: Heads = Heads {
        count: 1,
        causal: true,
        dropped: 0,
    };
    let formats = [
        Format::forward(d_head, HEADS),
        Format::gradient(d_head, HEADS),
    ];
    let shared = formats.map(Format::shared_bytes);
    let [operand, single] = [kind, FloatKind::F32].map(ElemType::Float);
    let unit = MmaConfig {
        a_type: operand,
        b_type: operand,
        cd_type: single,
        m: 16,
        n: 8,
        k: 16,
    };
    matmul.mma.contains(&unit)
        && matmul.ldmatrix.contains(&operand)
        && [hardware.plane_size_min, hardware.plane_size_max] == [PLANE as u32; 2]
        && shared
            .iter()
            .all(|&bytes| bytes <= hardware.max_shared_memory_size)
}

/// Launches a kernel with a cube for every block of rows of every head.
macro_rules! launch {
    ($kernel:ident, $problem:expr, $format:expr, $dtype:expr, [$($buffer:expr),*], $seed:expr) => {{
        let (problem, format): (&Problem, Format) = ($problem, $format);
        let address = [$($buffer.required_address_type()),*].into_iter().max().unwrap_or_default();
        let (count, dim) = problem.cubes(format);
        let seed: &Option<CubeTensor> = $seed;
        // SAFETY: cubes stay inside the shapes that `Problem` gives, which are those of the tensors, and surplus ones leave at
        // once.
        unsafe {
            match $dtype {
                DType::F16 => kernels::$kernel::launch_unchecked::<f16>(
                    &problem.client, count, dim, address, $($buffer.clone().into_buffer_arg(),)*
                    seed.clone().map(CubeTensor::into_buffer_arg).into(), problem.dims(format), problem.scale(), format
                ),
                _ => kernels::$kernel::launch_unchecked::<bf16>(
                    &problem.client, count, dim, address, $($buffer.clone().into_buffer_arg(),)*
                    seed.clone().map(CubeTensor::into_buffer_arg).into(), problem.dims(format), problem.scale(), format
                ),
            }
        }
    }};
}

struct Problem {
    client: Client,
    batch: usize,
    seq: usize,
    heads: usize,
    d_head: usize,
}

impl Problem {
    fn new(packed: &CubeTensor, heads: Heads) -> Self {
        let [batch, seq, width] = packed.meta.shape().dims();
        Self {
            client: packed.client.clone(),
            batch,
            seq,
            heads: heads.count,
            d_head: width / (3 * heads.count),
        }
    }

    /// Blocks of a cube's rows of all heads and sequences.
    fn total(&self, format: Format) -> usize {
        self.batch * self.heads * self.seq.div_ceil(format.rows())
    }

    fn dims(&self, format: Format) -> DimsLaunch {
        let blocks = self.seq.div_ceil(format.rows());
        DimsLaunch::new(self.seq, self.heads, blocks, self.total(format))
    }

    /// Scores are the products times this, to base two.
    fn scale(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.d_head as f32).sqrt()
    }

    fn cubes(&self, format: Format) -> (CubeCount, CubeDim) {
        let dim = CubeDim::new_1d(UNITS as u32);
        let units = self.total(format) * UNITS;
        (calculate_cube_count_elemwise(&self.client, units, dim), dim)
    }

    /// `[batch, heads, seq]`
    fn sums(&self) -> Shape {
        [self.batch, self.heads, self.seq].into()
    }
}

/// A new buffer, not initialised.
fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        dtype,
    )
}

impl FlashBackend for Cube {
    fn flash_attention(packed: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self> {
        Self::flash_forward(packed, None, heads).0
    }

    fn flash_attention_with_dropout(
        packed: FloatTensor<Self>,
        seed: IntTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        Self::flash_forward(packed, Some(seed), heads).0
    }
}

impl FlashAdjoint for Cube {
    fn flash_forward(
        packed: FloatTensor<Self>,
        seed: Option<IntTensor<Self>>,
        heads: Heads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let packed = into_contiguous(packed);
        let problem = Problem::new(&packed, heads);
        let width = problem.heads * problem.d_head;
        let format = Format::forward(problem.d_head, heads);
        let output = empty(&packed, [problem.batch, problem.seq, width], packed.dtype);
        let sums = empty(&packed, problem.sums(), DType::F32);
        launch!(
            attend,
            &problem,
            format,
            packed.dtype,
            [packed, output, sums],
            &seed
        );
        (output, sums)
    }

    fn flash_adjoint(
        packed: FloatTensor<Self>,
        output: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        seed: Option<IntTensor<Self>>,
        grad: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        let [packed, output, grad] = [packed, output, grad].map(into_contiguous);
        let problem = Problem::new(&packed, heads);
        let format = Format::gradient(problem.d_head, heads);
        let deltas = deltas(&problem, &output, &grad);
        let d_packed = empty(&packed, packed.meta.shape().clone(), packed.dtype);
        let dtype = packed.dtype;
        launch!(
            query_gradient,
            &problem,
            format,
            dtype,
            [packed, grad, sums, deltas, d_packed],
            &seed
        );
        launch!(
            key_gradient,
            &problem,
            format,
            dtype,
            [packed, grad, sums, deltas, d_packed],
            &seed
        );
        d_packed
    }
}

/// `g_i . y_i`, `[batch, heads, seq]`.
fn deltas(problem: &Problem, output: &CubeTensor, grad: &CubeTensor) -> CubeTensor {
    let deltas = empty(output, problem.sums(), DType::F32);
    let dim = CubeDim::new_1d(DELTA_UNITS);
    let total = problem.batch * problem.seq * problem.heads;
    let count = calculate_cube_count_elemwise(&problem.client, total, dim);
    let address = [output, grad, &deltas].map(|x| x.required_address_type());
    let address = address.into_iter().max().unwrap_or_default();
    // SAFETY: surplus units leave at once, the others stay inside the shapes of the tensors.
    unsafe {
        match output.dtype {
            DType::F16 => kernels::row_products::launch_unchecked::<f16>(
                &problem.client,
                count,
                dim,
                address,
                output.clone().into_buffer_arg(),
                grad.clone().into_buffer_arg(),
                deltas.clone().into_buffer_arg(),
                problem.seq,
                problem.heads,
                total,
                problem.d_head / WIDE,
            ),
            _ => kernels::row_products::launch_unchecked::<bf16>(
                &problem.client,
                count,
                dim,
                address,
                output.clone().into_buffer_arg(),
                grad.clone().into_buffer_arg(),
                deltas.clone().into_buffer_arg(),
                problem.seq,
                problem.heads,
                total,
                problem.d_head / WIDE,
            ),
        }
    }
    deltas
}
