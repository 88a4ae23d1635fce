//! A new model with a trained one's weights.
//!
//! Weights are matched by where they stand. A student's layer takes those of one chosen layer of the teacher, so that a shallower
//! student can have every second one (Sanh et al., arXiv 1910.01108). Where a layer's mixer is of another kind than the teacher's,
//! it keeps its own initial weights and takes the norms and the MLP around it, as in Mamba in the Llama (arXiv 2408.15237) and
//! MOHAWK (arXiv 2408.10189).

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Vectors of tokens, and of positions where they are learned.
    Embedding,
    /// The token mixers of all layers.
    Mixers,
    /// The position-wise networks of all layers.
    Mlps,
    /// Every normalisation outside of the mixers.
    Norms,
    /// The head, where it is not the embedding.
    Head,
}

/// Where a student's weights come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graft {
    /// The teacher's layer that each of the student's layers takes; without it, each takes the one of its own number, and both
    /// have to be equally deep.
    pub layers: Option<Vec<usize>>,
    /// Parts that keep their own initial weights.
    pub fresh: Vec<Part>,
}

/// A model after surgery.
#[derive(Debug)]
pub struct Transplanted<M> {
    /// The student.
    pub model: M,
    /// Parameters that came from the teacher.
    pub taken: usize,
    /// Layers whose mixer is of another kind than the teacher's and kept its own weights.
    pub other_mixers: Vec<usize>,
    /// The teacher's tensors outside of its layers that the student has no place for.
    pub left: Vec<String>,
}

/// Weights that do not fit.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum SurgeryError {
    /// Layers are not said, and the depths differ.
    #[error(
        "the model has {student} layers and the one it takes weights from has {teacher}: say with `layers` which of them it takes, {student} numbers below {teacher}"
    )]
    Depth {
        /// Layers of the student.
        student: usize,
        /// Layers of the teacher.
        teacher: usize,
    },
    /// Not one number a layer.
    #[error("`layers` has {given} numbers, and the model has {needed} layers: give one for each")]
    Count {
        /// Numbers given.
        given: usize,
        /// Layers of the student.
        needed: usize,
    },
    /// A layer that the teacher does not have.
    #[error("`layers` names layer {layer}, and there are {layers}, counted from 0")]
    NoLayer {
        /// The number.
        layer: usize,
        /// Layers of the teacher.
        layers: usize,
    },
    /// A tensor that is not there, or of another shape.
    #[error(
        "`{name}` has the shape {needed:?} here and {found} there: make the two models equal in it, or leave the part fresh with `fresh = [\"{part}\"]`", part = name_of(*part)
    )]
    Shape {
        /// The student's tensor.
        name: String,
        /// Its part.
        part: Part,
        /// Its shape.
        needed: Vec<usize>,
        /// The teacher's, in words.
        found: String,
    },
    /// A part that the model does not have.
    #[error("`fresh` names \"{part}\", of which the model has no weights: leave it out", part = name_of(*.0))]
    NothingFresh(Part),
}

/// A part as recipes write it.
fn name_of(part: Part) -> &'static str {
    match part {
        Part::Embedding => "embedding",
        Part::Mixers => "mixers",
        Part::Mlps => "mlps",
        Part::Norms => "norms",
        Part::Head => "head",
    }
}

/// Gives `student` the weights of `teacher`, two models of the backbone. Ids, and what is trained, stay the student's.
///
/// # Errors
/// [`SurgeryError`] naming the first tensor that does not fit; nothing is cut to size or left out without being asked for.
pub fn transplant<S: Module, T: Module>(
    student: S,
    teacher: &T,
    graft: &Graft,
) -> Result<Transplanted<S>, SurgeryError> {
    let mut source = Tensors::default();
    teacher.visit(&mut source);
    let mut shapes = Tensors::default();
    student.visit(&mut shapes);
    let layers = layers(graft, shapes.layers(), source.layers())?;
    for part in &graft.fresh {
        if !shapes.found.keys().any(|path| part_of(path) == *part) {
            return Err(SurgeryError::NothingFresh(*part));
        }
    }
    let mut mapper = Surgeon {
        path: Path::default(),
        source: &source.found,
        layers: &layers,
        fresh: &graft.fresh,
        taken: BTreeSet::new(),
        count: 0,
        other_mixers: BTreeSet::new(),
        error: None,
    };
    let model = student.map(&mut mapper);
    if let Some(error) = mapper.error {
        return Err(error);
    }
    let left = source.found.keys().filter(|path| {
        layer_of(path).is_none()
            && !mapper.taken.contains(*path)
            && !graft.fresh.contains(&part_of(path))
    });
    Ok(Transplanted {
        model,
        taken: mapper.count,
        other_mixers: mapper.other_mixers.iter().copied().collect(),
        left: left.cloned().collect(),
    })
}

/// The teacher's layer for each of the student's.
fn layers(graft: &Graft, student: usize, teacher: usize) -> Result<Vec<usize>, SurgeryError> {
    let Some(layers) = &graft.layers else {
        return match student == teacher {
            true => Ok((0..student).collect()),
            false => Err(SurgeryError::Depth { student, teacher }),
        };
    };
    if layers.len() != student {
        return Err(SurgeryError::Count {
            given: layers.len(),
            needed: student,
        });
    }
    match layers.iter().find(|layer| **layer >= teacher) {
        Some(&layer) => Err(SurgeryError::NoLayer {
            layer,
            layers: teacher,
        }),
        None => Ok(layers.clone()),
    }
}

/// The number of the layer in `blocks.N...`.
fn layer_of(path: &str) -> Option<usize> {
    let (number, _) = path.strip_prefix("blocks.")?.split_once('.')?;
    number.parse().ok()
}

/// Which part a path of the backbone belongs to.
fn part_of(path: &str) -> Part {
    let within = path
        .splitn(3, '.')
        .nth(2)
        .filter(|_| layer_of(path).is_some());
    match within.unwrap_or(path) {
        name if name.starts_with("mixer.") => Part::Mixers,
        name if name.starts_with("mlp.") => Part::Mlps,
        name if name.starts_with("norm") => Part::Norms,
        name if name.starts_with("head.") => Part::Head,
        _ => Part::Embedding,
    }
}

/// The mixer's kind in `blocks.N.mixer.KIND...`.
fn mixer_kind(path: &str) -> Option<&str> {
    let mut parts = path.split('.');
    (parts.next()? == "blocks" && parts.nth(1)? == "mixer").then(|| parts.next())?
}

/// Enums whose variant says how weights are stored, not what they are: paths leave it out, as those of files do.
const STORAGE: [&str; 4] = ["Enum:Weight", "Enum:Matrix", "Enum:Embedding", "Enum:Rows"];

/// Where a walk over a model is.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        if !STORAGE.contains(&container) {
            self.0.push(name.to_string());
        }
    }

    fn exit(&mut self, container: &str) {
        if !STORAGE.contains(&container) {
            self.0.pop();
        }
    }

    fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Every float tensor by its path.
#[derive(Default)]
struct Tensors {
    path: Path,
    found: BTreeMap<String, TensorData>,
}

impl Tensors {
    fn layers(&self) -> usize {
        let deepest = self.found.keys().filter_map(|path| layer_of(path)).max();
        deepest.map_or(0, |layer| layer + 1)
    }
}

impl ModuleVisitor for Tensors {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(self.path.name(), param.val().into_data());
    }
}

struct Surgeon<'a> {
    path: Path,
    source: &'a BTreeMap<String, TensorData>,
    layers: &'a [usize],
    fresh: &'a [Part],
    taken: BTreeSet<String>,
    count: usize,
    other_mixers: BTreeSet<usize>,
    error: Option<SurgeryError>,
}

impl Surgeon<'_> {
    /// Where the teacher has what the student has at `path`.
    fn origin(&self, path: &str) -> String {
        match layer_of(path) {
            None => path.into(),
            Some(layer) => path.replacen(
                &format!("blocks.{layer}."),
                &format!("blocks.{}.", self.layers[layer]),
                1,
            ),
        }
    }

    /// Whether the teacher's mixer in this place is of another kind.
    fn is_another_mixer(&self, path: &str, origin: &str) -> bool {
        let Some(kind) = mixer_kind(path) else {
            return false;
        };
        let layer = layer_of(origin);
        let of_layer = self.source.keys().filter(|path| layer_of(path) == layer);
        let mut kinds = of_layer.filter_map(|path| mixer_kind(path));
        !kinds.any(|other| other == kind)
    }

    fn weights(&mut self, path: &str, shape: &[usize]) -> Option<TensorData> {
        let part = part_of(path);
        let origin = self.origin(path);
        if self.error.is_some() || self.fresh.contains(&part) {
            return None;
        }
        if self.is_another_mixer(path, &origin) {
            self.other_mixers.extend(layer_of(path));
            return None;
        }
        let found = self.source.get(&origin);
        match found.filter(|data| data.shape()[..] == *shape) {
            Some(data) => {
                self.taken.insert(origin);
                self.count += data.num_elements();
                Some(data.clone())
            }
            None => {
                let there = || "is not".to_string();
                self.error = Some(SurgeryError::Shape {
                    name: path.into(),
                    part,
                    needed: shape.to_vec(),
                    found: found.map_or_else(there, |data| format!("{:?}", &data.shape()[..])),
                });
                None
            }
        }
    }
}

impl ModuleMapper for Surgeon<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.name();
        let (id, device) = (param.id, param.lazy_device());
        match self.weights(&path, &param.lazy_shape()[..]) {
            Some(data) => param.transform_for_load(Tensor::from_data(data, &device), id),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests;
