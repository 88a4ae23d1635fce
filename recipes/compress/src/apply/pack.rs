//! From a method's codes to the packed matrix that is stored.

use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix, QuantError};

use crate::quantize::Quantized;

/// The codes with their scales as a packed matrix.
pub(super) fn packed(codes: &Quantized) -> Result<PackedMatrix, QuantError> {
    let format = PackedFormat {
        encoding: encoding(codes.grid.bits),
        asymmetric: !codes.grid.symmetric,
        d_input: codes.d_input,
        d_output: codes.d_output,
        group: codes.group,
        scales: FloatType::F16,
    };
    // Without zero points the levels themselves are about zero.
    let middle = match codes.grid.symmetric {
        true => 1_i16 << (codes.grid.bits - 1),
        false => 0,
    };
    let levels: Vec<i16> = codes
        .codes
        .iter()
        .map(|code| i16::from(*code) - middle)
        .collect();
    let scales: Vec<f32> = codes.levels.iter().map(|level| level.scale).collect();
    let zeros: Vec<u8> = codes.levels.iter().map(|level| level.zero).collect();
    let zeros = format.asymmetric.then_some(zeros.as_slice());
    PackedMatrix::pack(format, &levels, &scales, zeros)
}

/// The encoding of the bits that [`crate::quantize::Grid::check`] lets through.
pub(super) fn encoding(bits: u8) -> Encoding {
    match bits {
        2 => Encoding::Int2,
        3 => Encoding::Int3,
        4 => Encoding::Int4,
        _ => Encoding::Int8,
    }
}
