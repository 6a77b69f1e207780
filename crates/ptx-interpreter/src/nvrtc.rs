//! Lets the real NVRTC compile programs to PTX. It runs in processes of its own, since it and the emulated library of its
//! name do not get along in one, and what it made is kept in a folder.

use cuda_emulator::Program;
use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use xxhash_rust::xxh3::xxh3_128;

/// The variable that names a child's request: a file that holds a program.
pub const REQUEST: &str = "PTX_INTERPRETER_REQUEST";
/// The variable that names NVRTC's library to a child.
pub const NVRTC: &str = "PTX_INTERPRETER_NVRTC";

/// Compiles programs, or finds what was compiled before.
pub struct Compiler {
    library: PathBuf,
    folder: PathBuf,
    child: fn() -> Command,
}

impl Compiler {
    /// With the library's file, a folder for what it makes, and a command whose process calls [`answer`].
    pub fn new(library: PathBuf, folder: PathBuf, child: fn() -> Command) -> Self {
        Self { library, folder, child }
    }

    /// The PTX of a program, for the virtual architecture of the one that its options name.
    ///
    /// # Errors
    /// NVRTC's messages, or why the child or a file failed.
    pub fn compile(&self, program: &Program) -> Result<String, String> {
        let mut program = program.clone();
        for option in &mut program.options {
            *option = option.replace("--gpu-architecture=sm_", "--gpu-architecture=compute_");
        }
        let request = written(&program);
        // Patch releases of NVRTC share a version, but not a length.
        let length = std::fs::metadata(&self.library).map_or(0, |data| data.len());
        let key = xxh3_128(format!("{} {length}\n{request}", self.library.display()).as_bytes());
        let kept = self.folder.join(format!("{}.{key:032x}.ptx", program.name));
        if let Ok(text) = std::fs::read_to_string(&kept) {
            return Ok(text);
        }
        let text = self.ask(&request)?;
        let named = format!("{}.{key:032x}.{}", program.name, std::process::id());
        let written = std::fs::write(self.folder.join(&named), &text)
            .and_then(|()| std::fs::rename(self.folder.join(&named), &kept));
        written.map_err(|error| format!("{}: {error}", kept.display()))?;
        Ok(text)
    }

    /// Has a child compile what a request says.
    fn ask(&self, request: &str) -> Result<String, String> {
        let failed = |what: &str, error: io::Error| format!("{what}: {error}");
        std::fs::create_dir_all(&self.folder).map_err(|error| failed("the folder for PTX", error))?;
        let file = self.folder.join(format!("{:032x}.{}", xxh3_128(request.as_bytes()), std::process::id()));
        let answered = file.with_extension("answer");
        std::fs::write(&file, request).map_err(|error| failed("a request to NVRTC", error))?;
        let mut command = (self.child)();
        // Its second library lies beside it.
        let beside = self.library.parent().unwrap_or(Path::new("."));
        command.env(REQUEST, &file).env(NVRTC, &self.library).env("LD_LIBRARY_PATH", beside);
        let output = command.output().map_err(|error| failed("the process for NVRTC", error))?;
        let answer = std::fs::read_to_string(&answered);
        let _ = (std::fs::remove_file(&file), std::fs::remove_file(&answered));
        let answer = answer.map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("the process for NVRTC gave no answer ({error}), {}:\n{said}", output.status)
        })?;
        match answer.split_once('\n') {
            Some(("PTX", text)) => Ok(text.to_owned()),
            _ => Err(answer.trim_start_matches("LOG\n").to_owned()),
        }
    }
}

/// Does what the variables ask this process for; whether they did. The answer lies beside the request.
///
/// # Panics
/// If the request or the library cannot be read, or the answer not be written.
pub fn answer() -> bool {
    let (Some(request), Some(library)) = (std::env::var_os(REQUEST), std::env::var_os(NVRTC)) else { return false };
    let request = PathBuf::from(request);
    let program = read(&std::fs::read_to_string(&request).expect("the request"));
    let answer = match ptx(Path::new(&library), &program) {
        Ok(text) => format!("PTX\n{text}"),
        Err(log) => format!("LOG\n{log}"),
    };
    std::fs::write(request.with_extension("answer"), answer).expect("the answer");
    true
}

/// A program as one text: each part after its length.
fn written(program: &Program) -> String {
    let counts = [program.headers.len().to_string(), program.options.len().to_string()];
    let mut parts: Vec<&str> = counts.iter().chain([&program.name, &program.source]).map(String::as_str).collect();
    parts.extend(program.headers.iter().flat_map(|(name, text)| [name.as_str(), text]));
    parts.extend(program.options.iter().map(String::as_str));
    let mut text = String::new();
    for part in parts {
        text += &format!("{}\n{part}", part.len());
    }
    text
}

fn read(mut text: &str) -> Program {
    let mut part = || {
        let (length, rest) = text.split_once('\n').expect("a length");
        let (part, rest) = rest.split_at(length.parse().expect("a number"));
        text = rest;
        part.to_owned()
    };
    let [headers, options] = [part(), part()].map(|count| count.parse::<usize>().expect("a number"));
    let (name, source) = (part(), part());
    let headers = (0..headers).map(|_| (part(), part())).collect();
    Program { name, source, headers, options: (0..options).map(|_| part()).collect() }
}

type Handle = *mut c_void;

/// # Safety
/// The library has a function of that name and type.
unsafe fn function<'l, T>(library: &'l Library, name: &str) -> Result<Symbol<'l, T>, String> {
    // SAFETY: the caller's promise.
    unsafe { library.get(name) }.map_err(|error| error.to_string())
}

/// Compiles in this process.
fn ptx(library: &Path, program: &Program) -> Result<String, String> {
    let text = |text: &str| CString::new(text).expect("a source without zero bytes");
    let (source, name) = (text(&program.source), text(&program.name));
    let names: Vec<CString> = program.headers.iter().map(|(name, _)| text(name)).collect();
    let texts: Vec<CString> = program.headers.iter().map(|(_, source)| text(source)).collect();
    let options: Vec<CString> = program.options.iter().map(|option| text(option)).collect();
    let pointers = |all: &[CString]| all.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
    let (names, texts, options) = (pointers(&names), pointers(&texts), pointers(&options));
    let mut handle: Handle = std::ptr::null_mut();
    // SAFETY: the functions have these types in NVIDIA's header. All pointers are to strings that live until the end; sizes
    // are written to locals, and buffers are as long as was asked for.
    unsafe {
        let nvrtc = Library::new(library).map_err(|error| error.to_string())?;
        type Create = unsafe extern "C" fn(
            *mut Handle,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
        let create = function::<Create>(&nvrtc, "nvrtcCreateProgram")?;
        let count = names.len() as c_int;
        let code = create(&mut handle, source.as_ptr(), name.as_ptr(), count, texts.as_ptr(), names.as_ptr());
        if code != 0 {
            return Err(format!("nvrtcCreateProgram gave {code}"));
        }
        let compile = function::<Compile>(&nvrtc, "nvrtcCompileProgram")?;
        let code = compile(handle, options.len() as c_int, options.as_ptr());
        let what = if code == 0 { "PTX" } else { "ProgramLog" };
        let text = output(&nvrtc, handle, what)?;
        // The process ends soon: neither the program nor the library is given back.
        std::mem::forget(nvrtc);
        if code == 0 { Ok(text) } else { Err(text) }
    }
}

/// What `nvrtcGet...` gives.
fn output(nvrtc: &Library, program: Handle, what: &str) -> Result<String, String> {
    type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
    type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
    let mut bytes = 0;
    // SAFETY: as in `ptx`.
    unsafe {
        let size = function::<Size>(nvrtc, &format!("nvrtcGet{what}Size"))?(program, &mut bytes);
        let mut text = vec![0u8; bytes + 1];
        let code = function::<Get>(nvrtc, &format!("nvrtcGet{what}"))?(program, text.as_mut_ptr().cast());
        if size != 0 || code != 0 {
            return Err(format!("nvrtcGet{what} gave {code}"));
        }
        Ok(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back() {
        let program = Program {
            name: "a.cu".into(),
            source: "line\nwith 7\nnumbers ü".into(),
            headers: vec![("a.h".into(), String::new()), ("b.h".into(), "3\n".into())],
            options: vec!["--x".into()],
        };
        assert_eq!(read(&written(&program)), program);
    }
}
