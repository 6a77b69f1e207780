//! A device and its context, through which every other part of this backend calls the driver.

use super::symbols::{Code, Driver};
use crate::error::BackendError;
use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUevent, CUevent_flags};
use cudarc::driver::sys::{CUresult, CUstream, CUstream_flags};
use std::ffi::{CStr, c_char};
use std::fmt;

/// The oldest supported driver.
const OLDEST_DRIVER: (u32, u32) = (12, 0);
/// The oldest supported device: the first with bf16 `mma.sync` and `cp.async`.
const OLDEST_DEVICE: Capability = Capability { major: 8, minor: 0 };

/// Compute capability of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// The generation.
    pub major: u32,
    /// Its variant.
    pub minor: u32,
}

impl Capability {
    /// The name that the compiler has for it. Hopper and Blackwell data-centre devices have instructions that only the
    /// names with a letter give access to.
    pub fn architecture(self) -> String {
        let letter = if self.major == 9 || self.major == 10 { "a" } else { "" };
        format!("sm_{}{}{letter}", self.major, self.minor)
    }

    /// Multiplications and additions of dense bf16 products with float32 sums that a multiprocessor does in a cycle. They follow
    /// from what NVIDIA publishes of A100, A40, L40S, H100 and B200 (312, 150, 362, 989 and 2250 TFLOP/s); GeForce cards of
    /// the same capability are sold with half of that.
    pub(super) fn bf16_flops(self) -> Option<u32> {
        match (self.major, self.minor) {
            (8, 0) => Some(2048),
            (8, 6 | 9) => Some(1024),
            (9, 0) => Some(4096),
            (10, 0) => Some(8192),
            _ => None,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// One device with its primary context (the one that cuBLASLt uses too) and the stream that all work goes to.
pub(super) struct Device {
    pub(super) driver: Driver,
    /// The newest CUDA that the driver supports.
    pub(super) supports: (u32, u32),
    pub(super) name: String,
    pub(super) capability: Capability,
    pub(super) multiprocessors: u32,
    /// The highest of their clock, in kHz.
    pub(super) clock: u32,
    /// Bytes of shared memory that a block can have if a kernel asks for more than the usual 48 KiB.
    pub(super) shared_bytes: u32,
    handle: CUdevice,
    context: CUcontext,
    pub(super) stream: CUstream,
}

// SAFETY: contexts and streams may be used from any thread in which the context was made current, which `current`
// does before every use.
unsafe impl Send for Device {}
// SAFETY: as above; the driver's functions are thread-safe, and nothing here changes after `open`.
unsafe impl Sync for Device {}

/// Whether the driver starts and has device `ordinal`, without taking it.
pub(super) fn probe(driver: &Driver, ordinal: u32) -> Result<(), BackendError> {
    start(driver)?;
    handle(driver, ordinal).map(drop)
}

/// How many devices there are.
pub(super) fn count(driver: &Driver) -> Result<u32, BackendError> {
    start(driver)?;
    Ok(shown(driver))
}

impl Device {
    /// Starts the driver and takes device `ordinal`.
    pub(super) fn open(driver: Driver, ordinal: u32) -> Result<Self, BackendError> {
        let supports = start(&driver)?;
        let handle = handle(&driver, ordinal)?;
        let mut device = Self {
            supports,
            name: name(&driver, handle)?,
            capability: Capability { major: 0, minor: 0 },
            multiprocessors: 0,
            clock: 0,
            shared_bytes: 0,
            handle,
            context: std::ptr::null_mut(),
            stream: std::ptr::null_mut(),
            driver,
        };
        use CUdevice_attribute::*;
        device.capability = Capability {
            major: device.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: device.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        };
        if device.capability < OLDEST_DEVICE {
            let found = device.capability.to_string();
            return Err(BackendError::OldDevice { device: std::mem::take(&mut device.name), found });
        }
        device.multiprocessors = device.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        device.clock = device.attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        device.shared_bytes = device.attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        device.begin()?;
        Ok(device)
    }

    /// Makes the context and the stream.
    fn begin(&mut self) -> Result<(), BackendError> {
        // SAFETY: the handle is the driver's own; the context is written to a field that outlives the call.
        let code = unsafe { (self.driver.cuDevicePrimaryCtxRetain)(&mut self.context, self.handle) };
        self.check("starting the device", code)?;
        self.check("starting the device", self.current())?;
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; the stream is written to a field that outlives the call.
        let code = unsafe { (self.driver.cuStreamCreate)(&mut self.stream, flags) };
        self.check("making a stream", code)
    }

    /// Makes the context current in this thread; called before any other call of the driver.
    pub(super) fn current(&self) -> Code {
        // SAFETY: the context was retained by `begin` and is released only by `drop`.
        unsafe { (self.driver.cuCtxSetCurrent)(self.context) }
    }

    /// Bytes of the device that are free, and all it has. The context is current.
    pub(super) fn memory(&self) -> Result<(u64, u64), BackendError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written to locals.
        let code = unsafe { (self.driver.cuMemGetInfo_v2)(&mut free, &mut total) };
        self.check("asking for free memory", code)?;
        Ok((free as u64, total as u64))
    }

    /// A new event that only orders: one that also takes the time costs more wherever it is waited for.
    pub(super) fn event(&self) -> Result<CUevent, BackendError> {
        self.event_with(CUevent_flags::CU_EVENT_DISABLE_TIMING as u32)
    }

    /// A new event that takes the time.
    pub(super) fn timing_event(&self) -> Result<CUevent, BackendError> {
        self.event_with(CUevent_flags::CU_EVENT_DEFAULT as u32)
    }

    fn event_with(&self, flags: u32) -> Result<CUevent, BackendError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the context is current; the event is written to a local.
        let code = unsafe { (self.driver.cuEventCreate)(&mut event, flags) };
        self.check("making an event", code)?;
        Ok(event)
    }

    /// Nothing if `code` is zero, else the error of this device.
    pub(super) fn check(&self, what: &str, code: Code) -> Result<(), BackendError> {
        match code {
            0 => Ok(()),
            code => Err(self.failed(what, &text(&self.driver, code))),
        }
    }

    /// The error of this device.
    pub(super) fn failed(&self, what: &str, code: &str) -> BackendError {
        BackendError::Failed { device: self.name.clone(), what: what.to_owned(), code: code.to_owned() }
    }

    fn attribute(&self, attribute: CUdevice_attribute) -> Result<u32, BackendError> {
        let mut value = 0;
        // SAFETY: the handle is the driver's own; the value is written to a local.
        let code = unsafe { (self.driver.cuDeviceGetAttribute)(&mut value, attribute as u32, self.handle) };
        self.check("asking for an attribute", code)?;
        Ok(value.unsigned_abs())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.context.is_null() {
            return;
        }
        self.current();
        if !self.stream.is_null() {
            // SAFETY: made by `begin` and used by nobody else any more.
            unsafe { (self.driver.cuStreamDestroy_v2)(self.stream) };
        }
        // SAFETY: retained once by `begin`.
        unsafe { (self.driver.cuDevicePrimaryCtxRelease_v2)(self.handle) };
    }
}

/// Starts the driver; the CUDA version it supports.
fn start(driver: &Driver) -> Result<(u32, u32), BackendError> {
    let refuse = |what, code| match code {
        0 => Ok(()),
        code => Err(BackendError::Driver { what, code: text(driver, code) }),
    };
    // SAFETY: zero is the only flag there is.
    let code = unsafe { (driver.cuInit)(0) };
    // The absence of a device is not a failure of the driver; the count below reports it.
    if code != CUresult::CUDA_ERROR_NO_DEVICE as Code {
        refuse("cuInit", code)?;
    }
    let mut version = 0;
    // SAFETY: the version is written to a local.
    refuse("cuDriverGetVersion", unsafe { (driver.cuDriverGetVersion)(&mut version) })?;
    let version = version.unsigned_abs();
    let supports = (version / 1000, version % 1000 / 10);
    if supports < OLDEST_DRIVER {
        return Err(BackendError::OldDriver {
            supports: format!("{}.{}", supports.0, supports.1),
            library: "tetrad".into(),
            needs: format!("{}.{}", OLDEST_DRIVER.0, OLDEST_DRIVER.1),
        });
    }
    Ok(supports)
}

fn handle(driver: &Driver, ordinal: u32) -> Result<CUdevice, BackendError> {
    let (found, mut handle) = (shown(driver), 0);
    if ordinal >= found {
        return Err(BackendError::NoDevice { asked: ordinal, found });
    }
    // SAFETY: the handle is written to a local.
    match unsafe { (driver.cuDeviceGet)(&mut handle, ordinal as i32) } {
        0 => Ok(handle),
        code => Err(BackendError::Driver { what: "cuDeviceGet", code: text(driver, code) }),
    }
}

/// The number of devices of a driver that was started.
fn shown(driver: &Driver) -> u32 {
    let mut found = 0;
    // SAFETY: the number is written to a local. Where the driver found no device the call fails and leaves zero.
    unsafe { (driver.cuDeviceGetCount)(&mut found) };
    found.unsigned_abs()
}

fn name(driver: &Driver, handle: CUdevice) -> Result<String, BackendError> {
    let mut bytes = [0u8; 256];
    // SAFETY: the length passed is the buffer's, less the zero that stays at its end.
    let code = unsafe { (driver.cuDeviceGetName)(bytes.as_mut_ptr().cast::<c_char>(), 255, handle) };
    if code != 0 {
        return Err(BackendError::Driver { what: "cuDeviceGetName", code: text(driver, code) });
    }
    let name = CStr::from_bytes_until_nul(&bytes).expect("a buffer that ends in zero");
    Ok(name.to_string_lossy().into_owned())
}

/// An error's name, number and sentence.
pub(super) fn text(driver: &Driver, code: Code) -> String {
    let (mut name, mut sentence): (*const c_char, *const c_char) = (std::ptr::null(), std::ptr::null());
    // SAFETY: both are written to locals; they point to constant strings, or stay null for an unknown error.
    unsafe {
        (driver.cuGetErrorName)(code, &mut name);
        (driver.cuGetErrorString)(code, &mut sentence);
        format!("{} ({code}): {}", constant(name), constant(sentence))
    }
}

/// A string of a library.
///
/// # Safety
/// Null, or a C string that is never freed.
pub(super) unsafe fn constant(text: *const c_char) -> String {
    if text.is_null() {
        return "unknown error".into();
    }
    // SAFETY: as the caller promised.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
