//! NCCL itself, before there are ranks.

use super::super::device::constant;
use super::super::libraries::Search;
use super::super::symbols::{Code, Nccl, NcclComm, NcclConfig, NcclId};
use super::Handle;
use super::watch::{IN_PROGRESS, SUCCESS};
use crate::error::{BackendError, RanksError};
use std::ffi::c_int;
use std::path::{Path, PathBuf};

/// What a configuration begins with, and the version that had its fields.
const MAGIC: u32 = 0xcafe_beef;
const CONFIG_VERSION: u32 = 21_400;

/// Results that say that the caller, not the machine or a peer, is at fault.
const INVALID_ARGUMENT: Code = 4;
const INVALID_USAGE: Code = 5;

/// Where ranks find each other: 128 bytes that one of them makes and all are given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId(pub [u8; 128]);

/// The library, opened.
pub struct NcclLibrary {
    symbols: Nccl,
    path: PathBuf,
}

impl NcclLibrary {
    /// Finds it; no device is touched.
    ///
    /// # Errors
    /// If it is not there, with all that was searched.
    pub fn open(search: &Search) -> Result<Self, BackendError> {
        let found = search.nccl()?;
        Ok(Self { symbols: found.symbols, path: found.path })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name and version.
    pub fn version(&self) -> String {
        let mut number = 0;
        // SAFETY: the number is written to a local.
        unsafe { (self.symbols.ncclGetVersion)(&mut number) };
        format!("NCCL {}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }

    /// An id for ranks to meet at. This process listens there from now on, unless `NCCL_COMM_ID` names an address: then every
    /// rank gets the same id, and rank 0 will listen.
    ///
    /// # Errors
    /// If NCCL finds no network to listen on, or cannot read the address.
    pub fn unique_id(&self) -> Result<UniqueId, RanksError> {
        let mut id = NcclId([0; 128]);
        // SAFETY: the id is written to a local.
        match unsafe { (self.symbols.ncclGetUniqueId)(&mut id) } {
            SUCCESS => Ok(UniqueId(id.0)),
            code => Err(error(&self.symbols, "ncclGetUniqueId", code, None)),
        }
    }

    /// Begins to meet the others; the context of this rank's device is current.
    pub(super) fn begin(&self, rank: usize, size: usize, id: &UniqueId) -> Result<Handle, RanksError> {
        let bytes = size_of::<NcclConfig>();
        let mut config = NcclConfig { bytes, magic: MAGIC, version: CONFIG_VERSION, blocking: 0 };
        let mut comm = std::ptr::null_mut();
        // SAFETY: the configuration is one of the version that it names, and read during the call alone; the handle is
        // written to a local.
        let code = unsafe {
            let begin = self.symbols.ncclCommInitRankConfig;
            begin(&mut comm, size as c_int, NcclId(id.0), rank as c_int, &mut config)
        };
        match code {
            SUCCESS | IN_PROGRESS if !comm.is_null() => Ok(Handle(comm)),
            code => Err(error(&self.symbols, "ncclCommInitRank", code, None)),
        }
    }

    pub(super) fn into_symbols(self) -> Nccl {
        self.symbols
    }
}

/// A result in words.
pub(super) fn error(nccl: &Nccl, call: &'static str, code: Code, comm: Option<NcclComm>) -> RanksError {
    // SAFETY: both give constant strings, or one that lives as long as the communicator; it is copied here.
    let (name, last) = unsafe {
        let last = (nccl.ncclGetLastError)(comm.unwrap_or(std::ptr::null_mut()));
        (constant((nccl.ncclGetErrorString)(code)), if last.is_null() { String::new() } else { constant(last) })
    };
    let last = last.trim();
    let said = if last.is_empty() { format!("{name} ({code})") } else { format!("{name} ({code}): {last}") };
    match code {
        INVALID_ARGUMENT | INVALID_USAGE => RanksError::Refused { call, said },
        _ => RanksError::Call { call, said },
    }
}
