//! The seam to the machine: every operation by which this library changes files, and its clock. A simulation puts a
//! [`Machine`] of its own there, which keeps what is asked of the disk, refuses it, or tells another time; what is
//! simulated is then the very code that writes.

use rustix::fs::OFlags;
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is about to be asked of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// A folder is made, and those above it that are missing.
    CreateFolder(&'a Path),
    /// A file is opened for writing, and made if there is none; its content stays.
    Create(&'a Path),
    /// Space for a file's first bytes is reserved; a shorter file gets that length, in zeros.
    Reserve {
        /// The file.
        path: &'a Path,
        /// Bytes.
        len: u64,
    },
    /// Bytes are written.
    Write {
        /// The file.
        path: &'a Path,
        /// The first byte's place in it.
        at: u64,
        /// What is written.
        bytes: &'a [u8],
    },
    /// A file is cut, or extended by zeros.
    SetLen {
        /// The file.
        path: &'a Path,
        /// Bytes that it has from then on.
        len: u64,
    },
    /// Returns once a file's content is on the disk.
    Sync(&'a Path),
    /// A file gets another name, in the same folder; what had that name loses it.
    Rename {
        /// The name.
        from: &'a Path,
        /// The name from then on.
        to: &'a Path,
    },
    /// Returns once the names in a folder are on the disk.
    SyncFolder(&'a Path),
    /// A file loses its name.
    Remove(&'a Path),
    /// A folder that is empty is removed.
    RemoveFolder(&'a Path),
    /// A file without a name is made in a folder, and its bytes are reserved. It is written through memory, and gone when the
    /// process is: no part of it can be found after a crash.
    Scratch {
        /// The folder.
        folder: &'a Path,
        /// Bytes.
        len: u64,
    },
}

/// The machine as a simulation wants it.
pub trait Machine: Send + Sync {
    /// Asked before an operation is done.
    ///
    /// # Errors
    /// Is returned in the operation's place, which is not done.
    fn before(&self, operation: &Operation<'_>) -> io::Result<()>;

    /// Time since 1970.
    fn time(&self) -> Duration;

    /// Time since a moment that stays the same: differences are durations.
    fn ticks(&self) -> Duration;
}

thread_local! {
    static MACHINE: RefCell<Option<Arc<dyn Machine>>> = const { RefCell::new(None) };
}

/// Does `work` on `machine`, as far as it is done by this thread.
pub fn on_machine<R>(machine: Arc<dyn Machine>, work: impl FnOnce() -> R) -> R {
    struct Before(Option<Arc<dyn Machine>>);
    impl Drop for Before {
        fn drop(&mut self) {
            MACHINE.set(self.0.take());
        }
    }
    let _before = Before(MACHINE.replace(Some(machine)));
    work()
}

fn simulated<R>(ask: impl FnOnce(&dyn Machine) -> R) -> Option<R> {
    // Not borrowed while it is asked: a machine may itself write files.
    let machine = MACHINE.with_borrow(|machine| machine.as_ref().map(Arc::clone))?;
    Some(ask(machine.as_ref()))
}

/// Whether an operation is to be done.
pub(super) fn ask(operation: Operation<'_>) -> io::Result<()> {
    simulated(|machine| machine.before(&operation)).unwrap_or(Ok(()))
}

/// Time since 1970; zero on a machine whose clock is before that.
pub fn time() -> Duration {
    simulated(|machine| machine.time())
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Time since a moment that stays the same, whatever is done to the clock.
pub fn ticks() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    simulated(|machine| machine.ticks()).unwrap_or_else(|| START.get_or_init(Instant::now).elapsed())
}

/// Makes a folder, and those above it that are missing.
///
/// # Errors
/// Those of the file system.
pub fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    ask(Operation::CreateFolder(path))?;
    fs::create_dir_all(path)
}

/// Gives a file another name in its folder.
///
/// # Errors
/// Those of the file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    ask(Operation::Rename { from, to })?;
    fs::rename(from, to)
}

/// Takes a file's name away.
///
/// # Errors
/// Those of the file system.
pub fn remove(path: &Path) -> io::Result<()> {
    ask(Operation::Remove(path))?;
    fs::remove_file(path)
}

/// Removes a folder that is empty.
///
/// # Errors
/// Those of the file system.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    ask(Operation::RemoveFolder(path))?;
    fs::remove_dir(path)
}

/// The folder that a file of this name is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns once the names in the folder of `path` are on the disk.
///
/// # Errors
/// Those of the file system.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    ask(Operation::SyncFolder(folder))?;
    File::open(folder)?.sync_all()
}

/// A file that is written.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// Its name when it was opened.
    path: PathBuf,
    /// Where the next byte goes.
    at: u64,
}

impl Output {
    /// Opens a file as `options` say, to be written from its beginning.
    pub(super) fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        ask(Operation::Create(path))?;
        Ok(Self { file: options.open(path)?, path: path.into(), at: 0 })
    }

    /// Opens a file that is there, to be written behind its end.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append(path: &Path) -> io::Result<Self> {
        let mut output = Self::open(path, OpenOptions::new().append(true))?;
        output.at = output.file.seek(SeekFrom::End(0))?;
        Ok(output)
    }

    /// Opens a file that somebody else has made and is writing, to write a part of it too.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open_part(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
        Self::open(path, &options)
    }

    /// Fills `bytes` with the file's first.
    ///
    /// # Errors
    /// Those of the file system, and a shorter file.
    pub fn read_first(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, 0)
    }

    /// Makes a file of a name that is free.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().read(true).write(true).create_new(true))
    }

    /// The same file, written from where this one is now.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, path: self.path.clone(), at: self.at })
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Its name when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reserves its first `len` bytes, if the file system can.
    pub(super) fn reserve(&self, len: u64) -> io::Result<()> {
        ask(Operation::Reserve { path: &self.path, len })?;
        Ok(rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len)?)
    }

    /// Cuts it to `len` bytes, behind which it is written from then on.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_len(&mut self, len: u64) -> io::Result<()> {
        ask(Operation::SetLen { path: &self.path, len })?;
        self.file.set_len(len)?;
        self.at = self.file.seek(SeekFrom::Start(len))?;
        Ok(())
    }

    /// Returns once its content is on the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> io::Result<()> {
        ask(Operation::Sync(&self.path))?;
        self.file.sync_all()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ask(Operation::Write { path: &self.path, at: self.at, bytes })?;
        let written = self.file.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
