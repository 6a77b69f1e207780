//! Compiled kernels on disk, so that later starts need not compile. A cache that cannot be read or written is ignored.

use super::compile::Cubin;
use crate::store::{self, Map};
use std::path::PathBuf;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Changes with the layout of the files.
const LAYOUT: &str = "tetrad kernels 1";
/// Bytes before the contents: their checksum, and how many of them are the log.
const HEADER: usize = 16;

/// Entries of a file that are kept: more than the devices of a machine by the versions that are in use.
const KEPT: usize = 8;

/// Whether a name is that of an entry of `file`: the file's, a point and 32 hexadecimal digits.
fn is_entry(name: &str, file: &str) -> bool {
    let hash = name.strip_prefix(file).and_then(|rest| rest.strip_prefix('.'));
    hash.is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A folder of compiled kernels.
pub(super) struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The user's cache folder: `$XDG_CACHE_HOME/tetrad` or `~/.cache/tetrad`.
    pub(super) fn of_user() -> Self {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        Self { folder: base.map(|base| base.join("tetrad/kernels")) }
    }

    /// No cache.
    pub(super) fn none() -> Self {
        Self { folder: None }
    }

    /// The entry stored under this key.
    pub(super) fn load(&self, file: &str, key: &str) -> Option<Cubin> {
        let map = Map::open(self.path(file, key)?).ok()?;
        let (header, contents) = map.split_at_checked(HEADER)?;
        let (checksum, log) = header.split_at(HEADER / 2);
        if checksum != xxh3_64(contents).to_le_bytes() {
            return None;
        }
        let log = usize::try_from(u64::from_le_bytes(log.try_into().ok()?)).ok()?;
        let (log, image) = contents.split_at_checked(log)?;
        Some(Cubin { image: image.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
    }

    /// Stores an entry and removes the oldest of this file's. A failure costs the next start some seconds and is not an error.
    pub(super) fn store(&self, file: &str, key: &str, cubin: &Cubin) {
        let Some(path) = self.path(file, key) else { return };
        let contents = [cubin.log.as_bytes(), &cubin.image].concat();
        let _ = store::publish(&path, |out| {
            out.write_all(&xxh3_64(&contents).to_le_bytes())?;
            out.write_all(&(cubin.log.len() as u64).to_le_bytes())?;
            out.write_all(&contents)
        });
        self.remove_old(file);
    }

    /// Each version of the program, of the compiler and of the device leaves an entry: all but the newest are removed.
    fn remove_old(&self, file: &str) {
        let Some(folder) = &self.folder else { return };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let own = entries.filter(|entry| is_entry(&entry.file_name().to_string_lossy(), file));
        let mut known: Vec<_> =
            own.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
        known.sort();
        for (_, path) in known.iter().take(known.len().saturating_sub(KEPT)) {
            // Another process may have been faster.
            let _ = store::remove(path);
        }
    }

    fn path(&self, file: &str, key: &str) -> Option<PathBuf> {
        let hash = xxh3_128(format!("{LAYOUT}\n{key}").as_bytes());
        Some(self.folder.as_ref()?.join(format!("{file}.{hash:032x}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_under_its_own_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: Some(folder.path().join("new")) };
        let cubin = Cubin { image: vec![0, 1, 255], log: "used 8 registers\n".into() };
        assert_eq!(cache.load("a.cu", "key"), None);
        cache.store("a.cu", "key", &cubin);
        assert_eq!(cache.load("a.cu", "key"), Some(cubin));
        assert_eq!(cache.load("a.cu", "other"), None);
        assert_eq!(cache.load("b.cu", "key"), None);
    }

    #[test]
    fn a_damaged_or_truncated_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: Some(folder.path().into()) };
        let cubin = Cubin { image: vec![7; 100], log: "log".into() };
        cache.store("a.cu", "key", &cubin);
        let path = cache.path("a.cu", "key").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert_ne!(cache.load("a.cu", "key").as_ref(), Some(&cubin), "byte {at} damaged");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(cache.load("a.cu", "key"), None, "cut at byte {at}");
        }
    }

    #[test]
    fn the_oldest_entries_of_a_file_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: Some(folder.path().into()) };
        let cubin = Cubin { image: vec![1], log: String::new() };
        let aside = folder.path().join("a.cu.notes");
        std::fs::write(&aside, "not an entry").unwrap();
        cache.store("b.cu", "other", &cubin);
        for i in 0..KEPT + 2 {
            cache.store("a.cu", &i.to_string(), &cubin);
            // As if each were written an hour after the one before.
            let file = std::fs::File::options().append(true).open(cache.path("a.cu", &i.to_string()).unwrap()).unwrap();
            let hours = std::time::Duration::from_secs(3600 * (i as u64 + 1));
            file.set_modified(std::time::SystemTime::UNIX_EPOCH + hours).unwrap();
        }
        cache.store("a.cu", "now", &cubin);
        let kept: Vec<bool> = (0..KEPT + 2).map(|i| cache.load("a.cu", &i.to_string()).is_some()).collect();
        assert_eq!(kept, [vec![false; 3], vec![true; KEPT - 1]].concat());
        assert!(cache.load("a.cu", "now").is_some() && cache.load("b.cu", "other").is_some() && aside.exists());
    }

    #[test]
    fn without_a_folder_nothing_is_kept_and_nothing_fails() {
        let cubin = Cubin { image: vec![1], log: String::new() };
        for cache in [Cache::none(), Cache { folder: Some("/dev/null/no/folder".into()) }] {
            cache.store("a.cu", "key", &cubin);
            assert_eq!(cache.load("a.cu", "key"), None);
        }
    }
}
