//! What is timed: the kernels with each strategy, and the equations in plain tensor operations.

use burn::tensor::Tensor;
use kiln_bk::GradRule;
#[cfg(feature = "_cube")]
use kiln_bk::cube::{self, Strategy};
#[cfg(feature = "flex")]
use kiln_bk::{adjoint, reference};

use super::Inputs;

/// An implementation: values, and gradients of the potential.
pub trait Implementation {
    fn left(&self, inputs: Inputs) -> Tensor<3>;
    fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3>;
    fn diagonal(&self, inputs: Inputs) -> Tensor<3>;
    fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3>;
}

/// The equations in plain tensor operations, position by position: what the kernels are measured against on the CPU.
#[cfg(feature = "flex")]
pub struct Reference;

#[cfg(feature = "flex")]
impl Implementation for Reference {
    fn left(&self, inputs: Inputs) -> Tensor<3> {
        reference::left(
            inputs.potential,
            inputs.hopping,
            inputs.energy,
            inputs.state,
        )
    }

    fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            hopping,
            state,
            grad,
            ..
        } = inputs;
        adjoint::left(features, hopping, state, grad, GradRule::Exact).0
    }

    fn diagonal(&self, inputs: Inputs) -> Tensor<3> {
        reference::diagonal(inputs.potential, inputs.hopping, inputs.energy)
    }

    fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            potential,
            hopping,
            energy,
            grad,
            ..
        } = inputs;
        adjoint::diagonal(potential, hopping, energy, grad, GradRule::Exact).0
    }
}

#[cfg(feature = "flex")]
mod on_flex {
    use super::{GradRule, Implementation, Inputs, Tensor};
    use burn::backend::{Flex, tensor::FloatTensor};
    use kiln_bk::{BkAdjoint, bk_diagonal, bk_left};

    pub struct OnFlex;

    fn lower<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
        tensor.try_into_primitive::<Flex>().unwrap()
    }

    impl Implementation for OnFlex {
        fn left(&self, inputs: Inputs) -> Tensor<3> {
            let out = bk_left(inputs.potential, inputs.hopping, inputs.energy, None);
            out.unwrap().features
        }

        fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3> {
            let [potential, ..] = Flex::bk_left_adjoint(
                lower(features),
                lower(inputs.hopping),
                lower(inputs.state),
                lower(inputs.grad),
                GradRule::Exact,
            );
            Tensor::from_primitive::<Flex>(potential)
        }

        fn diagonal(&self, inputs: Inputs) -> Tensor<3> {
            bk_diagonal(inputs.potential, inputs.hopping, inputs.energy).unwrap()
        }

        fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3> {
            let [potential, ..] = Flex::bk_diagonal_adjoint(
                lower(inputs.potential),
                lower(inputs.hopping),
                lower(inputs.energy),
                lower(inputs.grad),
                GradRule::Exact,
            );
            Tensor::from_primitive::<Flex>(potential)
        }
    }
}

#[cfg(feature = "_cube")]
impl Implementation for Strategy {
    fn left(&self, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            potential,
            hopping,
            energy,
            state,
            ..
        } = inputs;
        cube::left(*self, potential, hopping, energy, state)
    }

    fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            hopping,
            state,
            grad,
            ..
        } = inputs;
        cube::left_adjoint(*self, features, hopping, state, grad, GradRule::Exact).0
    }

    fn diagonal(&self, inputs: Inputs) -> Tensor<3> {
        cube::diagonal(*self, inputs.potential, inputs.hopping, inputs.energy)
    }

    fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            potential,
            hopping,
            energy,
            grad,
            ..
        } = inputs;
        cube::diagonal_adjoint(*self, potential, hopping, energy, grad, GradRule::Exact).0
    }
}

/// Lanes, subs and count of `Strategy::LookBack`.
#[cfg(feature = "_cube")]
const TILES: [[usize; 3]; 12] = [
    [32, 8, 8],
    [32, 8, 16],
    [32, 16, 8],
    [32, 16, 16],
    [32, 32, 16],
    [32, 8, 32],
    [16, 16, 16],
    [16, 32, 16],
    [8, 32, 16],
    [8, 64, 16],
    [8, 32, 32],
    [4, 128, 32],
];

/// One of [`implementations`].
pub struct Named {
    pub how: String,
    pub implementation: Box<dyn Implementation>,
    /// Whether it is what the operations choose for themselves.
    pub is_default: bool,
}

/// All that run on a backend.
pub fn implementations(backend: &str) -> Vec<Named> {
    match backend {
        #[cfg(feature = "flex")]
        "flex" => vec![
            Named {
                how: backend.to_owned(),
                implementation: Box::new(on_flex::OnFlex),
                is_default: true,
            },
            Named {
                how: "reference".to_owned(),
                implementation: Box::new(Reference),
                is_default: false,
            },
        ],
        #[cfg(feature = "_cube")]
        _ => {
            let mut strategies = vec![
                Strategy::Auto,
                Strategy::Sequential,
                Strategy::Chunked { chunk: 64 },
                Strategy::Chunked { chunk: 256 },
                Strategy::Chunked { chunk: 1024 },
            ];
            strategies.extend(TILES.map(|[lanes, subs, count]| Strategy::LookBack {
                lanes,
                subs,
                count,
            }));
            strategies
                .into_iter()
                .map(|strategy| Named {
                    how: format!("{strategy:?}"),
                    implementation: Box::new(strategy),
                    is_default: strategy == Strategy::Auto,
                })
                .collect()
        }
        #[cfg(not(feature = "_cube"))]
        _ => vec![],
    }
}
