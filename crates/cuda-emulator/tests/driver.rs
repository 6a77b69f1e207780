//! What the emulated driver and matrix library refuse, as the real ones do.

mod support;

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use support::emulator;

type Code = c_uint;
type Handle = *mut c_void;

const SUCCESS: Code = 0;
const INVALID_VALUE: Code = 1;
const INVALID_CONTEXT: Code = 201;
const NOT_FOUND: Code = 500;
const LAUNCH_FAILED: Code = 719;
const CAPTURE_UNSUPPORTED: Code = 900;
const CAPTURE_INVALIDATED: Code = 901;
/// Of cuBLASLt.
const INVALID_MATRIX: Code = 7;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
const DYNAMIC_SHARED: c_uint = 8;

/// One function of one emulated library.
macro_rules! call {
    ($library:literal, $name:ident($($value:expr => $type:ty),* $(,)?) -> $output:ty) => {{
        // SAFETY: the type is the function's in NVIDIA's headers; each test passes what the function asks for.
        unsafe {
            let function = library($library).get::<unsafe extern "C" fn($($type),*) -> $output>(stringify!($name));
            function.expect("the emulated library has it")($($value),*)
        }
    }};
}

macro_rules! cuda {
    ($name:ident($($value:expr => $type:ty),* $(,)?)) => {
        call!("libcuda.so.1", $name($($value => $type),*) -> Code)
    };
}

fn library(name: &str) -> &'static Library {
    static ALL: OnceLock<Vec<(&str, Library)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let open = |name| {
            // SAFETY: the libraries are the emulator's own.
            (name, unsafe { Library::new(emulator().libraries().join(name)) }.expect("it was just built"))
        };
        ["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13"].map(open).into()
    });
    &all.iter().find(|(known, _)| *known == name).expect("one of the three").1
}

/// Starts the driver, with its context on this thread.
fn start() {
    let mut context: Handle = null_mut();
    assert_eq!(cuda!(cuInit(0 => c_uint)), SUCCESS);
    assert_eq!(cuda!(cuDevicePrimaryCtxRetain(&mut context => *mut Handle, 0 => c_int)), SUCCESS);
    assert_eq!(cuda!(cuCtxSetCurrent(context => Handle)), SUCCESS);
}

fn stream() -> Handle {
    let mut stream = null_mut();
    // The flag: does not wait for the default stream.
    assert_eq!(cuda!(cuStreamCreate(&mut stream => *mut Handle, 1 => c_uint)), SUCCESS);
    stream
}

fn synchronize(stream: Handle) -> Code {
    cuda!(cuStreamSynchronize(stream => Handle))
}

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    assert_eq!(cuda!(cuMemAlloc_v2(&mut address => *mut u64, bytes => usize)), SUCCESS);
    address
}

/// A kernel of `source`, by way of the compiler; a new function object at each call.
fn function(source: &str, name: &str) -> Result<Handle, Code> {
    let (text, file) = (CString::new("").unwrap(), CString::new(source).unwrap());
    let option = CString::new("--gpu-architecture=sm_90a").unwrap();
    let (mut program, mut module, mut function): (Handle, Handle, Handle) = (null_mut(), null_mut(), null_mut());
    let mut bytes = 0;
    macro_rules! nvrtc {
        ($name:ident($($value:expr => $type:ty),*)) => {
            assert_eq!(call!("libnvrtc.so.13", $name($($value => $type),*) -> Code), SUCCESS)
        };
    }
    nvrtc!(nvrtcCreateProgram(
        &mut program => *mut Handle, text.as_ptr() => *const c_char, file.as_ptr() => *const c_char, 0 => c_int,
        null() => *const *const c_char, null() => *const *const c_char
    ));
    nvrtc!(nvrtcCompileProgram(program => Handle, 1 => c_int, [option.as_ptr()].as_ptr() => *const *const c_char));
    nvrtc!(nvrtcGetCUBINSize(program => Handle, &mut bytes => *mut usize));
    let mut image = vec![0u8; bytes];
    nvrtc!(nvrtcGetCUBIN(program => Handle, image.as_mut_ptr() => *mut u8));
    nvrtc!(nvrtcDestroyProgram(&mut program => *mut Handle));
    assert_eq!(cuda!(cuModuleLoadData(&mut module => *mut Handle, image.as_ptr() => *const u8)), SUCCESS);
    let name = CString::new(name).unwrap();
    match cuda!(cuModuleGetFunction(&mut function => *mut Handle, module => Handle, name.as_ptr() => *const c_char)) {
        SUCCESS => Ok(function),
        code => Err(code),
    }
}

/// Launches a kernel of parameters (pointer, count).
fn launch(function: Handle, grid: [u32; 3], threads: u32, shared: u32, stream: Handle, y: u64, count: u32) -> Code {
    let (mut y, mut count) = (y, count);
    let mut parameters: [Handle; 2] = [(&raw mut y).cast(), (&raw mut count).cast()];
    cuda!(cuLaunchKernel(
        function => Handle, grid[0] => c_uint, grid[1] => c_uint, grid[2] => c_uint, threads => c_uint, 1 => c_uint,
        1 => c_uint, shared => c_uint, stream => Handle, parameters.as_mut_ptr() => *mut Handle,
        null_mut() => *mut Handle
    ))
}

fn name_of(code: Code) -> String {
    let mut name: *const c_char = null();
    assert_eq!(cuda!(cuGetErrorName(code => Code, &mut name => *mut *const c_char)), SUCCESS);
    // SAFETY: the driver gives constant strings.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

fn download(address: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0f32; count];
    let code = cuda!(cuMemcpyDtoH_v2(values.as_mut_ptr() => *mut f32, address => u64, 4 * count => usize));
    assert_eq!(code, SUCCESS);
    values
}

const ONE: [u32; 3] = [1, 1, 1];

#[test]
fn shared_memory_beyond_48_kib_must_be_asked_for() {
    start();
    let (kernel, stream, y) = (function("planted.cu", "big_shared").unwrap(), stream(), allocate(4 * 20000));
    assert_eq!(launch(kernel, ONE, 32, 48 << 10, stream, y, 12288), SUCCESS);
    assert_eq!(launch(kernel, ONE, 32, 80000, stream, y, 20000), INVALID_VALUE);
    let allow = |bytes| cuda!(cuFuncSetAttribute(kernel => Handle, DYNAMIC_SHARED => c_uint, bytes => c_int));
    assert_eq!(allow(227 * 1024 + 1), INVALID_VALUE);
    assert_eq!(allow(80000), SUCCESS);
    assert_eq!(launch(kernel, ONE, 32, 80000, stream, y, 20000), SUCCESS);
    assert_eq!(synchronize(stream), SUCCESS);
    assert!(download(y, 20000).iter().enumerate().all(|(i, &value)| value == 19999.0 - i as f32));
    assert_eq!(launch(kernel, ONE, 32, 80001, stream, y, 20000), INVALID_VALUE);
}

#[test]
fn launches_beyond_the_limits_of_the_device_or_the_kernel() {
    start();
    let (kernel, stream, y) = (function("planted.cu", "right_required").unwrap(), stream(), allocate(128));
    for (grid, threads) in
        [(ONE, 0), (ONE, 64), ([0, 1, 1], 32), ([1, 65536, 1], 32), ([1, 1, 65536], 32), ([1 << 31, 1, 1], 32)]
    {
        assert_eq!(launch(kernel, grid, threads, 0, stream, y, 1), INVALID_VALUE, "{grid:?} x {threads}");
    }
    // A refused launch is no failure of the stream's.
    assert_eq!(launch(kernel, ONE, 32, 0, stream, y, 1), SUCCESS);
    assert_eq!(synchronize(stream), SUCCESS);
}

#[test]
fn kernels_are_found_in_their_own_source_only() {
    start();
    assert!(function("planted.cu", "right_required").is_ok());
    assert_eq!(function("checks.cu", "right_required"), Err(NOT_FOUND));
    assert_eq!(function("planted.cu", "no_such_kernel"), Err(NOT_FOUND));
}

#[test]
fn a_failure_sticks_to_its_stream() {
    start();
    let (wrong, right) = ("wrong_required", "right_required");
    let [wrong, right] = [wrong, right].map(|name| function("planted.cu", name).unwrap());
    let (one, other, y) = (stream(), stream(), allocate(128));
    // The launch itself goes well; what waits for it learns of the failure.
    assert_eq!(launch(wrong, ONE, 32, 0, one, y, 32), SUCCESS);
    assert_eq!(synchronize(one), LAUNCH_FAILED);
    assert_eq!(name_of(LAUNCH_FAILED), "CUDA_ERROR_LAUNCH_FAILED");
    let text = emulator().last_failure();
    assert!(text.starts_with("kernel wrong_required, block (0, 0, 0), thread "), "{text}");
    assert_eq!(launch(right, ONE, 32, 0, one, y, 32), LAUNCH_FAILED);
    assert_eq!(synchronize(one), LAUNCH_FAILED);
    assert_eq!(launch(right, ONE, 32, 0, other, y, 32), SUCCESS);
    assert_eq!(synchronize(other), SUCCESS);
    assert_eq!(download(y, 32), [1.0; 32]);
}

#[test]
fn a_graph_is_what_a_stream_was_given_and_is_done_when_it_is_launched() {
    start();
    let (kernel, stream, y) = (function("planted.cu", "right_required").unwrap(), stream(), allocate(128));
    let fill = |value: f32| cuda!(cuMemsetD32Async(y => u64, value.to_bits() => c_uint, 32 => usize, stream => Handle));
    let begin = || cuda!(cuStreamBeginCapture_v2(stream => Handle, 1 => c_uint));
    let end = || {
        let mut graph: Handle = null_mut();
        (cuda!(cuStreamEndCapture(stream => Handle, &mut graph => *mut Handle)), graph)
    };
    assert_eq!(fill(5.0), SUCCESS);
    assert_eq!(begin(), SUCCESS);
    assert_eq!(begin(), CAPTURE_UNSUPPORTED);
    assert_eq!(launch(kernel, ONE, 32, 0, stream, y, 32), SUCCESS);
    let (code, graph) = end();
    assert_eq!((code, synchronize(stream)), (SUCCESS, SUCCESS));
    assert_eq!(download(y, 32), [5.0; 32], "nothing is done while a graph is made");
    let mut exec: Handle = null_mut();
    let code = cuda!(cuGraphInstantiateWithFlags(&mut exec => *mut Handle, graph => Handle, 0 => u64));
    assert_eq!((code, cuda!(cuGraphDestroy(graph => Handle))), (SUCCESS, SUCCESS));
    for _ in 0..2 {
        assert_eq!(fill(5.0), SUCCESS);
        assert_eq!(cuda!(cuGraphLaunch(exec => Handle, stream => Handle)), SUCCESS);
        assert_eq!(synchronize(stream), SUCCESS);
        assert_eq!(download(y, 32), [1.0; 32]);
    }
    assert_eq!(cuda!(cuGraphExecDestroy(exec => Handle)), SUCCESS);
    // Who waits for a stream that does nothing gets no graph, and can use it afterwards.
    assert_eq!((begin(), fill(6.0)), (SUCCESS, SUCCESS));
    assert_eq!(synchronize(stream), CAPTURE_UNSUPPORTED);
    assert_eq!(fill(7.0), CAPTURE_INVALIDATED);
    assert_eq!(end(), (CAPTURE_INVALIDATED, null_mut()));
    assert_eq!((fill(8.0), synchronize(stream)), (SUCCESS, SUCCESS));
    assert_eq!(download(y, 32), [8.0; 32]);
    assert_eq!(cuda!(cuStreamBeginCapture_v2(null_mut() => Handle, 1 => c_uint)), CAPTURE_UNSUPPORTED);
}

#[test]
fn pinned_memory_is_filled_when_somebody_waits() {
    start();
    let (stream, y) = (stream(), allocate(16));
    let mut pinned: *mut [f32; 4] = null_mut();
    assert_eq!(cuda!(cuMemHostAlloc(&mut pinned => *mut *mut [f32; 4], 16 => usize, 0 => c_uint)), SUCCESS);
    // SAFETY: sixteen bytes that live until the end of the test; the driver writes them only in the calls below.
    let look = || unsafe { pinned.read_volatile() };
    assert_eq!(cuda!(cuMemsetD32Async(y => u64, 1f32.to_bits() => c_uint, 4 => usize, stream => Handle)), SUCCESS);
    let code = cuda!(cuMemcpyDtoHAsync_v2(
        pinned => *mut [f32; 4], y => u64, 16 => usize, stream => Handle
    ));
    assert_eq!(code, SUCCESS);
    assert!(look().iter().all(|x| x.is_nan()), "nobody has waited yet: {:?}", look());
    assert_eq!(synchronize(stream), SUCCESS);
    assert_eq!(look(), [1.0; 4]);
}

#[test]
fn copies_beyond_an_allocation_and_threads_without_a_context() {
    start();
    let (stream, y) = (stream(), allocate(100));
    let fill = |at, bytes| cuda!(cuMemsetD8Async(at => u64, 0 => u8, bytes => usize, stream => Handle));
    assert_eq!(fill(y + 50, 50), SUCCESS);
    assert_eq!(fill(y + 50, 51), INVALID_VALUE);
    emulator().forbid(y + 90, 1);
    assert_eq!(fill(y, 90), SUCCESS);
    assert_eq!(fill(y, 91), INVALID_VALUE);
    std::thread::spawn(move || {
        let mut address = 0u64;
        assert_eq!(cuda!(cuMemAlloc_v2(&mut address => *mut u64, 1 => usize)), INVALID_CONTEXT);
    })
    .join()
    .unwrap();
}

/// Of a product of 64 x 64 matrices, 128 elements from column to column.
struct Products {
    handle: Handle,
    description: Handle,
    halves: Handle,
    floats: Handle,
    memory: u64,
    stream: Handle,
}

macro_rules! lt {
    ($name:ident($($value:expr => $type:ty),* $(,)?)) => {
        call!("libcublasLt.so.13", $name($($value => $type),*) -> Code)
    };
}

impl Products {
    fn new() -> Self {
        start();
        let mut own = Self {
            handle: null_mut(),
            description: null_mut(),
            halves: null_mut(),
            floats: null_mut(),
            memory: allocate(1 << 20),
            stream: stream(),
        };
        let layout = |to: &mut Handle, kind: c_uint| lt!(cublasLtMatrixLayoutCreate(to => *mut Handle, kind => c_uint, 64 => u64, 64 => u64, 128 => i64));
        assert_eq!(lt!(cublasLtCreate(&mut own.handle => *mut Handle)), SUCCESS);
        let description = &mut own.description;
        assert_eq!(lt!(cublasLtMatmulDescCreate(description => *mut Handle, 68 => c_uint, 0 => c_uint)), SUCCESS);
        assert_eq!(layout(&mut own.halves, 14), SUCCESS);
        assert_eq!(layout(&mut own.floats, 0), SUCCESS);
        own
    }

    /// An algorithm for operands that are aligned to so many bytes.
    fn algorithm(&self, alignment: u32, workspace: u64) -> [u64; 12] {
        let (mut preference, mut result, mut found) = (null_mut(), [0u64; 12], 0);
        assert_eq!(lt!(cublasLtMatmulPreferenceCreate(&mut preference => *mut Handle)), SUCCESS);
        let set = |attribute, value: *const c_void, bytes| {
            lt!(cublasLtMatmulPreferenceSetAttribute(
                preference => Handle, attribute => c_uint, value => *const c_void, bytes => usize
            ))
        };
        assert_eq!(set(1, (&raw const workspace).cast(), 8), SUCCESS);
        for attribute in 5..9 {
            assert_eq!(set(attribute, (&raw const alignment).cast(), 4), SUCCESS);
        }
        let code = lt!(cublasLtMatmulAlgoGetHeuristic(
            self.handle => Handle, self.description => Handle, self.halves => Handle, self.halves => Handle,
            self.floats => Handle, self.floats => Handle, preference => Handle, 1 => c_int,
            result.as_mut_ptr() => *mut u64, &mut found => *mut c_int
        ));
        assert_eq!((code, found), (SUCCESS, 1));
        result
    }

    fn multiply(&self, algorithm: &[u64; 12], a: u64, b: u64, d: u64, workspace: u64, bytes: usize) -> Code {
        let (one, zero) = (1f32, 0f32);
        lt!(cublasLtMatmul(
            self.handle => Handle, self.description => Handle, &one => *const f32, a => u64, self.halves => Handle,
            b => u64, self.halves => Handle, &zero => *const f32, d => u64, self.floats => Handle, d => u64,
            self.floats => Handle, algorithm.as_ptr() => *const u64, workspace => u64, bytes => usize,
            self.stream => Handle
        ))
    }
}

#[test]
fn products_keep_to_what_was_promised_and_to_their_memory() {
    let products = Products::new();
    let small = products.memory;
    let (a, b, d) = (small, small + 32768, small + 65536);
    let plain = products.algorithm(256, 0);
    assert_eq!(products.multiply(&plain, a, b, d, 0, 0), SUCCESS);
    assert_eq!(products.multiply(&plain, a + 16, b, d, 0, 0), INVALID_MATRIX, "the promise was 256 bytes");
    let loose = products.algorithm(16, 0);
    assert_eq!(products.multiply(&loose, a + 16, b, d, 0, 0), SUCCESS);
    assert_eq!(products.multiply(&loose, a + 8, b, d, 0, 0), INVALID_MATRIX);
    // The output's 64 columns of 128 floats, less what is missing of the last: 32,512 bytes.
    let end = small + (1 << 20);
    assert_eq!(products.multiply(&loose, a, b, end - 32512, 0, 0), SUCCESS);
    assert_eq!(products.multiply(&loose, a, b, end - 32512 + 16, 0, 0), INVALID_MATRIX);
    let wide = products.algorithm(16, 1 << 20);
    let workspace = allocate(1 << 20);
    assert_eq!(products.multiply(&wide, a, b, d, workspace, (1 << 20) - 1), INVALID_MATRIX);
    assert_eq!(products.multiply(&wide, a, b, d, workspace + 1, 1 << 20), INVALID_MATRIX);
    assert_eq!(products.multiply(&wide, a, b, d, workspace, 1 << 20), SUCCESS);
    assert_eq!(synchronize(products.stream), SUCCESS);
    assert!(download(workspace, 100).iter().all(|x| x.is_nan()), "a workspace is overwritten");
}

/// By name, in the thread that gives it; what is refused is not.
#[test]
fn what_streams_are_given_is_counted() {
    start();
    let (kernel, stream, y) = (function("planted.cu", "right_required").unwrap(), stream(), allocate(128));
    let before = emulator().counts();
    assert_eq!(launch(kernel, ONE, 32, 0, stream, y, 1), SUCCESS);
    assert_eq!(launch(kernel, ONE, 0, 0, stream, y, 1), INVALID_VALUE);
    assert_eq!(launch(kernel, ONE, 32, 0, stream, y, 1), SUCCESS);
    assert_eq!(cuda!(cuMemsetD32Async(y => u64, 0 => c_uint, 4 => usize, stream => Handle)), SUCCESS);
    assert_eq!(synchronize(stream), SUCCESS);
    let after = emulator().counts();
    let more = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    assert_eq!(["right_required", "fill", "product", "copy to the host"].map(more), [2, 1, 0, 0]);
}

#[test]
fn allocations_are_counted_and_poisoned() {
    let before = emulator().allocations();
    let buffer = emulator().poisoned::<u8>(1000);
    assert!(emulator().allocations() > before && emulator().live_bytes() >= 1000);
    assert_eq!(buffer.address() % 256, 0, "the driver's alignment");
    assert_eq!(buffer.address(), emulator().latest_allocation());
    assert!(buffer.read::<u8>().iter().all(|&byte| byte == 0xff));
}

/// Large parts are mapped and not written; what lies around them stays.
#[test]
fn large_memory_is_filled_to_the_byte() {
    start();
    let (stream, bytes) = (stream(), (17 << 20) + 4096 + 77);
    let memory = allocate(bytes);
    let mut seen = vec![0u8; bytes];
    let mut wanted = vec![0xff; bytes];
    // Zeros over poison, then a byte that has to be written, then poison over both; none begins or ends where a page does.
    for (value, from, count) in [(0, 5, (16 << 20) + 8191), (7, 1 << 20, 3 << 20), (0xff, 123, 2 << 20)] {
        let fill = cuda!(cuMemsetD8Async(memory + from as u64 => u64, value => u8, count => usize, stream => Handle));
        assert_eq!((fill, synchronize(stream)), (SUCCESS, SUCCESS));
        wanted[from..from + count].fill(value);
        let at = seen.as_mut_ptr().cast();
        assert_eq!(cuda!(cuMemcpyDtoH_v2(at => *mut c_void, memory => u64, bytes => usize)), SUCCESS);
        assert!(seen == wanted, "{count} bytes of {value} from {from} on");
    }
    // It also says what other tests' streams failed of.
    cuda!(cuMemFree_v2(memory => u64));
}

/// A stream that waits for an event does no more of the other's work than the event asks for; an eager one does its
/// work when it is given, unless it has to wait.
#[test]
fn streams_wait_for_events_and_for_nothing_else() {
    start();
    for eager in [false, true] {
        emulator().set_eager(eager);
        let (a, b, y) = (stream(), stream(), allocate(16));
        emulator().set_eager(false);
        let (mut early, mut late): (Handle, Handle) = (null_mut(), null_mut());
        for event in [&mut early, &mut late] {
            assert_eq!(cuda!(cuEventCreate(event => *mut Handle, 0 => c_uint)), SUCCESS);
        }
        let mut pinned: *mut [f32; 4] = null_mut();
        assert_eq!(cuda!(cuMemHostAlloc(&mut pinned => *mut *mut [f32; 4], 16 => usize, 0 => c_uint)), SUCCESS);
        // SAFETY: sixteen bytes that live until the end of the test; the driver writes them only in the calls below.
        let look = || unsafe { pinned.read_volatile() };
        let fill = |x: f32, stream: Handle| {
            assert_eq!(cuda!(cuMemsetD32Async(y => u64, x.to_bits() => c_uint, 4 => usize, stream => Handle)), SUCCESS);
        };
        fill(1.0, a);
        assert_eq!(cuda!(cuEventRecord(early => Handle, a => Handle)), SUCCESS);
        fill(2.0, a);
        assert_eq!(cuda!(cuStreamWaitEvent(b => Handle, early => Handle, 0 => c_uint)), SUCCESS);
        let copy = || {
            let code = cuda!(cuMemcpyDtoHAsync_v2(pinned => *mut [f32; 4], y => u64, 16 => usize, b => Handle));
            assert_eq!(code, SUCCESS);
        };
        copy();
        assert_eq!(synchronize(b), SUCCESS);
        assert_eq!(look(), [if eager { 2.0 } else { 1.0 }; 4], "eager {eager}: the second fill is done early or late");
        // What is recorded again later is none of an earlier wait's.
        assert_eq!(cuda!(cuEventRecord(late => Handle, a => Handle)), SUCCESS);
        assert_eq!(cuda!(cuStreamWaitEvent(b => Handle, late => Handle, 0 => c_uint)), SUCCESS);
        fill(3.0, a);
        assert_eq!(cuda!(cuEventRecord(late => Handle, a => Handle)), SUCCESS);
        copy();
        assert_eq!(synchronize(b), SUCCESS);
        assert_eq!(look(), [if eager { 3.0 } else { 2.0 }; 4], "eager {eager}");
        assert_eq!(synchronize(a), SUCCESS);
    }
}

#[test]
fn threads_that_finish_streams_which_wait_for_each_other() {
    const ROUNDS: usize = 3000;
    start();
    // Each thread has two streams that wait for each other in turn, and now and then finishes everybody's. With a mutex
    // for each stream that is held while it works, this test does not end.
    let passes = || {
        start();
        let (one, other, y) = (stream(), stream(), allocate(16));
        let [mut first, mut second]: [Handle; 2] = [null_mut(); 2];
        for event in [&mut first, &mut second] {
            assert_eq!(cuda!(cuEventCreate(event => *mut Handle, 0 => c_uint)), SUCCESS);
        }
        for round in 0..ROUNDS {
            for (from, event, to) in [(one, first, other), (other, second, one)] {
                assert_eq!(cuda!(cuEventRecord(event => Handle, from => Handle)), SUCCESS);
                assert_eq!(cuda!(cuStreamWaitEvent(to => Handle, event => Handle, 0 => c_uint)), SUCCESS);
                let code = cuda!(cuMemsetD32Async(y => u64, round as c_uint => c_uint, 4 => usize, to => Handle));
                assert_eq!(code, SUCCESS);
            }
            match round % 3 {
                // Another test's stream may have failed.
                0 => _ = cuda!(cuCtxSynchronize()),
                1 => assert_eq!(synchronize(one), SUCCESS),
                _ => assert_eq!(synchronize(other), SUCCESS),
            }
        }
        assert_eq!(download(y, 4), [f32::from_bits(ROUNDS as u32 - 1); 4]);
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(passes);
        }
    });
}
