//! Compiles kernels to machine code for one architecture with NVRTC.
//!
//! Directly to a cubin: an older driver refuses the PTX of a newer compiler, but accepts machine code of the same major
//! version. Each file is a program of its own, so that files compile in parallel and an edit recompiles one of them.

use super::device::{Capability, constant};
use super::libraries::Search;
use super::sources::{HEADERS, Source};
use super::symbols::{Code, Nvrtc};
use crate::error::BackendError;
use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};

/// Options for all files, in addition to the architecture. No contraction and no fast math: the optimizer's bytes must be
/// those of the CPU. The assembler's report goes to the log.
const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "--ptxas-options=-v"];

/// Machine code of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cubin {
    /// What the driver loads.
    pub image: Vec<u8>,
    /// The compiler's log, including the assembler's report; see [`super::report::usages`].
    pub log: String,
}

/// The compiler.
pub struct Compiler {
    nvrtc: Nvrtc,
    path: PathBuf,
    version: (u32, u32),
}

impl Compiler {
    /// Looks for an NVRTC that compiles for `capability` and whose output the driver can run, `supports` being the
    /// newest CUDA that it knows; without them any NVRTC will do.
    ///
    /// # Errors
    /// If there is none, with the reason why each one found was rejected.
    pub fn find(
        search: &Search,
        supports: Option<(u32, u32)>,
        capability: Option<Capability>,
    ) -> Result<Self, BackendError> {
        let found = search.nvrtc(supports, |nvrtc| match capability {
            Some(capability) => knows(nvrtc, capability),
            None => Ok(()),
        })?;
        Ok(Self { version: version(&found.symbols), nvrtc: found.symbols, path: found.path })
    }

    /// Its version, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it compiles for a device; if not, why.
    ///
    /// # Errors
    /// A sentence with its version and the newest device that it knows.
    pub fn knows(&self, capability: Capability) -> Result<(), String> {
        knows(&self.nvrtc, capability)
    }

    /// Everything that the machine code depends on besides the source: equal texts give equal code. The length of the
    /// library's file distinguishes patch releases, which share a version number.
    pub(super) fn identity(&self, architecture: &str) -> String {
        let bytes = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        format!("{}.{} {bytes} {}\n{architecture} {OPTIONS:?}", self.version.0, self.version.1, self.path.display())
    }

    /// Compiles one file for an architecture such as `sm_90a`. May be called from several threads at once.
    ///
    /// # Errors
    /// If it does not compile; the error carries the log.
    pub fn compile(&self, source: &Source, architecture: &str) -> Result<Cubin, BackendError> {
        let program = Program::new(&self.nvrtc, source).map_err(|code| self.error(source, architecture, code, ""))?;
        let done = program.compile(architecture);
        let log = program.log();
        let image = done.and_then(|()| program.image());
        match image {
            Ok(image) => Ok(Cubin { image, log }),
            Err(code) => Err(self.error(source, architecture, code, &log)),
        }
    }

    fn error(&self, source: &Source, architecture: &str, code: Code, log: &str) -> BackendError {
        // SAFETY: NVRTC gives constant strings.
        let code = unsafe { constant((self.nvrtc.nvrtcGetErrorString)(code)) };
        BackendError::Compile {
            source_file: source.file.into(),
            architecture: architecture.into(),
            code,
            log: log.trim_end().into(),
        }
    }
}

fn version(nvrtc: &Nvrtc) -> (u32, u32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written to locals. It cannot fail with pointers that are not null.
    unsafe { (nvrtc.nvrtcVersion)(&mut major, &mut minor) };
    (major.unsigned_abs(), minor.unsigned_abs())
}

fn knows(nvrtc: &Nvrtc, capability: Capability) -> Result<(), String> {
    let known = architectures(nvrtc);
    if known.contains(&(capability.major * 10 + capability.minor)) {
        return Ok(());
    }
    let (major, minor) = version(nvrtc);
    let newest = known.last().map_or_else(|| "none".into(), |newest| format!("sm_{newest}"));
    Err(format!("NVRTC {major}.{minor} does not know {}, its newest is {newest}", capability.architecture()))
}

/// The architectures that a compiler knows, as numbers in ascending order.
fn architectures(nvrtc: &Nvrtc) -> Vec<u32> {
    let mut count = 0;
    // SAFETY: the count is written to a local.
    let code = unsafe { (nvrtc.nvrtcGetNumSupportedArchs)(&mut count) };
    let mut found = vec![0; if code == 0 { count.unsigned_abs() as usize } else { 0 }];
    if !found.is_empty() {
        // SAFETY: the vector is as long as the library asked.
        unsafe { (nvrtc.nvrtcGetSupportedArchs)(found.as_mut_ptr()) };
    }
    found.into_iter().map(i32::unsigned_abs).collect()
}

/// One file inside the compiler.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    program: nvrtcProgram,
    /// The texts that the program may refer to as long as it lives.
    _texts: Vec<CString>,
}

impl<'a> Program<'a> {
    fn new(nvrtc: &'a Nvrtc, source: &Source) -> Result<Self, Code> {
        let texts: Vec<_> = [source].into_iter().chain(HEADERS).flat_map(|s| [text(s.text), text(s.file)]).collect();
        let headers: Vec<_> = texts.iter().skip(2).step_by(2).map(|text| text.as_ptr()).collect();
        let names: Vec<_> = texts.iter().skip(3).step_by(2).map(|text| text.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: all pointers are to strings that `texts` holds; there are as many headers as names.
        let code = unsafe {
            let count = headers.len() as i32;
            let (text, name) = (texts[0].as_ptr(), texts[1].as_ptr());
            (nvrtc.nvrtcCreateProgram)(&mut program, text, name, count, headers.as_ptr(), names.as_ptr())
        };
        if code == 0 { Ok(Self { nvrtc, program, _texts: texts }) } else { Err(code) }
    }

    fn compile(&self, architecture: &str) -> Result<(), Code> {
        let own = format!("--gpu-architecture={architecture}");
        let options: Vec<_> = [own.as_str()].into_iter().chain(OPTIONS).map(text).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program lives; the pointers are to strings that `options` holds.
        done(unsafe { (self.nvrtc.nvrtcCompileProgram)(self.program, pointers.len() as i32, pointers.as_ptr()) })
    }

    fn log(&self) -> String {
        let mut bytes = 0;
        // SAFETY: the program lives; the length is written to a local, and the buffer is as long as was asked for.
        let text = unsafe {
            (self.nvrtc.nvrtcGetProgramLogSize)(self.program, &mut bytes);
            let mut text = vec![0u8; bytes];
            (self.nvrtc.nvrtcGetProgramLog)(self.program, text.as_mut_ptr().cast());
            text
        };
        String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
    }

    fn image(&self) -> Result<Vec<u8>, Code> {
        let mut bytes = 0;
        // SAFETY: the program lives; the length is written to a local.
        done(unsafe { (self.nvrtc.nvrtcGetCUBINSize)(self.program, &mut bytes) })?;
        if bytes == 0 {
            return Err(nvrtcResult::NVRTC_ERROR_INTERNAL_ERROR as Code);
        }
        let mut image = vec![0u8; bytes];
        // SAFETY: the program lives; the buffer is as long as was asked for.
        done(unsafe { (self.nvrtc.nvrtcGetCUBIN)(self.program, image.as_mut_ptr().cast()) })?;
        Ok(image)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new` and used by nobody else any more.
        unsafe { (self.nvrtc.nvrtcDestroyProgram)(&mut self.program) };
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("a source without zero bytes")
}

fn done(code: Code) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}
