//! A launch of one kernel of a module.

use crate::code::Kernel;
use crate::machine::{self, Fault, Manner, Memory};
use crate::{Module, ParseError};
use std::fmt::{self, Display};
use std::sync::Arc;

/// Why a launch could not be made or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The kernel could not be read.
    Parse(ParseError),
    /// It takes other parameters: how many there are, or the bytes of one.
    Parameters {
        /// What it takes.
        wanted: Vec<u32>,
        /// What it was given.
        given: Vec<u32>,
    },
    /// It failed.
    Fault(Fault),
}

impl Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(error) => error.fmt(f),
            Self::Parameters { wanted, given } => {
                write!(f, "the kernel takes parameters of {wanted:?} bytes, given were {given:?}")
            }
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for LaunchError {}

/// A launch of a kernel, of one block of 32 threads unless said otherwise.
pub struct Launch {
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    threads: u32,
    dynamic: u32,
    parameters: Vec<Vec<u8>>,
}

impl Launch {
    /// # Errors
    /// If the kernel is not there or is not understood.
    pub fn new(module: &Module, kernel: &str) -> Result<Self, LaunchError> {
        let kernel = module.kernel(kernel).map_err(LaunchError::Parse)?;
        Ok(Self { kernel, grid: [1; 3], threads: 32, dynamic: 0, parameters: Vec::new() })
    }

    /// Blocks.
    pub fn grid(mut self, grid: [u32; 3]) -> Self {
        self.grid = grid;
        self
    }

    /// Threads of a block.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// Bytes of dynamic shared memory.
    pub fn shared(mut self, bytes: u32) -> Self {
        self.dynamic = bytes;
        self
    }

    /// The next parameter, an address or a number of 64 bits.
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The next parameter, a number of 32 bits.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The next parameter, as it lies in memory.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.parameters.push(bytes.to_vec());
        self
    }

    /// Runs all blocks.
    ///
    /// # Errors
    /// If the parameters are not the kernel's, or at the first thing that goes wrong.
    pub fn run(&self, memory: &dyn Memory, manner: Manner) -> Result<(), LaunchError> {
        let kernel = &self.kernel;
        let wanted: Vec<u32> = kernel.parameters.iter().map(|parameter| parameter.bytes).collect();
        let given: Vec<u32> = self.parameters.iter().map(|bytes| bytes.len() as u32).collect();
        if wanted != given {
            return Err(LaunchError::Parameters { wanted, given });
        }
        let mut parameters = vec![0; kernel.parameter_bytes as usize];
        for (parameter, bytes) in kernel.parameters.iter().zip(&self.parameters) {
            parameters[parameter.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        let launch = machine::Launch {
            grid: self.grid,
            threads: self.threads,
            dynamic: self.dynamic,
            parameters: &parameters,
            memory,
            manner,
        };
        machine::run(kernel, &launch).map_err(LaunchError::Fault)
    }
}
