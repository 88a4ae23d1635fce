//! What can be measured.

use crate::{CostError, Settings};

/// Longest prompt and widest batch, and most seconds.
const MOST_TOKENS: usize = 1 << 20;
const MOST_SECONDS: f64 = 86_400.0;

impl Default for Settings {
    /// Sensible on a CPU.
    fn default() -> Self {
        Self {
            lengths: vec![64, 256, 1024],
            batches: vec![1, 8],
            seconds: 60.0,
        }
    }
}

impl Settings {
    /// Checks every length, batch and the time.
    ///
    /// # Errors
    /// Names the first option out of its range.
    pub fn validate(&self) -> Result<(), CostError> {
        let bad = |name, value: String, why: String| Err(CostError::Setting { name, value, why });
        for (name, values) in [("lengths", &self.lengths), ("batches", &self.batches)] {
            if values.is_empty() {
                return bad(name, "empty".into(), "at least one is needed".into());
            }
            for (place, &value) in values.iter().enumerate() {
                if !(1..=MOST_TOKENS).contains(&value) {
                    let why = format!("must lie in [1, {MOST_TOKENS}]");
                    return bad(name, value.to_string(), why);
                }
                if values[..place].contains(&value) {
                    return bad(name, value.to_string(), "is given twice".into());
                }
            }
        }
        if !(self.seconds > 0.0 && self.seconds <= MOST_SECONDS) {
            let why = format!("must lie in (0, {MOST_SECONDS}]");
            return bad("seconds", self.seconds.to_string(), why);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_measured_is_refused_by_name() {
        assert!(Settings::default().validate().is_ok());
        let said = |change: &dyn Fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert_eq!(
            said(&|settings| settings.lengths = vec![64, 0]),
            "`--lengths` is 0, but must lie in [1, 1048576]"
        );
        assert_eq!(
            said(&|settings| settings.lengths = vec![64, 8, 64]),
            "`--lengths` is 64, but is given twice"
        );
        assert_eq!(
            said(&|settings| settings.batches.clear()),
            "`--batches` is empty, but at least one is needed"
        );
        assert_eq!(
            said(&|settings| settings.batches = vec![2_000_000]),
            "`--batches` is 2000000, but must lie in [1, 1048576]"
        );
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let words = said(&|settings| settings.seconds = seconds);
            assert!(
                words.contains("`--seconds`") && words.contains("(0, 86400]"),
                "{words}"
            );
        }
    }
}
