//! The functions of the four libraries, looked up in the very file that was found.
//!
//! The types are cudarc's, generated from NVIDIA's headers. Its loader is not used: it opens libraries by bare name,
//! so that a second version in the system's folders would win over the one chosen here, and it panics where a library
//! or a function is missing. Result codes are declared as plain numbers, because a newer library may answer with one
//! that cudarc's enumerations do not know. Of NCCL even the types are declared here: they are three, and those of cudarc
//! follow the newest version.

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream,
};
use cudarc::nvrtc::sys::nvrtcProgram;
use libloading::Library;
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

/// Zero for success in all four libraries.
pub(super) type Code = c_uint;

macro_rules! symbols {
    ($(#[$doc:meta])* $table:ident {
        $(fn $name:ident($($argument:ty),*) -> $output:ty;)*
        $(optional fn $newer:ident($($its:ty),*) -> $gives:ty;)*
    }) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $output,)*
            // Functions that older versions lack.
            $(pub(super) $newer: Option<unsafe extern "C" fn($($its),*) -> $gives>,)*
        }

        impl $table {
            /// Looks all of them up and keeps the library open for good; the name of the first function that is
            /// missing is the error.
            pub(super) fn of(library: Library) -> Result<Self, &'static str> {
                let symbols = Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: the type is this function's in NVIDIA's headers (the C interfaces of CUDA 12 and
                        // 13 agree on it), and the library is never closed.
                        *unsafe { library.get(name) }.map_err(|_| stringify!($name))?
                    },)*
                    $($newer: {
                        let name = concat!(stringify!($newer), "\0").as_bytes();
                        // SAFETY: as above; the type is that of every version that has it.
                        unsafe { library.get(name) }.ok().map(|symbol| *symbol)
                    },)*
                };
                std::mem::forget(library);
                Ok(symbols)
            }
        }
    };
}

symbols! {
    /// libcuda: the driver.
    Driver {
        fn cuInit(c_uint) -> Code;
        fn cuDriverGetVersion(*mut c_int) -> Code;
        fn cuGetErrorName(Code, *mut *const c_char) -> Code;
        fn cuGetErrorString(Code, *mut *const c_char) -> Code;
        fn cuDeviceGetCount(*mut c_int) -> Code;
        fn cuDeviceGet(*mut CUdevice, c_int) -> Code;
        fn cuDeviceGetName(*mut c_char, c_int, CUdevice) -> Code;
        fn cuDeviceGetAttribute(*mut c_int, c_uint, CUdevice) -> Code;
        fn cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice) -> Code;
        fn cuDevicePrimaryCtxRelease_v2(CUdevice) -> Code;
        fn cuCtxSetCurrent(CUcontext) -> Code;
        fn cuMemGetInfo_v2(*mut usize, *mut usize) -> Code;
        fn cuMemAlloc_v2(*mut CUdeviceptr, usize) -> Code;
        fn cuMemFree_v2(CUdeviceptr) -> Code;
        fn cuMemHostAlloc(*mut *mut c_void, usize, c_uint) -> Code;
        fn cuMemFreeHost(*mut c_void) -> Code;
        fn cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream) -> Code;
        fn cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream) -> Code;
        fn cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream) -> Code;
        fn cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream) -> Code;
        fn cuStreamCreate(*mut CUstream, c_uint) -> Code;
        fn cuStreamDestroy_v2(CUstream) -> Code;
        fn cuStreamSynchronize(CUstream) -> Code;
        fn cuStreamWaitEvent(CUstream, CUevent, c_uint) -> Code;
        fn cuEventCreate(*mut CUevent, c_uint) -> Code;
        fn cuEventDestroy_v2(CUevent) -> Code;
        fn cuEventRecord(CUevent, CUstream) -> Code;
        fn cuEventSynchronize(CUevent) -> Code;
        fn cuEventElapsedTime(*mut f32, CUevent, CUevent) -> Code;
        fn cuModuleLoadData(*mut CUmodule, *const c_void) -> Code;
        fn cuModuleUnload(CUmodule) -> Code;
        fn cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char) -> Code;
        fn cuFuncGetAttribute(*mut c_int, c_uint, CUfunction) -> Code;
        fn cuFuncSetAttribute(CUfunction, c_uint, c_int) -> Code;
        fn cuLaunchKernel(
            CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void,
            *mut *mut c_void
        ) -> Code;
        fn cuStreamBeginCapture_v2(CUstream, c_uint) -> Code;
        fn cuStreamEndCapture(CUstream, *mut CUgraph) -> Code;
        fn cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong) -> Code;
        fn cuGraphLaunch(CUgraphExec, CUstream) -> Code;
        fn cuGraphDestroy(CUgraph) -> Code;
        fn cuGraphExecDestroy(CUgraphExec) -> Code;
        // Since CUDA 12.4.
        optional fn cuFuncLoad(CUfunction) -> Code;
    }
}

symbols! {
    /// libnvrtc: the compiler.
    Nvrtc {
        fn nvrtcVersion(*mut c_int, *mut c_int) -> Code;
        fn nvrtcGetErrorString(Code) -> *const c_char;
        fn nvrtcGetNumSupportedArchs(*mut c_int) -> Code;
        fn nvrtcGetSupportedArchs(*mut c_int) -> Code;
        fn nvrtcCreateProgram(
            *mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
        ) -> Code;
        fn nvrtcDestroyProgram(*mut nvrtcProgram) -> Code;
        fn nvrtcCompileProgram(nvrtcProgram, c_int, *const *const c_char) -> Code;
        fn nvrtcGetProgramLogSize(nvrtcProgram, *mut usize) -> Code;
        fn nvrtcGetProgramLog(nvrtcProgram, *mut c_char) -> Code;
        fn nvrtcGetCUBINSize(nvrtcProgram, *mut usize) -> Code;
        fn nvrtcGetCUBIN(nvrtcProgram, *mut c_char) -> Code;
    }
}

symbols! {
    /// libcublasLt: matrix products.
    CublasLt {
        fn cublasLtGetVersion() -> usize;
        fn cublasLtGetStatusName(Code) -> *const c_char;
        fn cublasLtCreate(*mut lt::cublasLtHandle_t) -> Code;
        fn cublasLtDestroy(lt::cublasLtHandle_t) -> Code;
        fn cublasLtMatmulDescCreate(*mut lt::cublasLtMatmulDesc_t, c_uint, c_uint) -> Code;
        fn cublasLtMatmulDescSetAttribute(lt::cublasLtMatmulDesc_t, c_uint, *const c_void, usize) -> Code;
        fn cublasLtMatmulDescDestroy(lt::cublasLtMatmulDesc_t) -> Code;
        fn cublasLtMatrixLayoutCreate(*mut lt::cublasLtMatrixLayout_t, c_uint, u64, u64, i64) -> Code;
        fn cublasLtMatrixLayoutSetAttribute(lt::cublasLtMatrixLayout_t, c_uint, *const c_void, usize) -> Code;
        fn cublasLtMatrixLayoutDestroy(lt::cublasLtMatrixLayout_t) -> Code;
        fn cublasLtMatmulPreferenceCreate(*mut lt::cublasLtMatmulPreference_t) -> Code;
        fn cublasLtMatmulPreferenceSetAttribute(lt::cublasLtMatmulPreference_t, c_uint, *const c_void, usize) -> Code;
        fn cublasLtMatmulPreferenceDestroy(lt::cublasLtMatmulPreference_t) -> Code;
        fn cublasLtMatmulAlgoGetHeuristic(
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
            lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatmulPreference_t, c_int,
            *mut lt::cublasLtMatmulHeuristicResult_t, *mut c_int
        ) -> Code;
        fn cublasLtMatmul(
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
            *const c_void, lt::cublasLtMatrixLayout_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
            *mut c_void, lt::cublasLtMatrixLayout_t, *const lt::cublasLtMatmulAlgo_t, *mut c_void, usize, CUstream
        ) -> Code;
    }
}

/// A communicator of NCCL.
pub(super) type NcclComm = *mut c_void;

/// What the ranks of a communicator know each other by. Passed by value, as in C.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct NcclId(pub(super) [u8; 128]);

/// How a communicator is made: the fields of NCCL 2.14, to which later versions added at the end; they read as many bytes
/// as `bytes` says.
#[repr(C)]
pub(super) struct NcclConfig {
    pub(super) bytes: usize,
    pub(super) magic: c_uint,
    pub(super) version: c_uint,
    pub(super) blocking: c_int,
}

symbols! {
    /// libnccl: ranks.
    Nccl {
        fn ncclGetVersion(*mut c_int) -> Code;
        fn ncclGetUniqueId(*mut NcclId) -> Code;
        fn ncclGetErrorString(Code) -> *const c_char;
        fn ncclGetLastError(NcclComm) -> *const c_char;
        fn ncclCommInitRankConfig(*mut NcclComm, c_int, NcclId, c_int, *mut NcclConfig) -> Code;
        fn ncclCommGetAsyncError(NcclComm, *mut Code) -> Code;
        fn ncclCommFinalize(NcclComm) -> Code;
        fn ncclCommDestroy(NcclComm) -> Code;
        fn ncclCommAbort(NcclComm) -> Code;
        fn ncclSend(*const c_void, usize, c_uint, c_int, NcclComm, CUstream) -> Code;
        fn ncclRecv(*mut c_void, usize, c_uint, c_int, NcclComm, CUstream) -> Code;
        fn ncclBroadcast(*const c_void, *mut c_void, usize, c_uint, c_int, NcclComm, CUstream) -> Code;
        fn ncclAllGather(*const c_void, *mut c_void, usize, c_uint, NcclComm, CUstream) -> Code;
        fn ncclGroupStart() -> Code;
        fn ncclGroupEnd() -> Code;
    }
}
