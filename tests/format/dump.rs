//! `tetrad dump`, `verify` and `diff` on the committed files.

use crate::support::{fixture, good, writing};
use bitvec::prelude::{BitVec, bitvec};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the command at the root of the package, so that paths in its output are the same everywhere.
fn tetrad(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tetrad")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

/// Standard output of a command that must succeed.
fn shown(args: &[&str]) -> String {
    let output = tetrad(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn good_file(name: &str) -> String {
    format!("fixtures/format/good/{name}.tetrad")
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&shown(args)).unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

#[test]
fn dump_of_every_storage() {
    for (name, _) in good::all() {
        let file = good_file(name);
        insta::assert_snapshot!(format!("dump_{name}"), shown(&["dump", &file, "--stats"]));
    }
}

#[test]
fn hex_of_every_kind_of_plane() {
    let mut all = String::new();
    for (name, tensor, planes) in [
        ("state-int4", "blocks.0.q", &["codes", "scales", "residue", "m", "m-scales", "v"][..]),
        ("state-int4", "norm", &["data", "scalars"][..]),
        ("state-int8", "blocks.0.q", &["codes", "offsets", "m", "v"][..]),
        ("state-named", "blocks.0.q", &["projected", "projected-scales", "square", "limiter"][..]),
        ("state-named", "norm", &["square", "past"][..]),
        ("state-fp4", "blocks.0.q", &["codes", "scales"][..]),
        ("int8", "blocks.0.q", &["bytes"][..]),
        ("bf16", "blocks.0.q", &["data"][..]),
    ] {
        for plane in planes {
            let which = format!("{tensor}:{plane}");
            let text = shown(&["dump", &good_file(name), "--hex", &which]);
            let first: Vec<_> = text.lines().take(3).collect();
            all += &format!("{name} {which}: {} lines\n{}\n", text.lines().count(), first.join("\n"));
            let json = json(&["dump", &good_file(name), "--hex", &which, "--json"]);
            assert_eq!(json["lines"].as_array().unwrap().len(), text.lines().count());
        }
    }
    insta::assert_snapshot!("hex", all);
}

/// Every byte of every file is in exactly one run of `--bytes`.
#[test]
fn bytes_accounts_for_every_byte_once() {
    for (name, parts) in good::all() {
        let mut seen: BitVec = bitvec![0; parts.encode().len()];
        for run in json(&["dump", &good_file(name), "--bytes", "--json"]).as_array().unwrap() {
            let (at, len) = (run["offset"].as_u64().unwrap() as usize, run["len"].as_u64().unwrap() as usize);
            assert!(len > 0 && seen[at..at + len].not_any(), "{name}: {run}");
            seen[at..at + len].fill(true);
        }
        assert!(seen.all(), "{name}: byte {:?} is missing", seen.first_zero());
        let lines = shown(&["dump", &good_file(name), "--bytes"]).lines().count();
        assert_eq!(lines, json(&["dump", &good_file(name), "--bytes", "--json"]).as_array().unwrap().len());
    }
}

#[test]
fn json_is_json_whatever_the_values_are() {
    for (name, _) in good::all() {
        let value = json(&["dump", &good_file(name), "--stats", "--json"]);
        assert_eq!(value["tensors"][0]["name"], "blocks.0.q", "{name}");
        assert!(value["tensors"][0]["stats"][0]["rms"].is_f64());
    }
    // Dump shows what a file holds, NaN and infinity too; only verify minds.
    for (name, key) in [("data-nan", "nan"), ("m-infinite", "inf"), ("scale-nan", "nan"), ("scale-infinite", "inf")] {
        let value = json(&["dump", &format!("fixtures/format/bad/{name}.tetrad"), "--stats", "--json"]);
        let stats = value["tensors"][0]["stats"].as_array().unwrap();
        assert!(stats.iter().any(|s| s[key].as_u64().unwrap() > 0), "{name}: {stats:?}");
    }
    let which = ["dump", "fixtures/format/bad/data-nan.tetrad", "--hex", "blocks.0.q:data", "--json"];
    assert_eq!(json(&which)["lines"][0]["values"][2], "nan");
    assert_eq!(json(&["verify", &good_file("int4"), "--json"])["sound"], true);
}

/// The metadata of the fixtures holds a terminal escape and a letter beyond ASCII.
#[test]
fn no_output_holds_control_characters() {
    let file = good_file("int4");
    for args in [&["dump", &file][..], &["dump", &file, "--json"], &["dump", &file, "--bytes"]] {
        let text = shown(args);
        assert!(text.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{args:?}: {text:?}");
    }
    for (name, _) in good::all() {
        let text = shown(&["dump", &good_file(name), "--stats"]);
        assert!(!text.chars().any(|c| c != '\n' && c.is_control()), "{name}");
    }
    for entry in std::fs::read_dir(fixture("bad")).unwrap() {
        let output = tetrad(&["verify", entry.unwrap().path().to_str().unwrap()]);
        assert!(output.stdout.iter().all(|b| *b == b'\n' || (b' '..=b'~').contains(b)));
    }
}

#[test]
fn verify_says_its_verdict_in_the_exit_status() {
    for (name, _) in good::all() {
        let output = tetrad(&["verify", &good_file(name)]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(output.stdout.starts_with(good_file(name).as_bytes()));
    }
    let list = std::fs::read_to_string(fixture("bad/errors.txt")).unwrap();
    for line in list.lines() {
        let (name, error) = line.split_once(": ").unwrap();
        let file = format!("fixtures/format/bad/{name}.tetrad");
        let output = tetrad(&["verify", &file]);
        if name == "empty" {
            // Not even a map can be made of it.
            assert_eq!(output.status.code(), Some(2));
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{name}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().next().unwrap(), format!("{file}: {error}"));
    }
    assert_eq!(tetrad(&["verify", "fixtures/format/none.tetrad"]).status.code(), Some(2));
}

#[test]
fn what_cannot_be_read_is_named_in_one_sentence() {
    let file = good_file("int4");
    for (args, message) in [
        (
            &["dump", "fixtures/format"][..],
            "fixtures/format: is a directory, a regular file is needed; name a model's file, or the folder of a finished run",
        ),
        (&["dump", "none"], "none: no such file"),
        (
            &["dump", "Cargo.toml"],
            "Cargo.toml: the file begins with 5b 70 61 63 6b 61 67 65, a .tetrad file with 89 54 45 54 52 41 44 0a: it is another kind of file (R2)",
        ),
        (&["dump", &file, "--tensor", "x*"], "no tensor matches \"x*\": there are 2, the first is blocks.0.q"),
        (&["dump", &file, "--hex", "norm"], "norm is not TENSOR:PLANE, as in norm:data"),
        (&["dump", &file, "--hex", "x:data"], "there is no tensor x; `tetrad dump FILE` lists them"),
        (&["dump", &file, "--hex", "other"], "other is not TENSOR:PLANE, as in blocks.0.q:codes"),
        (&["dump", &file, "--hex", "norm:codes"], "norm has no plane codes, it has data"),
        (
            &["diff", &file, "fixtures/format/bad/storage-7.tetrad"],
            "fixtures/format/bad/storage-7.tetrad: tensor 0 has the unknown storage 7, known are 1 to 6 (R11)",
        ),
    ] {
        let output = tetrad(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("tetrad: {message}\n"));
    }
}

#[test]
fn a_glob_selects_tensors() {
    let value = json(&["dump", &good_file("int4"), "--tensor", "blocks.*.q", "--json"]);
    assert_eq!(value["tensors"].as_array().unwrap().len(), 1);
    assert!(!shown(&["dump", &good_file("int4"), "--tensor", "nor?"]).contains("blocks.0.q"));
}

#[test]
fn diff_names_what_changed() {
    let (int4, state) = (good_file("int4"), good_file("state-int4"));
    let damaged = "fixtures/format/bad/plane-damaged.tetrad";
    assert_eq!(tetrad(&["diff", &int4, &int4]).status.code(), Some(0));
    let mut all = String::new();
    for pair in [
        [&state[..], damaged],
        [&int4, &state],
        [&int4, &good_file("f32")],
        [&good_file("int4-asymmetric"), &good_file("state-int8")],
        [&int4, "fixtures/format/bad/step-max.tetrad"],
    ] {
        let output = tetrad(&["diff", pair[0], pair[1]]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        all += &format!("$ tetrad diff {} {}\n{text}exit {}\n\n", pair[0], pair[1], output.status.code().unwrap());
    }
    insta::assert_snapshot!("diff", all);
    let output = tetrad(&["diff", &state, damaged, "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["tensors"][0]["changed"], 1);
    assert_eq!(value["tensors"][0]["planes"]["codes"], 1);
    assert_eq!(value["same"], false);
}

/// A reader that closes its end (`| head -1`) leaves no complaint and no panic.
#[test]
fn a_broken_pipe_is_quiet() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_tetrad"))
        .args(["dump", "--bytes", &good_file("state-int4")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Every command in WALKTHROUGH.md is run again; what it prints is what stands there.
#[test]
fn the_walkthrough_is_real_output() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/WALKTHROUGH.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut fresh = String::new();
    let mut commands = 0;
    for (i, block) in text.split("```console\n").enumerate() {
        if i == 0 {
            fresh += block;
            continue;
        }
        let (console, prose) = block.split_once("```").expect("every block ends");
        let command = console.lines().next().unwrap();
        let args: Vec<_> = command.strip_prefix("$ tetrad ").expect("a tetrad command").split(' ').collect();
        let output = tetrad(&args);
        let mut shown = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            shown += &format!("exit status {}\n", output.status.code().unwrap());
        }
        fresh += &format!("```console\n{command}\n{shown}```{prose}");
        commands += 1;
    }
    assert!(commands >= 5, "{commands} commands");
    if writing() {
        std::fs::write(&path, &fresh).unwrap();
    } else {
        assert_eq!(text, fresh, "TETRAD_WRITE_FIXTURES=1 writes it anew");
    }
}
