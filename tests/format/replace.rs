//! A save that fails or is killed at any byte leaves the previous file as it was.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use tetrad::error::{ReplaceError, StoreError};
use tetrad::store::{Map, remove_stale, replace};

/// Set in the child that the tests start: what it is to do.
const ROLE: &str = "TETRAD_TEST_REPLACE";

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Not a test of its own: with [`ROLE`] set this is the process that is killed or limited.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (role, path) = role.split_once(':').unwrap();
    match role {
        // Writes without end, and says when something has reached the file.
        "endless" => {
            let result = replace(path, 0, |w| -> io::Result<()> {
                loop {
                    w.write_all(&[7; 4096])?;
                    w.flush()?;
                    println!("written");
                }
            });
            panic!("{result:?}");
        }
        // More than the limit on file sizes allows; found when space is reserved.
        "reserve" => {
            let error = replace(path, 1 << 20, |w| w.write_all(&[1])).unwrap_err();
            assert!(matches!(error, ReplaceError::Store(StoreError::FileLimit { needed: 1048576, .. })), "{error}");
        }
        // The same without a reservation; found in the middle of the writing.
        "fill" => {
            let error = replace(path, 0, |w| w.write_all(&[1; 1 << 22])).unwrap_err();
            assert!(matches!(error, ReplaceError::Write(_)), "{error}");
        }
        _ => unreachable!(),
    }
}

fn start(role: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["replace::child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{role}:{}", path.display()));
    command
}

#[test]
fn a_writer_that_fails_half_way_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tetrad");
    std::fs::write(&path, b"old").unwrap();
    for fail_at in [0, 1, 4096, 3_000_000] {
        let error = replace(&path, 0, |w| {
            w.write_all(&vec![1; fail_at])?;
            Err(io::Error::other("the state cannot be read"))
        });
        assert_eq!(error.unwrap_err().to_string(), "the state cannot be read");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["x.tetrad"]);
    }
}

#[test]
fn a_killed_writer_leaves_the_old_file_and_the_next_one_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tetrad");
    std::fs::write(&path, b"old").unwrap();
    for _ in 0..5 {
        let mut child = start("endless", &path).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"written\n") {
            let mut byte = [0];
            out.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        // While it lives, a second writer on the path is refused and a cleaner leaves its file alone.
        let refused = replace(&path, 1, |w| w.write_all(b"z")).unwrap_err().to_string();
        assert!(refused.ends_with("is writing here; wait for it or stop it"), "{refused}");
        assert_eq!(remove_stale(dir.path()).unwrap(), 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), [".x.tetrad.partial", "x.tetrad"]);
    }
    replace(&path, 3, |w| w.write_all(b"new")).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(names(dir.path()), ["x.tetrad"]);
}

#[test]
fn a_stale_partial_file_is_removed_on_request() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".x.tetrad.partial"), b"half").unwrap();
    std::fs::write(dir.path().join("x.partial"), b"not ours").unwrap();
    assert_eq!(remove_stale(dir.path()).unwrap(), 1);
    assert_eq!(names(dir.path()), ["x.partial"]);
}

/// A full disk, by the limit on file sizes: no file system has to be mounted for it.
#[test]
fn no_room_is_an_error_and_the_old_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tetrad");
    std::fs::write(&path, b"old").unwrap();
    for role in ["reserve", "fill"] {
        let child = start(role, &path);
        // The signal that would end the process is ignored, as a full disk sends none.
        let status = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 256; exec \"$@\"", "sh"])
            .arg(child.get_program())
            .args(child.get_args())
            .envs(child.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{role}: {status}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["x.tetrad"], "{role}");
    }
}

#[test]
fn the_file_is_as_long_as_what_was_written_whatever_was_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for (reserved, written) in [(100_000, 5usize), (5, 100_000), (0, 0)] {
        replace(&path, reserved, |w| w.write_all(&vec![3; written])).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), written as u64);
    }
}

#[test]
fn targets_that_are_no_files_are_refused_and_links_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let write = |path: &Path| replace(path, 1, |w| w.write_all(b"n"));
    std::fs::create_dir(at("dir")).unwrap();
    assert!(write(&at("dir")).unwrap_err().to_string().ends_with("dir: is a directory, a regular file is needed"));
    assert!(write(&at("none/x")).unwrap_err().to_string().contains("its directory does not exist"));
    assert!(write(Path::new("/")).unwrap_err().to_string().contains("is not the path of a file"));
    std::fs::write(at("target"), b"old").unwrap();
    std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
    write(&at("link")).unwrap();
    assert_eq!(std::fs::read(at("target")).unwrap(), b"old");
    assert_eq!(&Map::open(at("link")).unwrap()[..], b"n");
}

#[test]
fn two_writers_on_one_path_never_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    std::fs::write(&path, [0; 1000]).unwrap();
    std::thread::scope(|scope| {
        for t in 1..5u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..200 {
                    match replace(path, 1000, |w| w.write_all(&[t; 1000])) {
                        Ok(()) | Err(ReplaceError::Store(StoreError::Busy { .. })) => {}
                        Err(e) => panic!("{e}"),
                    }
                    let now = Map::open(path).unwrap();
                    assert!(now.len() == 1000 && now.iter().all(|&b| b == now[0]));
                }
            });
        }
    });
    assert_eq!(names(dir.path()), ["x"]);
}
