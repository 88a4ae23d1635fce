//! Single columns: rows of an embedding.

use rayon::prelude::*;

use crate::{
    format::{LANES, PackedFormat},
    matrix::{read_scale, read_zero},
};

/// Columns that are read before another thread has woken up.
const PARALLEL_MIN: usize = 16;

/// Columns `outputs`, `[outputs, d_input]`.
pub(super) fn read(words: &[u32], outputs: &[usize], format: PackedFormat) -> Vec<f32> {
    let mut columns = vec![0.0; outputs.len() * format.d_input];
    let rows = columns.par_chunks_mut(format.d_input).zip(outputs);
    rows.with_min_len(PARALLEL_MIN)
        .for_each(|(column, &output)| read_one(words, output, format, column));
    columns
}

fn read_one(words: &[u32], output: usize, format: PackedFormat, column: &mut [f32]) {
    let (encoding, bits) = (format.encoding, format.encoding.bits());
    let mask = (1_u64 << bits) - 1;
    for (group, column) in column.chunks_mut(format.group).enumerate() {
        let (panel, lane) = format.place(output);
        let header = &words[panel + format.header(group)..];
        let scale = read_scale(format, header, lane);
        let zero = match format.asymmetric {
            true => i16::from(read_zero(format, header, lane)),
            false => 0,
        };
        let codes = &words[panel + format.codes(group)..][..format.code_words()];
        let mut next = codes.iter().skip(lane).step_by(LANES);
        // The codes that were read and not used yet, in the lowest `held` bits.
        let (mut buffer, mut held) = (0_u64, 0);
        for value in column {
            if held < bits {
                buffer |= u64::from(*next.next().unwrap_or(&0)) << held;
                held += 32;
            }
            let level = encoding.level((buffer & mask) as u32, format.asymmetric);
            *value = scale * encoding.value(level - zero);
            buffer >>= bits;
            held -= bits;
        }
    }
}
