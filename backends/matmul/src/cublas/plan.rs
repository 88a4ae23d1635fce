//! What the library is asked, and the algorithm it chose.

use std::{
    ffi::c_void,
    fmt,
    mem::{MaybeUninit, size_of},
};

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys::{
        self, cublasComputeType_t, cublasLtMatmulDescAttributes_t,
        cublasLtMatmulPreferenceAttributes_t, cudaDataType_t,
    },
};

use super::matrix::Matrix;

/// Memory that an algorithm may use besides its operands.
pub(super) const WORKSPACE: usize = 32 << 20;
/// Algorithms that are tried before one is chosen.
const CANDIDATES: usize = 8;
/// Alignment that buffers of the runtime have, and the most that the library asks for.
const ALIGNMENT: usize = 256;

/// One operand, as its rows lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Side {
    /// Whether the transpose of what lies there row by row is multiplied.
    turned: bool,
    pitch: usize,
    /// Bytes that every row's address is a multiple of.
    alignment: usize,
}

/// A product that the library has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    rows: usize,
    inner: usize,
    cols: usize,
    a: Side,
    b: Side,
    operands: DType,
    product: DType,
    /// Whether the product is added to what is there.
    pub add: bool,
}

fn data_type(dtype: DType) -> Option<cudaDataType_t> {
    match dtype {
        DType::BF16 => Some(cudaDataType_t::CUDA_R_16BF),
        DType::F16 => Some(cudaDataType_t::CUDA_R_16F),
        DType::F32 => Some(cudaDataType_t::CUDA_R_32F),
        _ => None,
    }
}

impl Side {
    fn new(matrix: &Matrix) -> Self {
        let size = matrix.tensor.dtype.size();
        let start = offset(&matrix.tensor);
        Self {
            turned: matrix.turned(),
            pitch: matrix.pitch,
            alignment: alignment([matrix.pitch * size, start]),
        }
    }
}

/// The most that all of these offsets in bytes are multiples of, up to [`ALIGNMENT`].
fn alignment(offsets: [usize; 2]) -> usize {
    let mut alignment = ALIGNMENT;
    while !offsets.iter().all(|x| x.is_multiple_of(alignment)) {
        alignment /= 2;
    }
    alignment
}

/// Bytes between the start of a tensor's buffer and its first element.
fn offset(tensor: &CubeTensor) -> usize {
    tensor.handle.offset_start.unwrap_or(0) as usize
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, inner, cols] = [self.rows, self.inner, self.cols];
        write!(f, "cuBLASLt {rows} x {inner} x {cols}, {:?}", self.operands)
    }
}

impl Problem {
    /// Bytes of the product.
    pub fn product_bytes(&self) -> usize {
        self.rows * self.cols * self.product.size()
    }

    /// A product, if the library may have something for it: none for empty matrices and for element types that it does not multiply
    /// together. Rows that do not begin at multiples of 16 bytes rule out its fastest kernels, not the library.
    pub fn new(a: &Matrix, b: &Matrix, product: DType) -> Option<Self> {
        let operands = a.tensor.dtype;
        let known = data_type(operands).is_some() && data_type(product).is_some();
        let alike = b.tensor.dtype == operands && (product == operands || product == DType::F32);
        let [rows, inner, cols] = [a.rows(), a.cols(), b.cols()];
        let (a, b) = (Side::new(a), Side::new(b));
        (known && alike && rows * inner * cols > 0).then_some(Self {
            rows,
            inner,
            cols,
            a,
            b,
            operands,
            product,
            add: false,
        })
    }
}

/// Descriptors and the algorithm for a [`Problem`]; they live as long as the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    desc: sys::cublasLtMatmulDesc_t,
    /// Of the first operand, the second and the product, as the library orders them.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    add: bool,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library orders matrices by columns: what lies by rows is its transpose to it. So it is asked for `d^T = b^T a^T`.
fn layout(
    [rows, cols]: [usize; 2],
    pitch: usize,
    dtype: DType,
) -> Result<sys::cublasLtMatrixLayout_t, CublasError> {
    let kind = data_type(dtype).ok_or(CublasError(
        sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    ))?;
    result::create_matrix_layout(kind, cols as u64, rows as u64, pitch as i64)
}

/// `[rows, cols]` of what lies in memory row by row.
fn stored([rows, cols]: [usize; 2], turned: bool) -> [usize; 2] {
    match turned {
        true => [cols, rows],
        false => [rows, cols],
    }
}

impl Plan {
    /// The algorithms that the library's heuristics think fastest, the best first; at least one.
    pub fn candidates(
        handle: sys::cublasLtHandle_t,
        problem: &Problem,
    ) -> Result<Vec<Self>, CublasError> {
        use cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB,
        };
        let &Problem {
            rows,
            inner,
            cols,
            a,
            b,
            operands,
            product,
            add,
        } = problem;
        let compute = match operands {
            DType::F32 => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let desc = result::create_matmul_desc(compute, cudaDataType_t::CUDA_R_32F)?;
        let left = layout(stored([inner, cols], b.turned), b.pitch, operands)?;
        let right = layout(stored([rows, inner], a.turned), a.pitch, operands)?;
        let out = layout([rows, cols], cols, product)?;
        // SAFETY: the descriptors are live, and attributes have the type and size that the library documents.
        unsafe {
            for (attribute, turned) in [
                (CUBLASLT_MATMUL_DESC_TRANSA, b.turned),
                (CUBLASLT_MATMUL_DESC_TRANSB, a.turned),
            ] {
                let transposed = i32::from(turned);
                let value: *const i32 = &transposed;
                result::set_matmul_desc_attribute(desc, attribute, value.cast(), size_of::<i32>())?;
            }
            let of_product = alignment([cols * product.size(), 0]);
            let preference = preference([b.alignment, a.alignment, of_product])?;
            let layouts = [left, right, out];
            let found = algorithms(handle, desc, layouts, preference);
            result::destroy_matmul_pref(preference)?;
            let plan = |algorithm| Self {
                desc,
                layouts,
                add,
                algorithm,
            };
            Ok(found?.into_iter().map(plan).collect())
        }
    }

    /// The same plan without what is there, for trials into memory of their own.
    pub fn alone(&self) -> Self {
        Self {
            add: false,
            ..*self
        }
    }

    /// Enqueues the product of the matrices at `a` and `b` into `d`, or adds it to what is there.
    ///
    /// # Safety
    /// The addresses must be those of matrices as the plan's problem says, and of a workspace, until the work is done.
    pub unsafe fn enqueue(
        &self,
        handle: sys::cublasLtHandle_t,
        [a, b, d]: [u64; 3],
        workspace: u64,
        stream: sys::cudaStream_t,
    ) -> Result<(), CublasError> {
        let (one, kept) = (1.0_f32, f32::from(u8::from(self.add)));
        let (one, kept): (*const f32, *const f32) = (&one, &kept);
        let [left, right, out] = self.layouts;
        // SAFETY: as the caller promises; the factors are read before the call returns.
        unsafe {
            result::matmul(
                handle,
                self.desc,
                one.cast(),
                kept.cast(),
                b as *const c_void,
                left,
                a as *const c_void,
                right,
                d as *const c_void,
                out,
                d as *mut c_void,
                out,
                &self.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream,
            )
        }
    }
}

/// The library's algorithms for a product, the one that it thinks fastest first.
unsafe fn algorithms(
    handle: sys::cublasLtHandle_t,
    desc: sys::cublasLtMatmulDesc_t,
    [left, right, out]: [sys::cublasLtMatrixLayout_t; 3],
    preference: sys::cublasLtMatmulPreference_t,
) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
    let mut found = [const { MaybeUninit::uninit() }; CANDIDATES];
    let mut count = 0;
    // SAFETY: as many results as there is room for are asked for, and as many as there are are read.
    let found = unsafe {
        sys::cublasLtMatmulAlgoGetHeuristic(
            handle,
            desc,
            left,
            right,
            out,
            out,
            preference,
            CANDIDATES as i32,
            found.as_mut_ptr().cast(),
            &mut count,
        )
        .result()?;
        let found = found[..count as usize].iter();
        found.map(|found: &MaybeUninit<sys::cublasLtMatmulHeuristicResult_t>| found.assume_init())
    };
    let works = found.filter(|found| found.state.result().is_ok());
    let works: Vec<_> = works.map(|found| found.algo).collect();
    match works.is_empty() {
        true => Err(CublasError(
            sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
        )),
        false => Ok(works),
    }
}

/// What an algorithm may count on: the workspace, and the alignment of the first and the second operand and of the product.
unsafe fn preference(
    [left, right, product]: [usize; 3],
) -> Result<sys::cublasLtMatmulPreference_t, CublasError> {
    use cublasLtMatmulPreferenceAttributes_t::{
        CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    };
    let preference = result::create_matmul_pref()?;
    let workspace: *const usize = &WORKSPACE;
    // SAFETY: the preference is live, and attributes have the type and size that the library documents.
    unsafe {
        result::set_matmul_pref_attribute(
            preference,
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            workspace.cast(),
            size_of::<usize>(),
        )?;
        for (attribute, alignment) in [
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, left),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, right),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product),
        ] {
            let alignment = alignment as u32;
            let value: *const u32 = &alignment;
            result::set_matmul_pref_attribute(
                preference,
                attribute,
                value.cast(),
                size_of::<u32>(),
            )?;
        }
    }
    Ok(preference)
}
