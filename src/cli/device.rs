//! Selection of the device.

use super::Failure;
use std::fmt;
use std::str::FromStr;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::cuda::{self, Cuda, Search};
use tetrad::backend::{Backend, DeviceInfo};
use tetrad::checkpoint::{Adapted, Capacity};
use tetrad::error::BackendError;
use tetrad::model::ModelConfig;

/// The values of `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if it can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number; without one the first, or of several ranks on a machine to each its own.
    Cuda(Option<u32>),
}

impl Device {
    /// A number for each kind, whichever GPU is meant.
    pub fn kind(self) -> u64 {
        match self {
            Self::Auto => 0,
            Self::Cpu => 1,
            Self::Cuda(_) => 2,
        }
    }
}

/// As `--device` takes it.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number
                    .map(|number| Self::Cuda(Some(number)))
                    .ok_or_else(|| "expected auto, cpu, cuda, or cuda:N for the device of that number".into())
            }
        }
    }
}

/// An open device.
pub(super) struct OpenDevice {
    /// The backend; it has no memory yet.
    pub backend: Box<dyn Backend>,
    /// Why `auto` did not take a GPU.
    pub instead: Option<BackendError>,
}

impl OpenDevice {
    /// The device in words, with the reason if `auto` fell back to it.
    pub fn describe(&self) -> String {
        let device = self.backend.describe();
        match &self.instead {
            // The searched folders are for those who asked for a GPU.
            Some(BackendError::Library { library, .. }) => format!("{device} (no GPU is used: no {library})"),
            Some(why) => format!("{device} (no GPU is used: {why})"),
            None => device,
        }
    }
}

/// Opens `device` for `model`. `need` gives the bytes of memory that must be free on it.
///
/// # Errors
/// If a GPU was requested explicitly and cannot be used.
pub(super) fn open(
    device: Device,
    model: &ModelConfig,
    need: impl Fn(&dyn DeviceInfo) -> u64,
) -> Result<OpenDevice, Failure> {
    let instead = match device {
        Device::Cpu => None,
        Device::Auto => match open_cuda(0, model, &need) {
            Ok(backend) => return Ok(OpenDevice { backend, instead: None }),
            Err(why) => Some(why),
        },
        Device::Cuda(ordinal) => {
            let backend = open_cuda(ordinal.unwrap_or(0), model, &need)?;
            return Ok(OpenDevice { backend, instead: None });
        }
    };
    Ok(OpenDevice { backend: Box::new(Cpu::new()), instead })
}

/// Opens `device` for a model that computes as much at once as `capacity` says.
///
/// # Errors
/// If a GPU was requested explicitly and cannot be used.
pub(super) fn open_for(device: Device, model: &Adapted<'_>, capacity: Capacity) -> Result<OpenDevice, Failure> {
    open(device, model.shape(), |sizes| model.place(sizes, capacity).0.total() as u64)
}

fn open_cuda(
    ordinal: u32,
    model: &ModelConfig,
    need: &impl Fn(&dyn DeviceInfo) -> u64,
) -> Result<Box<dyn Backend>, BackendError> {
    serve(open_gpu(ordinal)?, model, need)
}

/// A GPU; says so if its kernels have to be compiled first.
///
/// # Errors
/// As [`Cuda::open`].
pub(super) fn open_gpu(ordinal: u32) -> Result<Cuda, BackendError> {
    Cuda::open_with(ordinal, &Search::usual().telling(compiling))
}

fn compiling(files: usize) {
    eprintln!("note: compiling {files} files of kernels for this GPU; they are kept for later starts");
}

/// A GPU, if it can be used for `model`.
///
/// # Errors
/// If the model's heads have no kernels, or `need` bytes are not free.
pub(super) fn serve(
    cuda: Cuda,
    model: &ModelConfig,
    need: &impl Fn(&dyn DeviceInfo) -> u64,
) -> Result<Box<dyn Backend>, BackendError> {
    cuda.check_heads(model.head_dim(), model.qk_norm)?;
    cuda.check_memory(need(&cuda))?;
    Ok(Box::new(cuda))
}

/// What a plan must know of `device`, without opening it: `auto` only asks whether there is a GPU.
pub(super) fn sizes(device: Device) -> Box<dyn DeviceInfo> {
    match device {
        Device::Cpu => Box::new(Cpu::new()),
        Device::Auto if cuda::probe().is_err() => Box::new(Cpu::new()),
        Device::Auto | Device::Cuda(_) => Box::new(cuda::Info),
    }
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn devices_have_names() {
        let found = ["auto", "cpu", "cuda", "cuda:3"].map(|text| text.parse::<Device>().unwrap());
        assert_eq!(found, [Device::Auto, Device::Cpu, Device::Cuda(None), Device::Cuda(Some(3))]);
        assert!(found.iter().all(|device| device.to_string().parse() == Ok(*device)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "CPU"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
