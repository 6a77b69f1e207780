//! Read-only memory maps of whole files.

use crate::error::StoreError;
use rustix::fs::OFlags;
use std::fs::{File, FileType, OpenOptions};
use std::ops::Deref;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// A regular file mapped read-only, whole.
#[derive(Debug)]
pub struct Map {
    map: memmap2::Mmap,
}

impl Map {
    /// Maps the file at `path`; a symbolic link is followed.
    ///
    /// # Errors
    /// If it is missing, unreadable, empty, longer than the address space, or not a regular file. (A FIFO is opened
    /// without waiting for a writer.)
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        // An ordinary open would block forever on a FIFO without a writer; the flag has no effect on regular files.
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|e| StoreError::io(path, "open it", e))?;
        let meta = file.metadata().map_err(|e| StoreError::io(path, "read its length", e))?;
        if !meta.is_file() {
            return Err(StoreError::NotAFile { path: path.into(), kind: kind_of(meta.file_type()) });
        }
        match meta.len() {
            0 => Err(StoreError::Empty { path: path.into() }),
            len => Self::of(&file, len).map_err(|source| match source {
                Some(source) => StoreError::io(path, "map it", source),
                None => StoreError::TooLong { path: path.into(), len },
            }),
        }
    }

    /// Maps the first `len` bytes of `file`; `None` if they exceed the address space.
    fn of(file: &File, len: u64) -> Result<Self, Option<std::io::Error>> {
        let len = usize::try_from(len).ok().filter(|&len| len <= isize::MAX as usize).ok_or(None)?;
        // SAFETY: the file was opened for reading and is at least `len` bytes long at this moment. Nothing in this
        // crate truncates or writes a file that may be mapped (files are only ever replaced by rename, see
        // `replace`), so the bytes stay as they are and accesses stay inside the file. Against another program that
        // truncates the file there is no defence on any POSIX system: it ends in SIGBUS, not in a wrong value.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }.map_err(Some)?;
        Ok(Self { map })
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// The name of a file type that is not a regular file.
pub(super) fn kind_of(kind: FileType) -> &'static str {
    match kind {
        k if k.is_dir() => "directory",
        k if k.is_fifo() => "FIFO",
        k if k.is_socket() => "socket",
        k if k.is_char_device() => "character device",
        k if k.is_block_device() => "block device",
        _ => "special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn refusal(path: impl AsRef<Path>) -> String {
        let dir = path.as_ref().parent().unwrap().display().to_string();
        Map::open(path.as_ref()).unwrap_err().to_string().replace(&dir, "")
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("empty"), b"").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), 0o600.into()).unwrap();
        assert_eq!(refusal(at("dir")), "/dir: is a directory, a regular file is needed");
        assert_eq!(refusal(at("fifo")), "/fifo: is a FIFO, a regular file is needed");
        assert_eq!(refusal(at("empty")), "/empty: the file is empty (0 bytes)");
        assert_eq!(refusal(at("none")), "/none: no such file");
        assert_eq!(refusal("/dev/null"), "/null: is a character device, a regular file is needed".replacen("/", "", 0));
    }

    #[test]
    fn a_sparse_file_of_huge_size_maps_without_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        // 1 TiB of hole; file systems with a lower limit take what they can.
        let len = (20..=40).rev().map(|k| 1u64 << k).find(|&len| file.set_len(len).is_ok()).unwrap();
        let map = Map::open(&path).unwrap();
        assert_eq!(map.len() as u64, len);
        assert_eq!(map[map.len() - 1], 0);
    }

    #[test]
    fn an_unreadable_file_is_refused_unless_the_user_may_read_everything() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, b"x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        match File::open(&path) {
            Ok(_) => eprintln!("SKIPPED: this user reads files of mode 000"),
            Err(_) => assert!(refusal(&path).starts_with("/secret: permission denied")),
        }
    }

    #[test]
    fn a_map_keeps_the_old_bytes_after_the_name_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"old bytes").unwrap();
        let map = Map::open(&path).unwrap();
        crate::store::replace(&path, 3, |w| std::io::Write::write_all(w, b"new")).unwrap();
        assert_eq!(&map[..], b"old bytes");
        assert_eq!(&Map::open(&path).unwrap()[..], b"new");
    }
}
