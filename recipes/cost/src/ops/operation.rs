//! One operation of the catalogue: how its inputs are made, how it is called, and what a call costs by formula.

use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use kiln_zoo::Precision;

use super::{OpFigures, Pass, Patience, time};
use crate::Spread;
use crate::trouble::Trouble;

/// Where and in what operations are timed.
pub(super) struct Place {
    pub device: Device,
    pub precision: Precision,
}

impl Place {
    /// Numbers between -1 and 1 in the element type of activations.
    pub fn activations(&self, shape: [usize; 2]) -> Tensor<2> {
        self.single(shape, [-1.0, 1.0]).cast(self.precision.dtype())
    }

    /// Numbers of a range in single precision.
    pub fn single(&self, shape: [usize; 2], [low, high]: [f64; 2]) -> Tensor<2> {
        let options = (&self.device, DType::F32);
        Tensor::random(shape, Distribution::Uniform(low, high), options)
    }
}

/// What is computed from inputs, all of them matrices, which the call gives the shapes it needs.
pub(super) type Call = Box<dyn Fn(&[Tensor<2>]) -> Result<Tensor<2>, Trouble>>;

/// An operation with its inputs.
pub(super) struct Prepared {
    /// What gradients are taken of.
    pub inputs: Vec<Tensor<2>>,
    /// Bytes that are read besides in every pass.
    pub constant_bytes: f64,
    pub call: Call,
}

impl Prepared {
    /// An operation that reads nothing but its inputs.
    pub fn new(
        inputs: Vec<Tensor<2>>,
        call: impl Fn(&[Tensor<2>]) -> Result<Tensor<2>, Trouble> + 'static,
    ) -> Self {
        Self {
            inputs,
            constant_bytes: 0.0,
            call: Box::new(call),
        }
    }
}

/// Numbers beside an input: under autodiff if that is.
pub(super) fn ids_beside(x: &Tensor<2>, ids: &Tensor<1, Int>) -> Tensor<1, Int> {
    match x.device().is_autodiff() {
        true => Tensor::from_inner(ids.clone()),
        false => ids.clone(),
    }
}

/// A constant beside an input, likewise.
pub(super) fn beside<const D: usize>(x: &Tensor<2>, constant: &Tensor<D>) -> Tensor<D> {
    match x.device().is_autodiff() {
        true => Tensor::from_inner(constant.clone()),
        false => constant.clone(),
    }
}

fn bytes_of<const D: usize>(tensor: &Tensor<D>) -> f64 {
    (tensor.shape().num_elements() * tensor.dtype().size()) as f64
}

/// Makes an operation with its inputs.
type Prepare = Box<dyn Fn(&Place) -> Result<Prepared, Trouble>>;

/// Makes a step, with the bytes that it moves.
pub(super) type PrepareStep = Box<dyn Fn(&Place) -> (Box<dyn FnMut()>, f64)>;

/// How an entry is measured.
pub(super) enum Kind {
    /// A function of inputs, forward and backward.
    Function(Prepare),
    /// A step that changes what it is given.
    Step(PrepareStep),
}

/// An entry of the catalogue.
pub(super) struct Entry {
    pub name: &'static str,
    pub shape: String,
    /// Whether inputs are in single precision whatever models compute in.
    pub single: bool,
    /// Multiplications and additions forward, and of both passes.
    pub flops: Option<[f64; 2]>,
    pub kind: Kind,
}

impl Entry {
    /// Whether there is such a pass.
    pub fn has(&self, pass: Pass) -> bool {
        pass == Pass::Forward || matches!(self.kind, Kind::Function(_))
    }

    /// What the inputs are stored in, in a model that computes in `precision`.
    pub fn precision(&self, precision: Precision) -> Precision {
        if self.single {
            Precision::F32
        } else {
            precision
        }
    }

    pub fn measure(
        &self,
        place: &Place,
        pass: Pass,
        patience: Patience,
    ) -> Result<OpFigures, Trouble> {
        let (times, bytes) = match &self.kind {
            Kind::Function(prepare) => {
                let prepared = prepare(place)?;
                let bytes = prepared.bytes(pass)?;
                let mut call = || prepared.run(pass);
                (time(&place.device, patience, &mut call)?, bytes)
            }
            Kind::Step(prepare) => {
                let (mut step, bytes) = prepare(place);
                let mut call = || {
                    step();
                    Ok(())
                };
                (time(&place.device, patience, &mut call)?, bytes)
            }
        };
        let seconds = Spread::of(&times).ok_or(Trouble::Ended)?;
        let flops = self.flops.map(|flops| flops[pass as usize]);
        Ok(OpFigures {
            seconds,
            flops,
            bytes,
            gb_per_s: bytes / seconds.median / 1e9,
            tflop_per_s: flops.map(|flops| flops / seconds.median / 1e12),
        })
    }
}

impl Prepared {
    /// Inputs are read and the output is written; backward, inputs and the output's gradient are read, and theirs written.
    fn bytes(&self, pass: Pass) -> Result<f64, Trouble> {
        let inputs: f64 = self.inputs.iter().map(bytes_of).sum();
        let output = bytes_of(&(self.call)(&self.inputs)?);
        let forward = inputs + output + self.constant_bytes;
        Ok(match pass {
            Pass::Forward => forward,
            Pass::Both => 2.0 * forward + inputs,
        })
    }

    fn run(&self, pass: Pass) -> Result<(), Trouble> {
        match pass {
            Pass::Forward => drop((self.call)(&self.inputs)?),
            Pass::Both => {
                let leaf = |x: &Tensor<2>| Tensor::from_inner(x.clone()).require_grad();
                let leaves: Vec<Tensor<2>> = self.inputs.iter().map(leaf).collect();
                drop((self.call)(&leaves)?.backward());
            }
        }
        Ok(())
    }
}
