//! Time on the device: of benchmarks, and of what waits for other ranks.

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
        self.marks.iter().filter(|mark| !mark.is_null()).for_each(|mark| destroy(&self.device, *mark));
    }
}

/// Time that the stream spends between pairs of marks, of which there may be many before anybody asks.
pub(super) struct Stopwatch {
    device: Arc<Device>,
    pairs: Vec<[CUevent; 2]>,
    /// How many of them are in use.
    used: usize,
}

// SAFETY: as for `Timer`.
unsafe impl Send for Stopwatch {}

impl Stopwatch {
    /// Pairs at most; what is marked beyond them is not counted.
    const MOST: usize = 1 << 14;

    pub(super) fn new(device: &Arc<Device>) -> Self {
        Self { device: device.clone(), pairs: Vec::new(), used: 0 }
    }

    /// Marks the stream's end around what `work` adds to it. The context is current.
    pub(super) fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let Some(pair) = self.pair() else { return work() };
        // A mark that could not be set makes the pair count for nothing; what failed shows in the operations.
        self.mark(pair[0]);
        let made = work();
        self.mark(pair[1]);
        made
    }

    /// Seconds between the pairs since this was asked last, of those that the device has passed.
    pub(super) fn take(&mut self) -> f64 {
        let used = std::mem::take(&mut self.used);
        let seconds = |pair: &[CUevent; 2]| {
            let mut milliseconds = 0.0;
            // SAFETY: both events are those of `pair`; the time is written to a local.
            let code = unsafe { (self.device.driver.cuEventElapsedTime)(&mut milliseconds, pair[0], pair[1]) };
            if code == 0 { f64::from(milliseconds) / 1e3 } else { 0.0 }
        };
        self.pairs[..used].iter().map(seconds).sum()
    }

    /// A pair that is not in use.
    fn pair(&mut self) -> Option<[CUevent; 2]> {
        if self.used == self.pairs.len() && self.used < Self::MOST {
            match (self.device.timing_event(), self.device.timing_event()) {
                (Ok(first), Ok(second)) => self.pairs.push([first, second]),
                (Ok(event), Err(_)) | (Err(_), Ok(event)) => destroy(&self.device, event),
                (Err(_), Err(_)) => {}
            }
        }
        let pair = self.pairs.get(self.used).copied();
        self.used += usize::from(pair.is_some());
        pair
    }

    fn mark(&self, event: CUevent) {
        // SAFETY: event and stream belong to the context, which is current.
        unsafe { (self.device.driver.cuEventRecord)(event, self.device.stream) };
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.device.current();
        self.pairs.iter().flatten().for_each(|event| destroy(&self.device, *event));
    }
}

/// The context is current.
fn destroy(device: &Device, event: CUevent) {
    // SAFETY: made by `Device::timing_event`, and used by nobody else any more.
    unsafe { (device.driver.cuEventDestroy_v2)(event) };
}
