//! Layers by patterns of their names.

use serde::{Deserialize, Serialize};

/// Layers by patterns of their names, in which `*` stands for anything: `blocks.0.mlp.up`, `*.potential`, `tokens`, `head`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// One of these has to match.
    pub layers: Vec<String>,
    /// And none of these.
    pub except: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            layers: every_layer(),
            except: Vec::new(),
        }
    }
}

/// The pattern that all names fit: what sections mean that name no layers.
pub(crate) fn every_layer() -> Vec<String> {
    vec!["*".into()]
}

impl Selection {
    /// Those of `layers` that `except` does not take out.
    pub(crate) fn of(layers: &[String], except: &[String]) -> Self {
        Self {
            layers: layers.to_vec(),
            except: except.to_vec(),
        }
    }

    /// Whether a layer is meant.
    pub fn has(&self, layer: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, layer));
        any(&self.layers) && !any(&self.except)
    }
}

/// Whether a name fits a pattern, in which `*` stands for any characters or none.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        match parts.peek() {
            None => return rest.ends_with(part),
            Some(_) => match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            },
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_layers() {
        for (pattern, name, fits) in [
            ("*", "blocks.0.mlp.up", true),
            ("tokens", "tokens", true),
            ("tokens", "tokens.more", false),
            ("*.potential", "blocks.3.mixer.potential", true),
            ("*.potential", "potential", false),
            ("blocks.*.mlp.*", "blocks.11.mlp.down", true),
            ("blocks.1.*", "blocks.11.mlp.down", false),
            ("*mlp*down", "blocks.0.mlp.down", true),
            ("*a*ab", "aab", true),
            ("*ab", "aba", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        let selection = Selection {
            layers: vec!["blocks.*".into()],
            except: vec!["*.gate".into()],
        };
        assert!(selection.has("blocks.0.mlp.up"));
        assert!(!selection.has("blocks.0.mlp.gate"));
        assert!(!selection.has("head"));
    }
}
