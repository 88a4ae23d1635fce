//! The resolvent mixer. T_i = (1 - p_i) T_{i-1} + p_i k_i v_i^T,  y_i = T_i^T q_i,  p_i = eta / (eta + beta Im L_{i-1})
//!
//! L is the left recurrence of the tridiagonal H with the potential of each token on its diagonal and hopping beta = b c
//! beside it, at the energy z = e + i eta of the head. This is the Born form: weights eta |G_ij|^2 / Im L_i over j <= i, which
//! add up to one; the complex form keeps the phases of G_ij (see `resolvent_attention` in `kiln-bk`). Around it stands the
//! block of gated linear attention: q, k, v = silu(conv(W x)) as in Mamba-2 (arXiv 2405.21060) and gated DeltaNet
//! (arXiv 2412.06464), q and k normalised, the value itself as in Mamba-2, then an RMSNorm of each head's output and a gate as
//! in GLA (arXiv 2312.06635): out = W_o (silu(W_g x) * norm(y + D v)).
//!
//! Axes: batch, seq, heads, d_key, d_value (d_model / heads unless said otherwise). State: L, T and the last conv_width - 1 inputs of the
//! convolution, constant in seq.

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{
    BackboneConfig, ConvHistory, InitRng, Linear, Mixer, ModelError, NamedLinears, QueryKeyValue,
    QueryKeyValueConfig, Readout, attention_operand, below, dropout, fields, inverse_softplus,
    project, single, spread_energies, tensor_bytes, unit_spread,
};
use kiln_bk::{
    ResolventAttention, ResolventForm, ResolventInputs, ResolventState, RowMeasure, bk_left,
    energies, resolvent_attention, resolvent_attention_output, row_weights,
};
use kiln_fused::soft_bound;

use crate::config::ETA_FLOOR;
use crate::{Boundary, ResolventConfig};

/// The resolvent mixer.
#[derive(Module, Debug)]
pub struct ResolventMixer {
    inputs: QueryKeyValue,
    potential: Linear,
    readout: Readout,
    /// Re z, `[heads]`.
    energy: Param<Tensor<1>>,
    /// softplus^-1(Im z - floor), `[heads]`.
    eta_raw: Param<Tensor<1>>,
    /// softplus^-1(beta), `[heads]`.
    hopping_raw: Param<Tensor<1>>,
    key_dropout: Dropout,
    heads: usize,
    d_key: usize,
    d_value: usize,
    potential_bound: f64,
    #[module(skip)]
    form: ResolventForm,
    #[module(skip)]
    boundary: Boundary,
}

/// What generation remembers.
#[derive(Clone, Debug)]
pub struct ResolventMixerState {
    /// L of the last position and the matrix T of every head.
    resolvent: ResolventState,
    history: ConvHistory,
}

impl ResolventConfig {
    /// Builds the mixer for a block of `backbone`.
    ///
    /// # Errors
    /// Those of [`ResolventConfig::validate`].
    pub fn init(
        &self,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<ResolventMixer, ModelError> {
        self.validate(backbone)?;
        let (d_model, heads) = (backbone.d_model, self.heads);
        let d_value = self.value_width(backbone);
        let vector = |values: Vec<f64>, learn: bool| {
            let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
            let len = values.len();
            Param::<Tensor<1>>::from_data(TensorData::new(values, [len]), device)
                .set_require_grad(learn)
        };
        let (energy, eta): (Vec<f64>, Vec<f64>) = spread_energies(heads, self.energy, self.eta)
            .into_iter()
            .map(|(energy, eta)| (energy, inverse_softplus(eta - ETA_FLOOR)))
            .unzip();
        let hopping = vec![inverse_softplus(self.hopping); heads];
        let spread = self.potential_std * unit_spread(d_model);
        let sizes = QueryKeyValueConfig {
            heads,
            d_key: self.d_key,
            d_value,
            conv_width: self.conv_width,
            qk_norm: self.qk_norm,
        };
        Ok(ResolventMixer {
            inputs: QueryKeyValue::init(sizes, backbone, rng, device),
            potential: rng.linear(d_model, heads, backbone.bias, spread, device),
            readout: Readout::init(
                [self.gate, self.skip],
                [heads, d_value],
                backbone,
                rng,
                device,
            ),
            energy: vector(energy, self.learn_energy),
            eta_raw: vector(eta, self.learn_energy),
            hopping_raw: vector(hopping, self.learn_hopping),
            key_dropout: DropoutConfig::new(self.key_dropout).init(),
            heads,
            d_key: self.d_key,
            d_value,
            potential_bound: self.potential_bound,
            form: self.form,
            boundary: self.boundary,
        })
    }
}

impl ResolventMixer {
    /// Rows of a head's T: one for each entry of a key, and of the complex form for its cosine and its sine part.
    fn memory_rows(&self) -> usize {
        match self.form {
            ResolventForm::Born => self.d_key,
            ResolventForm::Complex => 2 * self.d_key,
        }
    }

    /// z as `[2, heads]`, Re z, then Im z, and beta, `[heads]`.
    fn energies(&self) -> (Tensor<2>, Tensor<1>) {
        let (energy, eta) = (self.energy.val(), self.eta_raw.val());
        energies(energy, eta, self.hopping_raw.val(), ETA_FLOOR)
    }

    /// L before the first token, `[batch, 2 * heads]`; none where nothing stands there. Of an endless chain without potentials it is
    /// what the recurrence leaves as it is, `L = (sqrt(z^2 - 4 beta) - z) / (2 beta)` with Im L > 0.
    fn left(&self, batch: usize) -> Option<Tensor<2>> {
        if self.boundary == Boundary::Wall {
            return None;
        }
        let heads = self.heads;
        let (z, beta) = self.energies();
        let [e, eta] = [0, 1].map(|row| z.clone().narrow(0, row, 1).reshape([heads]));
        let re = e.clone().square() - eta.clone().square() - beta.clone() * 4.0;
        let im = e.clone() * eta.clone() * 2.0;
        // Of the root's parts the greater one by a sum, the other from their product, im / 2: nothing cancels.
        let size = (re.clone().square() + im.clone().square()).sqrt();
        let great = ((size + re.clone().abs()) * 0.5).sqrt();
        let small = im / (great.clone() * 2.0);
        let outside = re.greater_elem(0.0);
        let root_re = small
            .clone()
            .mask_where(outside.clone(), great.clone() * e.clone().sign());
        let root_im = great.mask_where(outside, small.abs());
        let left = Tensor::cat(vec![root_re - e, root_im - eta], 0);
        let left = left / (beta.repeat_dim(0, 2) * 2.0);
        Some(left.reshape([1, 2 * heads]).expand([batch, 2 * heads]))
    }

    /// The state before the first token.
    fn fresh(&self, left: Tensor<2>) -> ResolventState {
        let [batch, _] = left.dims();
        let shape = [batch, self.heads, self.memory_rows(), self.d_value];
        ResolventState {
            memory: Tensor::zeros(shape, &left.device()),
            left,
        }
    }

    /// Leaves out the keys of some tokens, in training only: p_j = 0 for all i takes column j out of the weights and, as those
    /// of a query that drops single weights do, leaves the others' mean alone.
    fn forget(&self, keys: Tensor<4>) -> Tensor<4> {
        if self.key_dropout.prob == 0.0 {
            return keys;
        }
        let [batch, seq, heads, _] = keys.dims();
        let options = (&keys.device(), keys.dtype());
        let kept = Tensor::ones([batch, seq, heads, 1], options);
        keys * dropout(&self.key_dropout, kept)
    }
}

impl Mixer for ResolventMixer {
    type State = ResolventMixerState;

    fn initial_state(&self, batch: usize, device: &Device) -> ResolventMixerState {
        let nothing = || Tensor::zeros([batch, 2 * self.heads], device);
        ResolventMixerState {
            resolvent: self.fresh(self.left(batch).unwrap_or_else(nothing)),
            history: self.inputs.initial_history(batch, device),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        state: Option<ResolventMixerState>,
    ) -> (Tensor<3>, Option<ResolventMixerState>) {
        let continues = state.is_some();
        let [batch, ..] = x.dims();
        let (resolvent, history) = match state {
            Some(state) => (Some(state.resolvent), state.history),
            None => {
                let before = self.left(batch).map(|left| self.fresh(left));
                (before, ConvHistory::default())
            }
        };
        let (inputs, history) =
            self.inputs
                .forward(x.clone(), &self.potential, &self.readout, history);
        let k = self.forget(inputs.k);
        let (energy, hopping) = self.energies();
        let [q, k, v] = [inputs.q, k, inputs.v].map(attention_operand);
        let attended = ResolventInputs {
            q,
            k,
            v,
            potential: inputs.gates,
            bound: (self.potential_bound > 0.0).then_some(self.potential_bound),
            hopping,
            energy,
            state: resolvent,
        };
        // Shapes agree by construction, so the operation's shape errors cannot occur here.
        const AGREE: &str = "mixer shapes agree by construction";
        // Without a history to extend the convolutions return none, and a state without it could not be continued from.
        let (output, state) = if continues {
            let attended = resolvent_attention(attended, self.form);
            let ResolventAttention { output, state } = attended.expect(AGREE);
            let state = ResolventMixerState {
                resolvent: state,
                history,
            };
            (output, Some(state))
        } else {
            let output = resolvent_attention_output(attended, self.form);
            (output.expect(AGREE), None)
        };
        let y = self.readout.forward(output, inputs.own, inputs.readout, x);
        (y, state)
    }

    fn step(&self, x: Tensor<2>, state: ResolventMixerState) -> (Tensor<2>, ResolventMixerState) {
        let (y, next) = self.forward(x.unsqueeze_dim(1), Some(state.clone()));
        (y.squeeze_dim(1), next.unwrap_or(state))
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        let mut layers = below("inputs", self.inputs.linears_mut());
        layers.extend(fields([("potential", Some(&mut self.potential))]));
        layers.extend(below("readout", self.readout.linears_mut()));
        layers
    }

    fn is_causal(&self) -> bool {
        true
    }

    /// P_ij, without queries and keys, which multiply it and have signs; of the complex form the squared moduli. An open boundary takes
    /// what stands before the first token out of the row.
    fn weights(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        let [batch, ..] = x.dims();
        let potential = single(project(&self.potential, x));
        let potential = match self.potential_bound {
            0.0 => potential,
            bound => soft_bound(potential, bound),
        };
        let (energy, hopping) = self.energies();
        // Shapes agree by construction, so the operations' shape errors cannot occur here.
        const AGREE: &str = "mixer shapes agree by construction";
        let left = bk_left(potential, hopping.clone(), energy, self.left(batch)).expect(AGREE);
        let rows = row_weights(left.features, hopping, RowMeasure::Born).expect(AGREE);
        Some(rows.mean_dim(1).squeeze_dim(1))
    }

    fn weighing_heads(&self) -> usize {
        self.heads
    }

    /// Two for each weight; in the recurrent form five for each entry of T (decay, write, read), and about 12 a head for L.
    fn flops_per_token(&self, _seq: usize) -> u64 {
        let projections = self.inputs.flops_per_token()
            + self.potential.flops_per_row()
            + self.readout.flops_per_token();
        let entries = self.heads * self.memory_rows() * self.d_value;
        projections + (5 * entries + 12 * self.heads) as u64
    }

    /// L and T of each head in f32, and the convolution's history, whatever the length.
    fn state_bytes(&self, _seq: usize) -> u64 {
        let head = 2 + self.memory_rows() * self.d_value;
        (self.heads * head * size_of::<f32>()) as u64 + self.inputs.state_bytes()
    }

    fn counted_state_bytes(&self, state: &ResolventMixerState) -> u64 {
        let ResolventState { left, memory } = &state.resolvent;
        tensor_bytes(left) + tensor_bytes(memory) + state.history.bytes()
    }
}

#[cfg(test)]
mod tests;
