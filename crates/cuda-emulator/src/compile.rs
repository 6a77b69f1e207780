//! Compiles the emulator and a program's kernels into four shared libraries named like CUDA's own.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Kernels: IEEE arithmetic in the order as written, uninitialised variables filled with a pattern, and every access to
/// memory reported to `runtime/access.cpp`, which takes the place of the thread sanitizer's library.
const KERNEL: &[&str] = &[
    "-x",
    "c++",
    "-O2",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-ftrivial-auto-var-init=pattern",
    "-fsanitize=thread",
];
/// For kernels where the processor has it: `fmaf` is one instruction instead of a call; the result is the same.
fn fused() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        return &["-mfma"];
    }
    &[]
}
const RUNTIME: &[&str] = &["-O2", "-ffp-contract=off"];
/// The product of matrices: sums may be vectorised over columns, which changes no result.
const PRODUCT: &[&str] = &["-O3", "-ffp-contract=off"];
const COMMON: &[&str] = &[
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-g1",
    "-Wall",
    "-Wextra",
    "-U_FORTIFY_SOURCE",
    "-pthread",
];

/// Why the libraries could not be made.
#[derive(Debug)]
pub enum BuildError {
    /// A file or folder that could not be read or written.
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The C++ compiler did not start. It is `c++`, or what the variable `CXX` names.
    NoCompiler {
        /// Its name.
        compiler: String,
        /// What the system said.
        source: io::Error,
    },
    /// The compiler refused a source, or the libraries did not link.
    Compile {
        /// The source or the library.
        path: PathBuf,
        /// The compiler's messages.
        messages: String,
    },
}

impl Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, source } => write!(f, "{}: {source}", path.display()),
            Self::NoCompiler { compiler, source } => {
                write!(f, "the C++ compiler {compiler} did not start ({source}); install one or set CXX")
            }
            Self::Compile { path, messages } => write!(f, "{} does not compile:\n{messages}", path.display()),
        }
    }
}

impl std::error::Error for BuildError {}

/// A source, the flags of its kind, and the object file that it becomes.
struct Unit {
    source: PathBuf,
    flags: &'static [&'static str],
    object: PathBuf,
}

/// The units of libcuda, libnvrtc, libcublasLt and libnccl.
#[derive(Default)]
struct Units {
    cuda: Vec<Unit>,
    nvrtc: Vec<Unit>,
    lt: Vec<Unit>,
    nccl: Vec<Unit>,
}

/// Compiles every `*.cu` below `kernels` and the emulator itself into `out`, as far as they changed since they were
/// compiled there last, and returns the folder with the libraries. Headers are found in the folders of kernels.
///
/// Processes that build in the same folder wait for each other; libraries that a process has loaded are replaced, not
/// written to.
pub(crate) fn compile(kernels: &[&Path], out: &Path) -> Result<PathBuf, BuildError> {
    build(&Compiler::usual(), kernels, out)
}

const LIBRARIES: [&str; 4] = ["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13", "libnccl.so.2"];

fn build(compiler: &Compiler, kernels: &[&Path], out: &Path) -> Result<PathBuf, BuildError> {
    let libraries = out.join("libraries");
    fs::create_dir_all(&libraries).map_err(at(&libraries))?;
    let lock_path = out.join("lock");
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    lock.lock().map_err(at(&lock_path))?;

    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (runtime, driver) = (here.join("runtime"), here.join("driver"));
    let include: Vec<&Path> = kernels.iter().copied().chain([runtime.as_path()]).collect();
    // Kernels come first: their mistakes are then found first.
    let folders: Vec<&Path> = include.iter().copied().chain([driver.as_path()]).collect();
    let mut newest_header = SystemTime::UNIX_EPOCH;
    for folder in &folders {
        for header in files(folder)?.iter().filter(|file| has(file, "h")) {
            newest_header = newest_header.max(changed(header));
        }
    }
    let units = units(&folders, out)?;
    let all: Vec<&Unit> = units.cuda.iter().chain(&units.nvrtc).chain(&units.lt).chain(&units.nccl).collect();

    // What is compiled how: if this changed, everything is compiled again.
    let sources: Vec<_> = all.iter().map(|unit| (&unit.source, unit.flags)).collect();
    let recipe = format!("{compiler:?} {COMMON:?} {:?} {sources:?}", fused());
    let recipe_path = out.join("recipe");
    let same = fs::read_to_string(&recipe_path).is_ok_and(|old| old == recipe);
    let stale = |unit: &&Unit| !same || changed(&unit.object) <= newest_header.max(changed(&unit.source));
    let stale: Vec<&Unit> = all.into_iter().filter(stale).collect();
    if stale.is_empty() && LIBRARIES.iter().all(|library| libraries.join(library).exists()) {
        return Ok(libraries);
    }
    // Without it, what follows is done anew if it breaks off.
    let _ = fs::remove_file(&recipe_path);
    compiler.compile_all(&stale, &include)?;
    let [cuda, nvrtc, lt, nccl] = LIBRARIES;
    compiler.link(&units.cuda, &libraries, cuda, &[])?;
    compiler.link(&units.nvrtc, &libraries, nvrtc, &[])?;
    // They ask the driver for its streams; the driver is in the same folder.
    compiler.link(&units.lt, &libraries, lt, &[cuda])?;
    compiler.link(&units.nccl, &libraries, nccl, &[cuda])?;
    fs::write(&recipe_path, recipe).map_err(at(&recipe_path))?;
    Ok(libraries)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_path_buf();
    |source| BuildError::File { path, source }
}

fn has(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|e| e == extension)
}

/// The files below a folder in order of their paths.
fn files(folder: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn changed(file: &Path) -> SystemTime {
    fs::metadata(file).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn units(folders: &[&Path], out: &Path) -> Result<Units, BuildError> {
    let mut units = Units::default();
    for (number, folder) in folders.iter().enumerate() {
        for source in files(folder)? {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let inside = source.strip_prefix(folder).unwrap_or(&source).display().to_string();
            let object = out.join(format!("{number}-{}.o", inside.replace('/', "-")));
            let (library, flags) = match stem.as_str() {
                _ if has(&source, "cu") => (&mut units.cuda, KERNEL),
                _ if !has(&source, "cpp") => continue,
                _ if stem.starts_with("nvrtc") => (&mut units.nvrtc, RUNTIME),
                _ if stem.starts_with("cublaslt_product") => (&mut units.lt, PRODUCT),
                _ if stem.starts_with("cublaslt") => (&mut units.lt, RUNTIME),
                _ if stem.starts_with("nccl") => (&mut units.nccl, RUNTIME),
                _ => (&mut units.cuda, RUNTIME),
            };
            library.push(Unit { source, flags, object });
        }
    }
    Ok(units)
}

#[derive(Debug)]
struct Compiler {
    /// The program and its first arguments.
    command: Vec<String>,
}

impl Compiler {
    /// `c++`, or the words of `CXX`.
    fn usual() -> Self {
        let named = std::env::var("CXX").unwrap_or_default();
        let mut command: Vec<String> = named.split_whitespace().map(str::to_owned).collect();
        if command.is_empty() {
            command.push("c++".to_owned());
        }
        Self { command }
    }

    fn start(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }

    /// Compiles on all cores; gives the first failure.
    fn compile_all(&self, units: &[&Unit], include: &[&Path]) -> Result<(), BuildError> {
        let (next, result) = (AtomicUsize::new(0), Mutex::new(Ok(())));
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|scope| {
            for _ in 0..cores.min(units.len()) {
                scope.spawn(|| {
                    while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.compile(unit, include) {
                            next.store(units.len(), Ordering::Relaxed);
                            let mut result = result.lock().expect("no thread panics with it");
                            if result.is_ok() {
                                *result = Err(error);
                            }
                        }
                    }
                });
            }
        });
        result.into_inner().expect("no thread panics with it")
    }

    fn compile(&self, unit: &Unit, include: &[&Path]) -> Result<(), BuildError> {
        let mut command = self.start();
        command.args(COMMON).args(unit.flags);
        if has(&unit.source, "cu") {
            command.args(fused());
        }
        for folder in include {
            command.arg("-I").arg(folder);
        }
        command.arg("-c").arg(&unit.source).arg("-o").arg(&unit.object);
        self.run(command, &unit.source)
    }

    /// Links a library under the name that programs load it by.
    fn link(&self, units: &[Unit], folder: &Path, name: &str, needs: &[&str]) -> Result<(), BuildError> {
        let (target, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
        let mut command = self.start();
        command.args(["-shared", "-pthread", "-Wl,-z,defs"]).arg(format!("-Wl,-soname,{name}"));
        command.args(units.iter().map(|unit| &unit.object)).arg("-o").arg(&partial);
        command.args(needs.iter().map(|library| folder.join(library))).args(["-Wl,-rpath,$ORIGIN", "-lm", "-ldl"]);
        self.run(command, &target)?;
        fs::rename(&partial, &target).map_err(at(&target))
    }

    /// Runs a command that makes something of `path`; warnings are printed.
    fn run(&self, mut command: Command, path: &Path) -> Result<(), BuildError> {
        let output =
            command.output().map_err(|source| BuildError::NoCompiler { compiler: self.command[0].clone(), source })?;
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(BuildError::Compile { path: path.to_path_buf(), messages });
        }
        eprint!("{messages}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A compiler that makes empty files, and a list of them.
    struct Fake {
        folder: tempfile::TempDir,
        compiler: Compiler,
    }

    impl Fake {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("kernels/parts")).unwrap();
            for (name, text) in [("a.cu", ""), ("b.cu", ""), ("parts/c.h", ""), ("notes.txt", "")] {
                fs::write(folder.path().join("kernels").join(name), text).unwrap();
            }
            let list = folder.path().join("made").display().to_string();
            let script =
                "while [ $# -gt 0 ]; do if [ \"$1\" = -o ]; then : > \"$2\"; echo \"$2\" >> \"$0\"; fi; shift; done";
            let command = ["sh", "-c", script, &list].map(str::to_owned).to_vec();
            let fake = Self { folder, compiler: Compiler { command } };
            // What is built within a tick of the file system's clock would not be newer.
            ["a.cu", "b.cu", "parts/c.h"].into_iter().for_each(|name| fake.age(name));
            fake
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Names of the files that a build makes, those of the emulator itself left out.
        fn made(&self) -> Vec<String> {
            let _ = fs::remove_file(self.path("made"));
            build(&self.compiler, &[&self.path("kernels")], &self.path("out")).unwrap();
            let made = fs::read_to_string(self.path("made")).unwrap_or_default();
            let names =
                made.lines().map(|line| line.rsplit('/').next().unwrap().trim_end_matches(".partial").to_owned());
            let mut names: Vec<_> = names.filter(|name| name.starts_with("0-") || name.starts_with("lib")).collect();
            names.sort();
            names
        }

        /// Makes a file newer than all that was built.
        fn touch(&self, name: &str) {
            let file = File::options().write(true).open(self.path("kernels").join(name)).unwrap();
            file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
        }

        /// Makes a file older than all that was built.
        fn age(&self, name: &str) {
            let file = File::options().write(true).open(self.path("kernels").join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        }
    }

    const LINKED: [&str; 4] = ["libcublasLt.so.13", "libcuda.so.1", "libnccl.so.2", "libnvrtc.so.13"];

    #[test]
    fn only_what_changed_is_compiled_again() {
        let fake = Fake::new();
        let all = [&["0-a.cu.o", "0-b.cu.o"][..], &LINKED].concat();
        assert_eq!(fake.made(), all);
        assert_eq!(fake.made(), [""; 0]);
        fake.touch("b.cu");
        assert_eq!(fake.made(), [&["0-b.cu.o"][..], &LINKED].concat());
        fake.age("b.cu");
        fake.touch("parts/c.h");
        assert_eq!(fake.made(), all, "a header below the folder is newer");
        fake.age("parts/c.h");
        assert_eq!(fake.made(), [""; 0]);
        fs::remove_file(fake.path("out/libraries/libcuda.so.1")).unwrap();
        assert_eq!(fake.made(), LINKED, "only a library is missing");
        fs::write(fake.path("kernels/d.cu"), "").unwrap();
        assert_eq!(fake.made(), [&["0-a.cu.o", "0-b.cu.o", "0-d.cu.o"][..], &LINKED].concat(), "other sources");
    }

    #[test]
    fn a_build_that_broke_off_is_done_anew() {
        let mut fake = Fake::new();
        let right = std::mem::replace(&mut fake.compiler.command, vec!["false".to_owned()]);
        let error = build(&fake.compiler, &[&fake.path("kernels")], &fake.path("out")).unwrap_err();
        assert!(matches!(error, BuildError::Compile { .. }), "{error}");
        fake.compiler.command = right;
        assert_eq!(fake.made().len(), 6);
    }

    #[test]
    fn missing_folders_and_compilers_are_named() {
        let mut fake = Fake::new();
        let error = build(&fake.compiler, &[&fake.path("none")], &fake.path("out")).unwrap_err().to_string();
        assert!(error.contains(&fake.path("none").display().to_string()), "{error}");
        fake.compiler.command = vec!["/no/such/compiler".to_owned()];
        let error = build(&fake.compiler, &[&fake.path("kernels")], &fake.path("out")).unwrap_err().to_string();
        assert!(error.starts_with("the C++ compiler /no/such/compiler did not start"), "{error}");
    }
}
