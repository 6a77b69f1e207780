"""The kernels as NVRTC compiles them, without a GPU: machine code and assembly. Needs tests/setup.sh."""
import ctypes
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
KERNELS = ROOT / "src/backend/cuda/kernels"
# Those of src/backend/cuda/runtime/compile.rs.
FLAGS = ["--std=c++17", "--fmad=false"]


def cubin(file, arch):
    """Machine code for a GPU as `sm_90a`."""
    return compiled(file, arch, "CUBIN")


def ptx(file, arch):
    """Assembly for a GPU as `compute_90a`."""
    return compiled(file, arch, "PTX").rstrip(b"\0").decode()


def compiled(file, arch, form):
    folder = ROOT / "target/python/nvidia/cu13/lib"
    # The compiler looks for it by its name.
    ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so.13*"))))
    nvrtc = ctypes.CDLL(str(folder / "libnvrtc.so.13"))
    headers = sorted(KERNELS.glob("*.h"))
    texts = (ctypes.c_char_p * len(headers))(*(header.read_bytes() for header in headers))
    names = (ctypes.c_char_p * len(headers))(*(header.name.encode() for header in headers))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text = (KERNELS / file).read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, file.encode(), len(headers), texts, names)
    flags = [f"--gpu-architecture={arch}", *FLAGS]
    if nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))):
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(log.value.decode())
    getattr(nvrtc, f"nvrtcGet{form}Size")(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{form}")(program, code)
    return code.raw
