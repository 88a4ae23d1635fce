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
        path: Vec::new(),
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

/// Every float tensor by its path.
#[derive(Default)]
struct Tensors {
    path: Vec<String>,
    found: BTreeMap<String, TensorData>,
}

impl Tensors {
    fn layers(&self) -> usize {
        let deepest = self.found.keys().filter_map(|path| layer_of(path)).max();
        deepest.map_or(0, |layer| layer + 1)
    }
}

impl ModuleVisitor for Tensors {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found
            .insert(self.path.join("."), param.val().into_data());
    }
}

struct Surgeon<'a> {
    path: Vec<String>,
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
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let (id, device) = (param.id, param.lazy_device());
        match self.weights(&path, &param.lazy_shape()[..]) {
            Some(data) => param.transform_for_load(Tensor::from_data(data, &device), id),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use kiln_backbone::{Backbone, BackboneConfig, InitRng, stable_param_ids};
    use kiln_transformer::{AttentionConfig, SelfAttention, nanogpt};

    fn model(seed: u64, change: impl Fn(&mut BackboneConfig)) -> Backbone<SelfAttention> {
        model_on(seed, change, Device::flex())
    }

    fn model_on(
        seed: u64,
        change: impl Fn(&mut BackboneConfig),
        device: Device,
    ) -> Backbone<SelfAttention> {
        let (mut backbone, attention): (_, AttentionConfig) = nanogpt(8, 4, 2, 6, 0.0);
        backbone.vocab_size = 5;
        change(&mut backbone);
        let mixer = |_: usize, rng: &mut InitRng| attention.init(&backbone, rng, &device);
        let built = backbone.init(mixer, &mut InitRng::new(seed), &device);
        stable_param_ids(built.unwrap())
    }

    fn tensors(model: &impl Module) -> BTreeMap<String, TensorData> {
        let mut visitor = Tensors::default();
        model.visit(&mut visitor);
        visitor.found
    }

    #[test]
    fn a_copy_is_the_teacher() {
        let teacher = model(1, |_| {});
        let done = transplant(model(2, |_| {}), &teacher, &Graft::default()).unwrap();
        assert_eq!(tensors(&done.model), tensors(&teacher));
        assert_eq!(done.taken, teacher.num_params());
        assert!(done.left.is_empty() && done.other_mixers.is_empty());
    }

    #[test]
    fn layers_are_the_chosen_ones() {
        let teacher = model(1, |_| {});
        let graft = Graft {
            layers: Some(vec![3, 1]),
            fresh: vec![Part::Mlps],
        };
        let student = model(2, |config| config.n_layers = 2);
        let own = tensors(&student);
        let done = transplant(student, &teacher, &graft).unwrap();
        let (found, source) = (tensors(&done.model), tensors(&teacher));
        for (path, data) in &found {
            let origin = path
                .replace("blocks.0.", "blocks.3.")
                .replace("blocks.1.", "blocks.one.")
                .replace("blocks.one.", "blocks.1.");
            match part_of(path) {
                Part::Mlps => assert_eq!(data, &own[path], "{path}"),
                _ => assert_eq!(data, &source[&origin], "{path}"),
            }
        }
        // They can tell: no two layers of the teacher are alike.
        let weights = |layer| &source[&format!("blocks.{layer}.mixer.output.weight")];
        assert_ne!(weights(1), weights(3));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let teacher = model(1, |_| {});
        let graft = |layers: Option<&[usize]>, fresh: &[Part]| Graft {
            layers: layers.map(<[usize]>::to_vec),
            fresh: fresh.to_vec(),
        };
        type Change = fn(&mut BackboneConfig);
        let table: [(Change, Graft, &str); 6] = [
            (
                |c| c.n_layers = 2,
                graft(None, &[]),
                "the model has 2 layers and the one it takes weights from has 4: say with `layers` which of them it takes, 2 numbers below 4",
            ),
            (
                |c| c.n_layers = 2,
                graft(Some(&[1]), &[]),
                "`layers` has 1 numbers, and the model has 2 layers: give one for each",
            ),
            (
                |c| c.n_layers = 1,
                graft(Some(&[4]), &[]),
                "`layers` names layer 4, and there are 4, counted from 0",
            ),
            (
                |c| c.d_hidden = 16,
                graft(None, &[]),
                "`blocks.0.mlp.up.weight` has the shape [8, 16] here and [8, 32] there: make the two models equal in it, or leave the part fresh with `fresh = [\"mlps\"]`",
            ),
            (
                |c| c.tie_embeddings = false,
                graft(None, &[]),
                "`head.weight` has the shape [8, 5] here and is not there: make the two models equal in it, or leave the part fresh with `fresh = [\"head\"]`",
            ),
            (
                |_| {},
                graft(None, &[Part::Head]),
                "`fresh` names \"head\", of which the model has no weights: leave it out",
            ),
        ];
        for (change, graft, expected) in table {
            let error = transplant(model(2, change), &teacher, &graft).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn what_has_no_place_is_told() {
        let teacher = model(1, |_| {});
        let without = model(2, |c| c.positions = kiln_backbone::Positions::None);
        let done = transplant(without, &teacher, &Graft::default()).unwrap();
        assert_eq!(done.left, ["positions"]);
    }

    /// Ids and what is trained are the student's, also on a device with autodiff.
    #[test]
    fn a_student_can_be_trained() {
        let teacher = model(1, |_| {});
        let student = model_on(2, |_| {}, Device::flex().autodiff());
        struct Trained(Vec<bool>);
        impl ModuleVisitor for Trained {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0
                    .push(param.val().is_require_grad() && param.val().device().is_autodiff());
            }
        }
        let done = transplant(student, &teacher, &Graft::default()).unwrap();
        let mut trained = Trained(Vec::new());
        done.model.visit(&mut trained);
        assert!(!trained.0.is_empty() && trained.0.iter().all(|is| *is));
    }
}
