//! The enums that name the mixers.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_backbone::{Mixer, NamedLinears};
use kiln_baselines::{ConvMixer, FnetMixer, GlaMixer, GlaState, MinGruMixer, MinGruState};
use kiln_resnet_bk::BkMixer;
use kiln_resolvent::{ResolventMixer, ResolventMixerState};
use kiln_transformer::{KvCache, SelfAttention};
use serde::{Deserialize, Serialize};

/// A mixer in a layer pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MixerKind {
    /// Softmax attention.
    Attention,
    /// The resolvent's diagonal as features.
    Bk,
    /// The resolvent's rows as attention weights.
    Resolvent,
    /// A gated short convolution.
    Conv,
    /// Gated linear attention.
    Gla,
    /// A minimal gated recurrent unit.
    MinGru,
    /// Fourier transforms over positions and channels; bidirectional.
    Fnet,
}

/// Any mixer.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one value a layer, and its size is a matter of the backends compiled in"
)]
pub enum AnyMixer {
    /// See [`MixerKind::Attention`].
    Attention(SelfAttention),
    /// See [`MixerKind::Bk`].
    Bk(BkMixer),
    /// See [`MixerKind::Resolvent`].
    Resolvent(ResolventMixer),
    /// See [`MixerKind::Conv`].
    Conv(ConvMixer),
    /// See [`MixerKind::Gla`].
    Gla(GlaMixer),
    /// See [`MixerKind::MinGru`].
    MinGru(MinGruMixer),
    /// See [`MixerKind::Fnet`].
    Fnet(FnetMixer),
}

/// The state of any mixer.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one value a layer, and its size is a matter of the backends compiled in"
)]
pub enum AnyState {
    /// Keys and values.
    Attention(KvCache),
    /// Re L and Im L, `[batch, 2 * heads]`.
    Bk(Tensor<2>),
    /// L and T of every head, and the last inputs of the convolution.
    Resolvent(ResolventMixerState),
    /// The last values, `[batch, width - 1, d_model]`.
    Conv(Tensor<3>),
    /// S of every head, and the last inputs of the convolution.
    Gla(GlaState),
    /// h, and the last inputs of the convolution.
    MinGru(MinGruState),
    /// Nothing: the mixer is bidirectional.
    Fnet,
}

/// A state of one mixer handed to another is a defect of the caller: states come from `initial_state` of the same model.
const FOREIGN_STATE: &str = "the state belongs to a mixer of another kind";

impl Mixer for AnyMixer {
    type State = AnyState;

    fn initial_state(&self, batch: usize, device: &Device) -> AnyState {
        match self {
            Self::Attention(mixer) => AnyState::Attention(mixer.initial_state(batch, device)),
            Self::Bk(mixer) => AnyState::Bk(mixer.initial_state(batch, device)),
            Self::Resolvent(mixer) => AnyState::Resolvent(mixer.initial_state(batch, device)),
            Self::Conv(mixer) => AnyState::Conv(mixer.initial_state(batch, device)),
            Self::Gla(mixer) => AnyState::Gla(mixer.initial_state(batch, device)),
            Self::MinGru(mixer) => AnyState::MinGru(mixer.initial_state(batch, device)),
            Self::Fnet(_) => AnyState::Fnet,
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<AnyState>) -> (Tensor<3>, Option<AnyState>) {
        match (self, state) {
            (Self::Attention(mixer), None) => wrap(mixer.forward(x, None), AnyState::Attention),
            (Self::Attention(mixer), Some(AnyState::Attention(state))) => {
                wrap(mixer.forward(x, Some(state)), AnyState::Attention)
            }
            (Self::Bk(mixer), None) => wrap(mixer.forward(x, None), AnyState::Bk),
            (Self::Bk(mixer), Some(AnyState::Bk(state))) => {
                wrap(mixer.forward(x, Some(state)), AnyState::Bk)
            }
            (Self::Resolvent(mixer), None) => wrap(mixer.forward(x, None), AnyState::Resolvent),
            (Self::Resolvent(mixer), Some(AnyState::Resolvent(state))) => {
                wrap(mixer.forward(x, Some(state)), AnyState::Resolvent)
            }
            (Self::Conv(mixer), None) => wrap(mixer.forward(x, None), AnyState::Conv),
            (Self::Conv(mixer), Some(AnyState::Conv(state))) => {
                wrap(mixer.forward(x, Some(state)), AnyState::Conv)
            }
            (Self::Gla(mixer), None) => wrap(mixer.forward(x, None), AnyState::Gla),
            (Self::Gla(mixer), Some(AnyState::Gla(state))) => {
                wrap(mixer.forward(x, Some(state)), AnyState::Gla)
            }
            (Self::MinGru(mixer), None) => wrap(mixer.forward(x, None), AnyState::MinGru),
            (Self::MinGru(mixer), Some(AnyState::MinGru(state))) => {
                wrap(mixer.forward(x, Some(state)), AnyState::MinGru)
            }
            (Self::Fnet(mixer), None | Some(AnyState::Fnet)) => {
                wrap(mixer.forward(x, None), |()| AnyState::Fnet)
            }
            _ => panic!("{FOREIGN_STATE}"),
        }
    }

    fn step(&self, x: Tensor<2>, state: AnyState) -> (Tensor<2>, AnyState) {
        match (self, state) {
            (Self::Attention(mixer), AnyState::Attention(state)) => {
                let (y, state) = mixer.step(x, state);
                (y, AnyState::Attention(state))
            }
            (Self::Bk(mixer), AnyState::Bk(state)) => {
                let (y, state) = mixer.step(x, state);
                (y, AnyState::Bk(state))
            }
            (Self::Resolvent(mixer), AnyState::Resolvent(state)) => {
                let (y, state) = mixer.step(x, state);
                (y, AnyState::Resolvent(state))
            }
            (Self::Conv(mixer), AnyState::Conv(state)) => {
                let (y, state) = mixer.step(x, state);
                (y, AnyState::Conv(state))
            }
            (Self::Gla(mixer), AnyState::Gla(state)) => {
                let (y, state) = mixer.step(x, state);
                (y, AnyState::Gla(state))
            }
            (Self::MinGru(mixer), AnyState::MinGru(state)) => {
                let (y, state) = mixer.step(x, state);
                (y, AnyState::MinGru(state))
            }
            (Self::Fnet(mixer), AnyState::Fnet) => (mixer.step(x, ()).0, AnyState::Fnet),
            _ => panic!("{FOREIGN_STATE}"),
        }
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        match self {
            Self::Attention(mixer) => mixer.linears_mut(),
            Self::Bk(mixer) => mixer.linears_mut(),
            Self::Resolvent(mixer) => mixer.linears_mut(),
            Self::Conv(mixer) => mixer.linears_mut(),
            Self::Gla(mixer) => mixer.linears_mut(),
            Self::MinGru(mixer) => mixer.linears_mut(),
            Self::Fnet(mixer) => mixer.linears_mut(),
        }
    }

    fn is_causal(&self) -> bool {
        match self {
            Self::Attention(mixer) => mixer.is_causal(),
            Self::Bk(mixer) => mixer.is_causal(),
            Self::Resolvent(mixer) => mixer.is_causal(),
            Self::Conv(mixer) => mixer.is_causal(),
            Self::Gla(mixer) => mixer.is_causal(),
            Self::MinGru(mixer) => mixer.is_causal(),
            Self::Fnet(mixer) => mixer.is_causal(),
        }
    }

    fn weights(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        match self {
            Self::Attention(mixer) => mixer.weights(x),
            Self::Bk(mixer) => mixer.weights(x),
            Self::Resolvent(mixer) => mixer.weights(x),
            Self::Conv(mixer) => mixer.weights(x),
            Self::Gla(mixer) => mixer.weights(x),
            Self::MinGru(mixer) => mixer.weights(x),
            Self::Fnet(mixer) => mixer.weights(x),
        }
    }

    fn weighing_heads(&self) -> usize {
        match self {
            Self::Attention(mixer) => mixer.weighing_heads(),
            Self::Bk(mixer) => mixer.weighing_heads(),
            Self::Resolvent(mixer) => mixer.weighing_heads(),
            Self::Conv(mixer) => mixer.weighing_heads(),
            Self::Gla(mixer) => mixer.weighing_heads(),
            Self::MinGru(mixer) => mixer.weighing_heads(),
            Self::Fnet(mixer) => mixer.weighing_heads(),
        }
    }

    fn flops_per_token(&self, seq: usize) -> u64 {
        match self {
            Self::Attention(mixer) => mixer.flops_per_token(seq),
            Self::Bk(mixer) => mixer.flops_per_token(seq),
            Self::Resolvent(mixer) => mixer.flops_per_token(seq),
            Self::Conv(mixer) => mixer.flops_per_token(seq),
            Self::Gla(mixer) => mixer.flops_per_token(seq),
            Self::MinGru(mixer) => mixer.flops_per_token(seq),
            Self::Fnet(mixer) => mixer.flops_per_token(seq),
        }
    }

    fn state_bytes(&self, seq: usize) -> u64 {
        match self {
            Self::Attention(mixer) => mixer.state_bytes(seq),
            Self::Bk(mixer) => mixer.state_bytes(seq),
            Self::Resolvent(mixer) => mixer.state_bytes(seq),
            Self::Conv(mixer) => mixer.state_bytes(seq),
            Self::Gla(mixer) => mixer.state_bytes(seq),
            Self::MinGru(mixer) => mixer.state_bytes(seq),
            Self::Fnet(mixer) => mixer.state_bytes(seq),
        }
    }

    fn counted_state_bytes(&self, state: &AnyState) -> u64 {
        match (self, state) {
            (Self::Attention(mixer), AnyState::Attention(state)) => {
                mixer.counted_state_bytes(state)
            }
            (Self::Bk(mixer), AnyState::Bk(state)) => mixer.counted_state_bytes(state),
            (Self::Resolvent(mixer), AnyState::Resolvent(state)) => {
                mixer.counted_state_bytes(state)
            }
            (Self::Conv(mixer), AnyState::Conv(state)) => mixer.counted_state_bytes(state),
            (Self::Gla(mixer), AnyState::Gla(state)) => mixer.counted_state_bytes(state),
            (Self::MinGru(mixer), AnyState::MinGru(state)) => mixer.counted_state_bytes(state),
            (Self::Fnet(mixer), AnyState::Fnet) => mixer.counted_state_bytes(&()),
            _ => panic!("{FOREIGN_STATE}"),
        }
    }
}

fn wrap<S>(
    (y, state): (Tensor<3>, Option<S>),
    name: fn(S) -> AnyState,
) -> (Tensor<3>, Option<AnyState>) {
    (y, state.map(name))
}
