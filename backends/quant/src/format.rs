//! Where things lie in the words of a packed matrix.
//!
//! ```text
//! words    panels of 16 outputs, one after the other; the last has outputs that are not there, with scale and codes 0
//! panel    headers of all groups of inputs, one after the other, filled up with zeros to a multiple of 16 words; then their codes
//! header   scales of the 16 outputs   f16: 8 words, output 2 l in the low and output 2 l + 1 in the high half of word l
//!                                     f32: 16 words
//!          zero points, if any        4 words, output 4 l + b in byte b of word l (byte 0 is the lowest)
//! codes    of each group rows of 16 words, one of each output; the codes of an output, first input first, fill its words from the
//!          lowest bit up, across words where bits do not divide 32
//! ```
//!
//! So a row of words is one cache line, and one vector of AVX-512, with a lane for each output; a unit of a GPU that walks one
//! output reads beside its neighbours; and a panel is read from its first to its last word. A word holds inputs of one output, as
//! integer dot products want them.

use serde::{Deserialize, Serialize};

use crate::{
    encoding::{Encoding, FloatType},
    error::QuantError,
};

/// Version of the layout of words that this crate writes and reads. It changes when the words of a matrix do.
pub const LAYOUT_VERSION: u32 = 1;

/// Outputs of a panel.
pub(crate) const LANES: usize = 16;
/// Words of the zero points of a panel's group.
const ZERO_WORDS: usize = LANES / 4;
/// Groups are multiples of this many inputs, so that their codes end with a word whatever the bits.
const GROUP_ALIGN: usize = 32;

/// Shape and encoding of a packed matrix: all that its words do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedFormat {
    /// How entries are coded.
    pub encoding: Encoding,
    /// Whether there are zero points.
    pub asymmetric: bool,
    /// Rows.
    pub d_input: usize,
    /// Columns.
    pub d_output: usize,
    /// Inputs that share a scale (and a zero point) in an output: `d_input` for one scale an output, else a divisor of it that is
    /// a multiple of 32. One scale for the whole matrix is one an output, all alike.
    pub group: usize,
    /// Type of the scales.
    pub scales: FloatType,
}

impl PackedFormat {
    /// Checks that such a matrix can be packed.
    ///
    /// # Errors
    /// [`QuantError::Empty`], [`QuantError::Group`], [`QuantError::Unaligned`] or [`QuantError::NoZeroPoints`].
    pub fn check(&self) -> Result<(), QuantError> {
        let Self {
            encoding,
            d_input,
            d_output,
            group,
            ..
        } = *self;
        if d_input == 0 || d_output == 0 {
            return Err(QuantError::Empty { d_input, d_output });
        }
        if group == 0 || !d_input.is_multiple_of(group) {
            return Err(QuantError::Group { group, d_input });
        }
        if group != d_input && !group.is_multiple_of(GROUP_ALIGN) {
            return Err(QuantError::Unaligned { group, d_input });
        }
        if self.asymmetric && !encoding.has_zero_points() {
            return Err(QuantError::NoZeroPoints { encoding });
        }
        Ok(())
    }

    /// Groups of inputs.
    pub fn groups(&self) -> usize {
        self.d_input / self.group
    }

    /// Entries, `d_input * d_output`.
    pub fn entries(&self) -> usize {
        self.d_input * self.d_output
    }

    /// Words of the whole matrix.
    pub fn words(&self) -> usize {
        self.panels() * self.panel_words()
    }

    /// Bytes of the whole matrix, scales, zero points and filling included, in memory as in a file.
    pub fn bytes(&self) -> u64 {
        4 * self.words() as u64
    }

    pub(crate) fn panels(&self) -> usize {
        self.d_output.div_ceil(LANES)
    }

    pub(crate) fn panel_words(&self) -> usize {
        self.headers_words() + self.groups() * self.code_words()
    }

    /// Words of the headers of a panel.
    fn headers_words(&self) -> usize {
        (self.groups() * self.header_words()).next_multiple_of(LANES)
    }

    /// Words of the header of a group of a panel.
    fn header_words(&self) -> usize {
        self.zeros_start() + if self.asymmetric { ZERO_WORDS } else { 0 }
    }

    /// Words of the codes of a group of a panel.
    pub(crate) fn code_words(&self) -> usize {
        self.code_rows() * LANES
    }

    /// Rows of code words of a group of a panel.
    fn code_rows(&self) -> usize {
        (self.group * self.encoding.bits() as usize).div_ceil(32)
    }

    /// First word of the zero points in a header.
    pub(crate) fn zeros_start(&self) -> usize {
        LANES * self.scales.bits() / 32
    }

    /// First word of a group's header in a panel.
    pub(crate) fn header(&self, group: usize) -> usize {
        group * self.header_words()
    }

    /// First word of a group's codes in a panel.
    pub(crate) fn codes(&self, group: usize) -> usize {
        self.headers_words() + group * self.code_words()
    }

    /// First word of the panel that an output is in, and its lane there.
    pub(crate) fn place(&self, output: usize) -> (usize, usize) {
        (output / LANES * self.panel_words(), output % LANES)
    }
}
