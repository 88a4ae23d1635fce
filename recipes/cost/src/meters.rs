//! What else is read beside the clock: memory and energy.

use burn::tensor::Device;
use kiln_run::hardware;

use crate::Energy;

/// The counter of a device is too coarse for less.
const LEAST_SECONDS: f64 = 0.5;

/// The most memory in use since the meter was made.
pub(crate) struct MemoryMeter<'a> {
    device: &'a Device,
    /// Whether a peak read later belongs to what came in between.
    known: bool,
    /// Bytes in use when it was made.
    before: Option<u64>,
}

impl<'a> MemoryMeter<'a> {
    pub fn start(device: &'a Device) -> Self {
        let known = match device.memory_pool_usage() {
            // The allocator keeps pages for reuse, so that what it holds after a cleanup and some work is the most it needed.
            Some(_) => {
                device.memory_cleanup();
                true
            }
            None => hardware::reset_memory_peak(),
        };
        let before = match device.memory_pool_usage() {
            Some(usage) => Some(usage.bytes_reserved),
            None => hardware::memory().resident,
        };
        Self {
            device,
            known,
            before,
        }
    }

    /// Bytes of the peak beyond what was in use before.
    pub fn growth(&self) -> Option<u64> {
        Some(self.peak()?.saturating_sub(self.before?))
    }

    /// Bytes: reserved by the device's allocator, or the peak resident set of the process.
    pub fn peak(&self) -> Option<u64> {
        match self.device.memory_pool_usage() {
            Some(usage) => Some(usage.bytes_reserved),
            None => hardware::memory().peak.filter(|_| self.known),
        }
    }
}

/// Bytes the device could still give, where that is known: main memory for a device without an allocator of its own.
pub(crate) fn memory_left(device: &Device) -> Option<u64> {
    match device.memory_pool_usage() {
        Some(_) => None,
        None => hardware::memory_available(),
    }
}

/// The energy counter of a device, if it has one: NVIDIA's, from Volta on.
pub struct EnergyMeter {
    #[cfg(feature = "cuda")]
    gpu: Option<nvidia::Gpu>,
}

impl EnergyMeter {
    /// Finds the counter of the device.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(unused_variables, reason = "only NVIDIA's driver counts")
    )]
    pub fn open(device: &Device) -> Self {
        Self {
            #[cfg(feature = "cuda")]
            gpu: nvidia::Gpu::of(device),
        }
    }

    /// Joules since some moment in the past.
    pub fn joules(&self) -> Option<f64> {
        #[cfg(feature = "cuda")]
        return self.gpu.as_ref().and_then(nvidia::Gpu::joules);
        #[cfg(not(feature = "cuda"))]
        None
    }
}

impl Energy {
    /// From two readings of a meter, the seconds in between and the tokens of that time; none if there was nothing to read or it
    /// was over too soon.
    pub(crate) fn between(readings: [Option<f64>; 2], seconds: f64, tokens: usize) -> Option<Self> {
        let [before, after] = readings;
        let joules = after? - before?;
        (seconds >= LEAST_SECONDS && joules > 0.0 && tokens > 0).then(|| Self {
            joules_per_token: joules / tokens as f64,
            watts: joules / seconds,
        })
    }
}

#[cfg(feature = "cuda")]
mod nvidia {
    use burn::tensor::Device;
    use nvml_wrapper::Nvml;

    /// A card, by its place on the bus: CUDA and NVML number cards differently.
    pub struct Gpu {
        nvml: Nvml,
        bus_id: String,
    }

    impl Gpu {
        pub fn of(device: &Device) -> Option<Self> {
            let bus_id = device.identity()?.physical?.pci_address?.to_string();
            let nvml = Nvml::init().ok()?;
            Some(Self { nvml, bus_id })
        }

        pub fn joules(&self) -> Option<f64> {
            let card = self.nvml.device_by_pci_bus_id(self.bus_id.as_str()).ok()?;
            let millijoules = card.total_energy_consumption().ok()?;
            Some(millijoules as f64 * 1e-3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_joules_over_tokens_and_seconds() {
        let found = Energy::between([Some(10.0), Some(40.0)], 2.0, 60);
        let expected = Energy {
            joules_per_token: 0.5,
            watts: 15.0,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(Energy::between([None, Some(40.0)], 2.0, 60), None);
        let too_soon = Energy::between([Some(10.0), Some(40.0)], 0.1, 60);
        assert_eq!(too_soon, None);
        // The counter did not move, or the driver was loaded anew.
        assert_eq!(Energy::between([Some(10.0), Some(10.0)], 2.0, 60), None);
    }

    #[test]
    fn the_processor_has_a_peak_and_no_counter_of_energy() {
        let device = Device::flex();
        let meter = MemoryMeter::start(&device);
        assert_eq!(meter.peak().is_some(), meter.known);
        assert_eq!(EnergyMeter::open(&device).joules(), None);
        assert_eq!(memory_left(&device).is_some(), cfg!(target_os = "linux"));
    }
}
