//! Compiles the emulator and the kernels of the program into three shared libraries named like CUDA's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// A source, the flags of its kind, and the object it becomes.
struct Unit {
    source: PathBuf,
    flags: &'static [&'static str],
    object: PathBuf,
}

/// Kernels: IEEE arithmetic in the order as written, uninitialised variables filled with a pattern, and every access to
/// memory told to `runtime/access.cpp`, which takes the place of the thread sanitizer's library.
const KERNEL: [&str; 7] = [
    "-x",
    "c++",
    "-O2",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-ftrivial-auto-var-init=pattern",
    "-fsanitize=thread",
];
const RUNTIME: [&str; 2] = ["-O2", "-ffp-contract=off"];
/// The product of matrices: sums may be vectorised over columns, which changes no result.
const PRODUCT: [&str; 2] = ["-O3", "-ffp-contract=off"];

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let kernels = here.join("../../src/backend/cuda/kernels");
    let compiler = cc::Build::new().cpp(true).opt_level(2).warnings(false).get_compiler();
    let folders = [here.join("runtime"), here.join("driver"), here.join("kernels"), kernels.clone()];
    for folder in &folders {
        println!("cargo:rerun-if-changed={}", folder.display());
        for file in files(folder) {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    let newest_header = folders.iter().flat_map(|f| files(f)).filter(|f| has(f, "h")).map(|f| changed(&f)).max();
    // The script itself holds the flags.
    let fence = newest_header.max(Some(changed(&std::env::current_exe().unwrap())));

    let include = [here.join("runtime"), kernels.clone()];
    let (cuda, nvrtc, lt) = units(&folders, &out);
    let all: Vec<&Unit> = cuda.iter().chain(&nvrtc).chain(&lt).collect();
    compile_all(&compiler, &all, &include, fence.unwrap());

    let libraries = out.join("libraries");
    std::fs::create_dir_all(&libraries).unwrap();
    link(&compiler, &cuda, &libraries, "libcuda.so.1", &[]);
    link(&compiler, &nvrtc, &libraries, "libnvrtc.so.13", &[]);
    // It asks the driver for its streams; the driver is in the same folder.
    link(&compiler, &lt, &libraries, "libcublasLt.so.13", &["libcuda.so.1"]);
    println!("cargo:rustc-env=TETRAD_EMULATOR_LIBRARIES={}", libraries.display());
}

fn has(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|e| e == extension)
}

/// The files of a folder in order of their names; none if there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    found.sort();
    found
}

fn changed(file: &Path) -> SystemTime {
    std::fs::metadata(file).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What belongs to libcuda, libnvrtc and libcublasLt.
fn units(folders: &[PathBuf], out: &Path) -> (Vec<Unit>, Vec<Unit>, Vec<Unit>) {
    let (mut cuda, mut nvrtc, mut lt) = (Vec::new(), Vec::new(), Vec::new());
    for (number, folder) in folders.iter().enumerate() {
        for source in files(folder) {
            let stem = source.file_stem().unwrap().to_string_lossy().into_owned();
            let object = out.join(format!("{number}-{stem}.o"));
            let (library, flags): (&mut Vec<Unit>, &'static [&'static str]) = match stem.as_str() {
                _ if has(&source, "cu") => (&mut cuda, &KERNEL),
                _ if !has(&source, "cpp") => continue,
                _ if stem.starts_with("nvrtc") => (&mut nvrtc, &RUNTIME),
                _ if stem.starts_with("cublaslt_product") => (&mut lt, &PRODUCT),
                _ if stem.starts_with("cublaslt") => (&mut lt, &RUNTIME),
                _ => (&mut cuda, &RUNTIME),
            };
            library.push(Unit { source, flags, object });
        }
    }
    (cuda, nvrtc, lt)
}

/// Compiles what is older than its source or than `fence`, on all cores.
fn compile_all(compiler: &cc::Tool, units: &[&Unit], include: &[PathBuf], fence: SystemTime) {
    let stale: Vec<_> = units.iter().filter(|unit| changed(&unit.object) <= fence.max(changed(&unit.source))).collect();
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..cores.min(stale.len()) {
            scope.spawn(|| {
                while let Some(unit) = stale.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compile(compiler, unit, include);
                }
            });
        }
    });
}

fn compile(compiler: &cc::Tool, unit: &Unit, include: &[PathBuf]) {
    let mut command = compiler.to_command();
    command.args(["-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-g1", "-Wall", "-Wextra"]);
    // A plain name keeps places in messages short whatever folder this is built in.
    command.args(["-U_FORTIFY_SOURCE", "-pthread"]).args(unit.flags);
    for folder in include {
        command.arg("-I").arg(folder);
    }
    command.arg("-c").arg(&unit.source).arg("-o").arg(&unit.object);
    run(command);
}

/// Links a library under the name that programs load it by.
fn link(compiler: &cc::Tool, units: &[Unit], folder: &Path, name: &str, needs: &[&str]) {
    let mut command = compiler.to_command();
    command.args(["-shared", "-pthread", "-Wl,-z,defs"]).arg(format!("-Wl,-soname,{name}"));
    command.args(units.iter().map(|unit| &unit.object)).arg("-o").arg(folder.join(name));
    command.args(needs.iter().map(|library| folder.join(library))).args(["-Wl,-rpath,$ORIGIN", "-lm"]);
    run(command);
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} did not start: {e}"));
    let text = String::from_utf8_lossy(&output.stderr);
    for line in text.lines().filter(|_| output.status.success()) {
        println!("cargo:warning={line}");
    }
    assert!(output.status.success(), "{command:?} failed:\n{text}");
}
