//! One GPU: its context, its one allocation, its stream and its kernels.

use super::Args;
use super::device::{Capability, Device, text};
use super::graphs::{Operation, Queue};
use super::libraries::Search;
use super::memory::{Arena, Staging};
use super::modules::Modules;
use super::nccl::Communicator;
use super::offload::Offloaded;
use super::product::{Product, Products, WORKSPACE};
use super::sources::{SOURCES, Source};
use super::symbols::{Code, Driver};
use super::timer::{Stopwatch, Timer};
use crate::error::BackendError;
use crate::memory::{Place, Span};
use cudarc::driver::sys::CUstream;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// Where the workspace of matrix products may start: at multiples of this.
const DEVICE_ALIGN: usize = 256;
/// Bytes of [`Gpu::words`].
const WORDS: usize = 4096;
/// Bytes of the workspace that are the backend's own, whatever operations need.
const OWN_BYTES: usize = DEVICE_ALIGN + WORDS + WORKSPACE;

/// A device with everything loaded. Operations are submitted to one stream in order and return before they are done, or, where
/// there are graphs, before they are submitted. The first failure is kept and reported by [`Gpu::status`]; after it, operations
/// do nothing and downloads give zeros.
pub struct Gpu {
    workspace: Span,
    words: Span,
    /// Behind a cell, since a download, for example, is one of the operations before which it is submitted.
    queue: RefCell<Queue>,
    timer: Timer,
    pub(super) staging: Option<Staging>,
    pub(super) offloaded: Option<Offloaded>,
    arena: Option<Arena>,
    allocations: usize,
    /// The operation submitted last, the most likely cause of an asynchronous failure.
    pub(super) last: Cell<&'static str>,
    pub(super) failure: RefCell<Option<BackendError>>,
    /// The devices of other ranks. Every call of the driver is told to it: a peer that is lost is waited for in one of them.
    pub(super) peers: Option<Arc<Communicator>>,
    /// Time that the device spends in exchanges with them.
    pub(super) exchanging: Stopwatch,
    pub(super) device: Arc<Device>,
}

impl Gpu {
    /// Bytes at the beginning of the workspace that [`Gpu::allocate`] is given which are the backend's own.
    pub const OWN_BYTES: usize = OWN_BYTES;

    /// Finds the libraries, starts the driver, takes device `ordinal`, compiles what is not in the cache and loads all
    /// kernels.
    ///
    /// # Errors
    /// If one of these fails; the error says what to do.
    pub fn open(ordinal: u32) -> Result<Self, BackendError> {
        Self::open_with(ordinal, &Search::usual(), SOURCES)
    }

    /// The same, with libraries looked for where `search` says, and with these kernels.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_with(ordinal: u32, search: &Search, sources: &[Source]) -> Result<Self, BackendError> {
        let device = Arc::new(Device::open(search.driver()?, ordinal)?);
        let modules = Modules::load(&device, search, sources)?;
        let products = Products::new(&device, search)?;
        let timer = Timer::new(&device)?;
        Ok(Self {
            workspace: Span::NONE,
            words: Span::NONE,
            queue: RefCell::new(Queue::new(&device, modules, products)),
            timer,
            staging: None,
            offloaded: None,
            arena: None,
            allocations: 0,
            last: Cell::new("opening the device"),
            failure: RefCell::new(None),
            peers: None,
            exchanging: Stopwatch::new(&device),
            device,
        })
    }

    /// Takes all memory that will ever be used: one allocation on the device, of `bytes` zero bytes, and the pinned
    /// buffer that uploads and downloads go through. `workspace` lies in it and begins with [`Gpu::OWN_BYTES`]: the
    /// workspace of matrix products, and [`Gpu::words`].
    ///
    /// # Errors
    /// If the device does not have that much.
    ///
    /// # Panics
    /// If the workspace is too small or not inside.
    pub fn allocate(&mut self, bytes: usize, workspace: Span) -> Result<(), BackendError> {
        self.device.check("allocate", self.device.current())?;
        // Memory of an earlier call is freed before more is requested, and only after all operations that use it.
        self.act("synchronize", 1, synchronize);
        self.queue.get_mut().forget();
        (self.offloaded, self.arena, self.staging) = (None, None, None);
        self.arena = Some(Arena::new(&self.device, bytes)?);
        self.allocations += 1;
        let padding = workspace.offset.next_multiple_of(DEVICE_ALIGN) - workspace.offset;
        let of_products = self.address(workspace.part(padding, WORKSPACE));
        // SAFETY: `address` proved that the span, of this many bytes, lies inside the arena, which is freed only after
        // all operations.
        unsafe { self.queue.get_mut().set_workspace(of_products) };
        self.words = workspace.part(padding + WORKSPACE, WORDS);
        self.workspace = workspace.part(OWN_BYTES, workspace.bytes - OWN_BYTES);
        self.staging = Some(Staging::new(&self.device)?);
        Ok(())
    }

    /// Scratch memory for the current operation; it holds whatever earlier operations left there.
    pub fn workspace(&self) -> Span {
        self.workspace
    }

    /// 4096 bytes, zero at first, for what operations keep on the device.
    pub fn words(&self) -> Span {
        self.words
    }

    /// How many allocations of device memory were made since the device was opened.
    pub fn allocations(&self) -> usize {
        self.allocations
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// The device's compute capability.
    pub fn capability(&self) -> Capability {
        self.device.capability
    }

    /// The compiler and the library of matrix products, with their versions.
    pub fn libraries(&self) -> String {
        self.queue.borrow().libraries()
    }

    /// Blocks that run at the same time, at least.
    pub fn multiprocessors(&self) -> u32 {
        self.device.multiprocessors
    }

    /// Multiplications and additions of bf16 products in a second, at most; nothing of devices whose data are not known.
    pub fn peak_flops(&self) -> Option<f64> {
        let Device { capability, multiprocessors, clock, .. } = *self.device;
        capability.bf16_flops().map(|flops| f64::from(flops) * f64::from(multiprocessors) * f64::from(clock) * 1e3)
    }

    /// Bytes of shared memory, static and dynamic, that a block can have.
    pub fn shared_bytes(&self) -> u32 {
        self.device.shared_bytes
    }

    /// Free and total bytes of device memory, as the driver reports them.
    ///
    /// # Errors
    /// If the driver does not answer.
    pub fn free_memory(&self) -> Result<(u64, u64), BackendError> {
        self.device.check("asking for free memory", self.device.current())?;
        self.device.memory()
    }

    /// Address of a span on the device; zero for an empty one.
    ///
    /// # Panics
    /// If the span is not inside the arena, or there is none.
    pub fn address(&self, span: Span) -> u64 {
        if span.is_none() {
            return 0;
        }
        assert!(span.place == Place::Arena, "only the arena's spans have addresses on a device");
        let arena = self.arena.as_ref().expect("a span of memory that was never allocated");
        assert!(
            span.end() <= arena.bytes,
            "span {}+{} outside an arena of {} bytes",
            span.offset,
            span.bytes,
            arena.bytes
        );
        arena.base + span.offset as u64
    }

    /// Starts a kernel on `grid` blocks of `threads` threads each, with dynamic shared memory.
    ///
    /// # Safety
    /// `args` are the kernel's parameters: as many, in the same order and of the same sizes. Given them, no thread of
    /// the grid accesses memory outside of spans whose addresses are among them, or shared memory beyond `shared_bytes`.
    ///
    /// # Panics
    /// If there is no kernel of that name, or the grid or block is empty.
    pub unsafe fn launch<const BYTES: usize>(
        &mut self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: usize,
        args: &Args<BYTES>,
    ) {
        assert!(grid.iter().all(|&blocks| blocks > 0) && threads > 0, "{kernel}: an empty launch, {grid:?} {threads}");
        let shape = (grid, threads, u32::try_from(shared_bytes).unwrap_or(u32::MAX));
        // SAFETY: as promised by the caller; the memory of spans lives until `allocate` forgets all graphs.
        self.queue_up(|queue| unsafe { queue.push_launch(kernel, shape, args) });
    }

    /// One product of matrices, or a batch of them.
    ///
    /// # Panics
    /// If a dimension is zero, a pitch shorter than a row, or a matrix not inside its span or the arena; if an addend has
    /// another pitch than the output.
    pub fn multiply(&mut self, product: &Product) {
        product.check();
        let addresses = product.matrices().map(|matrix| self.address(matrix.span));
        // SAFETY: the product was checked, and `address` proved its spans to lie inside the arena.
        self.queue_up(|queue| unsafe { queue.push(Operation::Multiply { product: *product, at: addresses }) });
    }

    /// Has an operation added; nothing after a failure.
    pub(super) fn queue_up(&mut self, push: impl FnOnce(&mut Queue) -> bool) {
        if self.failure.get_mut().is_none() && push(self.queue.get_mut()) {
            self.submit();
        }
    }

    /// Submits what was queued up, as a graph if there is one of it.
    fn submit(&self) {
        let queue = &mut *self.queue.borrow_mut();
        if queue.len() == 0 {
            return;
        }
        let graph = if queue.collects() && self.enter("graph") { queue.launch_graph() } else { None };
        if let Some(code) = graph {
            self.end("graph", code);
        } else {
            for number in 0..queue.len() {
                let name = queue.name(number);
                if !self.enter(name) {
                    break;
                }
                match queue.submit(number) {
                    Ok(code) => self.end(name, code),
                    Err(error) => self.remember(error),
                }
            }
        }
        queue.clear();
    }

    /// Ends a list of operations that may become a graph.
    pub fn cut_graph(&mut self) {
        self.submit();
    }

    /// From now on every list of operations becomes a graph, or no more do; whether there will be any. Nothing is learned of an
    /// operation that fails in a graph, so there are none with CUDA_LAUNCH_BLOCKING; nor are there any among ranks, where an
    /// exchange follows everywhere.
    pub fn record_graphs(&mut self, on: bool) -> bool {
        self.submit();
        let recording = on && self.peers.is_none() && std::env::var_os("CUDA_LAUNCH_BLOCKING").is_none();
        self.queue.get_mut().record(recording);
        recording
    }

    /// Waits for all operations; whether each was carried out.
    ///
    /// # Errors
    /// The first failure.
    pub fn status(&self) -> Result<(), BackendError> {
        self.act("synchronize", 1, |driver, stream| {
            let code = synchronize(driver, stream);
            self.offloaded.as_ref().map_or(code, |host| if code == 0 { host.wait() } else { code })
        });
        match &*self.failure.borrow() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Seconds that the device takes for the operations that `work` submits.
    ///
    /// # Errors
    /// The first failure.
    pub fn time(&mut self, work: impl FnOnce(&mut Self)) -> Result<f64, BackendError> {
        self.start_timer();
        work(self);
        self.stop_timer()
    }

    /// Starts the interval that [`Gpu::stop_timer`] measures.
    pub(crate) fn start_timer(&mut self) {
        self.act("time", 1, |_, _| self.timer.start());
    }

    /// Seconds of device time since [`Gpu::start_timer`].
    pub(crate) fn stop_timer(&mut self) -> Result<f64, BackendError> {
        let mut seconds = 0.0;
        self.act("time", 1, |_, _| match self.timer.stop() {
            Ok(measured) => {
                seconds = measured;
                0
            }
            Err(code) => code,
        });
        self.status().map(|()| seconds)
    }

    /// One operation on `bytes` bytes; nothing after a failure, or if there are none.
    pub(super) fn act(&self, what: &'static str, bytes: usize, call: impl FnOnce(&Driver, CUstream) -> Code) {
        if bytes > 0 && self.begin(what) {
            self.end(what, call(&self.device.driver, self.device.stream));
        }
    }

    /// Whether an operation may be submitted: there was no failure. Makes the context current in this thread. What was queued
    /// up is submitted before it.
    pub(super) fn begin(&self, what: &'static str) -> bool {
        self.submit();
        self.enter(what)
    }

    fn enter(&self, what: &'static str) -> bool {
        if self.failure.borrow().is_some() {
            return false;
        }
        if let Some(Err(error)) = self.peers.as_ref().map(|peers| peers.enter()) {
            self.remember(error.into());
            return false;
        }
        let code = self.device.current();
        self.note(what, code);
        code == 0
    }

    /// Records the result of an operation's call.
    pub(super) fn end(&self, what: &'static str, code: Code) {
        // What the device did after a peer was lost is of no use, whatever the code says; and where it failed, NCCL may know why.
        if let Some(peers) = &self.peers
            && let Err(error) = peers.leave().and_then(|()| if code == 0 { Ok(()) } else { peers.ask() })
        {
            return self.remember(error.into());
        }
        self.note(what, code);
        self.last.set(what);
    }

    fn note(&self, what: &'static str, code: Code) {
        if code != 0 {
            // A failure inside a kernel is reported by some later call.
            let last = self.last.get();
            let what = format!("{what} (after {last}; CUDA_LAUNCH_BLOCKING=1 tells which operation it was)");
            self.remember(self.device.failed(&what, &text(&self.device.driver, code)));
        }
    }

    pub(super) fn remember(&self, error: BackendError) {
        // The call is over; what the peers say no longer matters.
        let _ = self.peers.as_ref().map(|peers| peers.leave());
        self.failure.borrow_mut().get_or_insert(error);
    }
}

/// Waits for all operations of a stream, which lives as long as the device.
fn synchronize(driver: &Driver, stream: CUstream) -> Code {
    // SAFETY: the callers give the device's own stream.
    unsafe { (driver.cuStreamSynchronize)(stream) }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.device.current();
        // After a failure a kernel may wait for a peer that does not come.
        if let (Some(peers), Some(_)) = (&self.peers, &*self.failure.borrow()) {
            peers.abort();
        }
        let _ = self.peers.as_ref().map(|peers| peers.enter());
        // SAFETY: the stream lives as long as the device. Nothing may be freed before the last operation is done.
        unsafe { (self.device.driver.cuStreamSynchronize)(self.device.stream) };
        let _ = self.peers.as_ref().map(|peers| peers.leave());
    }
}
