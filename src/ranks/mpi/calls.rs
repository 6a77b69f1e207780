//! The functions of MPI, looked up in the very file that was found, and the constants of the three binary interfaces.
//! What is moved is bytes, so four constants are enough: no operators, and no types of numbers.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

/// An address; a handle where handles are addresses.
pub(super) type Address = *mut c_void;

/// What differs from one interface to another; `H` is the type of its handles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constants<H> {
    /// `MPI_COMM_WORLD`
    pub(super) world: H,
    /// `MPI_BYTE`
    pub(super) byte: H,
    /// `MPI_ERRORS_RETURN`
    pub(super) errors_return: H,
    /// `MPI_STATUS_IGNORE`
    pub(super) no_status: Address,
    /// `MPI_THREAD_SERIALIZED`
    pub(super) serialized: c_int,
}

/// A library that was opened, and never is closed: MPI runs threads of its own.
pub(super) struct MpiLibrary {
    library: Library,
    /// Its name for itself.
    pub(super) name: String,
    interface: Interface,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    Mpich,
    OpenMpi,
    Standard,
}

/// The constants and functions of a library, by the type of its handles: `int` in MPICH's family, addresses elsewhere.
pub(super) enum Calls {
    Numbers(Functions<c_int>),
    Addresses(Functions<Address>),
}

macro_rules! functions {
    ($($field:ident = $name:literal ($($argument:ty),*);)*) => {
        /// The functions, each returning a code that is 0 for success.
        pub(super) struct Functions<H> {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
            pub(super) constants: Constants<H>,
        }

        impl<H> Functions<H> {
            fn of(library: &Library, constants: Constants<H>) -> Result<Self, String> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the type is this function's in the interface that the library was told to have, and
                        // the library is never closed.
                        *unsafe { library.get(concat!($name, "\0").as_bytes()) }.map_err(|_| lacks($name))?
                    },)*
                    constants,
                })
            }
        }
    };
}

functions! {
    init_thread = "MPI_Init_thread"(Address, Address, c_int, *mut c_int);
    comm_rank = "MPI_Comm_rank"(H, *mut c_int);
    comm_size = "MPI_Comm_size"(H, *mut c_int);
    set_errhandler = "MPI_Comm_set_errhandler"(H, H);
    isend = "MPI_Isend"(*const u8, c_int, H, c_int, c_int, H, *mut u64);
    irecv = "MPI_Irecv"(*mut u8, c_int, H, c_int, c_int, H, *mut u64);
    ibcast = "MPI_Ibcast"(*mut u8, c_int, H, c_int, H, *mut u64);
    iallgather = "MPI_Iallgather"(*const u8, c_int, H, *mut u8, c_int, H, H, *mut u64);
    ibarrier = "MPI_Ibarrier"(H, *mut u64);
    test = "MPI_Test"(*mut u64, *mut c_int, Address);
    error_string = "MPI_Error_string"(c_int, *mut c_char, *mut c_int);
    finalize = "MPI_Finalize"();
    abort = "MPI_Abort"(H, c_int);
}

/// Opens a library and finds out whose interface it has; that needs no launcher, and begins nothing.
pub(super) fn load(path: &Path) -> Result<MpiLibrary, String> {
    // SAFETY: running the initialisers of an MPI library is what opening it means; they begin nothing before
    // `MPI_Init_thread`. That a file of such a name is one is up to whoever set the environment. Open MPI's own
    // modules look their symbols up among the global ones.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|error| {
        // The loader's message is the error's source; it begins with the path, which the caller adds.
        let said = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let reason = said.strip_prefix(&*path.to_string_lossy()).unwrap_or(&said);
        reason.trim_start_matches([':', ' ']).to_owned()
    })?;
    let name = version(&library)?;
    let interface = match standard(&library) {
        true => Interface::Standard,
        false if name.starts_with("Open MPI") => Interface::OpenMpi,
        false => Interface::Mpich,
    };
    Ok(MpiLibrary { library, name, interface })
}

impl MpiLibrary {
    /// Its functions and constants.
    pub(super) fn calls(&self) -> Result<Calls, String> {
        let small = std::ptr::without_provenance_mut::<c_void>;
        match self.interface {
            Interface::Mpich => Functions::of(&self.library, MPICH).map(Calls::Numbers),
            Interface::Standard => {
                let [world, byte, errors_return] = STANDARD.map(small);
                let no_status = std::ptr::null_mut();
                let constants = Constants { world, byte, errors_return, no_status, serialized: 2048 };
                Functions::of(&self.library, constants).map(Calls::Addresses)
            }
            Interface::OpenMpi => {
                let [world, byte, errors_return] = [
                    self.address("ompi_mpi_comm_world\0")?,
                    self.address("ompi_mpi_byte\0")?,
                    self.address("ompi_mpi_errors_return\0")?,
                ];
                let no_status = std::ptr::null_mut();
                let constants = Constants { world, byte, errors_return, no_status, serialized: 2 };
                Functions::of(&self.library, constants).map(Calls::Addresses)
            }
        }
    }

    /// Where an object lies whose address is a handle.
    fn address(&self, name: &'static str) -> Result<Address, String> {
        // SAFETY: only the address is taken; nothing is read through it. The library is never closed.
        let symbol = unsafe { self.library.get::<Address>(name.as_bytes()) };
        symbol.map(libloading::os::unix::Symbol::into_raw).map_err(|_| lacks(name.trim_end_matches('\0')))
    }
}

/// `mpi.h` of MPICH: handles are `int`, and `MPI_STATUS_IGNORE` is the address 1.
const MPICH: Constants<c_int> = Constants {
    world: 0x4400_0000,
    byte: 0x4c00_010d,
    errors_return: 0x5400_0001,
    no_status: std::ptr::without_provenance_mut(1),
    serialized: 2,
};

/// `mpi.h` of MPI 5: `MPI_COMM_WORLD`, `MPI_BYTE` and `MPI_ERRORS_RETURN`.
const STANDARD: [usize; 3] = [0x101, 0x247, 0x143];

/// `MPI_MAX_LIBRARY_VERSION_STRING` and `MPI_MAX_ERROR_STRING` are at most this in all three.
pub(super) const MOST_TEXT: usize = 8192;

/// The first line of a library's name for itself.
fn version(library: &Library) -> Result<String, String> {
    type Version = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
    // SAFETY: the function's type in all interfaces.
    let version = unsafe { library.get::<Version>(b"MPI_Get_library_version\0") };
    let version = version.map_err(|_| lacks("MPI_Get_library_version"))?;
    let (mut text, mut len) = ([0 as c_char; MOST_TEXT], 0);
    // SAFETY: the text is as long as any interface asks for; the function may be called before MPI begins.
    if unsafe { version(text.as_mut_ptr(), &mut len) } != 0 {
        return Err("MPI_Get_library_version fails".into());
    }
    Ok(first_line(&text))
}

/// The first line of a text that a function of MPI wrote.
pub(super) fn first_line(text: &[c_char; MOST_TEXT]) -> String {
    let mut text = *text;
    text[MOST_TEXT - 1] = 0;
    // SAFETY: the last byte is 0.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
    text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a library has the interface of MPI 5. MPICH's own library has the function too, and answers with -1.
fn standard(library: &Library) -> bool {
    type Abi = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    // SAFETY: the function's type in MPI 5; older libraries do not have it.
    let Ok(abi) = (unsafe { library.get::<Abi>(b"MPI_Abi_get_version\0") }) else { return false };
    let (mut major, mut minor) = (-1, -1);
    // SAFETY: it writes two numbers, and may be called before MPI begins.
    unsafe { abi(&mut major, &mut minor) == 0 && major >= 1 }
}

fn lacks(symbol: &str) -> String {
    format!("lacks {symbol}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number that a header of the MPICH that `tests/setup.sh` installs gives to a name.
    fn number(header: &str, name: &str) -> Option<usize> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mpi/mpich/include").join(header);
        let Ok(text) = std::fs::read_to_string(&path) else {
            assert!(std::env::var_os("TETRAD_REQUIRE_MPI").is_none(), "{} is missing", path.display());
            eprintln!("SKIPPED: no {}; tests/setup.sh installs it", path.display());
            return None;
        };
        let starts = |line: &&str| {
            let mut words = line.trim_start_matches("#define").split_whitespace();
            words.next() == Some(name)
        };
        let line = text.lines().find(starts).unwrap_or_else(|| panic!("{header} has no {name}"));
        let value = line.split("/*").next().unwrap_or_default().trim_end_matches([')', ',', ' ']);
        let value = value.rsplit([')', ' ']).next().unwrap_or_default();
        let hex = value.strip_prefix("0x").map(|digits| usize::from_str_radix(digits, 16));
        Some(hex.unwrap_or_else(|| value.parse()).unwrap_or_else(|_| panic!("{header}: {line}")))
    }

    #[test]
    fn constants_are_those_of_the_headers() {
        let names = ["MPI_COMM_WORLD", "MPI_BYTE", "MPI_ERRORS_RETURN"];
        let (handles, standard) = ([MPICH.world, MPICH.byte, MPICH.errors_return], STANDARD);
        for (i, name) in names.into_iter().enumerate() {
            for (header, own) in [("mpi.h", handles[i] as usize), ("mpi_abi.h", standard[i])] {
                assert!(number(header, name).is_none_or(|value| value == own), "{name} of {header}");
            }
        }
        for (header, own, serialized) in [("mpi.h", MPICH.no_status.addr(), 2), ("mpi_abi.h", 0, 2048)] {
            assert!(number(header, "MPI_STATUS_IGNORE").is_none_or(|value| value == own), "{header}");
            assert!(number(header, "MPI_THREAD_SERIALIZED").is_none_or(|value| value == serialized), "{header}");
            for text in ["MPI_MAX_ERROR_STRING", "MPI_MAX_LIBRARY_VERSION_STRING"] {
                assert!(number(header, text).is_none_or(|value| value <= MOST_TEXT), "{text} of {header}");
            }
        }
    }
}
