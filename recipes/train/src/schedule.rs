//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Half a cosine from the peak to the end (arXiv 1608.03983).
    Cosine,
    /// Warm-up, stable, decay: constant, then a straight line down over the last `decay_fraction` (arXiv 2404.06395).
    Wsd,
    /// Constant.
    Constant,
}

/// Settings of the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Shape after the warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Rate at the end, as a fraction of the peak.
    pub final_fraction: f64,
    /// Share of the run that `wsd` decays over.
    pub decay_fraction: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Cosine,
            warmup_steps: 100,
            final_fraction: 0.1,
            decay_fraction: 0.2,
        }
    }
}

impl ScheduleConfig {
    /// Rate of step `step` (the first is 0) of `steps`, as a fraction of the peak; `time` in 0..=1 is the share of the run's
    /// time limit that has passed, 0 if it has none.
    ///
    /// The decay runs over the steps after the warm-up, or over time where that is further, so that a run bounded by time
    /// decays within its time.
    pub fn fraction(&self, step: u64, steps: u64, time: f64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decaying = steps.saturating_sub(self.warmup_steps).max(1);
        let by_steps = (step - self.warmup_steps) as f64 / decaying as f64;
        let progress = by_steps.max(time).clamp(0.0, 1.0);
        let high = match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            ScheduleKind::Wsd => ((1.0 - progress) / self.decay_fraction).min(1.0),
        };
        self.final_fraction + (1.0 - self.final_fraction) * high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: ScheduleKind) -> ScheduleConfig {
        ScheduleConfig {
            kind,
            warmup_steps: 10,
            final_fraction: 0.1,
            decay_fraction: 0.25,
        }
    }

    #[test]
    fn warmup_reaches_the_peak_and_starts_above_zero() {
        let cosine = of(ScheduleKind::Cosine);
        assert_eq!(cosine.fraction(0, 110, 0.0), 0.1);
        assert_eq!(cosine.fraction(9, 110, 0.0), 1.0);
        assert_eq!(cosine.fraction(10, 110, 0.0), 1.0);
    }

    #[test]
    fn ends_are_where_they_should_be() {
        for (kind, half, end) in [
            (ScheduleKind::Cosine, 0.55, 0.1),
            (ScheduleKind::Wsd, 1.0, 0.1),
            (ScheduleKind::Constant, 1.0, 1.0),
        ] {
            let schedule = of(kind);
            let half_way = schedule.fraction(60, 110, 0.0);
            assert!((half_way - half).abs() < 1e-12, "{kind:?}");
            assert!(
                (schedule.fraction(110, 110, 0.0) - end).abs() < 1e-12,
                "{kind:?}"
            );
            // Half of the time gone counts as half of the steps.
            assert_eq!(schedule.fraction(10, 110, 0.5), half_way, "{kind:?}");
        }
        let late = of(ScheduleKind::Wsd).fraction(10 + 875, 1010, 0.0);
        assert!((late - 0.55).abs() < 1e-12, "{late}");
    }

    #[test]
    fn a_run_shorter_than_its_warmup_only_warms_up() {
        assert_eq!(of(ScheduleKind::Cosine).fraction(4, 5, 0.0), 0.5);
        assert_eq!(of(ScheduleKind::Cosine).fraction(10, 5, 0.0), 1.0);
    }
}
