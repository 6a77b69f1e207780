//! Graphs: operations that the driver was told of once and that one call starts, where each would take a call of its own.
//!
//! Operations are collected in a list, which is submitted where it is cut: by [`Gpu::cut_graph`], and before everything that is not
//! in such lists. A list is looked up among those of which there are graphs, with every argument, and what is not found is
//! submitted one by one: no graph can hold an outdated argument, and it need not be known which operations are the same in each
//! step. Graphs are made while they are recorded and at no other time, since each takes memory of the device.
//!
//! [`Gpu::cut_graph`]: super::Gpu::cut_graph

use super::args::{Args, ArgsList};
use super::device::Device;
use super::modules::Modules;
use super::product::{Product, Products};
use super::symbols::Code;
use crate::error::BackendError;
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstreamCaptureMode};
use std::ops::Range;
use std::sync::Arc;

/// Operations of a list at most, so that a device does not wait for long lists.
const MOST: usize = 256;

/// One operation of the stream; addresses are those of memory that lives as long as graphs do.
#[derive(Clone, PartialEq)]
pub(super) enum Operation {
    Launch(Launch),
    /// Of the matrices at `[a, b, out, addend]`.
    Multiply {
        product: Product,
        at: [u64; 4],
    },
    /// Zero bytes.
    Zero {
        to: u64,
        bytes: usize,
    },
    Copy {
        from: u64,
        to: u64,
        bytes: usize,
    },
}

/// A kernel, with its arguments in the list's.
#[derive(Clone, PartialEq)]
pub(super) struct Launch {
    kernel: &'static str,
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
    args: Range<usize>,
}

impl Operation {
    fn name(&self) -> &'static str {
        match self {
            Self::Launch(launch) => launch.kernel,
            Self::Multiply { .. } => "multiply",
            Self::Zero { .. } => "zero",
            Self::Copy { .. } => "copy",
        }
    }
}

/// Operations in their order.
#[derive(Clone, PartialEq)]
struct List {
    operations: Vec<Operation>,
    args: ArgsList,
}

/// The parts of a device that operations are submitted with.
struct Submitter {
    modules: Modules,
    products: Products,
    device: Arc<Device>,
}

/// A list that can be started by one call.
struct Graph {
    list: List,
    exec: CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: a graph may be launched and destroyed in any thread in which the device's context is current, and by one at a time.
unsafe impl Send for Graph {}

/// What was given and is not submitted yet, and all that submitting takes.
pub(super) struct Queue {
    graphs: Vec<Graph>,
    /// The one that is likely to come next: steps have the same ones in the same order.
    next: usize,
    recording: bool,
    list: List,
    submitter: Submitter,
}

impl Queue {
    pub(super) fn new(device: &Arc<Device>, modules: Modules, products: Products) -> Self {
        let list = List { operations: Vec::with_capacity(MOST), args: ArgsList::with_capacity(16 * MOST) };
        let submitter = Submitter { modules, products, device: device.clone() };
        Self { graphs: Vec::new(), next: 0, recording: false, list, submitter }
    }

    /// The compiler and the library of matrix products, with their versions.
    pub(super) fn libraries(&self) -> String {
        format!("NVRTC {}, {}", self.submitter.modules.compiler_version(), self.submitter.products.version())
    }

    /// Where the workspace of matrix products lies.
    ///
    /// # Safety
    /// As for [`Products::set_workspace`].
    pub(super) unsafe fn set_workspace(&mut self, address: u64) {
        // SAFETY: as promised by the caller.
        unsafe { self.submitter.products.set_workspace(address) };
    }

    /// Adds an operation; whether all are to be submitted now.
    ///
    /// # Safety
    /// Its addresses are those of spans inside the arena, as long as it says, and a product was checked; what it accesses lives until
    /// [`Queue::forget`].
    pub(super) unsafe fn push(&mut self, operation: Operation) -> bool {
        self.list.operations.push(operation);
        !self.collects() || self.list.operations.len() == MOST
    }

    /// Whether there are graphs to be made or used.
    pub(super) fn collects(&self) -> bool {
        self.recording || !self.graphs.is_empty()
    }

    /// Adds a kernel.
    ///
    /// # Safety
    /// `args` are the kernel's parameters: as many, in the same order and of the same sizes. What it accesses lives until
    /// [`Queue::forget`].
    pub(super) unsafe fn push_launch<const BYTES: usize>(
        &mut self,
        kernel: &'static str,
        (grid, threads, shared_bytes): ([u32; 3], u32, u32),
        args: &Args<BYTES>,
    ) -> bool {
        let args = self.list.args.push(args);
        // SAFETY: as promised by the caller.
        unsafe { self.push(Operation::Launch(Launch { kernel, grid, threads, shared_bytes, args })) }
    }

    /// Whether lists that were submitted become graphs from now on. No list is begun.
    pub(super) fn record(&mut self, recording: bool) {
        self.recording = recording;
    }

    /// Forgets all graphs, whose memory is about to be freed.
    pub(super) fn forget(&mut self) {
        self.graphs.clear();
        self.recording = false;
    }

    /// How many operations are in the list.
    pub(super) fn len(&self) -> usize {
        self.list.operations.len()
    }

    /// What an operation of the list is called.
    pub(super) fn name(&self, number: usize) -> &'static str {
        self.list.operations[number].name()
    }

    /// Submits one operation of the list; the code of the driver, or why it was not asked. The context is current.
    pub(super) fn submit(&mut self, number: usize) -> Result<Code, BackendError> {
        self.submitter.submit(&self.list.operations[number], &self.list)
    }

    /// Empties the list.
    pub(super) fn clear(&mut self) {
        self.list.operations.clear();
        self.list.args.clear();
    }

    /// Starts the list as a graph, if there is one of it or one is to be made; the result of the driver's call. The context is
    /// current.
    pub(super) fn launch_graph(&mut self) -> Option<Code> {
        let count = self.graphs.len();
        let mut likely = (0..count).map(|i| (self.next + i) % count);
        let found = likely.find(|&i| self.graphs[i].list == self.list);
        let graph = match found {
            Some(found) => found,
            None if self.recording => self.capture()?,
            None => return None,
        };
        self.next = (graph + 1) % self.graphs.len();
        let (device, graph) = (&self.submitter.device, &self.graphs[graph]);
        // SAFETY: the graph was made for this device; what its operations access lives, or it would have been forgotten.
        Some(unsafe { (device.driver.cuGraphLaunch)(graph.exec, device.stream) })
    }

    /// Makes a graph of the list; its number. What cannot be captured is submitted without a graph, and so is all else then: a
    /// graph is never needed.
    fn capture(&mut self) -> Option<usize> {
        let captured = self.submitter.capture(&self.list);
        let Some(exec) = captured else {
            self.forget();
            return None;
        };
        self.graphs.push(Graph { list: self.list.clone(), exec, device: self.submitter.device.clone() });
        Some(self.graphs.len() - 1)
    }
}

impl Submitter {
    /// Submits an operation of a list; the code of the driver, or why it was not asked. The context is current.
    fn submit(&mut self, operation: &Operation, list: &List) -> Result<Code, BackendError> {
        let (driver, stream) = (&self.device.driver, self.device.stream);
        match operation {
            Operation::Launch(Launch { kernel, grid: [x, y, z], threads, shared_bytes, args }) => {
                let function = self.modules.function(kernel)?;
                let mut pointers = list.args.pointers(args.clone());
                let (pointers, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
                // SAFETY: the function is loaded; the arguments outlive the call, which copies them, and whoever gave the
                // operation promised that they are the kernel's, of which the driver reads as many and as long ones as it
                // has parameters.
                Ok(unsafe {
                    (driver.cuLaunchKernel)(function, *x, *y, *z, *threads, 1, 1, *shared_bytes, stream, pointers, none)
                })
            }
            // SAFETY: the product was checked and its addresses are those of spans inside the arena, when it was given.
            Operation::Multiply { product, at } => unsafe { self.products.multiply(product, *at) }.map(|()| 0),
            // SAFETY: the bytes lie inside the arena.
            &Operation::Zero { to, bytes } => Ok(unsafe { (driver.cuMemsetD8Async)(to, 0, bytes, stream) }),
            &Operation::Copy { from, to, bytes } => {
                // SAFETY: both lie inside the arena.
                Ok(unsafe { (driver.cuMemcpyDtoDAsync_v2)(to, from, bytes, stream) })
            }
        }
    }

    /// Submits a list to a stream that keeps it as a graph and does nothing; `None` if something in it cannot be kept.
    fn capture(&mut self, list: &List) -> Option<CUgraphExec> {
        // What other threads do meanwhile has nothing to do with it.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as u32;
        let device = self.device.clone();
        let driver = &device.driver;
        // SAFETY: the context is current, and nothing else captures the device's stream.
        if unsafe { (driver.cuStreamBeginCapture_v2)(device.stream, mode) } != 0 {
            return None;
        }
        let all = list.operations.iter().all(|operation| matches!(self.submit(operation, list), Ok(0)));
        let (mut graph, mut exec): (CUgraph, CUgraphExec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is captured; the graph is written to a local, null if it is none.
        let ended = unsafe { (driver.cuStreamEndCapture)(device.stream, &mut graph) } == 0;
        if graph.is_null() {
            return None;
        }
        // SAFETY: the graph is one, and is not used after it is destroyed; what can be launched does not need it.
        let made = unsafe {
            let code = if all && ended { (driver.cuGraphInstantiateWithFlags)(&mut exec, graph, 0) } else { 1 };
            (driver.cuGraphDestroy)(graph);
            code == 0
        };
        made.then_some(exec)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.current();
        // SAFETY: made once; the driver keeps what is still running.
        unsafe { (self.device.driver.cuGraphExecDestroy)(self.exec) };
    }
}
