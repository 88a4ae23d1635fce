//! The linear layer of every model, y = x W + b, with W as it is trained or as it is stored small.
//!
//! ```text
//! dense     W as trained
//! packed    w_io = s_go (q_io - z_go), codes of a few bits (see `kiln-quant`); of 8 bits and of one also as products of integers, with
//!           x in as many bits
//! low rank  W = down up, both dense or packed
//! ```
//! Inputs may be scaled before W, as activation-aware quantization and smoothing ask for, and become signs before a dense W and their
//! mean size a factor behind it, as training for products of signs asks for.
//!
//! Dense weights have the paths `NAME.weight` and `NAME.bias` that they have in `burn::nn::Linear`; packed ones
//! `NAME.weight.words`, and factors `NAME.weight.down` and `NAME.weight.up`.

use std::fmt;
use std::sync::Arc;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor};
use kiln_fused::linear;
use kiln_quant::{
    Activations, PackedFormat, PackedMatrix, QuantError, integer_linear, packed_columns,
    packed_linear, signs,
};

use crate::precision::single;

/// A linear layer.
#[derive(Module, Debug)]
pub struct Linear {
    /// W.
    pub weight: Weight,
    /// b, `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What each input is multiplied by before W, `[d_input]`, where W was packed after its rows were divided by it (AWQ, arXiv
    /// 2306.00978; SmoothQuant, arXiv 2211.10438).
    pub input_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    inputs: Option<InputSink>,
    #[module(skip)]
    takes_signs: bool,
}

/// W of a linear layer, `[d_input, d_output]`.
#[derive(Module, Debug)]
pub enum Weight {
    /// One matrix.
    Matrix(Matrix),
    /// The product of two.
    LowRank(LowRank),
}

/// A matrix of weights `[d_input, d_output]`.
#[derive(Module, Debug)]
pub enum Matrix {
    /// Its entries, trained.
    Dense(Param<Tensor<2>>),
    /// Codes of a few bits, which are not trained.
    Packed(PackedWeight),
}

/// Packed weights on a device. Words are constants: an optimizer does not see them, gradients pass them by.
#[derive(Module, Debug)]
pub struct PackedWeight {
    words: Param<Tensor<1, Int>>,
    #[module(skip)]
    format: PackedFormat,
    /// How inputs become integers or signs, where they do.
    #[module(skip)]
    activations: Option<Activations>,
}

/// `down up`: through `rank` numbers in between.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[d_input, rank]`
    pub down: Matrix,
    /// `[rank, d_output]`
    pub up: Matrix,
}

/// Takes the inputs of a linear layer in f32, `[rows, d_input]` on each call, as they pass: calibration data of compression methods.
#[derive(Clone)]
pub struct InputSink(Arc<dyn Fn(Tensor<2>) + Send + Sync>);

impl InputSink {
    /// A sink that calls `take`.
    pub fn new(take: impl Fn(Tensor<2>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }
}

impl fmt::Debug for InputSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InputSink")
    }
}

impl PackedWeight {
    /// Puts packed weights on a device.
    pub fn new(matrix: &PackedMatrix, device: &Device) -> Self {
        Self {
            words: Param::initialized(ParamId::new(), matrix.to_tensor(device)),
            format: matrix.format(),
            activations: None,
        }
    }

    /// The same with inputs that are rounded to integers of 8 bits, or to signs, and sums of integers.
    ///
    /// # Errors
    /// Those of [`Activations::check`]: other weights than int8, or signs for signs, with one scale an output; a step that is not positive.
    pub fn with_activations(mut self, activations: Activations) -> Result<Self, QuantError> {
        activations.check(&self.format)?;
        self.activations = Some(activations);
        Ok(self)
    }

    /// How inputs become integers or signs, where they do.
    pub fn activations(&self) -> Option<Activations> {
        self.activations
    }

    /// Shape and encoding.
    pub fn format(&self) -> PackedFormat {
        self.format
    }

    /// The packed weights as host data.
    ///
    /// # Errors
    /// If a file that was loaded over them held words of another matrix.
    pub fn to_host(&self) -> Result<PackedMatrix, QuantError> {
        let words = self.words.val().into_data().iter::<u32>().collect();
        PackedMatrix::from_words(self.format, words)
    }

    /// `[.., d_input]` to `[.., d_output]`.
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (dtype, x, words) = (x.dtype(), single(x), self.words.val());
        let y = match self.activations {
            Some(activations) => integer_linear(x, words, self.format, activations),
            None => packed_linear(x, words, self.format),
        };
        y.cast(dtype)
    }

    /// Columns `[n, d_input]` of `[n]` outputs.
    pub(crate) fn columns(&self, outputs: Tensor<1, Int>) -> Tensor<2> {
        packed_columns(self.words.val(), outputs, self.format)
    }

    /// The matrix that the words stand for, `[d_input, d_output]`.
    pub fn dense(&self) -> Tensor<2> {
        let outputs = 0..self.format.d_output as i64;
        self.columns(Tensor::arange(outputs, &self.words.val().device()))
            .transpose()
    }
}

impl Matrix {
    /// `[d_input, d_output]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.shape().dims(),
            Self::Packed(weight) => [weight.format.d_input, weight.format.d_output],
        }
    }

    /// The matrix, or that which packed weights stand for, `[d_input, d_output]`.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Packed(weight) => weight.dense(),
        }
    }

    /// Entries.
    pub fn entries(&self) -> u64 {
        self.dims().iter().map(|&n| n as u64).product()
    }

    fn forward<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match self {
            Self::Dense(weight) => linear(x, weight.val(), bias),
            Self::Packed(weight) => {
                let y = weight.forward(x);
                match bias {
                    Some(bias) => y + bias.unsqueeze(),
                    None => y,
                }
            }
        }
    }
}

impl Weight {
    /// Trainable entries `[d_input, d_output]`.
    pub fn dense(weight: Tensor<2>) -> Self {
        Self::Matrix(Matrix::Dense(Param::from_tensor(weight)))
    }

    /// Packed weights, on a device.
    pub fn packed(matrix: &PackedMatrix, device: &Device) -> Self {
        Self::Matrix(Matrix::Packed(PackedWeight::new(matrix, device)))
    }

    /// `[d_input, d_output]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Matrix(matrix) => matrix.dims(),
            Self::LowRank(LowRank { down, up }) => [down.dims()[0], up.dims()[1]],
        }
    }

    /// The matrix that the layer multiplies with, `[d_input, d_output]`.
    pub fn to_dense(&self) -> Tensor<2> {
        match self {
            Self::Matrix(matrix) => matrix.dense(),
            Self::LowRank(LowRank { down, up }) => down.dense().matmul(up.dense()),
        }
    }

    fn forward<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match self {
            Self::Matrix(matrix) => matrix.forward(x, bias),
            Self::LowRank(LowRank { down, up }) => up.forward(down.forward(x, None), bias),
        }
    }

    /// The matrices it consists of.
    fn matrices(&self) -> Vec<&Matrix> {
        match self {
            Self::Matrix(matrix) => vec![matrix],
            Self::LowRank(LowRank { down, up }) => vec![down, up],
        }
    }

    /// Entries of the matrices it consists of: numbers that are kept, and multiplied with.
    pub fn entries(&self) -> u64 {
        self.matrices().iter().map(|matrix| matrix.entries()).sum()
    }

    /// Entries that are packed.
    pub(crate) fn packed_entries(&self) -> u64 {
        let packed = |matrix: &&&Matrix| matches!(matrix, Matrix::Packed(_));
        let matrices = self.matrices();
        matrices.iter().filter(packed).map(|m| m.entries()).sum()
    }
}

impl Linear {
    /// A layer of trainable weights `[d_input, d_output]`.
    pub fn new(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight: Weight::Matrix(Matrix::Dense(weight)),
            bias,
            input_scale: None,
            inputs: None,
            takes_signs: false,
        }
    }

    /// `[d_input, d_output]`
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }

    /// Id of the weights, if they are one trained matrix.
    pub fn weight_id(&self) -> Option<ParamId> {
        match &self.weight {
            Weight::Matrix(Matrix::Dense(weight)) => Some(weight.id),
            _ => None,
        }
    }

    /// `[d_input, d_output]`, if the layer is a product with one trained matrix and nothing else.
    pub(crate) fn matrix(&self) -> Option<Tensor<2>> {
        match self.matrix_and_bias()? {
            (matrix, None) => Some(matrix),
            _ => None,
        }
    }

    /// `[d_input, d_output]` and what is added, `[d_output]`, if the layer is a product with one trained matrix.
    pub(crate) fn matrix_and_bias(&self) -> Option<(Tensor<2>, Option<Tensor<1>>)> {
        match self {
            Self {
                weight: Weight::Matrix(Matrix::Dense(weight)),
                bias,
                input_scale: None,
                inputs: None,
                takes_signs: false,
            } => Some((weight.val(), bias.as_ref().map(|bias| bias.val()))),
            _ => None,
        }
    }

    /// Hands a copy of everything that the layer is applied to from now on to the sink; none stops that. Clones of the layer share
    /// the sink, and it is not stored with the weights.
    pub fn observe_inputs(&mut self, sink: Option<InputSink>) {
        self.inputs = sink;
    }

    /// Has the layer computed with the signs of its inputs and their mean size (see [`signs`]) from now on: what its weights are trained
    /// with before they are packed as signs with [`Activations::Signs`]. It is not stored with the weights.
    pub fn take_signs(&mut self) {
        self.takes_signs = true;
    }

    /// Multiplications and additions a row costs: two for each weight, and one for each input that is scaled.
    pub fn flops_per_row(&self) -> u64 {
        let scaled = self
            .input_scale
            .as_ref()
            .map_or(0, |scale| scale.shape().num_elements() as u64);
        2 * self.weight.entries() + scaled
    }
}

/// Applies a linear layer: `[..., d_input]` to `[..., d_output]`.
pub fn project<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    if let Some(InputSink(take)) = &layer.inputs {
        let [d_input, _] = layer.dims();
        let rows = x.shape().num_elements() / d_input;
        take(single(x.clone().reshape([rows, d_input])));
    }
    let x = match &layer.input_scale {
        Some(scale) => {
            let scale = scale.val().cast(x.dtype());
            x * scale.unsqueeze()
        }
        None => x,
    };
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    if layer.takes_signs {
        let dtype = x.dtype();
        let (signs, means) = signs(single(x));
        let y = layer.weight.forward(signs.cast(dtype), None);
        let y = (single(y) * means).cast(dtype);
        return match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        };
    }
    layer.weight.forward(x, bias)
}
