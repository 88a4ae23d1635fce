//! Numbers of devices on a command line: 0, 0,2 or 0-7.

/// Numbers of devices, in order and without repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(pub Vec<usize>);

pub fn devices(text: &str) -> Result<Devices, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<usize>();
        number.map_err(|_| format!("`{text}` is no number of a device; write 0, 0,2 or 0-7"))
    };
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("`{part}` counts down; write {last}-{first}"));
        }
        // A device more than any machine has is a slip of the finger.
        if last - first > 1024 {
            return Err(format!("`{part}` is {} devices", last - first + 1));
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    match all.len() == count {
        true => Ok(Devices(all)),
        false => Err(format!(
            "`{text}` names a device twice; --jobs says how many runs each gets"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbers_lists_and_ranges() {
        let of = |text: &str| devices(text).map(|devices| devices.0);
        assert_eq!(of("3"), Ok(vec![3]));
        assert_eq!(of("2,0"), Ok(vec![0, 2]));
        assert_eq!(of("0-2,5"), Ok(vec![0, 1, 2, 5]));
        for (text, message) in [
            ("", "`` is no number of a device; write 0, 0,2 or 0-7"),
            ("-1", "`` is no number"),
            ("all", "`all` is no number"),
            ("3-1", "`3-1` counts down; write 1-3"),
            ("0,0-1", "names a device twice"),
            ("0-99999", "is 100000 devices"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
