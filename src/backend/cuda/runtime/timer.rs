//! Time on the device, for benchmarks.

use super::device::Device;
use super::symbols::Code;
use crate::error::BackendError;
use cudarc::driver::sys::CUevent;
use std::sync::Arc;

/// Two marks in the stream.
pub(super) struct Timer {
    device: Arc<Device>,
    marks: [CUevent; 2],
}

// SAFETY: events belong to the device's context, which is made current before every use.
unsafe impl Send for Timer {}

impl Timer {
    /// The context is current.
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, BackendError> {
        let mut timer = Self { device: device.clone(), marks: [std::ptr::null_mut(); 2] };
        for mark in &mut timer.marks {
            *mark = device.timing_event()?;
        }
        Ok(timer)
    }

    /// Marks the stream's end.
    pub(super) fn start(&self) -> Code {
        self.mark(0)
    }

    /// Marks the stream's end again and waits for it; the seconds between.
    pub(super) fn stop(&self) -> Result<f64, Code> {
        let done = |code| if code == 0 { Ok(()) } else { Err(code) };
        done(self.mark(1))?;
        let mut milliseconds = 0.0;
        // SAFETY: both events were recorded; the time is written to a local.
        unsafe {
            done((self.device.driver.cuEventSynchronize)(self.marks[1]))?;
            done((self.device.driver.cuEventElapsedTime)(&mut milliseconds, self.marks[0], self.marks[1]))?;
        }
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn mark(&self, which: usize) -> Code {
        // SAFETY: event and stream belong to the context, which is current.
        unsafe { (self.device.driver.cuEventRecord)(self.marks[which], self.device.stream) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.device.current();
        for &mark in self.marks.iter().filter(|mark| !mark.is_null()) {
            // SAFETY: made by `new` and used by nobody else any more.
            unsafe { (self.device.driver.cuEventDestroy_v2)(mark) };
        }
    }
}
