//! What a crash may leave of files. POSIX promises this and no more: a file's content is on the disk once the file was
//! synced, a name once its folder was. Until then any part of what was done may be there, in any order: each page of 4096
//! bytes as it was or as any write since left it, a length without its bytes, one name without another. A page may itself
//! be torn between two sectors of 512 bytes.

use super::machine::Done;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// Changes of names that are tried in all combinations; a span between syncs that has more is a fault of the writer.
const MOST_NAMES: usize = 10;

/// The files that a crash left.
pub type Image = BTreeMap<PathBuf, Arc<Vec<u8>>>;

/// Picks one of so many.
pub type Choose<'a> = dyn FnMut(usize) -> usize + 'a;

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What it held after each change since it was synced; the first is on the disk.
    versions: Vec<Arc<Vec<u8>>>,
}

impl Inode {
    fn now(&self) -> &Arc<Vec<u8>> {
        self.versions.last().expect("a file has a content")
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.now().to_vec();
        change(&mut bytes);
        if bytes != **self.now() {
            self.versions.push(Arc::new(bytes));
        }
    }

    /// The contents of a page that may be there: of any version; of one that the file is too short for, zeros.
    fn page(&self, page: usize) -> BTreeSet<Vec<u8>> {
        let cut = |bytes: &Arc<Vec<u8>>| {
            let start = bytes.len().min(page * PAGE);
            let mut cut = bytes[start..bytes.len().min((page + 1) * PAGE)].to_vec();
            cut.resize(PAGE, 0);
            cut
        };
        self.versions.iter().map(cut).collect()
    }

    fn lengths(&self) -> Vec<usize> {
        self.versions.iter().map(|bytes| bytes.len()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn pages(&self) -> usize {
        self.versions.iter().map(|bytes| bytes.len()).max().unwrap_or(0).div_ceil(PAGE)
    }

    /// One of the contents that may be there.
    fn any(&self, choose: &mut Choose<'_>) -> Arc<Vec<u8>> {
        if let [only] = self.versions.as_slice() {
            return only.clone();
        }
        let mut bytes = Vec::with_capacity(self.pages() * PAGE);
        for page in 0..self.pages() {
            let found: Vec<_> = self.page(page).into_iter().collect();
            bytes.extend_from_slice(&found[choose(found.len())]);
        }
        let lengths = self.lengths();
        bytes.truncate(lengths[choose(lengths.len())]);
        Arc::new(bytes)
    }

    /// Contents with one page torn between sectors, the other pages all of one version.
    fn torn(&self) -> BTreeSet<Arc<Vec<u8>>> {
        let mut found = BTreeSet::new();
        for pair in self.versions.windows(2) {
            let (old, new) = (&pair[0], &pair[1]);
            let len = new.len().max(old.len());
            for at in (SECTOR..len).step_by(SECTOR).filter(|at| at % PAGE != 0) {
                for (head, tail) in [(new, old), (old, new)] {
                    let mut bytes = head[..head.len().min(at)].to_vec();
                    bytes.resize(at, 0);
                    bytes.extend_from_slice(tail.get(at..).unwrap_or_default());
                    bytes.resize(len, 0);
                    found.insert(Arc::new(bytes));
                }
            }
        }
        found
    }
}

#[derive(Clone, Debug)]
enum Naming {
    Set(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Drop(PathBuf, usize),
}

/// Files, and what of them is on the disk for sure.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    durable: BTreeMap<PathBuf, usize>,
    names: BTreeMap<PathBuf, usize>,
    /// Changes of names since their folders were synced.
    pending: Vec<Naming>,
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The files below a folder.
pub fn read_all(root: &Path) -> Image {
    let mut paths = Vec::new();
    files(root, &mut paths);
    paths.into_iter().map(|path| (path.clone(), Arc::new(fs::read(&path).unwrap()))).collect()
}

/// Makes the files below a folder those of an image.
pub fn install(root: &Path, image: &Image) {
    let mut paths = Vec::new();
    files(root, &mut paths);
    for path in paths.iter().filter(|path| !image.contains_key(*path)) {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in image {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Not in place: a map of the old file may live.
        let _ = fs::remove_file(path);
        fs::write(path, bytes.as_slice()).unwrap();
    }
}

impl Disk {
    /// The files below a folder, all of them on the disk.
    pub fn of(root: &Path) -> Self {
        let mut disk = Disk::default();
        for (path, bytes) in read_all(root) {
            disk.durable.insert(path, disk.inodes.len());
            disk.inodes.push(Inode { versions: vec![bytes] });
        }
        disk.names = disk.durable.clone();
        disk
    }

    fn inode(&mut self, path: &Path) -> Option<&mut Inode> {
        self.names.get(path).map(|&number| &mut self.inodes[number])
    }

    /// What an operation makes of it.
    pub fn apply(&mut self, done: &Done) {
        match done {
            Done::CreateFolder(_) | Done::RemoveFolder(_) | Done::Scratch(..) | Done::Saved(_) => {}
            // What a lock file holds is shown, and decides nothing.
            Done::Create(path) | Done::Write(path, ..) | Done::SetLen(path, _) if path.ends_with(".lock") => {}
            Done::Create(path) => {
                if !self.names.contains_key(path) {
                    self.names.insert(path.clone(), self.inodes.len());
                    self.pending.push(Naming::Set(path.clone(), self.inodes.len()));
                    self.inodes.push(Inode { versions: vec![Arc::default()] });
                }
            }
            Done::Reserve(path, len) => self.resize(path, *len, |old, new| old.max(new)),
            Done::SetLen(path, len) => self.resize(path, *len, |_, new| new),
            Done::Write(path, at, written) => {
                let at = *at as usize;
                let Some(inode) = self.inode(path) else { return };
                inode.change(|bytes| {
                    bytes.resize(bytes.len().max(at + written.len()), 0);
                    bytes[at..at + written.len()].copy_from_slice(written);
                });
            }
            Done::Sync(path) => {
                let Some(inode) = self.inode(path) else { return };
                inode.versions = vec![inode.now().clone()];
            }
            Done::Rename(from, to) => {
                let Some(number) = self.names.remove(from) else { return };
                self.names.insert(to.clone(), number);
                self.pending.push(Naming::Move(from.clone(), to.clone(), number));
            }
            Done::Remove(path) => {
                let Some(number) = self.names.remove(path) else { return };
                self.pending.push(Naming::Drop(path.clone(), number));
            }
            Done::SyncFolder(folder) => {
                let inside = |naming: &Naming| match naming {
                    Naming::Set(path, _) | Naming::Drop(path, _) | Naming::Move(_, path, _) => {
                        path.parent() == Some(folder)
                    }
                };
                let pending = std::mem::take(&mut self.pending);
                let (synced, rest) = pending.into_iter().partition(inside);
                self.pending = rest;
                name(&mut self.durable, &synced, |_| true);
            }
        }
    }

    fn resize(&mut self, path: &Path, len: u64, to: impl FnOnce(usize, usize) -> usize) {
        if let Some(inode) = self.inode(path) {
            inode.change(|bytes| bytes.resize(to(bytes.len(), len as usize), 0));
        }
    }

    /// One of the images that a crash now may leave.
    pub fn any(&self, choose: &mut Choose<'_>) -> Image {
        let mut names = self.durable.clone();
        name(&mut names, &self.pending, |_| choose(2) == 1);
        names.into_iter().map(|(path, number)| (path, self.inodes[number].any(choose))).collect()
    }

    /// All of them, with one page torn in one file at most.
    pub fn all(&self, found: &mut BTreeSet<Image>) {
        assert!(
            self.pending.len() <= MOST_NAMES,
            "{} names of unsynced folders: {:?}",
            self.pending.len(),
            self.pending
        );
        every_choice(&mut |choose| {
            found.insert(self.any(choose));
        });
        // The others are as they were written last, which the images above vary.
        for subset in 0..1u32 << self.pending.len() {
            let mut names = self.durable.clone();
            name(&mut names, &self.pending, |change| subset >> change & 1 == 1);
            let whole: Image =
                names.iter().map(|(path, &number)| (path.clone(), self.inodes[number].now().clone())).collect();
            for (path, number) in names {
                for bytes in self.inodes[number].torn() {
                    let mut image = whole.clone();
                    image.insert(path.clone(), bytes);
                    found.insert(image);
                }
            }
        }
    }
}

/// Does those changes of names that are kept.
fn name(names: &mut BTreeMap<PathBuf, usize>, changes: &[Naming], mut kept: impl FnMut(usize) -> bool) {
    for (number, change) in changes.iter().enumerate() {
        if !kept(number) {
            continue;
        }
        let mut forget = |path: &Path, inode: usize| {
            if names.get(path) == Some(&inode) {
                names.remove(path);
            }
        };
        match change {
            Naming::Set(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Naming::Drop(path, inode) => forget(path, *inode),
            Naming::Move(from, to, inode) => {
                forget(from, *inode);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// Does something once for each way to choose in it.
fn every_choice(work: &mut dyn FnMut(&mut Choose<'_>)) {
    // What was chosen last time, and of how many.
    let mut path: Vec<(usize, usize)> = Vec::new();
    loop {
        let mut depth = 0;
        work(&mut |count| {
            if depth == path.len() {
                path.push((0, count));
            }
            depth += 1;
            path[depth - 1].0
        });
        path.truncate(depth);
        while path.last().is_some_and(|(chosen, count)| chosen + 1 == *count) {
            path.pop();
        }
        match path.last_mut() {
            Some((chosen, _)) => *chosen += 1,
            None => return,
        }
    }
}

#[test]
fn every_choice_is_made_once() {
    let mut seen = Vec::new();
    every_choice(&mut |choose| {
        let first = choose(2);
        seen.push((first, if first == 1 { choose(3) } else { 9 }));
    });
    assert_eq!(seen, [(0, 9), (1, 0), (1, 1), (1, 2)]);
}

#[test]
fn what_is_not_synced_may_be_lost_torn_or_out_of_order() {
    let at = |name: &str| PathBuf::from("/run").join(name);
    let (old, new) = (vec![1; 2 * PAGE], vec![2; 2 * PAGE]);
    let mut disk = Disk::default();
    let write = |path: PathBuf, bytes: &Vec<u8>| [Done::Create(path.clone()), Done::Write(path, 0, bytes.clone())];
    write(at("a"), &old).iter().for_each(|done| disk.apply(done));
    disk.apply(&Done::Sync(at("a")));
    disk.apply(&Done::SyncFolder("/run".into()));
    let images = |disk: &Disk| {
        let mut found = BTreeSet::new();
        disk.all(&mut found);
        found
    };
    assert_eq!(images(&disk).len(), 1);
    write(at(".b"), &new).iter().for_each(|done| disk.apply(done));
    disk.apply(&Done::Rename(at(".b"), at("a")));
    let found = images(&disk);
    let contents: BTreeSet<_> = found.iter().filter_map(|image| image.get(&at("a")).cloned()).collect();
    assert!(contents.contains(&Arc::new(old.clone())) && contents.contains(&Arc::new(new.clone())));
    assert!(contents.contains(&Arc::default()), "no length");
    assert!(contents.contains(&Arc::new([vec![0; PAGE], vec![2; PAGE]].concat())), "the second page alone");
    assert!(contents.iter().any(|bytes| bytes.starts_with(&[2; SECTOR])
        && bytes.get(SECTOR..PAGE).is_some_and(|rest| rest == [0; PAGE - SECTOR])));
    disk.apply(&Done::Sync(at("a")));
    let contents: BTreeSet<_> = images(&disk).iter().map(|image| image[&at("a")].clone()).collect();
    assert_eq!(contents, [old, new.clone()].map(Arc::new).into());
    disk.apply(&Done::SyncFolder("/run".into()));
    assert_eq!(images(&disk), [BTreeMap::from([(at("a"), Arc::new(new))])].into());
}
