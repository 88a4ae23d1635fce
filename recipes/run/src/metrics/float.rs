//! Floats in JSON, with names for those that JSON has no number for.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A float as it stands in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Json {
    Number(f64),
    Name(String),
    Null(()),
}

/// Borrowed from a map on its way out.
struct Out(f64);

/// Owned on its way in.
struct In(f64);

impl Serialize for Out {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_finite() => serializer.serialize_f64(value),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if value > 0.0 => serializer.serialize_str("inf"),
            _ => serializer.serialize_str("-inf"),
        }
    }
}

impl<'de> Deserialize<'de> for In {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::Number(value) => Ok(Self(value)),
            // Other programs write null for NaN.
            Json::Null(()) => Ok(Self(f64::NAN)),
            Json::Name(name) => match name.as_str() {
                "NaN" => Ok(Self(f64::NAN)),
                "inf" => Ok(Self(f64::INFINITY)),
                "-inf" => Ok(Self(f64::NEG_INFINITY)),
                _ => Err(de::Error::custom(format!(
                    "`{name}` is not a number, \"NaN\", \"inf\" or \"-inf\""
                ))),
            },
        }
    }
}

pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Out(*value).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    In::deserialize(deserializer).map(|value| value.0)
}

/// The same for every value of a map.
pub(super) mod map {
    use super::{BTreeMap, Deserialize, Deserializer, In, Out, Serializer};

    pub fn serialize<S: Serializer>(
        map: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(name, value)| (name, Out(*value))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, In>::deserialize(deserializer)?;
        Ok(map
            .into_iter()
            .map(|(name, value)| (name, value.0))
            .collect())
    }
}
