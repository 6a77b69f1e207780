//! `tetrad doctor`: what it says of this machine is true, and what is missing comes with what to do.

use crate::harness::process::Workplace;

#[test]
fn it_names_processor_memory_and_disk_and_says_how_to_get_what_a_gpu_needs() {
    let place = Workplace::new();
    // An empty folder of libraries and no other: nothing of CUDA is found there.
    let output = place.command(&["doctor", "--json"]).env("TETRAD_CUDA_LIBRARIES", place.path("")).output().unwrap();
    assert!(output.status.success());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = |what: &str| said[what]["found"].as_str().unwrap_or_else(|| panic!("{what} in {said}")).to_owned();
    assert!(found("program").contains(env!("CARGO_PKG_VERSION")));
    let threads = std::thread::available_parallelism().unwrap();
    assert!(found("processor").contains(&format!("{threads} threads")));
    assert!(found("memory").contains("GiB") && found("disk").contains("free in the current folder"));
    for library in ["driver", "NVRTC", "cuBLASLt", "NCCL"] {
        let missing = said[library]["missing"].as_bool().unwrap();
        assert_eq!(missing, said[library]["advice"].is_string(), "{library}: {said}");
    }
    // The same in words; the exit status answers whether there is a GPU.
    let usable = !found("GPU").starts_with("none");
    let words = place.run(&["doctor", "--gpu"]);
    assert_eq!(words.status.code(), Some(i32::from(!usable)));
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.lines().any(|line| line.starts_with("GPU ")), "{words}");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let place = Workplace::new();
    let locked = place.path("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(locked.join("probe"), "").is_ok() {
        println!("SKIPPED: this user may write to read-only folders");
        return;
    }
    let output = place.command(&["doctor"]).current_dir(&locked).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("cannot be written to") && said.contains("run.dir"), "{said}");
}
