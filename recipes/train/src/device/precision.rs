//! What a device computes in.

use burn::tensor::Device;
use kiln_zoo::Precision;

use super::DeviceError;

/// Refuses a precision that a device has no arithmetic for.
///
/// # Errors
/// [`DeviceError::Precision`] naming those that it has.
pub fn check_precision(device: &Device, precision: Precision) -> Result<(), DeviceError> {
    check_among(precision, |precision| {
        device.supports_dtype(precision.dtype())
    })
}

fn check_among(precision: Precision, has: impl Fn(Precision) -> bool) -> Result<(), DeviceError> {
    if has(precision) {
        return Ok(());
    }
    let others = Precision::ALL.into_iter().filter(|other| has(*other));
    let others: Vec<_> = others.map(Precision::name).collect();
    Err(DeviceError::Precision {
        precision: precision.name(),
        others: others.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_that_is_not_there_is_named() {
        let has = |precision| precision != Precision::Bf16;
        assert_eq!(check_among(Precision::F16, has), Ok(()));
        let error = check_among(Precision::Bf16, has).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the device does not compute in bf16, but in f32, f16: set `precision` to one of these, or give it with --precision where a finished run is used"
        );
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_has_every_precision() {
        for precision in Precision::ALL {
            assert_eq!(check_precision(&Device::flex(), precision), Ok(()));
        }
    }
}
