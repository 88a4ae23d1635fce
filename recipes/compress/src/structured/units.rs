//! What a unit consists of: its places in the tensors of its layer.

use kiln_train::StoredModel;
use kiln_zoo::{MixerKind, ModelConfig};

use crate::recipe::Part;

/// The places of units along an axis of a tensor: `repeats` times one run for all units, in which each has `width` places.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Places {
    pub tensor: String,
    /// Rows are 0, columns 1.
    pub axis: usize,
    repeats: usize,
    width: usize,
}

/// A module with units that can go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Site {
    /// Its path.
    pub name: String,
    /// The kind of mixer; none of an MLP.
    pub mixer: Option<MixerKind>,
    /// Units that it has.
    pub units: usize,
    /// All that its units consist of.
    pub places: Vec<Places>,
    /// The rows that read them: the one of `places` through which a unit reaches the residual stream.
    pub output: Places,
}

impl Places {
    /// Places of one unit of `units`.
    pub fn of(&self, unit: usize, units: usize) -> impl Iterator<Item = usize> + '_ {
        let run = units * self.width;
        (0..self.repeats).flat_map(move |repeat| {
            let first = repeat * run + unit * self.width;
            first..first + self.width
        })
    }

    /// Places of some units, in ascending order.
    pub fn of_all(&self, kept: &[usize], units: usize) -> Vec<usize> {
        let places = kept.iter().flat_map(|unit| self.of(*unit, units));
        let mut places: Vec<usize> = places.collect();
        places.sort_unstable();
        places
    }
}

/// Every module of a model that has units of this part; none for [`Part::Layers`], which are units themselves.
pub(crate) fn sites(config: &ModelConfig, model: &StoredModel, part: Part) -> Vec<Site> {
    let site = |layer: usize| {
        let mut site = match part {
            Part::Mlp => mlp(config, layer),
            Part::Heads => heads(config, layer),
            Part::Layers => None,
        }?;
        // Gates, biases and convolutions are there or not.
        let is_there = |places: &Places| model.tensors.contains_key(&places.tensor);
        site.places.retain(is_there);
        Some(site)
    };
    (0..config.backbone.n_layers).filter_map(site).collect()
}

/// Collects the places of a module.
struct Builder {
    name: String,
    places: Vec<Places>,
}

impl Builder {
    fn new(name: String) -> Self {
        let places = Vec::new();
        Self { name, places }
    }

    fn add(mut self, tensor: &str, axis: usize, [repeats, width]: [usize; 2]) -> Self {
        self.places.push(Places {
            tensor: format!("{}.{tensor}", self.name),
            axis,
            repeats,
            width,
        });
        self
    }

    /// A linear layer whose outputs belong to units.
    fn outputs(self, layer: &str, runs: [usize; 2]) -> Self {
        self.add(&format!("{layer}.weight"), 1, runs)
            .add(&format!("{layer}.bias"), 0, runs)
    }

    /// A vector, or a matrix whose rows belong to units.
    fn rows(self, tensor: &str, runs: [usize; 2]) -> Self {
        self.add(tensor, 0, runs)
    }

    /// The linear layer that reads the units, which comes last.
    fn read_by(
        self,
        layer: &str,
        runs: [usize; 2],
        units: usize,
        mixer: Option<MixerKind>,
    ) -> Site {
        let Self { name, mut places } = self.rows(&format!("{layer}.weight"), runs);
        let output = places.remove(places.len() - 1);
        places.push(output.clone());
        Site {
            name,
            mixer,
            units,
            places,
            output,
        }
    }
}

fn mlp(config: &ModelConfig, layer: usize) -> Option<Site> {
    let units = config.backbone.d_hidden;
    let one = [1, 1];
    let site = Builder::new(format!("blocks.{layer}.mlp"))
        .outputs("gate", one)
        .outputs("up", one);
    (units > 0).then(|| site.read_by("down", one, units, None))
}

fn heads(config: &ModelConfig, layer: usize) -> Option<Site> {
    let kind = config.mixer(layer);
    let site = Builder::new(format!("blocks.{layer}.mixer"));
    match kind {
        MixerKind::Attention => {
            let attention = &config.attention;
            let d_head = attention.head_width(&config.backbone);
            // Queries of all heads, then keys, then values.
            let site = site.outputs("query_key_value", [3, d_head]);
            Some(site.read_by("output", [1, d_head], attention.heads, Some(kind)))
        }
        MixerKind::Bk => {
            // Real parts of all heads, then imaginary ones.
            let parts = [2, 1];
            let site = energies(site.outputs("potential", [1, 1])).outputs("gate", parts);
            Some(site.read_by("output", parts, config.bk.heads, Some(kind)))
        }
        MixerKind::Resolvent => {
            let resolvent = &config.resolvent;
            let d_value = resolvent.value_width(&config.backbone);
            let site = energies(site.outputs("potential", [1, 1]));
            let site = key_value(site, resolvent.d_key, d_value);
            Some(site.read_by("readout.output", [1, d_value], resolvent.heads, Some(kind)))
        }
        MixerKind::Gla => {
            let gla = &config.gla;
            let d_value = gla.value_width(&config.backbone);
            let site = key_value(site.outputs("forget", [1, 1]), gla.d_key, d_value);
            Some(site.read_by("readout.output", [1, d_value], gla.heads, Some(kind)))
        }
        MixerKind::MinGru => {
            let one = [1, 1];
            let site = site.outputs("gate", one).outputs("candidate", one);
            Some(site.read_by("output", one, config.min_gru.channels, Some(kind)))
        }
        MixerKind::Conv | MixerKind::Fnet => None,
    }
}

/// Re z, Im z and hopping of every head.
fn energies(site: Builder) -> Builder {
    let vectors = ["energy", "eta_raw", "hopping_raw"];
    vectors
        .into_iter()
        .fold(site, |site, vector| site.rows(vector, [1, 1]))
}

/// Queries, keys and values with their convolutions, gate and skip.
fn key_value(site: Builder, d_key: usize, d_value: usize) -> Builder {
    let projections = [("query", d_key), ("key", d_key), ("value", d_value)];
    let site = projections.into_iter().fold(site, |site, (name, width)| {
        site.outputs(&format!("inputs.{name}.linear"), [1, width])
            .rows(&format!("inputs.{name}.conv.weight"), [1, width])
    });
    site.outputs("readout.gate", [1, d_value])
        .rows("readout.skip", [1, d_value])
}
