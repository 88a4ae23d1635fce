//! The keys of stages that prune at once.

use super::{DAMPING, Keys, Kind, unknown_method};
use crate::prune::Pattern;
use crate::recipe::{Prune, PruneMethod};

impl Keys {
    pub(super) fn prune(&mut self) -> Result<Prune, String> {
        const KNOWN: &str = "magnitude, wanda or sparsegpt";
        let method = match self.method("prune", KNOWN)?.as_str() {
            "magnitude" => PruneMethod::Magnitude,
            "wanda" => PruneMethod::Wanda,
            "sparsegpt" => PruneMethod::SparseGpt {
                damping: self.damping.take().unwrap_or(DAMPING),
            },
            other => return Err(unknown_method(other, KNOWN)),
        };
        let pattern = match (self.sparsity.take(), self.pattern.take()) {
            (Some(share), None) => Pattern::Unstructured { share },
            (None, Some(text)) => n_of_m(&text)?,
            _ => {
                return Err(
                    "a prune stage needs either `sparsity`, a share, or `pattern`, such as \"2:4\""
                        .into(),
                );
            }
        };
        let any_width = match pattern {
            Pattern::Unstructured { .. } => 1,
            Pattern::NofM { of, .. } => of,
        };
        pattern
            .check(any_width)
            .map_err(|error| error.to_string())?;
        Ok(Prune { pattern, method })
    }
}

fn n_of_m(text: &str) -> Result<Pattern, String> {
    let numbers = text.split_once(':').and_then(|(keep, of)| {
        Some(Pattern::NofM {
            keep: keep.trim().parse().ok()?,
            of: of.trim().parse().ok()?,
        })
    });
    numbers.ok_or_else(|| format!("`pattern` is \"{text}\", but must be like \"2:4\" or \"4:8\""))
}

/// The keys that say the same.
pub(super) fn prune_keys(work: Prune) -> Keys {
    let (method, damping) = match work.method {
        PruneMethod::Magnitude => ("magnitude", None),
        PruneMethod::Wanda => ("wanda", None),
        PruneMethod::SparseGpt { damping } => ("sparsegpt", Some(damping)),
    };
    let (sparsity, pattern) = match work.pattern {
        Pattern::Unstructured { share } => (Some(share), None),
        Pattern::NofM { keep, of } => (None, Some(format!("{keep}:{of}"))),
    };
    Keys {
        kind: Kind::Prune,
        method: Some(method.into()),
        damping,
        sparsity,
        pattern,
        ..Keys::default()
    }
}
