//! Another compiler and interpreter behind the emulated driver. A process has one, so this is a program of its own.

mod support;

use cuda_emulator::{Described, Failure, Interpreter, Launched, Program};
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;
use support::emulator;

type Handle = *mut c_void;

/// Blocks, threads, dynamic bytes, parameters.
type Launches = Vec<([u32; 3], u32, u32, Vec<Vec<u8>>)>;

/// Knows one program, of one kernel; keeps what it was asked for.
#[derive(Default)]
struct Told {
    programs: Mutex<Vec<Program>>,
    launches: Mutex<Launches>,
}

impl Interpreter for Told {
    fn compile(&self, program: &Program) -> Result<u64, String> {
        self.programs.lock().unwrap().push(program.clone());
        if program.source == "good" { Ok(7) } else { Err("bad.cu(1): error: not good".into()) }
    }

    fn describe(&self, module: u64, kernel: &str) -> Option<Described> {
        let described = Described { max_threads: 64, static_shared: 1000, parameters: vec![8, 4] };
        (module == 7 && kernel == "write").then_some(described)
    }

    fn run(&self, module: u64, kernel: &str, launch: Launched) -> Result<(), Failure> {
        assert_eq!((module, kernel), (7, "write"));
        let parameters: Vec<Vec<u8>> = launch.parameters.iter().map(|bytes| bytes.to_vec()).collect();
        let address = u64::from_le_bytes(parameters[0].as_slice().try_into().unwrap());
        self.launches.lock().unwrap().push((launch.grid, launch.threads, launch.dynamic, parameters));
        let Some((begin, bytes, forbidden)) = emulator().range(address) else {
            return Err(Failure { message: "kernel write: nothing is there".into(), is_access: true });
        };
        assert_eq!((begin, bytes), (address, 256));
        assert!(forbidden.is_null(), "nothing was forbidden");
        if launch.threads == 13 { Err(Failure { message: "thirteen".into(), is_access: false }) } else { Ok(()) }
    }
}

struct Driver {
    cuda: Library,
    nvrtc: Library,
}

impl Driver {
    /// The code that a function gives.
    fn code(&self, library: &Library, name: &str, arguments: [usize; 11]) -> c_uint {
        type Any =
            unsafe extern "C" fn(usize, usize, usize, usize, usize, usize, usize, usize, usize, usize, usize) -> c_uint;
        let [a, b, c, d, e, f, g, h, i, j, k] = arguments;
        // SAFETY: the functions take integers and pointers, of which each call gives those that its function reads; more
        // arguments than it has are passed over by the calling convention (x86-64).
        unsafe { library.get::<Any>(name).expect("the library has it")(a, b, c, d, e, f, g, h, i, j, k) }
    }

    fn cuda(&self, name: &str, arguments: &[usize]) -> c_uint {
        self.code(&self.cuda, name, std::array::from_fn(|i| arguments.get(i).copied().unwrap_or(0)))
    }

    fn nvrtc(&self, name: &str, arguments: &[usize]) -> c_uint {
        self.code(&self.nvrtc, name, std::array::from_fn(|i| arguments.get(i).copied().unwrap_or(0)))
    }

    /// Compiles a source with one header; its image or the log.
    fn compiled(&self, source: &str) -> Result<Vec<u8>, String> {
        let [source, name, header, text, option] =
            [source, "folder/bad.cu", "a.h", "of a", "--gpu-architecture=sm_90a"]
                .map(|text| CString::new(text).unwrap());
        let [names, texts, options] = [&header, &text, &option].map(|text| [text.as_ptr()]);
        let (mut program, mut bytes): (Handle, usize) = (null_mut(), 0);
        let at = |pointer: *const c_char| pointer as usize;
        let pointer = &raw mut program as usize;
        let arguments =
            [pointer, at(source.as_ptr()), at(name.as_ptr()), 1, texts.as_ptr() as usize, names.as_ptr() as usize];
        assert_eq!(self.nvrtc("nvrtcCreateProgram", &arguments), 0);
        let code = self.nvrtc("nvrtcCompileProgram", &[program as usize, 1, options.as_ptr() as usize]);
        let what = if code == 0 { "nvrtcGetCUBIN" } else { "nvrtcGetProgramLog" };
        assert_eq!(self.nvrtc(&format!("{what}Size"), &[program as usize, &raw mut bytes as usize]), 0);
        let mut found = vec![0u8; bytes];
        assert_eq!(self.nvrtc(what, &[program as usize, found.as_mut_ptr() as usize]), 0);
        if code == 0 { Ok(found) } else { Err(String::from_utf8_lossy(&found).trim_end_matches('\0').to_owned()) }
    }
}

#[test]
fn programs_and_launches_go_to_the_interpreter() {
    let folder = emulator().libraries();
    // SAFETY: the libraries are the emulator's own.
    let [cuda, nvrtc] =
        ["libcuda.so.1", "libnvrtc.so.13"].map(|name| unsafe { Library::new(folder.join(name)) }.unwrap());
    let driver = Driver { cuda, nvrtc };
    let told: &Told = Box::leak(Box::default());
    emulator().interpret(told);

    assert_eq!(driver.compiled("other").unwrap_err(), "bad.cu(1): error: not good");
    let image = driver.compiled("good").unwrap();
    let program = told.programs.lock().unwrap()[1].clone();
    assert_eq!(program.headers, [("a.h".to_owned(), "of a".to_owned())]);
    assert_eq!((program.name.as_str(), program.options.len()), ("folder/bad.cu", 1));

    let (mut context, mut module, mut function): (Handle, Handle, Handle) = (null_mut(), null_mut(), null_mut());
    assert_eq!(driver.cuda("cuInit", &[0]), 0);
    assert_eq!(driver.cuda("cuDevicePrimaryCtxRetain", &[&raw mut context as usize, 0]), 0);
    assert_eq!(driver.cuda("cuCtxSetCurrent", &[context as usize]), 0);
    assert_eq!(driver.cuda("cuModuleLoadData", &[&raw mut module as usize, image.as_ptr() as usize]), 0);
    let find = |function: &mut Handle, name: &str| {
        let name = CString::new(name).unwrap();
        driver.cuda("cuModuleGetFunction", &[&raw mut *function as usize, module as usize, name.as_ptr() as usize])
    };
    assert_eq!(find(&mut function, "read"), 500);
    assert_eq!(find(&mut function, "write"), 0);
    let mut shared: c_int = 0;
    assert_eq!(driver.cuda("cuFuncGetAttribute", &[&raw mut shared as usize, 1, function as usize]), 0);
    assert_eq!(shared, 1000);

    let (mut address, mut stream, mut number) = (0u64, null_mut::<c_void>(), 5u32);
    assert_eq!(driver.cuda("cuMemAlloc_v2", &[&raw mut address as usize, 256]), 0);
    let mut launch = |mut address: u64, threads: usize| {
        assert_eq!(driver.cuda("cuStreamCreate", &[&raw mut stream as usize, 1]), 0);
        let parameters: [Handle; 2] = [(&raw mut address).cast(), (&raw mut number).cast()];
        let pointers = parameters.as_ptr() as usize;
        let arguments = [function as usize, 2, 3, 4, threads, 1, 1, 100, stream as usize, pointers, 0];
        let code = driver.cuda("cuLaunchKernel", &arguments);
        // Parameters are those of the time of the launch.
        (address, number) = (0, 0);
        let code = if code == 0 { driver.cuda("cuStreamSynchronize", &[stream as usize]) } else { code };
        number = 5;
        code
    };
    assert_eq!(launch(address, 64), 0);
    assert_eq!(launch(address, 65), 1, "more threads than it may have");
    assert_eq!(launch(address, 13), 719);
    assert_eq!(emulator().last_failure(), "thirteen");
    assert_eq!(launch(4096, 32), 700);
    let launches = told.launches.lock().unwrap();
    let parameters = vec![address.to_le_bytes().to_vec(), 5u32.to_le_bytes().to_vec()];
    assert_eq!(launches[0], ([2, 3, 4], 64, 100, parameters));
    assert_eq!(launches.len(), 3);
}
