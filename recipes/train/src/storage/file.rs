//! A stored model as the file that it is read from and written to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use burn::store::ModuleSnapshot;
use kiln_quant::{FloatType, LAYOUT_VERSION};
use kiln_run::{FileError, atomic_write};
use kiln_zoo::LanguageModel;
use safetensors::SafeTensors;

use super::parts::Part;
use super::read::Reader;
use super::{StorageTable, Stored, StoredModel};
use crate::TrainError;

impl StoredModel {
    /// Every tensor of a model with its name and shape, dense in 32 bits and zero: what its file would hold, without its numbers.
    pub fn zeros(model: &LanguageModel) -> Self {
        let tensors = model.collect(None, None, true).into_iter();
        let zero = |shape: Vec<usize>| Stored::Float {
            kind: FloatType::F32,
            values: vec![0.0; shape.iter().product()],
            shape,
        };
        Self {
            tensors: tensors
                .map(|tensor| (tensor.name.to_string(), zero(tensor.shape.to_vec())))
                .collect(),
        }
    }

    /// The table of [`crate::RunConfig::storage`].
    pub fn table(&self) -> StorageTable {
        let tensors = self.tensors.iter();
        StorageTable {
            layout: LAYOUT_VERSION,
            tensors: tensors
                .map(|(name, stored)| (name.clone(), stored.storage()))
                .collect(),
        }
    }

    /// Reads a model's file: by its table, or every tensor as it is for a run that was not compressed.
    ///
    /// # Errors
    /// [`TrainError::BadFile`] for a file that is damaged, lacks a part, or has one too many; a layout of another version.
    pub fn read(path: &Path, table: Option<&StorageTable>) -> Result<Self, TrainError> {
        let bytes = std::fs::read(path).map_err(FileError::io("read", path))?;
        let bad = |why: String| TrainError::BadFile {
            path: path.into(),
            why,
        };
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| bad(format!("it is no readable safetensors file ({error})")))?;
        let mut reader = Reader {
            file,
            taken: BTreeSet::new(),
        };
        let tensors = match table {
            Some(table) if table.layout != LAYOUT_VERSION => {
                return Err(bad(format!(
                    "its packed matrices have layout {}, and this Kiln reads {LAYOUT_VERSION}",
                    table.layout
                )));
            }
            Some(table) => reader.all(&table.tensors),
            None => reader.floats(),
        };
        Ok(Self {
            tensors: tensors.map_err(bad)?,
        })
    }

    /// Writes the model's file; it is there whole, or not at all.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let bytes = self
            .serialize(Stored::parts)
            .map_err(|error| TrainError::BadFile {
                path: path.into(),
                why: format!("these tensors make no safetensors file ({error})"),
            })?;
        Ok(atomic_write(path, |out| out.write_all(&bytes))?)
    }

    /// What the model holds as plain numbers, as a safetensors file in 32 bits: all but [`StoredModel::kept`].
    pub(crate) fn plain(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        self.serialize(|stored, name, parts| {
            if !stored.is_kept() {
                let part = Part::of(FloatType::F32, stored.shape(), &stored.values());
                parts.insert(name.into(), part);
            }
        })
    }

    /// Names of the tensors that the model holds as they are stored: packed ones, and products.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &str> {
        let kept = self.tensors.iter().filter(|(_, stored)| stored.is_kept());
        kept.map(|(name, _)| name.as_str())
    }

    fn serialize(
        &self,
        add: impl Fn(&Stored, &str, &mut BTreeMap<String, Part>),
    ) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let mut parts = BTreeMap::new();
        for (name, stored) in &self.tensors {
            add(stored, name, &mut parts);
        }
        let metadata = HashMap::from([("producer".to_string(), "kiln".to_string())]);
        safetensors::serialize(parts.iter(), Some(metadata))
    }

    /// Bytes of all parts, without their names.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(Stored::bytes).sum()
    }
}
