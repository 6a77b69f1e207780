//! The run directory: one writer, folders that cannot be used, a disk that fills up.

use super::{TEXT, names, refused, train, workplace};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_second_training_in_one_folder_is_told_who_holds_it() {
    let place = workplace();
    let args = [&["train", "tiny.toml"], &TEXT[..], &["--set", "train.steps=100000000"]].concat();
    let mut first = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !place.path("run/metrics.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first training ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    let said = refused(&place, &["--resume"]);
    let expected = format!("run/.lock: process {} is writing here; wait for it or stop it", first.id());
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(said.contains(&expected), "{said}");
    train(&place, &["--resume", "--stop-at", "5", "--set", "train.steps=100000000"]);
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let place = workplace();
    let at = |dir: &str| refused(&place, &["--set", &format!("run.dir={dir}")]);
    insta::assert_snapshot!(at("tiny.toml"), @"tetrad: tiny.toml: not a folder; name another with --set run.dir=...");
    insta::assert_snapshot!(at("tiny.toml/run"), @"tetrad: tiny.toml/run: cannot be created: Not a directory (os error 20); name another folder with --set run.dir=...");
    std::fs::create_dir_all(place.path("busy/metrics.jsonl")).unwrap();
    insta::assert_snapshot!(at("busy"), @"tetrad: busy/metrics.jsonl: cannot keep metrics there: Is a directory (os error 21)");
    std::fs::create_dir_all(place.path("taken/config.toml")).unwrap();
    insta::assert_snapshot!(at("taken"), @"tetrad: taken/config.toml: cannot write it: Is a directory (os error 21)");
}

#[test]
fn a_folder_without_permission_is_named_unless_the_user_may_write_everywhere() {
    use std::os::unix::fs::PermissionsExt;
    let place = workplace();
    std::fs::create_dir(place.path("sealed")).unwrap();
    std::fs::set_permissions(place.path("sealed"), std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(place.path("sealed/probe"), "x").is_ok() {
        eprintln!("SKIPPED: this user writes to folders of mode 555");
        return;
    }
    let said = refused(&place, &["--set", "run.dir=sealed"]);
    assert!(said.contains("sealed/.lock: permission denied"), "{said}");
}

/// The limit on a file's size stands for a full disk: space is reserved first, so it is the reservation that fails.
#[test]
fn a_disk_that_fills_up_leaves_the_previous_checkpoint() {
    let place = workplace();
    train(&place, &["--stop-at", "5"]);
    let before = place.read("run/step-00000005.tetrad");
    let args: Vec<String> = TEXT.iter().map(|word| format!("\"{word}\"")).collect();
    // 16 blocks of 512 or 1024 bytes: room for metrics, not for a checkpoint of 180 KiB.
    let script = format!(
        "trap '' XFSZ; ulimit -f 16; exec {} train tiny.toml {} --resume --stop-at 7",
        env!("CARGO_BIN_EXE_tetrad"),
        args.join(" ")
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("run/step-00000007.tetrad: not enough disk space for"), "{said}");
    assert!(place.read("run/step-00000005.tetrad") == before);
    assert!(!names(&place, "run").iter().any(|name| name.contains("00000007")), "{:?}", names(&place, "run"));
    place.assert_sound(&place.path("run/step-00000005.tetrad"));
    train(&place, &["--resume", "--stop-at", "7"]);
}
