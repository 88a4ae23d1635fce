//! Stages that take whole units out of a model.

use std::fmt;

/// A stage that takes units out, and leaves smaller dense tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Structured {
    /// What a unit is.
    pub part: Part,
    /// What it is worth by.
    pub importance: Importance,
    /// Share of the units that goes, of every layer alike.
    pub share: f64,
    /// What stays is a multiple of this many units, so that kernels and groups of packed weights find even widths.
    pub multiple: usize,
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Channels of the position-wise networks.
    Mlp,
    /// Heads of the mixers that have them; of BK layers energies with their potentials.
    Heads,
    /// Whole layers.
    Layers,
}

/// What a unit is worth by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// The norm of its weights.
    Magnitude,
    /// What the loss moves by without it, to first order.
    Taylor,
    /// The loss without it, measured: of a layer with what went before it gone, of others with all of them there.
    Loss,
    /// How much it turns the residual stream; of layers.
    Cosine,
    /// Nothing: drawn from `calibration.seed`. What a method has to beat.
    Random,
}

impl Part {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Heads => "heads",
            Self::Layers => "layers",
        }
    }

    /// The part of a name.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        let all = [Self::Mlp, Self::Heads, Self::Layers];
        let found = all.into_iter().find(|part| part.name() == name);
        found.ok_or_else(|| format!("there is no part `{name}`; choose mlp, heads or layers"))
    }

    /// What its units can be worth by, with the names of recipes.
    fn importances(self) -> &'static [(&'static str, Importance)] {
        match self {
            Self::Mlp | Self::Heads => &[
                ("magnitude", Importance::Magnitude),
                ("taylor", Importance::Taylor),
                ("loss", Importance::Loss),
                ("random", Importance::Random),
            ],
            Self::Layers => &[
                ("loss", Importance::Loss),
                ("cosine", Importance::Cosine),
                ("random", Importance::Random),
            ],
        }
    }

    /// The methods of recipes, in words.
    pub(super) fn methods(self) -> String {
        let names: Vec<&str> = self.importances().iter().map(|(name, _)| *name).collect();
        let (last, first) = names.split_last().unwrap_or((&"", &[]));
        format!("{} or {last}", first.join(", "))
    }

    /// The method of a name; none if this part does not have it.
    pub(super) fn importance(self, name: &str) -> Option<Importance> {
        let mut all = self.importances().iter();
        all.find(|(known, _)| *known == name)
            .map(|(_, importance)| *importance)
    }
}

impl Structured {
    /// The method's name in recipes.
    pub fn method(&self) -> &'static str {
        let mut all = self.part.importances().iter();
        let found = all.find(|(_, importance)| *importance == self.importance);
        found.map_or("random", |(name, _)| *name)
    }
}

impl fmt::Display for Structured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.part {
            Part::Mlp => "channels",
            Part::Heads => "heads",
            Part::Layers => "layers",
        };
        write!(f, "{} of {what} gone by {}", self.share, self.method())
    }
}
