//! Numbers, sizes and times as a person reads them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is shown for a number that is not there.
pub const NONE: &str = "–";

/// A count or a rate in three digits: `950`, `18.7k`, `1.20M`, `3.40G`, `1.00T`. Negative numbers
/// keep their sign.
pub fn count(value: f64) -> String {
    if !value.is_finite() {
        return number(value);
    }
    let mut scaled = value.abs();
    let mut unit = "";
    for next in ["k", "M", "G", "T"] {
        // 999.5 would round to "1000" in its own unit.
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        unit = next;
    }
    let decimals = match scaled {
        s if unit.is_empty() && s.fract() == 0.0 => 0,
        s if s >= 99.95 => 0,
        s if s >= 9.995 => 1,
        _ => 2,
    };
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{scaled:.decimals$}{unit}")
}

/// A size in binary units: `512 B`, `4.0 KiB`, `1.2 GiB`.
pub fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1023.95 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{value} B"),
        _ => format!("{scaled:.1} {unit}"),
    }
}

/// A duration in its two largest units: `0.4s`, `12s`, `2m03s`, `3h07m`, `2d04h`. Negative and
/// non-finite ones are [`NONE`].
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return NONE.into();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    let total = seconds.round() as u64;
    let (days, hours, minutes, seconds) = (
        total / 86_400,
        total / 3600 % 24,
        total / 60 % 60,
        total % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds:02}s"),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A measure in four digits (three below one), in scientific form below 0.001 and from a million on: `1.482`,
/// `12.35`, `3.00e-4`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 {
            "∞".into()
        } else {
            "-∞".into()
        }
    } else if value == 0.0 {
        "0".into()
    } else if !(1e-3..999_999.5).contains(&size) {
        format!("{value:.2e}")
    } else {
        // Four digits from one on, three below, so that a learning rate of 0.0024 is not shown as 0.002.
        let magnitude = size.log10().floor() as i32;
        let decimals = if magnitude >= 0 {
            3 - magnitude
        } else {
            2 - magnitude
        };
        format!("{value:.*}", decimals.max(0) as usize)
    }
}

/// A share of one: `0.25` is `25%`; below one in a hundred `0.25%`.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        p if !p.is_finite() => NONE.into(),
        p if p != 0.0 && p.abs() < 0.995 => format!("{p:.2}%"),
        p => format!("{p:.0}%"),
    }
}

/// A moment in UTC to the second, as ISO 8601: `2026-03-21T09:30:00Z`. Moments before 1970 are
/// taken as 1970.
pub fn utc(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms"). Years start in March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let from_march_of_0 = days + 719_468;
    let era = from_march_of_0 / 146_097;
    let day_of_era = from_march_of_0 % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (950.0, "950"),
            (1.5, "1.50"),
            (999.6, "1.00k"),
            (18_700.0, "18.7k"),
            (187_499.0, "187k"),
            (999_700.0, "1.00M"),
            (1.2e6, "1.20M"),
            (3.4e9, "3.40G"),
            (1e12, "1.00T"),
            (-2500.0, "-2.50k"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn sizes() {
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn durations() {
        for (value, text) in [
            (0.42, "0.4s"),
            (9.96, "10s"),
            (12.4, "12s"),
            (59.7, "1m00s"),
            (123.0, "2m03s"),
            (11_220.0, "3h07m"),
            (188_000.0, "2d04h"),
            (-1.0, NONE),
            (f64::INFINITY, NONE),
        ] {
            assert_eq!(duration(value), text);
        }
    }

    #[test]
    fn numbers_and_shares() {
        for (value, text) in [
            (1.482_3, "1.482"),
            (12.345, "12.35"),
            (0.0123, "0.0123"),
            (3e-4, "3.00e-4"),
            (65_536.0, "65536"),
            (2e6, "2.00e6"),
            (0.0, "0"),
            (-4.0, "-4.000"),
            (f64::NEG_INFINITY, "-∞"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            [
                percent(0.25),
                percent(0.0025),
                percent(0.0),
                percent(f64::NAN)
            ],
            ["25%", "0.25%", "0%", NONE]
        );
    }

    #[test]
    fn moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_774_085_400, "2026-03-21T09:30:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
