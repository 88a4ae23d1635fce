//! How far the gradient that trains is from the exact one: both at the same weights, tokens and dropout.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use kiln_fused::{LossOptions, LossTerms};
use kiln_loader::TokenBatch;
use kiln_zoo::{GradRule, LanguageModel, potential_weights, with_grad_rule};

use crate::TrainError;
use crate::loss::DeviceBatch;

/// A gradient of a recipe's rule, held against the exact one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientProbe {
    /// Over every trained parameter.
    pub all: Agreement,
    /// Over the weights of the BK potentials' projections alone, where the rules act first.
    pub potential: Agreement,
}

/// Two gradients side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Cosine of the angle between them; NaN if one of them is zero.
    pub cosine: f64,
    /// Euclidean norm with the recipe's rule.
    pub norm: f64,
    /// Euclidean norm of the exact gradient.
    pub exact_norm: f64,
}

/// Computes the gradient of the mean loss of `batch`, `terms` included, twice, with the model's own rule and with [`GradRule::Exact`], and changes
/// nothing. `reseed` is called before each, so that both draw the same dropout.
///
/// # Errors
/// Those of the model.
pub fn probe(
    model: &LanguageModel,
    batch: &TokenBatch,
    terms: LossTerms,
    device: &Device,
    reseed: &dyn Fn(),
) -> Result<GradientProbe, TrainError> {
    let gradient = |model: &LanguageModel| -> Result<GradientsParams, TrainError> {
        reseed();
        let options = LossOptions {
            terms,
            divisor: batch.num_tokens().max(1) as f64,
            ..LossOptions::default()
        };
        let mean = DeviceBatch::new(batch, device).loss(model, options)?;
        let grads = mean.minimised.backward();
        Ok(GradientsParams::from_grads(grads, model))
    };
    let own = gradient(model)?;
    let exact = gradient(&with_grad_rule(model.clone(), GradRule::Exact))?;
    let mut products = Products {
        own: &own,
        exact: &exact,
        of: Vec::new(),
    };
    model.visit(&mut products);
    let products = products.of;
    let potentials = potential_weights(model);
    Ok(GradientProbe {
        all: agreement(products.iter().map(|(_, sums)| *sums)),
        potential: agreement(
            products
                .iter()
                .filter(|(id, _)| potentials.contains(id))
                .map(|(_, sums)| *sums),
        ),
    })
}

/// From the three products of each parameter: own with exact, own with itself, exact with itself.
fn agreement(products: impl Iterator<Item = [f64; 3]>) -> Agreement {
    let [dot, own, exact] = products.fold([0.0; 3], |sums, products| {
        [0, 1, 2].map(|i| sums[i] + products[i])
    });
    Agreement {
        cosine: dot / (own * exact).sqrt(),
        norm: own.sqrt(),
        exact_norm: exact.sqrt(),
    }
}

struct Products<'a> {
    own: &'a GradientsParams,
    exact: &'a GradientsParams,
    of: Vec<(ParamId, [f64; 3])>,
}

impl ModuleVisitor for Products<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (Some(own), Some(exact)) = (self.own.get::<D>(param.id), self.exact.get::<D>(param.id))
        else {
            return;
        };
        let sums = Tensor::cat(
            vec![
                (own.clone() * exact.clone()).sum(),
                own.square().sum(),
                exact.square().sum(),
            ],
            0,
        );
        let mut products = [0.0; 3];
        for (product, sum) in products.iter_mut().zip(sums.into_data().iter::<f32>()) {
            *product = f64::from(sum);
        }
        self.of.push((param.id, products));
    }
}
