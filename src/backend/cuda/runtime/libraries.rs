//! Finds libcuda, NVRTC, cuBLASLt and NCCL.
//!
//! They are opened by absolute path, so that neither LD_LIBRARY_PATH nor a toolkit is needed: Python packages contain
//! all but the first too. Libraries are never closed, since the driver and its clients run threads of their own.

use super::symbols::{CublasLt, Driver, Nccl, Nvrtc};
use crate::error::BackendError;
use libloading::Library;
use std::error::Error;
use std::path::{Path, PathBuf};

/// Folders, separated by colons, that are searched before all others.
pub const VARIABLE: &str = "TETRAD_CUDA_LIBRARIES";

/// Supported versions of CUDA, the preferred first: their interfaces agree in everything that is used here.
const MAJORS: [u32; 2] = [13, 12];
/// Of NCCL, whatever CUDA it was built for.
const NCCL_MAJORS: [u32; 1] = [2];

/// Where systems and toolkits put libraries, as patterns.
const SYSTEM: [&str; 12] = [
    "$CUDA_HOME/lib64",
    "$CUDA_PATH/lib64",
    "/usr/local/cuda*/lib64",
    "/usr/local/cuda*/targets/*-linux/lib",
    "/opt/cuda/lib64",
    "/usr/lib/*-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
];

/// Where Python packages are put, as patterns; `$PYTHON` is the folder that the `python3` of PATH belongs to.
const PYTHON: [&str; 8] = [
    "$VIRTUAL_ENV/lib/python3*/site-packages",
    "$CONDA_PREFIX/lib/python3*/site-packages",
    "$PYTHON/lib/python3*/*-packages",
    "$HOME/.local/lib/python3*/site-packages",
    "$HOME/.pyenv/versions/*/lib/python3*/site-packages",
    "/usr/local/lib/python3*/*-packages",
    "/usr/lib/python3*/*-packages",
    "/opt/conda/lib/python3*/site-packages",
];

/// A library to look for.
struct Wanted {
    name: &'static str,
    /// The file's name without its version.
    file: &'static str,
    /// The versions that serve, the preferred first.
    majors: &'static [u32],
}

const DRIVER: Wanted = Wanted { name: "NVIDIA driver (libcuda)", file: "libcuda.so", majors: &[1] };
const NVRTC: Wanted = Wanted { name: "NVRTC (CUDA's compiler)", file: "libnvrtc.so", majors: &MAJORS };
const CUBLASLT: Wanted = Wanted { name: "cuBLASLt", file: "libcublasLt.so", majors: &MAJORS };
const NCCL: Wanted = Wanted { name: "NCCL", file: "libnccl.so", majors: &NCCL_MAJORS };

/// A library that was found.
pub(super) struct Found<T> {
    /// Its functions.
    pub(super) symbols: T,
    /// The file.
    pub(super) path: PathBuf,
}

/// Which folders are searched.
#[derive(Clone, Debug)]
pub struct Search {
    first: Vec<PathBuf>,
    usual: bool,
    /// Told how many files of kernels are not in the cache, before they are compiled.
    told: Option<fn(usize)>,
}

impl Search {
    /// The folders of TETRAD_CUDA_LIBRARIES, then the usual ones.
    pub fn usual() -> Self {
        let named = std::env::var_os(VARIABLE).unwrap_or_default();
        let first = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect();
        Self { first, usual: true, told: None }
    }

    /// These folders and no others. What is compiled with a compiler from there is not kept in the user's cache.
    ///
    /// # Safety
    /// Libraries in them that have the names of libcuda, NVRTC, cuBLASLt and NCCL have their interfaces too, and keep to
    /// them.
    pub unsafe fn only(folders: &[PathBuf]) -> Self {
        Self { first: folders.to_vec(), usual: false, told: None }
    }

    /// The same, with somebody who is told how many files of kernels have to be compiled first: opening a device then takes
    /// some seconds.
    #[must_use]
    pub fn telling(self, told: fn(usize)) -> Self {
        Self { told: Some(told), ..self }
    }

    /// So many files are compiled now.
    pub(super) fn compiling(&self, files: usize) {
        if let Some(told) = self.told {
            told(files);
        }
    }

    /// Whether the usual folders are searched.
    pub(super) fn is_usual(&self) -> bool {
        self.usual
    }

    /// The driver. Unless a folder was named, the system's own search for `libcuda.so.1` comes first: it knows where
    /// the driver that fits the kernel module was installed.
    pub(super) fn driver(&self) -> Result<Driver, BackendError> {
        let file = format!("{}.1", DRIVER.file);
        let named = self.first.iter().map(|folder| folder.join(&file)).filter(|path| path.is_file());
        let by_system = self.usual.then(|| PathBuf::from(&file));
        let usual = self.usual_folders().into_iter().map(|folder| folder.join(&file)).filter(|path| path.is_file());
        let mut refused = Vec::new();
        for path in named.chain(by_system).chain(usual) {
            match open(&path).and_then(|library| Driver::of(library).map_err(lacks)) {
                Ok(driver) => return Ok(driver),
                // The system's search does not say where it looked, so there is no file to report.
                Err(_) if path.is_relative() => {}
                Err(reason) => refused.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(self.missing(&DRIVER, &file, &refused))
    }

    /// The compiler, not newer than CUDA `supports` (major, minor) if there is a driver to run its output, and
    /// one that `accept` does not reject.
    pub(super) fn nvrtc(
        &self,
        supports: Option<(u32, u32)>,
        accept: impl Fn(&Nvrtc) -> Result<(), String>,
    ) -> Result<Found<Nvrtc>, BackendError> {
        self.find(&NVRTC, supports, |path, library| {
            open_builtins(path);
            let nvrtc = Nvrtc::of(library).map_err(lacks)?;
            accept(&nvrtc).map(|()| nvrtc)
        })
    }

    /// The library of matrix products, not newer than CUDA `supports`.
    pub(super) fn cublaslt(&self, supports: (u32, u32)) -> Result<Found<CublasLt>, BackendError> {
        self.find(&CUBLASLT, Some(supports), |_, library| CublasLt::of(library).map_err(lacks))
    }

    /// The library by which the devices of several ranks reach each other.
    pub(super) fn nccl(&self) -> Result<Found<Nccl>, BackendError> {
        self.find(&NCCL, None, |_, library| Nccl::of(library).map_err(lacks))
    }

    /// The driver, the compiler, the library of matrix products and, for several GPUs, what connects them: whether each is there,
    /// and the files of all but the first. No device is touched.
    pub fn check(&self) -> [(&'static str, Result<Option<PathBuf>, BackendError>); 4] {
        let newest = (MAJORS[0], 0);
        [
            (DRIVER.name, self.driver().map(|_| None)),
            (NVRTC.name, self.nvrtc(None, |_| Ok(())).map(|found| Some(found.path))),
            (CUBLASLT.name, self.cublaslt(newest).map(|found| Some(found.path))),
            (NCCL.name, self.nccl().map(|found| Some(found.path))),
        ]
    }

    /// The first file of a supported version that the driver can run: folder by folder, the newest first in each.
    fn find<T>(
        &self,
        wanted: &Wanted,
        supports: Option<(u32, u32)>,
        symbols: impl Fn(&Path, Library) -> Result<T, String>,
    ) -> Result<Found<T>, BackendError> {
        let (mut refused, mut too_new) = (Vec::new(), None);
        for folder in self.first.iter().cloned().chain(self.usual_folders()) {
            for &major in wanted.majors {
                let path = folder.join(format!("{}.{major}", wanted.file));
                if !path.is_file() {
                    continue;
                }
                if supports.is_some_and(|(newest, _)| major > newest) {
                    too_new.get_or_insert((path, major));
                    continue;
                }
                match open(&path).and_then(|library| symbols(&path, library)) {
                    Ok(symbols) => return Ok(Found { symbols, path }),
                    Err(reason) => refused.push(format!("{}: {reason}", path.display())),
                }
            }
        }
        match (too_new, supports) {
            (Some((path, major)), Some((newest, minor))) => Err(BackendError::OldDriver {
                supports: format!("{newest}.{minor}"),
                library: path.display().to_string(),
                needs: format!("{major}.0"),
            }),
            _ => {
                let names: Vec<_> = wanted.majors.iter().map(|major| format!("{}.{major}", wanted.file)).collect();
                Err(self.missing(wanted, &names.join(" and "), &refused))
            }
        }
    }

    /// The folders that exist, in order, beyond those that were named.
    fn usual_folders(&self) -> Vec<PathBuf> {
        if !self.usual {
            return Vec::new();
        }
        let loader = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let mut folders: Vec<_> = std::env::split_paths(&loader).filter(|path| path.is_absolute()).collect();
        folders.extend(SYSTEM.iter().filter_map(|pattern| expand(pattern)).flat_map(|pattern| existing(&pattern)));
        for packages in PYTHON.iter().filter_map(|pattern| expand(pattern)).flat_map(|pattern| existing(&pattern)) {
            folders.extend(libraries_of(&packages));
        }
        folders
    }

    fn missing(&self, wanted: &Wanted, files: &str, refused: &[String]) -> BackendError {
        let mut searched: Vec<String> = self.first.iter().map(|folder| folder.display().to_string()).collect();
        if self.usual {
            searched.push("the folders of LD_LIBRARY_PATH".into());
            searched.extend(SYSTEM.iter().map(|&pattern| pattern.to_owned()));
            if wanted.file != DRIVER.file {
                searched.extend(
                    PYTHON
                        .iter()
                        .map(|pattern| format!("{}/nvidia/*/lib", pattern.replace("$PYTHON", "(python3 of PATH)"))),
                );
            }
        }
        if searched.is_empty() {
            searched.push("no folder".into());
        }
        BackendError::Library {
            library: wanted.name,
            files: files.to_owned(),
            searched: searched.join(", "),
            refused: refused.iter().map(|reason| format!("; {reason}")).collect(),
        }
    }
}

/// A pattern with its leading `$VARIABLE` replaced; nothing if that is not set.
fn expand(pattern: &str) -> Option<String> {
    let Some(rest) = pattern.strip_prefix('$') else { return Some(pattern.to_owned()) };
    let (variable, rest) = rest.split_once('/')?;
    let value = match variable {
        "PYTHON" => python()?.to_str()?.to_owned(),
        _ => std::env::var(variable).ok().filter(|value| !value.is_empty())?,
    };
    Some(format!("{}/{rest}", glob::Pattern::escape(&value)))
}

/// The folder above `bin/python3`, of the one that a shell would start: an environment that was put on the PATH
/// without being activated.
fn python() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let bin = std::env::split_paths(&path).find(|folder| folder.join("python3").is_file())?;
    bin.ends_with("bin").then(|| bin.parent().map(Path::to_path_buf)).flatten()
}

/// NVIDIA's libraries among Python packages: those of CUDA 13 share one folder, those of CUDA 12 have one each.
fn libraries_of(packages: &Path) -> Vec<PathBuf> {
    existing(&format!("{}/nvidia/*/lib", glob::Pattern::escape(&packages.to_string_lossy())))
}

/// The folders that match a pattern, in the order of their names.
fn existing(pattern: &str) -> Vec<PathBuf> {
    let matches = glob::glob(pattern).expect("a pattern of this file, with names escaped");
    matches.flatten().filter(|path| path.is_dir()).collect()
}

/// NVRTC opens its builtins by bare name; once opened here, they are found in any folder. If they are missing, NVRTC
/// reports it.
fn open_builtins(nvrtc: &Path) {
    let folder = nvrtc.parent().unwrap_or(Path::new("/"));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so.") {
            let _ = open(&entry.path()).map(std::mem::forget);
        }
    }
}

fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: running the initialisers of NVIDIA's libraries is what opening them means; they ask for nothing. That a
    // file of such a name is one is up to whoever set the environment, or promised it to `Search::only`.
    unsafe { Library::new(path) }.map_err(|error| {
        // The loader's message is the error's source; it begins with the path, which the caller adds.
        let said = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let reason = said.strip_prefix(&*path.to_string_lossy()).unwrap_or(&said);
        reason.trim_start_matches([':', ' ']).to_owned()
    })
}

fn lacks(symbol: &'static str) -> String {
    format!("lacks {symbol}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(folders: &[PathBuf]) -> Search {
        // SAFETY: the tests put no libraries into these folders, or files that are none.
        unsafe { Search::only(folders) }
    }
    use std::fs;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(folder.path().join(file), [b'x'; 4096]).unwrap();
        }
        folder
    }

    #[test]
    fn an_empty_folder_is_named_with_what_was_looked_for() {
        let empty = folder(&[]);
        let search = only(&[empty.path().into()]);
        let said = search
            .nvrtc(None, |_| Ok(()))
            .err()
            .unwrap()
            .to_string()
            .replace(&empty.path().display().to_string(), "HERE");
        assert_eq!(said, "NVRTC (CUDA's compiler) was not found: looked for libnvrtc.so.13 and libnvrtc.so.12 in HERE");
        let said = search.driver().err().unwrap().to_string();
        assert!(said.starts_with("NVIDIA driver (libcuda) was not found: looked for libcuda.so.1 in "), "{said}");
        let said = search.nccl().err().unwrap().to_string();
        assert!(said.starts_with("NCCL was not found: looked for libnccl.so.2 in "), "{said}");
    }

    #[test]
    fn a_file_that_is_no_library_is_named_with_its_fault() {
        let here = folder(&["libcublasLt.so.12", "libcuda.so.1"]);
        let search = only(&[here.path().into()]);
        let said = search.cublaslt((12, 4)).err().unwrap().to_string();
        let file = here.path().join("libcublasLt.so.12").display().to_string();
        assert!(said.contains(&format!("; {file}: invalid ELF header")), "{said}");
        let said = search.driver().err().unwrap().to_string();
        assert!(said.contains("libcuda.so.1: invalid ELF header"), "{said}");
    }

    #[test]
    fn a_library_newer_than_the_driver_is_told_from_one_that_is_missing() {
        let here = folder(&["libnvrtc.so.13"]);
        let said = only(&[here.path().into()]).nvrtc(Some((12, 4)), |_| Ok(())).err().unwrap().to_string();
        let file = here.path().join("libnvrtc.so.13");
        assert_eq!(said, format!("the NVIDIA driver supports CUDA 12.4, {} needs CUDA 13.0", file.display()));
    }

    #[test]
    fn variables_in_patterns_are_replaced_or_skip_the_pattern() {
        assert_eq!(expand("/a/b*"), Some("/a/b*".into()));
        assert_eq!(expand("$NO_SUCH_VARIABLE/lib"), None);
        assert!(expand("$PATH/lib").unwrap().ends_with("/lib"));
    }

    /// Packages of a `python3` are found whatever characters the name of its folder has.
    #[test]
    fn packages_of_an_environment_are_found_folder_by_folder() {
        let home = tempfile::tempdir().unwrap();
        let packages = home.path().join("a[b]*/lib/python3.12/site-packages");
        for folder in ["nvidia/cu13/lib", "nvidia/cublas/lib", "nvidia/cublas/include", "other/lib"] {
            fs::create_dir_all(packages.join(folder)).unwrap();
        }
        let wanted = ["nvidia/cu13/lib", "nvidia/cublas/lib"].map(|folder| packages.join(folder));
        assert_eq!(libraries_of(&packages), wanted);
    }
}
