//! One residual block: norm and mixer, norm and MLP, each added to what it read.

use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::Tensor;
use kiln_fused::add_residual;

use crate::Mixer;
use crate::dropout::dropout;
use crate::layers::{Mlp, Norm};
use crate::weights::{NamedLinears, below};

/// One residual block.
#[derive(Module, Debug)]
pub struct Block<M: Mixer> {
    pub(crate) norm_mixer: Norm,
    /// The token mixer.
    pub mixer: M,
    pub(crate) norm_mlp: Option<Norm>,
    pub(crate) mlp: Option<Mlp>,
    pub(crate) dropout: Dropout,
}

impl<M: Mixer> Block<M> {
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        state: Option<M::State>,
    ) -> (Tensor<3>, Option<M::State>) {
        let (x, state) = self.mixed(x, state);
        (self.mlp(x), state)
    }

    pub(crate) fn mixed(
        &self,
        x: Tensor<3>,
        state: Option<M::State>,
    ) -> (Tensor<3>, Option<M::State>) {
        let (mixed, state) = self
            .mixer
            .forward(self.norm_mixer.forward(x.clone()), state);
        (add_residual(x, dropout(&self.dropout, mixed)), state)
    }

    /// Whether it has a position-wise network behind its mixer.
    pub fn has_mlp(&self) -> bool {
        self.mlp.is_some()
    }

    /// What the mixer makes of the residual stream before the block, without dropout.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`; returns the same
    pub fn mix(&self, x: Tensor<3>) -> Tensor<3> {
        self.mixer.forward(self.norm_mixer.forward(x), None).0
    }

    /// How strongly its mixer reads each position at each, from the residual stream before the block; see [`Mixer::weights`].
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`
    /// - returns `[batch, seq, seq]`
    pub fn weights(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        self.mixer.weights(self.norm_mixer.forward(x))
    }

    pub(crate) fn step(&self, x: Tensor<2>, state: M::State) -> (Tensor<2>, M::State) {
        let (mixed, state) = self.mixer.step(self.norm_mixer.forward(x.clone()), state);
        (self.mlp(x + mixed), state)
    }

    /// Its linear layers.
    pub(crate) fn linears_mut(&mut self) -> NamedLinears<'_> {
        let mut layers = below("mixer", self.mixer.linears_mut());
        if let Some(mlp) = &mut self.mlp {
            layers.extend(below("mlp", mlp.linears_mut()));
        }
        layers
    }

    /// Its norms with the linear layers that read them.
    pub(crate) fn norm_readers(&mut self) -> Vec<(&'static str, Vec<String>)> {
        let mixer = self.mixer.readers().into_iter();
        let mixer = mixer.map(|path| format!("mixer.{path}")).collect();
        let mut all = vec![("norm_mixer", mixer)];
        if let Some(mlp) = &mut self.mlp {
            let layers = mlp.readers().into_iter();
            all.push((
                "norm_mlp",
                layers.map(|path| format!("mlp.{path}")).collect(),
            ));
        }
        all
    }

    pub(crate) fn mlp<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match (&self.norm_mlp, &self.mlp) {
            (Some(norm), Some(mlp)) => {
                let y = mlp.forward(norm.forward(x.clone()));
                add_residual(x, dropout(&self.dropout, y))
            }
            _ => x,
        }
    }
}
