//! Structured pruning: whole units go, and the tensors that held them get smaller and stay dense.
//!
//! A unit is a channel of an MLP, a head of a mixer (of BK layers: an energy with its potential), or a layer. What a unit is made
//! of, and who reads it, is in [`units`]; how much it is worth in [`scores`] and [`depth`]. Every layer loses as many units, as a
//! model's configuration has one width for all of them.

pub(crate) mod depth;
pub(crate) mod scores;
pub(crate) mod units;

use std::collections::BTreeMap;

use kiln_train::{Stored, StoredModel};
use kiln_zoo::{MixerKind, ModelConfig};

use crate::apply::LayerFigures;
use crate::layers::{form, layers};
use crate::recipe::{Part, Structured};
use units::{Places, Site};

/// A model's tensors and the configuration that they fit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shaped {
    pub config: ModelConfig,
    pub tensors: StoredModel,
}

/// Why units cannot be taken out of a model.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A tensor that is not dense.
    Form { tensor: String, found: &'static str },
    /// In words.
    Why(String),
}

/// How many units stay of so many.
pub(crate) fn remaining(units: usize, work: &Structured) -> Result<usize, Refusal> {
    let Structured {
        share, multiple, ..
    } = *work;
    let wanted = units as f64 * (1.0 - share) / multiple as f64;
    let stay = multiple * (wanted.round() as usize).max(1);
    match stay < units {
        true => Ok(stay),
        false => Err(Refusal::Why(format!(
            "`share` = {share} of {units} in multiples of {multiple} takes nothing away: raise it, or lower `multiple`"
        ))),
    }
}

/// The `count` units of the highest scores, in their order. Of equal ones the first stay.
pub(crate) fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// The model without all units but those that are kept, one list a site.
pub(crate) fn cut(model: &Shaped, sites: &[Site], kept: &[Vec<usize>]) -> Result<Shaped, Refusal> {
    let mut tensors = model.tensors.clone();
    let mut config = model.config.clone();
    for (site, kept) in sites.iter().zip(kept) {
        for places in &site.places {
            let narrow = narrowed(&tensors.tensors[&places.tensor], places, site.units, kept)?;
            tensors.tensors.insert(places.tensor.clone(), narrow);
        }
        resize(&mut config, site.mixer, kept.len());
    }
    Ok(Shaped { config, tensors })
}

/// The model of these layers, in their order.
pub(crate) fn keep_layers(model: &Shaped, kept: &[usize]) -> Shaped {
    let mut config = model.config.clone();
    config.pattern = kept
        .iter()
        .map(|layer| model.config.mixer(*layer))
        .collect();
    config.backbone.n_layers = kept.len();
    let renamed = |(name, stored): (&String, &Stored)| {
        let Some((layer, rest)) = layer_of(name) else {
            return Some((name.clone(), stored.clone()));
        };
        let place = kept.iter().position(|other| *other == layer)?;
        Some((format!("blocks.{place}.{rest}"), stored.clone()))
    };
    let tensors = model.tensors.tensors.iter().filter_map(renamed).collect();
    Shaped {
        config,
        tensors: StoredModel { tensors },
    }
}

/// The layer of `blocks.N.REST`, and the rest.
fn layer_of(tensor: &str) -> Option<(usize, &str)> {
    let (layer, rest) = tensor.strip_prefix("blocks.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// Another number of units, channels where there is no mixer. What followed from the number of heads is written out.
fn resize(config: &mut ModelConfig, mixer: Option<MixerKind>, units: usize) {
    let backbone = &mut config.backbone;
    match mixer {
        None => backbone.d_hidden = units,
        Some(MixerKind::Attention) => {
            config.attention.d_head = config.attention.head_width(backbone);
            config.attention.heads = units;
        }
        Some(MixerKind::Bk) => config.bk.heads = units,
        Some(MixerKind::Resolvent) => {
            config.resolvent.d_value = config.resolvent.value_width(backbone);
            config.resolvent.heads = units;
        }
        Some(MixerKind::Gla) => {
            config.gla.d_value = config.gla.value_width(backbone);
            config.gla.heads = units;
        }
        Some(MixerKind::MinGru) => config.min_gru.channels = units,
        Some(MixerKind::Conv | MixerKind::Fnet) => {}
    }
}

fn narrowed(
    stored: &Stored,
    places: &Places,
    units: usize,
    kept: &[usize],
) -> Result<Stored, Refusal> {
    let Stored::Float {
        kind,
        shape,
        values,
    } = stored
    else {
        return Err(Refusal::Form {
            tensor: places.tensor.clone(),
            found: form(stored),
        });
    };
    let along: Vec<usize> = places.of_all(kept, units);
    let length = shape[places.axis];
    let inner: usize = shape[places.axis + 1..].iter().product();
    let values = values
        .chunks_exact(length * inner)
        .flat_map(|part| {
            along
                .iter()
                .flat_map(move |at| part[at * inner..][..inner].iter().copied())
        })
        .collect();
    let mut shape = shape.clone();
    shape[places.axis] = along.len();
    Ok(Stored::Float {
        kind: *kind,
        shape,
        values,
    })
}

/// What became of every matrix that lost something. The error of its weights is the share of their squares that went.
pub(crate) fn figures(
    before: &StoredModel,
    after: &Shaped,
    part: Part,
    kept: &[usize],
) -> Vec<LayerFigures> {
    let now: BTreeMap<String, &Stored> = match part {
        Part::Layers => after
            .tensors
            .tensors
            .iter()
            .map(|(name, stored)| (origin(name, kept), stored))
            .collect(),
        Part::Mlp | Part::Heads => {
            let tensors = after.tensors.tensors.iter();
            tensors
                .map(|(name, stored)| (name.clone(), stored))
                .collect()
        }
    };
    let squares = |stored: &Stored| -> f64 {
        let values = stored.values();
        values.iter().map(|value| f64::from(*value).powi(2)).sum()
    };
    let figures = |layer: crate::layers::Layer| {
        let old = &before.tensors[&layer.tensor];
        let new = now.get(&layer.tensor);
        let shape = old.shape();
        if new.is_some_and(|new| new.shape() == shape) {
            return None;
        }
        let left = new.map_or(0.0, |new| squares(new));
        Some(LayerFigures {
            layer: layer.name,
            tensor: layer.tensor,
            shape: [shape[0], shape[1]],
            form: new.map_or("gone".into(), |new| {
                let shape = new.shape();
                format!("{} x {}", shape[0], shape[1])
            }),
            bytes_before: old.bytes(),
            bytes_after: new.map_or(0, |new| new.bytes()),
            weight_error: 1.0 - left / squares(old).max(f64::MIN_POSITIVE),
            output_error: None,
            zeros: 0.0,
            rank: None,
            sensitivity: None,
        })
    };
    layers(before).into_iter().filter_map(figures).collect()
}

/// What a tensor was called before layers went.
fn origin(name: &str, kept: &[usize]) -> String {
    match layer_of(name) {
        None => name.into(),
        Some((place, rest)) => format!("blocks.{}.{rest}", kept[place]),
    }
}

#[cfg(test)]
mod tests;
