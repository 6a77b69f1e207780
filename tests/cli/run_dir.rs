//! The run directory: one writer, folders that cannot be used, a disk that fills up.

use super::{TEXT, refused, train, workplace};
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
    insta::assert_snapshot!(at("taken"), @"tetrad: taken/config.toml: is a directory, a regular file is needed");
}

#[test]
fn files_that_no_run_wrote_are_left_alone() {
    let place = workplace();
    std::fs::create_dir(place.path("mine")).unwrap();
    let config = String::from_utf8(place.read("tiny.toml")).unwrap() + "\n# my notes\n";
    let mine = [("config.toml", config.as_str()), ("metrics.jsonl", "my numbers\n"), ("model.tetrad", "weights")];
    for (name, text) in mine {
        std::fs::write(place.path("mine").join(name), text).unwrap();
        for more in [&[][..], &["--resume"]] {
            let said = refused(&place, &[&["--set", "run.dir=mine"], more].concat());
            assert!(said.contains(&format!("mine/{name}: ")) && said.contains("--set run.dir=..."), "{said}");
        }
        assert_eq!(place.read(&format!("mine/{name}")), text.as_bytes());
        std::fs::remove_file(place.path("mine").join(name)).unwrap();
    }
    train(&place, &["--set", "run.dir=mine", "--stop-at", "2"]);
    // Its own it knows again.
    train(&place, &["--set", "run.dir=mine", "--resume", "--stop-at", "3"]);
}

/// Named by its folder, a run goes on elsewhere with what it has.
#[test]
fn a_run_goes_on_in_another_folder() {
    let place = workplace();
    train(&place, &["--stop-at", "4"]);
    let elsewhere = ["train", "run", "--resume", "--set", "run.dir=other"];
    let said = place.ok(&[&elsewhere[..], &["--stop-at", "6"]].concat());
    assert!(said.contains("step 6") && !said.contains("from new weights"), "{said}");
    assert!(place.path("other/step-00000006.tetrad").exists() && !place.path("run/step-00000006.tetrad").exists());
    let said = place.ok(&[&elsewhere[..], &["--stop-at", "7"]].concat());
    assert!(said.contains("other") && place.path("other/step-00000007.tetrad").exists(), "{said}");
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

/// Space is reserved first, so it is the reservation that meets the limit; the signal that comes with it is not deadly.
#[test]
fn a_limit_on_the_size_of_files_leaves_the_previous_checkpoint() {
    let place = workplace();
    train(&place, &["--stop-at", "5"]);
    let before = place.read("run/step-00000005.tetrad");
    let args: Vec<String> = TEXT.iter().map(|word| format!("\"{word}\"")).collect();
    // 16 blocks of 512 or 1024 bytes: room for metrics, not for a checkpoint of 180 KiB.
    let limited = |command: &str| {
        let script = format!("ulimit -f 16; exec {} {command}", env!("CARGO_BIN_EXE_tetrad"));
        let output =
            std::process::Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("too large"), "{said}");
        said
    };
    let said = limited(&format!("train tiny.toml {} --device cpu --resume --stop-at 7", args.join(" ")));
    assert!(said.contains("run/step-00000007.tetrad: ") && said.contains("ulimit -f"), "{said}");
    assert!(place.read("run/step-00000005.tetrad") == before);
    let left = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(place.path(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(!left("run").iter().any(|name| name.contains("00000007")), "{:?}", left("run"));
    place.assert_sound(&place.path("run/step-00000005.tetrad"));
    train(&place, &["--resume", "--stop-at", "7"]);
    // Nor does any other command leave a part of a file.
    let before = left(".");
    let model = format!("{}/fixtures/convert/q4_1.gguf", env!("CARGO_MANIFEST_DIR"));
    limited(&format!("import {model} -o new.tetrad"));
    limited("export run/step-00000007.tetrad -o new.gguf");
    limited("export run/step-00000007.tetrad -o new --shard-size 12KiB");
    limited("eval run/step-00000007.tetrad --device cpu --text train.txt --cache .");
    assert_eq!(left("."), before);
}
