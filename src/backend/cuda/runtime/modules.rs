//! The kernels of a device: compiled or taken from the cache, loaded, and found by name.

use super::cache::Cache;
use super::compile::{Compiler, Cubin};
use super::device::Device;
use super::libraries::Search;
use super::report::usages;
use super::sources::{HEADERS, Source};
use crate::error::BackendError;
use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUmodule};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// More than the number of kernels, so that the table never grows.
const MOST_KERNELS: usize = 256;

/// All kernels, loaded.
pub(super) struct Modules {
    device: Arc<Device>,
    compiler: (u32, u32),
    modules: Vec<CUmodule>,
    functions: HashMap<String, CUfunction>,
}

// SAFETY: modules and functions belong to the device's context, which is made current before every use.
unsafe impl Send for Modules {}

impl Modules {
    /// Compiles what is not in the cache and loads everything. The context is current.
    pub(super) fn load(device: &Arc<Device>, search: &Search, sources: &[Source]) -> Result<Self, BackendError> {
        let compiler = Compiler::find(search, Some(device.supports), Some(device.capability))?;
        let cache = if search.is_usual() { Cache::of_user() } else { Cache::none() };
        let cubins = compile_all(device, &compiler, &cache, search, sources)?;
        let (modules, functions) = (Vec::with_capacity(sources.len()), HashMap::with_capacity(MOST_KERNELS));
        let mut loaded = Self { device: device.clone(), compiler: compiler.version(), modules, functions };
        for (source, cubin) in sources.iter().zip(&cubins) {
            loaded.load_module(source, cubin)?;
        }
        Ok(loaded)
    }

    /// Loads one file's code with all of its kernels: the driver would otherwise load each at its first launch, and
    /// allocate memory for it in the middle of a step. Drivers before 12.4 load a kernel when it is looked up; later ones
    /// may wait until it is launched, unless they are told.
    fn load_module(&mut self, source: &Source, cubin: &Cubin) -> Result<(), BackendError> {
        let mut module = std::ptr::null_mut();
        // SAFETY: the context is current; the image is a whole cubin, as the compiler gave it; it is copied.
        let code = unsafe { (self.device.driver.cuModuleLoadData)(&mut module, cubin.image.as_ptr().cast()) };
        self.device.check(&format!("loading {}", source.file), code)?;
        self.modules.push(module);
        for usage in usages(&cubin.log) {
            if let Some(function) = self.lookup(module, &usage.kernel) {
                self.prepare(&usage.kernel, function)?;
                self.functions.insert(usage.kernel, function);
            }
        }
        Ok(())
    }

    /// The kernel of that name, looked for in all modules if the compiler's report did not name it.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn function(&mut self, name: &'static str) -> Result<CUfunction, BackendError> {
        if let Some(&function) = self.functions.get(name) {
            return Ok(function);
        }
        let found = self.modules.iter().find_map(|&module| self.lookup(module, name));
        let function = found.unwrap_or_else(|| panic!("there is no kernel named {name}"));
        self.prepare(name, function)?;
        self.functions.insert(name.to_owned(), function);
        Ok(function)
    }

    /// Version of NVRTC.
    pub(super) fn compiler_version(&self) -> String {
        format!("{}.{}", self.compiler.0, self.compiler.1)
    }

    fn lookup(&self, module: CUmodule, name: &str) -> Option<CUfunction> {
        let name = CString::new(name).ok()?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded; the name ends in zero; the function is written to a local.
        let code = unsafe { (self.device.driver.cuModuleGetFunction)(&mut function, module, name.as_ptr()) };
        (code == 0).then_some(function)
    }

    fn prepare(&self, name: &str, function: CUfunction) -> Result<(), BackendError> {
        if let Some(load) = self.device.driver.cuFuncLoad {
            // SAFETY: the function belongs to a loaded module.
            self.device.check(name, unsafe { load(function) })?;
        }
        self.allow_shared(name, function)
    }

    /// Lets a kernel request all dynamic shared memory that its static arrays leave; the default limit is 48 KiB.
    fn allow_shared(&self, name: &str, function: CUfunction) -> Result<(), BackendError> {
        use CUfunction_attribute::*;
        let mut own = 0;
        let driver = &self.device.driver;
        // SAFETY: the function belongs to a loaded module; its attribute is written to a local.
        let code =
            unsafe { (driver.cuFuncGetAttribute)(&mut own, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as u32, function) };
        self.device.check(name, code)?;
        let rest = self.device.shared_bytes.saturating_sub(own.unsigned_abs()) as i32;
        let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as u32;
        // SAFETY: the function belongs to a loaded module.
        self.device.check(name, unsafe { (driver.cuFuncSetAttribute)(function, attribute, rest) })
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        self.device.current();
        for &module in &self.modules {
            // SAFETY: loaded once; the owner has waited for all launches.
            unsafe { (self.device.driver.cuModuleUnload)(module) };
        }
    }
}

/// Machine code of all files, in their order, from the cache or compiled on all cores.
fn compile_all(
    device: &Device,
    compiler: &Compiler,
    cache: &Cache,
    search: &Search,
    sources: &[Source],
) -> Result<Vec<Cubin>, BackendError> {
    let architecture = device.capability.architecture();
    let headers: Vec<_> = HEADERS.iter().map(|header| header.text).collect();
    let common = format!("{}\n{}", compiler.identity(&architecture), headers.concat());
    let key = |source: &Source| format!("{common}\n{}", source.text);
    let mut cubins: Vec<_> = sources.iter().map(|source| cache.load(source.file, &key(source))).collect();
    let missing: Vec<usize> = (0..sources.len()).filter(|&i| cubins[i].is_none()).collect();
    if missing.is_empty() {
        return Ok(cubins.into_iter().flatten().collect());
    }
    search.compiling(missing.len());
    let cubin = |source: &Source| {
        let cubin = compiler.compile(source, &architecture)?;
        cache.store(source.file, &key(source), &cubin);
        Ok(cubin)
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mine = std::iter::from_fn(|| missing.get(next.fetch_add(1, Ordering::Relaxed)));
        mine.map(|&i| (i, cubin(&sources[i]))).collect::<Vec<_>>()
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    let made: Vec<(usize, Result<Cubin, BackendError>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a compiler's thread")).collect()
    });
    for (i, cubin) in made {
        cubins[i] = Some(cubin?);
    }
    Ok(cubins.into_iter().flatten().collect())
}
