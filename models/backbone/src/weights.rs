//! A model's weights from outside: every linear layer by its path, to be read, observed and replaced, and what they take.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};

use crate::decoder::Decoder;
use crate::embedding::{Embedding, Rows};
use crate::linear::Linear;
use crate::{Backbone, Mixer};

/// Linear layers with their paths below the module that lists them.
pub type NamedLinears<'a> = Vec<(String, &'a mut Linear)>;

/// The layers of a field: their paths with its name in front.
pub fn below<'a>(field: &str, layers: NamedLinears<'a>) -> NamedLinears<'a> {
    let path = |(path, layer)| (format!("{field}.{path}"), layer);
    layers.into_iter().map(path).collect()
}

/// The layers that are fields of a module themselves.
pub fn fields<'a>(
    layers: impl IntoIterator<Item = (&'static str, Option<&'a mut Linear>)>,
) -> NamedLinears<'a> {
    let named = |(field, layer): (&str, Option<_>)| Some((field.to_string(), layer?));
    layers.into_iter().filter_map(named).collect()
}

/// A norm, and the linear layers that read what comes out of it; nothing else does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormReaders {
    /// Path of the norm; `PATH.gamma` is the name of its gains in a file, `PATH.beta` that of its shifts.
    pub norm: String,
    /// Paths of the layers.
    pub layers: Vec<String>,
}

impl<M: Mixer> Backbone<M> {
    /// Every norm that only linear layers read, with those: a factor for each channel can be moved from the norm's gains (and shifts)
    /// into the layers' rows without changing the model.
    pub fn norm_readers(&mut self) -> Vec<NormReaders> {
        let mut all = Vec::new();
        for (at, block) in self.blocks.iter_mut().enumerate() {
            for (norm, layers) in block.norm_readers() {
                let layer = |layer| format!("blocks.{at}.{layer}");
                all.push(NormReaders {
                    norm: format!("blocks.{at}.{norm}"),
                    layers: layers.into_iter().map(layer).collect(),
                });
            }
        }
        if self.head.is_some() {
            all.push(NormReaders {
                norm: "norm".into(),
                layers: vec!["head".into()],
            });
        }
        all.retain(|readers| !readers.layers.is_empty());
        all
    }

    /// Every linear layer with its path, in the order in which a token passes them; `PATH.weight` is the name of its weights in a
    /// file. The embedding is no linear layer: see [`Backbone::embedding_mut`].
    pub fn linears_mut(&mut self) -> NamedLinears<'_> {
        let blocks = self.blocks.iter_mut().enumerate();
        let mut layers: NamedLinears<'_> = blocks
            .flat_map(|(at, block)| below(&format!("blocks.{at}"), block.linears_mut()))
            .collect();
        if let Some(decoder) = &mut self.decoder {
            layers.extend(below("decoder", decoder.linears_mut()));
        }
        layers.extend(fields([("head", self.head.as_mut())]));
        layers
    }

    /// The vectors of tokens, which are the head too unless there is a linear layer `head`.
    pub fn embedding(&self) -> &Embedding {
        &self.tokens
    }

    /// [`Backbone::embedding`], to be replaced.
    pub fn embedding_mut(&mut self) -> &mut Embedding {
        &mut self.tokens
    }

    /// Whether the embedding is the head.
    pub fn is_tied(&self) -> bool {
        self.head.is_none()
    }

    /// What the head reads: the last norm of rows of [`Backbone::hidden`], `[.., d_model]`.
    pub fn head_inputs<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.norm.forward(x)
    }

    /// The head as one trained matrix `[vocab, d_model]`, whose products with [`Backbone::head_inputs`] are the scores; none where it
    /// is more than that: packed, of low rank, with a bias or a scale of its inputs, or observed.
    pub fn head_matrix(&self) -> Option<Tensor<2>> {
        match (&self.head, &self.tokens) {
            (Some(head), _) => head.matrix().map(Tensor::transpose),
            (None, Embedding::Rows(Rows::Dense(rows))) => Some(rows.val()),
            (None, _) => None,
        }
    }

    /// Numbers that the model consists of: those of its tensors, and the entries of packed matrices. (Burn's `num_params` does not
    /// know of the latter.)
    pub fn parameters(&self) -> u64
    where
        Self: Module,
    {
        // Tensors are shared, so that a clone is a matter of handles.
        let mut model = self.clone();
        let packed: u64 = model
            .linears_mut()
            .iter()
            .map(|(_, layer)| layer.weight.packed_entries())
            .sum();
        self.num_params() as u64 + packed + self.tokens.packed_entries()
    }

    /// Bytes of the weights in memory, scales and zero points of packed ones included.
    pub fn weight_bytes(&self) -> u64
    where
        Self: Module,
    {
        let mut bytes = Bytes(0);
        self.visit(&mut bytes);
        bytes.0
    }

    /// Operations a token costs forward outside of the mixers: two for each weight that multiplies it.
    pub(crate) fn dense_flops(&self) -> u64 {
        let mlps = self.blocks.iter().filter_map(|block| block.mlp.as_ref());
        let head = match &self.head {
            Some(head) => head.flops_per_row(),
            None => self.tokens.flops_per_row(),
        };
        let decoder = self.decoder.as_ref().map_or(0, Decoder::flops_per_token);
        mlps.map(|mlp| mlp.flops_per_token()).sum::<u64>() + decoder + head
    }
}

struct Bytes(u64);

impl Bytes {
    fn add(&mut self, numbers: usize, size: usize) {
        self.0 += (numbers * size) as u64;
    }
}

impl ModuleVisitor for Bytes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        self.add(value.shape().num_elements(), value.dtype().size());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let value = param.val();
        self.add(value.shape().num_elements(), value.dtype().size());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let value = param.val();
        self.add(value.shape().num_elements(), value.dtype().size());
    }
}
