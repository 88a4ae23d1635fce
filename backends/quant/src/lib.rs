//! Packed weights: matrices of 1 to 8 bits an entry, and sparse ones.
//!
//! ```text
//! w_io = s_go (q_io - z_go)        i an input, o an output, g = i / group the group of inputs that i is in
//! ```
//!
//! The levels q are small integers, or number the values of a float of 8 bits ([`Encoding::value`]); scales s and zero points z are
//! one for each output and group of inputs. Which levels, scales and zero points stand for a matrix is the affair of the caller: this
//! crate stores them ([`PackedMatrix`], host data in the layout that the kernels read) and computes from them.
//!
//! [`integer_linear`] takes the inputs of int8 weights in 8 bits too, and those of signs as signs ([`Activations`]), and adds their
//! products up as integers.
//!
//! A [`ComplexMatrix`] is one whose real and imaginary parts share scales, and is stored with one of each.
//!
//! A [`SparseMatrix`] holds the entries of a pruned matrix that are not zero, and where they are.
//!
//! ```
//! use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix};
//!
//! # fn main() -> Result<(), kiln_quant::QuantError> {
//! let format = PackedFormat {
//!     encoding: Encoding::Int4,
//!     asymmetric: false,
//!     d_input: 2,
//!     d_output: 3,
//!     group: 2, // the whole column
//!     scales: FloatType::F16,
//! };
//! let levels = [1, -8, 7, 0, 3, -1]; // [d_input, d_output]
//! let packed = PackedMatrix::pack(format, &levels, &[0.5, 1.0, 2.0], None)?;
//! assert_eq!(packed.dequantize(), [0.5, -8.0, 14.0, 0.0, 3.0, -2.0]);
//! # Ok(())
//! # }
//! ```

mod activations;
mod autodiff;
#[cfg_attr(
    not(any(feature = "flex", feature = "_cube")),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod backend;
mod complex;
#[cfg(feature = "_cube")]
mod cube;
mod encoding;
mod error;
#[cfg(feature = "flex")]
mod flex;
mod format;
mod matrix;
mod ops;
mod signs;
mod sparse;

pub use activations::Activations;
pub use backend::QuantBackend;
pub use complex::{ComplexFormat, ComplexMatrix, Pairs};
pub use encoding::{Encoding, FloatType};
pub use error::QuantError;
pub use format::{LAYOUT_VERSION, PackedFormat};
pub use matrix::PackedMatrix;
pub use ops::{integer_linear, packed_columns, packed_linear};
pub use signs::signs;
pub use sparse::{SparseFormat, SparseMatrix, SparsePattern};
