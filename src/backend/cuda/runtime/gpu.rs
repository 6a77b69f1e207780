//! One GPU: its context, its one allocation, its stream and its kernels.

use super::Args;
use super::device::{Capability, Device, text};
use super::libraries::Search;
use super::memory::{Arena, Staging};
use super::modules::Modules;
use super::offload::Offloaded;
use super::product::{Product, Products, WORKSPACE};
use super::sources::{SOURCES, Source};
use super::symbols::{Code, Driver};
use super::timer::Timer;
use crate::error::BackendError;
use crate::memory::{HostMemory, Place, Span};
use cudarc::driver::sys::CUstream;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// Where the workspace of matrix products may start: at multiples of this.
const DEVICE_ALIGN: usize = 256;
/// Bytes of [`Gpu::words`].
const WORDS: usize = 4096;
/// Bytes of the workspace that are the backend's own, whatever operations need.
const OWN_BYTES: usize = DEVICE_ALIGN + WORDS + WORKSPACE;

/// A device with everything loaded. All operations go to one stream in the order they are given, and come back
/// before they are done. Failures are remembered (the first one wins) and reported by [`Gpu::status`]. After a failure
/// operations do nothing and downloads give zeros.
pub struct Gpu {
    workspace: Span,
    words: Span,
    products: Products,
    modules: Modules,
    timer: Timer,
    staging: Option<Staging>,
    offloaded: Option<Offloaded>,
    arena: Option<Arena>,
    allocations: usize,
    /// The operation given last: what an asynchronous failure is most likely about.
    last: Cell<&'static str>,
    failure: RefCell<Option<BackendError>>,
    device: Arc<Device>,
}

impl Gpu {
    /// Bytes at the beginning of the workspace that [`Gpu::allocate`] is given which are the backend's own.
    pub const OWN_BYTES: usize = OWN_BYTES;

    /// Finds the libraries, starts the driver, takes device `ordinal`, compiles what is not in the cache and loads all
    /// kernels.
    ///
    /// # Errors
    /// If any of that is not possible; each says what to do.
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
            products,
            modules,
            timer,
            staging: None,
            offloaded: None,
            arena: None,
            allocations: 0,
            last: Cell::new("opening the device"),
            failure: RefCell::new(None),
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
        // What a former call took is freed before more is asked for, and not before all operations are done with it.
        self.act("synchronize", 1, synchronize);
        (self.offloaded, self.arena, self.staging) = (None, None, None);
        self.arena = Some(Arena::new(&self.device, bytes)?);
        self.allocations += 1;
        let padding = workspace.offset.next_multiple_of(DEVICE_ALIGN) - workspace.offset;
        let of_products = self.address(workspace.part(padding, WORKSPACE));
        // SAFETY: `address` proved that the span, of this many bytes, lies inside the arena, which is freed only after
        // all operations.
        unsafe { self.products.set_workspace(of_products) };
        self.words = workspace.part(padding + WORKSPACE, WORDS);
        self.workspace = workspace.part(OWN_BYTES, workspace.bytes - OWN_BYTES);
        self.staging = Some(Staging::new(&self.device)?);
        Ok(())
    }

    /// Memory that the current operation may use as it likes; its contents are left by earlier ones.
    pub fn workspace(&self) -> Span {
        self.workspace
    }

    /// 4096 bytes, zero at first, for what operations keep on the device.
    pub fn words(&self) -> Span {
        self.words
    }

    /// Gives host spans their memory; after [`Gpu::allocate`].
    ///
    /// # Errors
    /// If the host has not that much memory that the device may reach.
    pub fn attach(&mut self, host: HostMemory) -> Result<(), BackendError> {
        self.device.check("attach", self.device.current())?;
        self.offloaded = Some(Offloaded::new(&self.device, host)?);
        Ok(())
    }

    /// Starts copying `host` to `to`, unless `to` holds it already.
    ///
    /// # Panics
    /// If a span is not inside its memory, or they differ in length.
    pub fn prefetch(&mut self, host: Span, to: Span) {
        let address = self.device_copy(host, to);
        // SAFETY: `device_copy` proved that `to` is at `address`, inside the arena, and as long as `host`.
        self.offload("prefetch", |offloaded| unsafe { offloaded.prefetch(host, to, address) });
    }

    /// Later operations wait for the prefetch of `host` to `to`; starts it if needed.
    ///
    /// # Panics
    /// As [`Gpu::prefetch`].
    pub fn wait(&mut self, host: Span, to: Span) {
        self.prefetch(host, to);
        self.offload("wait", |offloaded| offloaded.wait_for(to));
    }

    /// Copies `from` back to `host` if it was `changed`.
    ///
    /// # Panics
    /// As [`Gpu::prefetch`].
    pub fn write_back(&mut self, from: Span, host: Span, changed: bool) {
        if changed {
            let address = self.device_copy(host, from);
            // SAFETY: `device_copy` proved that `from` is at `address`, inside the arena, and as long as `host`.
            self.offload("write back", |offloaded| unsafe { offloaded.write_back(from, host, address) });
        }
    }

    /// A hint that a host span will not be needed for a while.
    ///
    /// # Panics
    /// If it is not inside its memory.
    pub fn advise_cold(&self, span: Span) {
        if let (Place::Host, Some(offloaded)) = (span.place, &self.offloaded) {
            offloaded.advise_cold(span);
        }
    }

    /// The address of a span of the arena that holds a copy of a host span.
    ///
    /// # Panics
    /// If they are not, or differ in length.
    fn device_copy(&self, host: Span, copy: Span) -> u64 {
        assert!(host.place == Place::Host, "{host:?} is not in host memory");
        assert_eq!(host.bytes, copy.bytes, "a copy of another length");
        self.address(copy)
    }

    fn offload(&mut self, what: &'static str, act: impl FnOnce(&mut Offloaded) -> Result<Code, BackendError>) {
        if !self.begin(what) {
            return;
        }
        match act(self.offloaded.as_mut().expect("host memory was attached")) {
            Ok(code) => self.end(what, code),
            Err(error) => self.remember(error),
        }
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

    /// The newest CUDA that the driver supports, major and minor.
    pub fn driver_supports(&self) -> (u32, u32) {
        self.device.supports
    }

    /// The compiler and the library of matrix products, with their versions.
    pub fn libraries(&self) -> String {
        format!("NVRTC {}, {}", self.modules.compiler_version(), self.products.version())
    }

    /// How many blocks run side by side at least.
    pub fn multiprocessors(&self) -> u32 {
        self.device.multiprocessors
    }

    /// Bytes of shared memory, static and dynamic, that a block can have.
    pub fn shared_bytes(&self) -> u32 {
        self.device.shared_bytes
    }

    /// Bytes of device memory that are free, and all there are, by the driver's figures.
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
    pub unsafe fn launch(
        &mut self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: usize,
        args: &Args,
    ) {
        assert!(grid.iter().all(|&blocks| blocks > 0) && threads > 0, "{kernel}: an empty launch, {grid:?} {threads}");
        if !self.begin(kernel) {
            return;
        }
        let function = match self.modules.function(kernel) {
            Ok(function) => function,
            Err(error) => return self.remember(error),
        };
        let mut pointers = args.pointers();
        let (stream, shared) = (self.device.stream, u32::try_from(shared_bytes).unwrap_or(u32::MAX));
        // SAFETY: the function is loaded; the arguments outlive the call, which copies them, and the caller promises that
        // they are the kernel's, of which the driver reads as many and as long ones as it has parameters.
        self.end(kernel, unsafe {
            let [x, y, z] = grid;
            let (pointers, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
            (self.device.driver.cuLaunchKernel)(function, x, y, z, threads, 1, 1, shared, stream, pointers, none)
        });
    }

    /// One product of matrices.
    ///
    /// # Panics
    /// If a dimension is zero, a pitch shorter than a row, or a matrix not inside its span or the arena.
    pub fn multiply(&mut self, product: &Product) {
        product.check();
        let addresses = [product.a, product.b, product.out].map(|matrix| self.address(matrix.span));
        if !self.begin("multiply") {
            return;
        }
        // SAFETY: the product was checked, `address` proved its spans to lie inside the arena, and `begin` made the
        // context current.
        match unsafe { self.products.multiply(product, addresses) } {
            Ok(()) => self.last.set("multiply"),
            Err(error) => self.remember(error),
        }
    }

    /// Sets all bytes of a span to zero.
    pub fn zero(&mut self, span: Span) {
        if span.place == Place::Host {
            return self.offload("zero", |host| Ok(host.write(span, |bytes| bytes.fill(0))));
        }
        let to = self.address(span);
        self.act("zero", span.bytes, |driver, stream| {
            // SAFETY: `address` proved the span to lie inside the arena.
            unsafe { (driver.cuMemsetD8Async)(to, 0, span.bytes, stream) }
        });
    }

    /// `to = from`; both have the same length.
    ///
    /// # Panics
    /// If they differ in length.
    pub fn copy(&mut self, from: Span, to: Span) {
        assert_eq!(from.bytes, to.bytes, "a copy between spans of different lengths");
        let (source, target) = (self.address(from), self.address(to));
        self.act("copy", from.bytes, |driver, stream| {
            // SAFETY: `address` proved both spans to lie inside the arena.
            unsafe { (driver.cuMemcpyDtoDAsync_v2)(target, source, from.bytes, stream) }
        });
    }

    /// Copies bytes of this machine into a span of the same length. They may be changed when this returns.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn upload(&mut self, bytes: &[u8], to: Span) {
        assert_eq!(bytes.len(), to.bytes, "an upload to a span of another length");
        if to.place == Place::Host {
            return self.offload("upload", |host| Ok(host.write(to, |kept| kept.copy_from_slice(bytes))));
        }
        let to = self.address(to);
        self.act("upload", bytes.len(), |_, _| self.staging().upload(bytes, to));
    }

    /// Copies a span into bytes of this machine, after all operations given before; zeros after a failure.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn download(&self, from: Span, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), from.bytes, "a download of a span of another length");
        let before = self.last.get();
        if from.place == Place::Host {
            let offloaded = self.offloaded.as_ref().expect("host memory was attached");
            self.act("download", bytes.len(), |_, _| offloaded.read(from, bytes));
        } else {
            let address = self.address(from);
            self.act("download", bytes.len(), |_, _| self.staging().download(address, bytes));
        }
        // The next failure that shows itself is none of this download's, which has waited for all before it.
        self.last.set(before);
        if self.failure.borrow().is_some() {
            bytes.fill(0);
        }
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

    /// Seconds that the device takes for what `work` gives it, from its first operation to its last.
    ///
    /// # Errors
    /// The first failure.
    pub fn time(&mut self, work: impl FnOnce(&mut Self)) -> Result<f64, BackendError> {
        self.start_timer();
        work(self);
        self.stop_timer()
    }

    /// Begins what [`Gpu::stop_timer`] measures.
    pub(crate) fn start_timer(&mut self) {
        self.act("time", 1, |_, _| self.timer.start());
    }

    /// Seconds of the device between the operations given before [`Gpu::start_timer`] and now.
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

    fn staging(&self) -> &Staging {
        self.staging.as_ref().expect("memory was allocated: the span has an address")
    }

    /// One operation on `bytes` bytes; nothing after a failure, or if there are none.
    fn act(&self, what: &'static str, bytes: usize, call: impl FnOnce(&Driver, CUstream) -> Code) {
        if bytes > 0 && self.begin(what) {
            self.end(what, call(&self.device.driver, self.device.stream));
        }
    }

    /// Whether an operation may be given: there was no failure, and the context is this thread's.
    fn begin(&self, what: &'static str) -> bool {
        if self.failure.borrow().is_some() {
            return false;
        }
        let code = self.device.current();
        self.note(what, code);
        code == 0
    }

    /// Notes what an operation's call gave back.
    fn end(&self, what: &'static str, code: Code) {
        self.note(what, code);
        self.last.set(what);
    }

    fn note(&self, what: &'static str, code: Code) {
        if code != 0 {
            // What goes wrong inside a kernel comes to light at some later call.
            let last = self.last.get();
            let what = format!("{what} (after {last}; CUDA_LAUNCH_BLOCKING=1 tells which operation it was)");
            self.remember(self.device.failed(&what, &text(&self.device.driver, code)));
        }
    }

    fn remember(&self, error: BackendError) {
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
        // SAFETY: the stream lives as long as the device. Nothing may be freed before the last operation is done.
        unsafe { (self.device.driver.cuStreamSynchronize)(self.device.stream) };
    }
}
