//! Where a run computes and in which number format.
//!
//! Half precision is bfloat16: every computation of a layer, and what travels between processes. Parameters that are trained
//! keep a float32 original, which the optimiser updates (its moments are float32 too); gradients are summed up in float32.

use serde::{Deserialize, Serialize};
use tch::{Cuda, Device, Kind};
use thiserror::Error;

use crate::native;

/// Which device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeviceChoice {
    /// A GPU where there is one and libtorch can use it, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this process's local rank; refused where there is none.
    Cuda,
}

/// Number format of the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Precision {
    /// bfloat16 on a GPU, float32 on the CPU.
    #[default]
    Auto,
    /// float32 everywhere: exact, and slow on a GPU.
    Float32,
    /// bfloat16 with float32 originals.
    Bfloat16,
}

/// The device cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "device is cuda, but process {local_rank} of this machine finds no GPU ({reason}); give the pod one, install libtorch with \
     CUDA, or write device: cpu"
)]
pub struct PlacementError {
    /// Number of the process on its machine.
    pub local_rank: usize,
    /// What is missing.
    pub reason: String,
}

/// Where a process computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The device.
    pub device: Device,
    /// The number format of the computation.
    pub kind: Kind,
}

impl Placement {
    /// float32 on the CPU.
    pub const CPU: Self = Self { device: Device::Cpu, kind: Kind::Float };

    /// Looks for the device of process `local_rank` of this machine.
    ///
    /// # Errors
    /// When a GPU is asked for and there is none.
    pub fn find(
        device: DeviceChoice,
        precision: Precision,
        local_rank: usize,
    ) -> Result<Self, PlacementError> {
        let gpu = match device {
            DeviceChoice::Cpu => None,
            DeviceChoice::Auto => open_gpu(local_rank).ok(),
            DeviceChoice::Cuda => {
                Some(open_gpu(local_rank).map_err(|reason| PlacementError { local_rank, reason })?)
            }
        };
        Ok(Self { device: gpu.unwrap_or(Device::Cpu), kind: kind(precision, gpu.is_some()) })
    }

    /// Whether parameters are computed with as they were read: no copy in another format or on another device.
    pub fn is_plain(self) -> bool {
        self == Self::CPU
    }
}

fn kind(precision: Precision, is_gpu: bool) -> Kind {
    match precision {
        Precision::Bfloat16 => Kind::BFloat16,
        Precision::Auto if is_gpu => Kind::BFloat16,
        Precision::Auto | Precision::Float32 => Kind::Float,
    }
}

/// Opens libtorch's CUDA half, before anything else asks for it, and takes the GPU of a process.
fn open_gpu(local_rank: usize) -> Result<Device, String> {
    if !Cuda::is_available() {
        native::open_library("libtorch_cuda.so")?;
    }
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if local_rank >= count {
        return Err(format!("libtorch sees {count} GPUs"));
    }
    Ok(Device::Cuda(local_rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_for_gpus_unless_asked_for() {
        assert_eq!(kind(Precision::Auto, true), Kind::BFloat16);
        assert_eq!(kind(Precision::Auto, false), Kind::Float);
        assert_eq!(kind(Precision::Float32, true), Kind::Float);
        assert_eq!(kind(Precision::Bfloat16, false), Kind::BFloat16);
    }

    #[test]
    fn a_process_without_a_gpu_computes_on_the_cpu_or_says_what_is_missing() {
        // One machine has no GPU with this number, whatever else it has.
        assert_eq!(Placement::find(DeviceChoice::Auto, Precision::Auto, 4_000), Ok(Placement::CPU));
        let refused = Placement::find(DeviceChoice::Cuda, Precision::Auto, 4_000).unwrap_err().to_string();
        assert!(refused.contains("device is cuda") && refused.contains("device: cpu"), "{refused}");
    }
}
