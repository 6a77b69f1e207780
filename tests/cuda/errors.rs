//! What is said where a GPU cannot be had. Libraries are loaded and variables read once per process, so each case runs
//! in a process of its own: this very program again, with one test and a variable that says what to do.

use crate::harness::gpu::{CHECKS, allocate, emulated, emulator, launch};
use std::path::{Path, PathBuf};
use std::process::Command;
use tetrad::backend::cuda::{Args, Cuda, Form, Gpu, Info, Matrix, Output, Product, SOURCES, Search, Source, Strided};
use tetrad::backend::{Compute, DeviceInfo as _};
use tetrad::memory::{Place, Span};
use tetrad::model::ModelConfig;

/// Tells [`child`] what to do.
const WORK: &str = "TETRAD_TEST_WORK";
/// Comes before what a child found, among what the test harness prints.
const ANSWER: &str = "ANSWER: ";

fn answer(text: impl std::fmt::Display) {
    println!("\n{ANSWER}{}", text.to_string().replace('\n', "\\n"));
}

/// The work of the other tests' processes; nothing where no work is asked for.
#[test]
fn child() {
    let Ok(work) = std::env::var(WORK) else { return };
    let (work, argument) = work.split_once(' ').unwrap_or((&work, ""));
    match work {
        "open" => answer_open(Gpu::open_with(0, &emulated(), SOURCES), 1 << 20),
        "open-device" => answer_open(Gpu::open_with(argument.parse().unwrap(), &emulated(), SOURCES), 1),
        "open-usual" => answer_open(Gpu::open(0), 1),
        "open-checks" => answer_open(Gpu::open_with(0, &Search::usual(), &[CHECKS]), 1),
        "open-in" => answer_open(Gpu::open_with(0, &only(argument), SOURCES), 1),
        "broken" => {
            let broken = Source { file: "broken.cu", text: "\n#error no such thing\n" };
            answer_open(Gpu::open_with(0, &emulated(), &[broken]), 1);
        }
        "allocate" => answer_open(Gpu::open_with(0, &emulated(), SOURCES), argument.parse().unwrap()),
        "compute" => {
            let cuda = Cuda::open_with(0, &emulated()).unwrap();
            let every = [Compute::F32, Compute::Int8, Compute::Fp8];
            let said = every.map(|compute| match cuda.check_compute(compute) {
                Ok(()) => compute.name().to_owned(),
                Err(error) => error.to_string(),
            });
            answer(said.join(", "));
        }
        "count" => answer(count_allocations()),
        "multiply" => answer(one_product()),
        "check" => {
            let cuda = Cuda::open_with(0, &emulated()).unwrap();
            answer(match cuda.check_memory(argument.parse().unwrap()) {
                Ok(()) => format!("fine, {:?} may be planned", cuda.free_memory()),
                Err(error) => error.to_string(),
            });
        }
        _ => panic!("{work}"),
    }
}

fn only(folder: &str) -> Search {
    // SAFETY: the folders of the tests hold the emulator's libraries, or files that are none.
    unsafe { Search::only(&[folder.into()]) }
}

fn answer_open(gpu: Result<Gpu, tetrad::error::BackendError>, bytes: usize) {
    match gpu.and_then(|mut gpu| allocate(&mut gpu, bytes).map(|()| gpu)) {
        Ok(gpu) => answer(format!("{} {} {}", gpu.name(), gpu.capability(), gpu.libraries())),
        Err(error) => answer(error),
    }
}

/// What a child answers to `work` with these variables.
fn ask(work: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "errors::child", "--nocapture", "--test-threads=1"]);
    command.env_remove("TETRAD_CUDA_LIBRARIES").env_remove("LD_LIBRARY_PATH");
    command.env(WORK, work).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found = out.lines().find_map(|line| line.strip_prefix(ANSWER));
    found.unwrap_or_else(|| panic!("{work} {variables:?} gave no answer:\n{out}\n{err}")).to_owned()
}

const EMULATED: &str = "Emulated GPU 9.0 NVRTC 13.0, cuBLASLt 13.0.0";

#[test]
fn a_device_that_is_there_opens() {
    assert_eq!(ask("open", &[]), EMULATED);
    let ampere = ask("open", &[("CUDA_EMULATOR_CAPABILITY", "8.6")]);
    assert_eq!(ampere, EMULATED.replace("9.0", "8.6"));
}

#[test]
fn no_device_and_a_number_too_high_are_told_with_what_there_is() {
    assert_eq!(ask("open", &[("CUDA_EMULATOR_DEVICES", "0")]), "there is no CUDA device 0: the driver shows 0");
    assert_eq!(
        ask("open-device 2", &[("CUDA_EMULATOR_DEVICES", "2")]),
        "there is no CUDA device 2: the driver shows 2"
    );
    assert_eq!(ask("open-device 1", &[("CUDA_EMULATOR_DEVICES", "2")]), EMULATED);
}

#[test]
fn a_driver_too_old_is_told_from_libraries_too_new() {
    assert_eq!(
        ask("open", &[("CUDA_EMULATOR_DRIVER", "11080")]),
        "the NVIDIA driver supports CUDA 11.8, tetrad needs CUDA 12.0"
    );
    let nvrtc = emulator().libraries().join("libnvrtc.so.13");
    assert_eq!(
        ask("open", &[("CUDA_EMULATOR_DRIVER", "12040")]),
        format!("the NVIDIA driver supports CUDA 12.4, {} needs CUDA 13.0", nvrtc.display())
    );
}

#[test]
fn a_device_too_old_or_too_new_is_refused_by_name() {
    assert_eq!(
        ask("open", &[("CUDA_EMULATOR_CAPABILITY", "7.5")]),
        "Emulated GPU has compute capability 7.5, 8.0 (Ampere) or newer is needed"
    );
    let said = ask("open", &[("CUDA_EMULATOR_CAPABILITY", "13.0")]);
    let nvrtc = emulator().libraries().join("libnvrtc.so.13");
    let reason = format!("; {}: NVRTC 13.0 does not know sm_130, its newest is sm_121", nvrtc.display());
    assert!(said.starts_with("NVRTC (CUDA's compiler) was not found: ") && said.contains(&reason), "{said}");
}

#[test]
fn too_little_memory_is_refused_with_all_four_numbers() {
    let mib = 1u64 << 20;
    let memory = (64 * mib).to_string();
    let own = Gpu::OWN_BYTES as u64;
    let said = ask(&format!("allocate {}", 40 * mib), &[("CUDA_EMULATOR_MEMORY", &memory)]);
    let start = format!("Emulated GPU: {} bytes of memory are planned, {memory} of {memory} are free", 40 * mib + own);
    assert_eq!(said, start);
    assert_eq!(ask(&format!("allocate {}", 64 * mib - own), &[("CUDA_EMULATOR_MEMORY", &memory)]), EMULATED);
}

/// A folder with links to the named libraries of the emulator.
fn folder_with(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        std::os::unix::fs::symlink(emulator().libraries().join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn each_missing_library_is_named() {
    let cases = [
        (&[][..], "NVIDIA driver (libcuda) was not found: "),
        (&["libcuda.so.1"], "NVRTC (CUDA's compiler) was not found: "),
        (&["libcuda.so.1", "libnvrtc.so.13"], "cuBLASLt was not found: "),
    ];
    for (files, start) in cases {
        let folder = folder_with(files);
        let said = ask(&format!("open-in {}", folder.path().display()), &[]);
        assert!(said.starts_with(start), "{said}");
        assert!(said.contains(&folder.path().display().to_string()), "{said}");
    }
}

#[test]
fn a_machine_without_a_driver_is_told_so() {
    // The usual places, but for a folder that has nothing.
    let empty = folder_with(&[]);
    let said = ask("open-usual", &[("TETRAD_CUDA_LIBRARIES", empty.path().to_str().unwrap())]);
    if said.starts_with("NVIDIA driver (libcuda) was not found: looked for libcuda.so.1 in ") {
        assert!(said.contains(&format!("{}, the folders of LD_LIBRARY_PATH, ", empty.path().display())), "{said}");
    } else {
        eprintln!("SKIPPED: this machine has a driver: {said}");
    }
}

#[test]
fn the_variable_names_folders_that_come_first() {
    let cache = tempfile::tempdir().unwrap();
    let libraries = emulator().libraries().display().to_string();
    let named = format!("/no/such/folder:{libraries}");
    let variables = [("TETRAD_CUDA_LIBRARIES", &*named), ("XDG_CACHE_HOME", cache.path().to_str().unwrap())];
    assert_eq!(ask("open-usual", &variables), EMULATED);
}

#[test]
fn a_kernel_that_does_not_compile_is_told_with_the_compilers_words() {
    let said = ask("broken", &[]);
    assert_eq!(
        said,
        "broken.cu does not compile for sm_90a (NVRTC_ERROR_COMPILATION):\\nbroken.cu(2): error: #error no such thing"
    );
}

fn kept(cache: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cache.join("tetrad/kernels")).into_iter().flatten();
    let mut kept: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    kept
}

#[test]
fn kernels_are_compiled_once_and_damaged_ones_again() {
    let cache = tempfile::tempdir().unwrap();
    let libraries = emulator().libraries().to_str().unwrap();
    let variables = [("TETRAD_CUDA_LIBRARIES", libraries), ("XDG_CACHE_HOME", cache.path().to_str().unwrap())];
    assert_eq!(ask("open-checks", &variables), EMULATED);
    let [file] = &kept(cache.path())[..] else { panic!("{:?}", kept(cache.path())) };
    let (whole, made) = (std::fs::read(file).unwrap(), std::fs::metadata(file).unwrap().modified().unwrap());
    assert_eq!(ask("open-checks", &variables), EMULATED);
    assert_eq!(std::fs::metadata(file).unwrap().modified().unwrap(), made, "a kept kernel was compiled again");
    std::fs::write(file, b"damaged").unwrap();
    assert_eq!(ask("open-checks", &variables), EMULATED);
    assert_eq!(std::fs::read(file).unwrap(), whole);
    // Another architecture has its own.
    let other = [variables[0], variables[1], ("CUDA_EMULATOR_CAPABILITY", "8.0")];
    assert_eq!(ask("open-checks", &other), EMULATED.replace("9.0", "8.0"));
    assert_eq!(kept(cache.path()).len(), 2);
    // A folder that cannot be written is no error.
    let nowhere = [variables[0], ("XDG_CACHE_HOME", "/dev/null")];
    assert_eq!(ask("open-checks", &nowhere), EMULATED);
}

/// Everything that operations do, several times; the device's allocations before, during and after, and what is left.
fn count_allocations() -> String {
    let mut gpu = Gpu::open_with(0, &emulated(), &[CHECKS]).unwrap();
    let opened = emulator().allocations();
    allocate(&mut gpu, 1 << 20).unwrap();
    let allocated = emulator().allocations();
    let (free, total) = gpu.free_memory().unwrap();
    let span = |offset, bytes| Span { place: Place::Arena, offset, bytes };
    for round in 1..4 {
        gpu.upload(&vec![1; 1 << 19], span(0, 1 << 19));
        gpu.zero(span(0, 512));
        gpu.copy(span(0, 512), span(1024, 512));
        let args = Args::new().span(&gpu, span(0, 128)).span(&gpu, span(256, 128)).u32(32).f32(1.0);
        launch(&mut gpu, "check_scale", [1, 1, 1], 32, 0, &args);
        let matrix = |offset| Matrix { span: span(offset, 256), pitch: 8 };
        let (a, b, out) = (matrix(0), matrix(4096), matrix(8192));
        let (form, output) = (Form::Nt, Output::F32);
        gpu.multiply(&Product { form, m: round, n: 8, k: 8, a, b, out, output, addend: None, strided: Strided::ONE });
        gpu.download(span(0, 1 << 20), &mut vec![0; 1 << 20]);
        gpu.status().unwrap();
    }
    let worked = emulator().allocations();
    let counted = gpu.allocations();
    let taken = total - free - (1 << 20) - Gpu::OWN_BYTES as u64;
    drop(gpu);
    let left = emulator().live_bytes();
    format!("{opened} opened, {allocated} allocated, {worked} worked, {counted} counted, {taken} beyond, {left} left")
}

#[test]
fn a_device_is_asked_for_memory_once_and_gets_all_of_it_back() {
    assert_eq!(ask("count", &[]), "0 opened, 1 allocated, 1 worked, 1 counted, 0 beyond, 0 left");
}

/// A product of eight ones by eight twos, four rows and columns of it.
fn one_product() -> String {
    let mut gpu = Gpu::open_with(0, &emulated(), &[CHECKS]).unwrap();
    allocate(&mut gpu, 4096).unwrap();
    let span = |offset, bytes| Span { place: Place::Arena, offset, bytes };
    let (a, b, out) = (span(0, 64), span(64, 64), span(128, 64));
    gpu.upload(&0x3f80u16.to_le_bytes().repeat(32), a);
    gpu.upload(&0x4000u16.to_le_bytes().repeat(32), b);
    let matrix = |span, pitch| Matrix { span, pitch };
    let (a, b, at) = (matrix(a, 8), matrix(b, 8), matrix(out, 4));
    let (form, output) = (Form::Nt, Output::F32);
    gpu.multiply(&Product { form, m: 4, n: 4, k: 8, a, b, out: at, output, addend: None, strided: Strided::ONE });
    let mut bytes = [0; 64];
    gpu.download(out, &mut bytes);
    match gpu.status() {
        Ok(()) if bytes[..] == 16f32.to_le_bytes().repeat(16) => "right".into(),
        Ok(()) => format!("{bytes:?}"),
        Err(error) => error.to_string(),
    }
}

/// Where sums that are split may not meet in float32, any algorithm will do, then one without a workspace; where there is none
/// at all the shape is told.
#[test]
fn a_product_without_an_algorithm_is_asked_for_otherwise_before_it_is_refused() {
    for knows in ["", "unmasked", "unaided"] {
        assert_eq!(ask("multiply", &[("CUDA_EMULATOR_LT_KNOWS", knows)]), "right", "{knows}");
    }
    let said = ask("multiply", &[("CUDA_EMULATOR_LT_KNOWS", "nothing")]);
    let shape = "Emulated GPU: multiply Nt, m 4, n 4, k 8, rows 8, 8 and 4 apart, to F32";
    assert!(said.starts_with(shape) && said.contains("CUBLAS_STATUS_NOT_SUPPORTED"), "{said}");
}

/// Of a GiB one part in 32 is left to what the libraries load later; of more, 256 MiB.
#[test]
fn a_plan_leaves_room_for_what_libraries_take_later() {
    let mib = 1u64 << 20;
    for (total, kept) in [(1024 * mib, 32 * mib), (16384 * mib, 256 * mib)] {
        let memory = total.to_string();
        let check = |needed: u64| ask(&format!("check {needed}"), &[("CUDA_EMULATOR_MEMORY", &memory)]);
        assert_eq!(check(total - kept), format!("fine, Some({}) may be planned", total - kept));
        let said = check(total - kept + 1);
        let end = format!("{total} of {total} are free, of which {kept} are left to CUDA's libraries");
        assert!(said.ends_with(&end), "{said}");
    }
}

#[test]
fn products_in_small_floats_are_refused_on_devices_without_them() {
    let every = [Compute::F32, Compute::Int8, Compute::Fp8];
    assert_eq!(every.map(|compute| Info.check_compute(compute)), [const { Ok(()) }; 3], "no device is known");
    assert_eq!(ask("compute", &[("CUDA_EMULATOR_CAPABILITY", "8.9")]), "f32, int8, fp8");
    assert_eq!(
        ask("compute", &[("CUDA_EMULATOR_CAPABILITY", "8.6")]),
        "f32, int8, activations.compute = \"fp8\" needs compute capability 8.9 (Ada) or newer, the device has 8.6; \
         use \"int8\" or \"f32\", or --device cpu"
    );
}

#[test]
fn heads_that_the_kernels_do_not_compute_are_refused_before_memory_is_taken() {
    let refused = |heads, qk_norm| {
        let model = ModelConfig { hidden: 264, heads, kv_heads: heads, qk_norm, ..ModelConfig::default() };
        Info.check_heads(model.head_dim(), model.qk_norm).err().map(|error| error.to_string())
    };
    assert_eq!(refused(11, true), None, "heads of 24");
    assert_eq!(refused(22, false), None, "heads of 12");
    let said = refused(1, false).unwrap();
    assert!(said.starts_with("the model has heads of 264 elements; on a GPU they have at most 128, "), "{said}");
    let said = refused(22, true).unwrap();
    assert!(said.contains("heads of 12 elements") && said.ends_with("a multiple of 8"), "{said}");
}
