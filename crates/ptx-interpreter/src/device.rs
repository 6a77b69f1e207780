//! Stands in for the compiled kernels behind the emulated driver.

use crate::machine::{self, Manner, Memory, Range};
use crate::{Compiler, Module};
use cuda_emulator::{Described, Emulator, Failure, Interpreter, Launched, Program};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Changes the PTX of a source before it is read: its name, its text.
pub type Rewrite = Box<dyn Fn(&str, String) -> Result<String, String> + Send + Sync>;

type Compiled = Arc<OnceLock<Result<u64, String>>>;

/// Compiles programs by NVRTC, and interprets their kernels.
pub struct Device {
    emulator: &'static Emulator,
    compiler: Compiler,
    disturbed: Option<u64>,
    rewrite: Option<Rewrite>,
    /// The numbers of modules are their indices and one.
    modules: Mutex<Vec<Arc<Module>>>,
    /// Modules by their programs.
    compiled: Mutex<HashMap<Program, Compiled>>,
    ran: Mutex<BTreeSet<String>>,
    launches: AtomicU64,
    /// The PTX of each source that was compiled, as it was read.
    texts: Mutex<HashMap<String, Arc<str>>>,
}

struct DeviceMemory(&'static Emulator);

impl Memory for DeviceMemory {
    fn range(&self, address: u64) -> Option<Range> {
        let (begin, bytes, forbidden) = self.0.range(address)?;
        Some(Range { begin, bytes, forbidden })
    }
}

impl Device {
    /// Takes the place of the compiled kernels in this process. Approximations are disturbed by numbers from the seed, if
    /// there is one.
    ///
    /// # Panics
    /// If the process has an interpreter already.
    pub fn attach(
        emulator: &'static Emulator,
        compiler: Compiler,
        disturbed: Option<u64>,
        rewrite: Option<Rewrite>,
    ) -> &'static Self {
        let device = Box::leak(Box::new(Self {
            emulator,
            compiler,
            disturbed,
            rewrite,
            modules: Mutex::default(),
            compiled: Mutex::default(),
            ran: Mutex::default(),
            launches: AtomicU64::new(0),
            texts: Mutex::default(),
        }));
        emulator.interpret(device);
        device
    }

    /// The kernels that ran to their ends.
    pub fn ran(&self) -> BTreeSet<String> {
        self.ran.lock().expect("nothing panics with it").clone()
    }

    /// Of every kernel that was launched: lines of its PTX that no thread has come to, and how many instructions it has.
    pub fn unreached(&self) -> BTreeMap<String, (Vec<u32>, usize)> {
        let (ran, modules) = (self.ran(), self.modules.lock().expect("nothing panics with it"));
        let kernel = |name: &String| {
            let module = modules.iter().find(|module| module.has(name))?;
            Some((name.clone(), module.kernel(name).ok()?.unreached()))
        };
        ran.iter().filter_map(kernel).collect()
    }

    /// How many launches began.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// The PTX of the source of this name that was compiled last.
    pub fn text(&self, name: &str) -> Option<Arc<str>> {
        self.texts.lock().expect("nothing panics with it").get(name).cloned()
    }

    /// All kernels of the programs that were compiled.
    pub fn kernels(&self) -> BTreeSet<String> {
        let modules = self.modules.lock().expect("nothing panics with it");
        modules.iter().flat_map(|module| module.kernels()).map(str::to_owned).collect()
    }

    fn module(&self, number: u64) -> Option<Arc<Module>> {
        self.modules.lock().expect("nothing panics with it").get(number.checked_sub(1)? as usize).cloned()
    }

    fn make(&self, program: &Program) -> Result<u64, String> {
        let mut text = self.compiler.compile(program)?;
        if let Some(rewrite) = &self.rewrite {
            text = rewrite(&program.name, text)?;
        }
        let module = Module::parse(&text).map_err(|error| format!("{}: {error}", program.name))?;
        self.texts.lock().expect("nothing panics with it").insert(program.name.clone(), module.text());
        let mut modules = self.modules.lock().expect("nothing panics with it");
        modules.push(Arc::new(module));
        Ok(modules.len() as u64)
    }
}

impl Interpreter for Device {
    fn compile(&self, program: &Program) -> Result<u64, String> {
        let mut compiled = self.compiled.lock().expect("nothing panics with it");
        // Looked up first: a program is long, and each is compiled many times.
        let made = match compiled.get(program) {
            Some(made) => made.clone(),
            None => compiled.entry(program.clone()).or_default().clone(),
        };
        drop(compiled);
        // Others that want the same wait here; others that want another do not.
        made.get_or_init(|| self.make(program)).clone()
    }

    fn describe(&self, module: u64, kernel: &str) -> Option<Described> {
        let module = self.module(module)?;
        if !module.has(kernel) {
            return None;
        }
        let kernel = match module.kernel(kernel) {
            Ok(kernel) => kernel,
            Err(error) => {
                // The driver has no words for it.
                eprintln!("kernel {kernel} is not understood: {error}");
                return None;
            }
        };
        Some(Described {
            max_threads: kernel.max_threads,
            static_shared: kernel.static_shared,
            parameters: kernel.parameters.iter().map(|parameter| parameter.bytes).collect(),
        })
    }

    fn run(&self, module: u64, name: &str, launched: Launched) -> Result<(), Failure> {
        self.launches.fetch_add(1, Ordering::Relaxed);
        let failed = |message: String| Failure { message, is_access: false };
        let module = self.module(module).ok_or_else(|| failed("a module that is not there".into()))?;
        let kernel = module.kernel(name).map_err(|error| failed(error.to_string()))?;
        let mut parameters = vec![0; kernel.parameter_bytes as usize];
        for (parameter, bytes) in kernel.parameters.iter().zip(launched.parameters) {
            parameters[parameter.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        let order = u64::from(launched.order.unsigned_abs());
        let launch = machine::Launch {
            grid: launched.grid,
            threads: launched.threads,
            dynamic: launched.dynamic,
            parameters: &parameters,
            memory: &DeviceMemory(self.emulator),
            manner: Manner { order, disturbed: self.disturbed },
        };
        machine::run(&kernel, &launch)
            .map_err(|fault| Failure { message: fault.message, is_access: fault.is_access })?;
        self.ran.lock().expect("nothing panics with it").insert(name.to_owned());
        Ok(())
    }
}
