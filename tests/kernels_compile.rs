//! Every kernel compiles for the GPUs that are supported, and keeps its numbers in registers. Ampere, Hopper and Blackwell
//! are compiled for by default, with TETRAD_EVERY_ARCHITECTURE set all, which takes twice as long.
//! It needs NVRTC (tests/setup.sh installs it) and no GPU. It is a program of its own because NVRTC and the emulated
//! library of that name must not share a process: together with the emulated device it ended in a segmentation fault. The real
//! NCCL is looked at here for the same reason: it would take the emulated driver for one of its own.

#[path = "harness/mod.rs"]
mod harness;

use harness::gpu::{CHECKS, EXACT};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tetrad::backend::cuda::{Capability, Compiler, HEADERS, NcclLibrary, SOURCES, Search, Source, Usage, usages};
use tetrad::error::BackendError;

/// Ampere (A100), Hopper, Blackwell (RTX 50). The sources do not ask for the architecture, but for [`NEWER`]; what differs is what
/// the compiler makes of them.
const GENERATIONS: [(u32, u32); 3] = [(8, 0), (9, 0), (12, 0)];

/// The others that are supported: RTX 30, RTX 40 and B200.
const OTHERS: [(u32, u32); 3] = [(8, 6), (8, 9), (10, 0)];

/// Files without kernels for devices before that one.
const NEWER: [(&str, &str); 1] = [("linear_fp8.cu", "sm_89")];

/// Whether it is a failure that something cannot be compiled here.
fn demanded() -> bool {
    ["TETRAD_REQUIRE_NVRTC", "TETRAD_REQUIRE_CUDA"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Where tests/setup.sh has installed a package of NVIDIA's, or else where the machine's is.
fn installed(folder: &str) -> Search {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(folder);
    match installed.is_dir() {
        // SAFETY: the folder is that of a Python package of NVIDIA's.
        true => unsafe { Search::only(&[installed]) },
        false => Search::usual(),
    }
}

/// A compiler; nothing, with a word about it, where there is none and none is demanded.
fn compiler() -> Option<Compiler> {
    match Compiler::find(&installed("python/nvidia/cu13/lib"), None, None) {
        Ok(compiler) => Some(compiler),
        Err(error) => {
            assert!(!demanded(), "{error}");
            eprintln!("SKIPPED: kernels are not compiled: {error}");
            None
        }
    }
}

/// The architectures that the compiler knows; a machine's own may be older than some.
fn architectures(compiler: &Compiler) -> Vec<String> {
    let known = |&(major, minor): &(u32, u32)| match compiler.knows(Capability { major, minor }) {
        Ok(()) => true,
        Err(error) => {
            assert!(!demanded(), "{error}");
            eprintln!("SKIPPED: {error}");
            false
        }
    };
    let others = if std::env::var_os("TETRAD_EVERY_ARCHITECTURE").is_some() { &OTHERS[..] } else { &[] };
    let known = GENERATIONS.iter().chain(others).filter(|capability| known(capability));
    known.map(|&(major, minor)| Capability { major, minor }.architecture()).collect()
}

/// What the sources say about spills: `// spills: KERNEL, REASON`.
fn allowed(source: &Source) -> BTreeMap<&'static str, &'static str> {
    let lines = source.text.lines().filter_map(|line| line.trim().strip_prefix("// spills: "));
    lines.map(|line| line.split_once(", ").expect("`// spills: KERNEL, REASON`")).collect()
}

/// What is wrong with one file's code.
fn faults(source: &Source, architecture: &str, log: &str) -> Vec<String> {
    let (allowed, usages) = (allowed(source), usages(log));
    let mut faults = Vec::new();
    for Usage { kernel, spilled, registers, .. } in &usages {
        if *spilled > 0 && !allowed.contains_key(kernel.as_str()) {
            faults.push(format!(
                "{} {architecture}: {kernel} spills {spilled} bytes at {registers} registers",
                source.file
            ));
        }
    }
    let number = |name: &str| name[3..].trim_end_matches('a').parse::<u32>().expect("a number behind sm_");
    let newer = NEWER.iter().any(|(file, since)| *file == source.file && number(architecture) < number(since));
    if usages.is_empty() != newer {
        let count = usages.len();
        faults.push(format!("{} {architecture}: the assembler reports {count} kernels:\n{log}", source.file));
    }
    if log.contains("warning") {
        faults.push(format!("{} {architecture}: {log}", source.file));
    }
    faults
}

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills() {
    let Some(compiler) = compiler() else { return };
    let sources: Vec<_> = SOURCES.iter().chain([&CHECKS, &EXACT]).collect();
    let architectures = architectures(&compiler);
    let work: Vec<_> = architectures.iter().flat_map(|a| sources.iter().map(move |source| (a, *source))).collect();
    let (next, rows, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((architecture, source)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match compiler.compile(source, architecture) {
                        Ok(cubin) => {
                            found.lock().unwrap().extend(faults(source, architecture, &cubin.log));
                            let usages = usages(&cubin.log).into_iter();
                            rows.lock().unwrap().extend(usages.map(|u| (source.file, u, architecture.as_str())));
                        }
                        Err(error) => found.lock().unwrap().push(error.to_string()),
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by(|(a, x, v), (b, y, w)| (a, &x.kernel, v).cmp(&(b, &y.kernel, w)));
    let mut report = String::new();
    for (file, Usage { kernel, registers, stack, spilled, shared }, architecture) in rows {
        let numbers = format!("{registers} registers, {shared} shared, {stack} stack, {spilled} spilled");
        report += &format!("{file} {kernel} {architecture}: {numbers}\n");
    }
    println!("{report}");
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels.txt"), report).unwrap();
    let faults = found.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What of the real NCCL works without a GPU, and its header beside the numbers and the layout that `runtime/nccl/` has by heart.
#[test]
fn the_real_nccl_is_what_is_known_of_it() {
    let library = match NcclLibrary::open(&installed("nccl/nvidia/nccl/lib")) {
        Ok(library) => library,
        Err(error) => {
            assert!(std::env::var_os("TETRAD_REQUIRE_NCCL").is_none(), "{error}");
            eprintln!("SKIPPED: the real NCCL is not looked at: {error}");
            return;
        }
    };
    let version = library.version();
    assert!(version.starts_with("NCCL 2."), "{version}");
    let [first, second] = [(); 2].map(|()| library.unique_id().unwrap().0);
    assert!(first != second && first != [0; 128], "an id is another each time");
    let header = library.path().parent().unwrap().join("../include/nccl.h");
    let Ok(text) = std::fs::read_to_string(&header) else {
        eprintln!("SKIPPED: {version} has no header at {}", header.display());
        return;
    };
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for known in [
        "ncclSuccess = 0,",
        "ncclInvalidArgument = 4,",
        "ncclInvalidUsage = 5,",
        "ncclRemoteError = 6,",
        "ncclInProgress = 7,",
        "ncclUint8 = 1,",
        "#define NCCL_UNIQUE_ID_BYTES 128",
        "0xcafebeef, /* magic */",
        "size_t size; unsigned int magic; unsigned int version; /* attributes that users are able to customize. */ int blocking;",
        "ncclCommInitRankConfig(ncclComm_t* comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t* config);",
        "ncclSend(const void* sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm, cudaStream_t stream);",
        "ncclRecv(void* recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm, cudaStream_t stream);",
        "ncclBroadcast(const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm, \
         cudaStream_t stream);",
        "ncclAllGather(const void* sendbuff, void* recvbuff, size_t sendcount, ncclDataType_t datatype, ncclComm_t comm, \
         cudaStream_t stream);",
        "ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *asyncError);",
    ] {
        assert!(words.contains(known), "{version}: its header does not say `{known}`");
    }
}

#[test]
fn every_file_of_kernels_is_part_of_the_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/cuda/kernels");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut there: Vec<_> = names.collect();
    let mut embedded: Vec<_> = HEADERS.iter().chain(SOURCES).map(|source| source.file).collect();
    there.sort();
    embedded.sort();
    assert_eq!(there, embedded, "the files of kernels/ and the tables of sources.rs");
}

#[test]
fn spills_and_warnings_are_seen() {
    let Some(compiler) = compiler() else { return };
    // 80 sums that live across a barrier in threads of at most 64 registers.
    let text = r#"
        #include "gpu.h"
        KERNEL(1024, too_wide, const float* x, float* y) {
            float sums[80];
            for (int i = 0; i < 80; i++) sums[i] = x[i * 1024 + thread()];
            sync_threads();
            for (int i = 0; i < 80; i++) y[i * 1024 + thread()] = sums[79 - i] * sums[(i * 7) % 80];
        }"#;
    let spilling = Source { file: "spilling.cu", text };
    let log = compiler.compile(&spilling, "sm_80").unwrap().log;
    let found = faults(&spilling, "sm_80", &log);
    assert!(found.len() == 1 && found[0].starts_with("spilling.cu sm_80: too_wide spills "), "{found:?}\n{log}");
    let with_reason = Source { text: Box::leak(format!("// spills: too_wide, a test\n{text}").into()), ..spilling };
    assert_eq!(faults(&with_reason, "sm_80", &log), [""; 0]);

    let careless = Source { file: "a.cu", text: "#include \"gpu.h\"\nKERNEL(32, k, u32* x) { u32 y; x[0] = y; }" };
    let log = compiler.compile(&careless, "sm_80").unwrap().log;
    assert!(faults(&careless, "sm_80", &log).iter().any(|fault| fault.contains("is used before")), "{log}");
}

#[test]
fn what_does_not_compile_is_told_with_file_line_and_reason() {
    let Some(compiler) = compiler() else { return };
    let broken = Source { file: "broken.cu", text: "#include \"gpu.h\"\n\nKERNEL(32, k, u32* x) { x[0] = one; }" };
    let Err(error) = compiler.compile(&broken, "sm_90a") else { panic!("it compiled") };
    let said = error.to_string();
    assert!(matches!(error, BackendError::Compile { .. }));
    assert!(said.starts_with("broken.cu does not compile for sm_90a (NVRTC_ERROR_COMPILATION):\n"), "{said}");
    assert!(said.contains("broken.cu(3): error: identifier \"one\" is undefined"), "{said}");
}

#[test]
fn what_the_compiler_does_not_know_is_told_before_compiling() {
    let Some(compiler) = compiler() else { return };
    compiler.knows(Capability { major: 8, minor: 0 }).unwrap();
    let said = compiler.knows(Capability { major: 99, minor: 1 }).unwrap_err();
    let (major, minor) = compiler.version();
    assert!(said.starts_with(&format!("NVRTC {major}.{minor} does not know sm_991, its newest is sm_")), "{said}");
}
