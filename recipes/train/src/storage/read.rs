//! Reading stored tensors from the parts of a file.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use kiln_quant::{Activations, ComplexMatrix, FloatType, PackedFormat, PackedMatrix, SparseMatrix};
use safetensors::{Dtype, SafeTensors};

use super::{InputSteps, Storage, Stored};

/// A file of which every part is to be taken once.
pub(super) struct Reader<'a> {
    pub file: SafeTensors<'a>,
    pub taken: BTreeSet<String>,
}

impl Reader<'_> {
    /// Every tensor of a table.
    pub fn all(
        &mut self,
        table: &BTreeMap<String, Storage>,
    ) -> Result<BTreeMap<String, Stored>, String> {
        let mut tensors = BTreeMap::new();
        for (name, storage) in table {
            tensors.insert(name.clone(), self.stored(name, storage)?);
        }
        match self
            .file
            .names()
            .into_iter()
            .find(|name| !self.taken.contains(*name))
        {
            None => Ok(tensors),
            Some(name) => Err(format!(
                "it has a part `{name}` that config.json does not name"
            )),
        }
    }

    /// Every tensor as plain numbers in 32 bits.
    pub fn floats(&mut self) -> Result<BTreeMap<String, Stored>, String> {
        let names: Vec<String> = self.file.names().into_iter().map(String::from).collect();
        let storage = Storage::Float(FloatType::F32);
        let mut tensors = BTreeMap::new();
        for name in names {
            let stored = self.stored(&name, &storage)?;
            tensors.insert(name, stored);
        }
        Ok(tensors)
    }

    fn stored(&mut self, name: &str, storage: &Storage) -> Result<Stored, String> {
        let broken = |error: kiln_quant::QuantError| format!("`{name}` is damaged: {error}");
        Ok(match storage {
            Storage::Float(kind) => self.float(name, *kind)?,
            Storage::Packed(format) => {
                let words = self.words(name)?;
                Stored::Packed(PackedMatrix::from_words(*format, words).map_err(broken)?)
            }
            Storage::PackedRows(format) => {
                let words = self.words(name)?;
                Stored::PackedRows(PackedMatrix::from_words(*format, words).map_err(broken)?)
            }
            Storage::Complex(format) => {
                let words = self.words(name)?;
                Stored::Complex(ComplexMatrix::from_words(*format, words).map_err(broken)?)
            }
            Storage::Sparse(format) => {
                let words = self.words(name)?;
                Stored::Sparse(SparseMatrix::from_words(*format, words).map_err(broken)?)
            }
            Storage::LowRank { first, second } => self.low_rank(name, first, second)?,
            Storage::Scaled(storage) => self.scaled(name, storage)?,
            Storage::Integer { weights, inputs } => self.integer(name, *weights, *inputs)?,
        })
    }

    fn integer(
        &mut self,
        name: &str,
        format: PackedFormat,
        inputs: InputSteps,
    ) -> Result<Stored, String> {
        let broken = |error: kiln_quant::QuantError| format!("`{name}` is damaged: {error}");
        let words = self.words(name)?;
        let weights = PackedMatrix::from_words(format, words).map_err(broken)?;
        let activations = match inputs {
            InputSteps::Dynamic => Activations::Dynamic,
            InputSteps::Sign => Activations::Signs,
            InputSteps::Static => {
                let part = format!("{name}.step");
                let steps = self.float(&part, FloatType::F32)?.values();
                let [step] = steps[..] else {
                    return Err(format!("`{part}` is not one number"));
                };
                Activations::Static { step }
            }
        };
        activations.check(&format).map_err(broken)?;
        Ok(Stored::Integer {
            activations,
            weights,
        })
    }

    fn low_rank(
        &mut self,
        name: &str,
        first: &Storage,
        second: &Storage,
    ) -> Result<Stored, String> {
        let first = self.stored(&format!("{name}.first"), first)?;
        let second = self.stored(&format!("{name}.second"), second)?;
        match (first.shape().as_slice(), second.shape().as_slice()) {
            ([_, a], [b, _]) if a == b => Ok(Stored::LowRank {
                first: Box::new(first),
                second: Box::new(second),
            }),
            (a, b) => Err(format!(
                "the factors {a:?} and {b:?} of `{name}` make no product"
            )),
        }
    }

    fn scaled(&mut self, name: &str, storage: &Storage) -> Result<Stored, String> {
        let divisors = self
            .float(&format!("{name}.divisors"), FloatType::F32)?
            .values();
        let weights = self.stored(&format!("{name}.scaled"), storage)?;
        if weights.shape().first() != Some(&divisors.len()) {
            let inputs = divisors.len();
            return Err(format!(
                "`{name}` has {inputs} divisors, which is not one an input"
            ));
        }
        match divisors
            .iter()
            .all(|divisor| *divisor > 0.0 && divisor.is_finite())
        {
            true => Ok(Stored::Scaled {
                divisors,
                weights: Box::new(weights),
            }),
            false => Err(format!("a divisor of `{name}` is not positive")),
        }
    }

    fn float(&mut self, name: &str, kind: FloatType) -> Result<Stored, String> {
        let dtype = match kind {
            FloatType::F32 => Dtype::F32,
            FloatType::F16 => Dtype::F16,
        };
        let (shape, data) = self.part(name, dtype)?;
        let values = match kind {
            FloatType::F32 => {
                let numbers = data.as_chunks::<4>().0.iter();
                numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            FloatType::F16 => {
                let numbers = data.as_chunks::<2>().0.iter();
                numbers
                    .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                    .collect()
            }
        };
        Ok(Stored::Float {
            kind,
            shape,
            values,
        })
    }

    fn words(&mut self, name: &str) -> Result<Vec<u32>, String> {
        let (_, data) = self.part(&format!("{name}.words"), Dtype::U32)?;
        let words = data.as_chunks::<4>().0.iter();
        Ok(words.map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    fn part(&mut self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Vec<u8>), String> {
        let Ok(tensor) = self.file.tensor(name) else {
            return Err(format!("the part `{name}` is missing"));
        };
        if tensor.dtype() != dtype {
            let found = tensor.dtype();
            return Err(format!(
                "`{name}` is of type {found:?}, but has to be {dtype:?}"
            ));
        }
        self.taken.insert(name.into());
        Ok((tensor.shape().to_vec(), tensor.data().to_vec()))
    }
}
