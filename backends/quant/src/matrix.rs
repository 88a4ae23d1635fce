//! A packed matrix as host data.

use half::f16;

use crate::{
    encoding::FloatType,
    error::QuantError,
    format::{LANES, PackedFormat},
};

/// A matrix `[d_input, d_output]` of codes, scales and zero points, in the words that kernels read.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedMatrix {
    format: PackedFormat,
    words: Vec<u32>,
}

/// Where a code lies: a shift in one word of its output, and whether the next one has its upper bits.
struct CodePlace {
    word: usize,
    shift: u32,
}

impl PackedFormat {
    /// Place of the code of input `within` its group, from the first code word of lane 0.
    fn code_place(&self, within: usize) -> CodePlace {
        let bit = within * self.encoding.bits() as usize;
        CodePlace {
            word: bit / 32 * LANES,
            shift: (bit % 32) as u32,
        }
    }
}

impl PackedMatrix {
    /// Packs levels with their scales.
    ///
    /// # Shapes
    /// - levels `[d_input, d_output]`, row-major
    /// - scales `[groups, d_output]`, rounded to the format's type (see [`FloatType::round`])
    /// - zeros `[groups, d_output]` if the format is asymmetric, else none
    ///
    /// # Errors
    /// Those of [`PackedFormat::check`]; names the first level, scale or zero point that the format cannot hold, and lists of
    /// another length.
    pub fn pack(
        format: PackedFormat,
        levels: &[i16],
        scales: &[f32],
        zeros: Option<&[u8]>,
    ) -> Result<Self, QuantError> {
        format.check()?;
        let shared = format.groups() * format.d_output;
        check_length("levels", levels.len(), format.entries())?;
        check_length("scales", scales.len(), shared)?;
        if zeros.is_some() != format.asymmetric {
            let asymmetric = format.asymmetric;
            return Err(QuantError::ZeroPoints { asymmetric });
        }
        let mut packed = Self {
            format,
            words: vec![0; format.words()],
        };
        packed.write_scales(scales)?;
        if let Some(zeros) = zeros {
            check_length("zero points", zeros.len(), shared)?;
            packed.write_zeros(zeros)?;
        }
        packed.write_levels(levels)?;
        Ok(packed)
    }

    /// A matrix from its words, as [`PackedMatrix::words`] gave them.
    ///
    /// # Errors
    /// Those of [`PackedFormat::check`]; [`QuantError::Length`], and names the first scale, zero point or level that
    /// [`PackedMatrix::pack`] would not have written.
    pub fn from_words(format: PackedFormat, words: Vec<u32>) -> Result<Self, QuantError> {
        format.check()?;
        check_length("words", words.len(), format.words())?;
        let packed = Self { format, words };
        // Whatever the check lets through would have been packed into the same words.
        let (levels, scales) = (packed.levels(), packed.scales());
        let again = Self::pack(format, &levels, &scales, packed.zeros().as_deref())?;
        if again != packed {
            return Err(QuantError::Corrupt("bits that stand for nothing are set"));
        }
        Ok(packed)
    }

    /// Its shape and encoding.
    pub fn format(&self) -> PackedFormat {
        self.format
    }

    /// The words, see [`LAYOUT_VERSION`](crate::LAYOUT_VERSION).
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The words, without a copy.
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// Bytes of the words.
    pub fn bytes(&self) -> u64 {
        self.format.bytes()
    }

    /// The levels q, `[d_input, d_output]` row-major.
    pub fn levels(&self) -> Vec<i16> {
        let PackedFormat {
            encoding,
            asymmetric,
            d_input,
            d_output,
            group,
            ..
        } = self.format;
        let mask = (1_u64 << encoding.bits()) - 1;
        let mut levels = Vec::with_capacity(self.format.entries());
        for input in 0..d_input {
            let CodePlace { word, shift } = self.format.code_place(input % group);
            for output in 0..d_output {
                let (panel, lane) = self.format.place(output);
                let at = panel + self.format.codes(input / group) + word + lane;
                let mut bits = u64::from(self.words[at]);
                if shift + encoding.bits() > 32 {
                    bits |= u64::from(self.words[at + LANES]) << 32;
                }
                levels.push(encoding.level((bits >> shift & mask) as u32, asymmetric));
            }
        }
        levels
    }

    /// The scales s as they are stored, `[groups, d_output]`.
    pub fn scales(&self) -> Vec<f32> {
        self.shared(|header, lane| read_scale(self.format, header, lane))
    }

    /// The zero points z, `[groups, d_output]`, if there are any.
    pub fn zeros(&self) -> Option<Vec<u8>> {
        let zeros = || self.shared(|header, lane| read_zero(self.format, header, lane));
        self.format.asymmetric.then(zeros)
    }

    /// The matrix that this one stands for, `[d_input, d_output]` row-major: s (q - z), rounded once.
    pub fn dequantize(&self) -> Vec<f32> {
        let PackedFormat {
            d_output, group, ..
        } = self.format;
        let (mut levels, scales, zeros) = (self.levels(), self.scales(), self.zeros());
        if let Some(zeros) = zeros {
            for (input, row) in levels.chunks_exact_mut(d_output).enumerate() {
                let zeros = &zeros[input / group * d_output..];
                for (level, &zero) in row.iter_mut().zip(zeros) {
                    *level -= i16::from(zero);
                }
            }
        }
        let rows = levels.chunks_exact(d_output).enumerate();
        rows.flat_map(|(input, row)| {
            let scales = &scales[input / group * d_output..];
            row.iter()
                .zip(scales)
                .map(|(&level, scale)| scale * self.format.encoding.value(level))
        })
        .collect()
    }

    /// `of(header, lane)` for every group and output.
    fn shared<T>(&self, of: impl Fn(&[u32], usize) -> T) -> Vec<T> {
        let (groups, outputs) = (self.format.groups(), self.format.d_output);
        (0..groups)
            .flat_map(|group| (0..outputs).map(move |output| (group, output)))
            .map(|(group, output)| {
                let (panel, lane) = self.format.place(output);
                of(&self.words[panel + self.format.header(group)..], lane)
            })
            .collect()
    }

    fn write_scales(&mut self, scales: &[f32]) -> Result<(), QuantError> {
        let (format, kind) = (self.format, self.format.scales);
        for (at, &scale) in scales.iter().enumerate() {
            let (group, output) = (at / format.d_output, at % format.d_output);
            let stored = kind.round(scale);
            let holds = stored.is_finite() && scale >= 0.0 && (stored > 0.0 || scale == 0.0);
            if !holds {
                return Err(QuantError::Scale {
                    group,
                    output,
                    scale,
                    kind: kind.name(),
                });
            }
            let (panel, lane) = format.place(output);
            let start = panel + format.header(group);
            match kind {
                // Without the sign that a zero may have.
                FloatType::F32 => self.words[start + lane] = stored.abs().to_bits(),
                FloatType::F16 => {
                    let bits = u32::from(f16::from_f32(scale.abs()).to_bits());
                    self.words[start + lane / 2] |= bits << (16 * (lane % 2));
                }
            }
        }
        Ok(())
    }

    fn write_zeros(&mut self, zeros: &[u8]) -> Result<(), QuantError> {
        let format = self.format;
        let most = *format.encoding.levels(true).end() as u8;
        for (at, &zero) in zeros.iter().enumerate() {
            let (group, output) = (at / format.d_output, at % format.d_output);
            if zero > most {
                return Err(QuantError::ZeroPoint {
                    group,
                    output,
                    zero,
                    most,
                });
            }
            let (panel, lane) = format.place(output);
            let word = panel + format.header(group) + format.zeros_start() + lane / 4;
            self.words[word] |= u32::from(zero) << (8 * (lane % 4));
        }
        Ok(())
    }

    fn write_levels(&mut self, levels: &[i16]) -> Result<(), QuantError> {
        let format = self.format;
        let PackedFormat {
            encoding,
            asymmetric,
            group,
            ..
        } = format;
        for (input, row) in levels.chunks_exact(format.d_output).enumerate() {
            let CodePlace { word, shift } = format.code_place(input % group);
            for (output, &level) in row.iter().enumerate() {
                let Some(code) = encoding.code(level, asymmetric) else {
                    return Err(QuantError::Level {
                        input,
                        output,
                        level,
                        encoding,
                        range: encoding.levels(asymmetric),
                    });
                };
                let (panel, lane) = format.place(output);
                let at = panel + format.codes(input / group) + word + lane;
                self.words[at] |= code << shift;
                if shift + encoding.bits() > 32 {
                    self.words[at + LANES] |= code >> (32 - shift);
                }
            }
        }
        Ok(())
    }
}

/// The scale of a lane, from the header of a group.
pub(crate) fn read_scale(format: PackedFormat, header: &[u32], lane: usize) -> f32 {
    match format.scales {
        FloatType::F32 => f32::from_bits(header[lane]),
        FloatType::F16 => {
            let bits = header[lane / 2] >> (16 * (lane % 2));
            f16::from_bits(bits as u16).to_f32()
        }
    }
}

/// The zero point of a lane, from the header of a group of an asymmetric format.
pub(crate) fn read_zero(format: PackedFormat, header: &[u32], lane: usize) -> u8 {
    (header[format.zeros_start() + lane / 4] >> (8 * (lane % 4))) as u8
}

pub(crate) fn check_length(
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), QuantError> {
    if found == expected {
        return Ok(());
    }
    Err(QuantError::Length {
        what,
        found,
        expected,
    })
}
