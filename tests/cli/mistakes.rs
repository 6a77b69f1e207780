//! The wrong file, or a damaged one, for every command that takes a model.

use super::{TEXT, trained};
use insta::assert_snapshot;
use std::path::Path;

/// Commands that open a model, with `FILE` for it.
fn commands() -> Vec<Vec<&'static str>> {
    let resume = [&["train", "tiny.toml"], &TEXT[..], &["--resume", "FILE"]].concat();
    vec![
        vec!["eval", "FILE", "--text", "val.txt"],
        vec!["sample", "FILE"],
        vec!["dump", "FILE"],
        vec!["diff", "FILE", "run/model.tetrad"],
        vec!["merge", "FILE", "--adapter", "none.tetrad", "-o", "merged.tetrad"],
        resume,
    ]
}

#[test]
fn what_is_no_model_is_refused_by_every_command() {
    let place = trained();
    let whole = place.read("run/step-00000030.tetrad");
    std::fs::write(place.path("cut.tetrad"), &whole[..whole.len() - 1]).unwrap();
    std::fs::write(place.path("stub.tetrad"), &whole[..100]).unwrap();
    std::fs::write(place.path("empty.tetrad"), "").unwrap();
    let mut flipped = whole.clone();
    flipped[200] ^= 1;
    std::fs::write(place.path("head.tetrad"), flipped).unwrap();
    // Of a run without finished weights.
    std::fs::create_dir(place.path("folder")).unwrap();
    let wrong = [
        ("none.tetrad", "none.tetrad: no such file"),
        (
            "folder",
            "folder: is a directory, a regular file is needed; name a model's file, or the folder of a finished run",
        ),
        ("empty.tetrad", "empty.tetrad: the file is empty (0 bytes)"),
        ("val.txt", "it is another kind of file"),
        ("cut.tetrad", "it is cut short, copy it again"),
        ("stub.tetrad", "stub.tetrad: the file has 100 bytes"),
        ("head.tetrad", "head.tetrad: "),
    ];
    for command in commands() {
        // A run is continued by its folder too.
        let resumes = command.contains(&"--resume");
        for (file, said) in wrong.into_iter().filter(|(file, _)| !(resumes && *file == "folder")) {
            let args: Vec<&str> = command.iter().map(|&word| if word == "FILE" { file } else { word }).collect();
            let message = place.fails(&args);
            assert!(message.contains(said), "{args:?}: {message}");
            assert_eq!(message.lines().count(), 1, "{args:?}: one sentence: {message}");
            assert!(!message.contains("panicked"), "{args:?}: {message}");
        }
    }
    assert_snapshot!(place.fails(&["sample", "val.txt"]), @"tetrad: val.txt: the file begins with 65 6e 74 20 63 65 61 73, a .tetrad file with 89 54 45 54 52 41 44 0a: it is another kind of file (R2); models come from `tetrad train` and `tetrad import`");
    assert_snapshot!(place.fails(&["sample", "stub.tetrad"]), @"tetrad: stub.tetrad: the file has 100 bytes, its header alone takes 128: it is cut short or no .tetrad file (R1)");
}

#[test]
fn the_folder_of_a_finished_run_stands_for_its_model_and_another_names_a_checkpoint() {
    let place = trained();
    super::train(&place, &["--set", "run.dir=half", "--set", "train.steps=100", "--stop-at", "10"]);
    assert_eq!(place.ok(&["dump", "run"]), place.ok(&["dump", "run/model.tetrad"]));
    place.ok(&["diff", "run", "run/model.tetrad"]);
    assert!(place.ok(&["verify", "run"]).starts_with("run/model.tetrad: sound"));
    let verify = vec!["verify", "FILE"];
    for command in commands().iter().filter(|command| !command.contains(&"--resume")).chain([&verify]) {
        let args: Vec<&str> = command.iter().map(|&word| if word == "FILE" { "half" } else { word }).collect();
        let said = place.fails(&args);
        let advice = "; this run is at step 10 of 100; name a checkpoint: half/step-00000010.tetrad\n";
        assert!(said.ends_with(advice), "{args:?}: {said}");
    }
}

/// Each file is checked, whatever the others are, and the worst decides the exit status.
#[test]
fn several_files_are_verified_at_once() {
    let place = trained();
    let sound = ["run/step-00000030.tetrad", "run"];
    let said = place.ok(&[&["verify"], &sound[..]].concat());
    assert_eq!(said.matches(": sound, all ").count(), 2, "{said}");
    let mut flipped = place.read("run/model.tetrad");
    flipped[200] ^= 1;
    std::fs::write(place.path("head.tetrad"), flipped).unwrap();
    let verify = |more: &[&str]| {
        let output = place.run(&[&["verify"], more, &sound[..]].concat());
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), out, err)
    };
    let (status, out, err) = verify(&["head.tetrad"]);
    assert!(out.contains("head.tetrad: damaged, ") && out.matches(": sound").count() == 2, "{out}");
    assert_eq!((status, err.as_str()), (Some(1), ""));
    let (status, out, err) = verify(&["none.tetrad", "head.tetrad", "--json"]);
    assert_eq!((status, err.as_str()), (Some(2), "tetrad: none.tetrad: no such file\n"));
    let found: Vec<_> = out.lines().map(super::json).collect();
    let told: Vec<_> = found.iter().map(|file| file["sound"].as_bool()).collect();
    assert_eq!(told, [None, Some(false), Some(true), Some(true)], "{out}");
    assert_eq!(
        (found[0]["file"].as_str(), found[0]["error"].as_str()),
        (Some("none.tetrad"), Some("none.tetrad: no such file"))
    );
}

/// The last byte of a plane of a tensor, in a file of its own.
fn flip_last(place: &crate::harness::process::Workplace, tensor: &str, kind: tetrad::format::PlaneKind, to: &Path) {
    let mut bytes = place.read("run/step-00000030.tetrad");
    let file = tetrad::format::File::parse(&bytes).unwrap();
    let (_, found) = file.tensor(tensor).unwrap();
    let at = found.plane(kind).unwrap().range().end as usize - 1;
    bytes[at] ^= 1;
    std::fs::write(to, bytes).unwrap();
}

#[test]
fn a_flipped_byte_is_found_by_whoever_reads_it() {
    use tetrad::format::PlaneKind;
    let place = trained();
    let norm = "model.layers.0.input_layernorm.weight";
    flip_last(&place, norm, PlaneKind::Data, &place.path("weight.tetrad"));
    flip_last(&place, norm, PlaneKind::M, &place.path("state.tetrad"));
    let eval = |file: &str| ["eval", file, "--text", "val.txt"].map(String::from);
    let said = |args: &[String]| place.fails(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let message = said(&eval("weight.tetrad"));
    let found = format!("weight.tetrad: the data plane of {norm} has checksum ");
    assert!(message.contains(&found) && message.contains("tetrad verify"), "{message}");
    assert!(place.fails(&["sample", "weight.tetrad"]).contains(norm));
    // Evaluation and sampling never read the optimizer's state; resuming does.
    place.ok(&["eval", "state.tetrad", "--text", "val.txt"]);
    place.ok(&["sample", "state.tetrad", "--max-tokens", "1"]);
    for file in ["weight.tetrad", "state.tetrad"] {
        let args = [&["train", "tiny.toml"], &TEXT[..], &["--resume", file]].concat();
        let message = place.fails(&args);
        assert!(message.contains(norm), "{message}");
    }
}

#[test]
fn an_unknown_option_is_named_by_every_command() {
    let place = trained();
    for command in ["train", "eval", "sample", "dump", "verify", "diff", "plan"] {
        let message = place.fails(&[command, "--no-such-option"]);
        assert!(message.contains("unexpected argument '--no-such-option'"), "{command}: {message}");
    }
    let message = place.fails(&["trian"]);
    assert!(message.contains("unrecognized subcommand 'trian'") && message.contains("train"), "{message}");
    let message = place.fails(&["train", "tiny.toml", "--resume", "--overwrite"]);
    assert!(message.contains("cannot be used with"), "{message}");
}

/// A file in the place of a command, and the commands of other programs, are answered with what to type.
#[test]
fn a_word_that_is_no_command_is_answered_with_one() {
    let place = trained();
    for (word, said) in [
        ("train.txt", "train.txt: is text; train on it with `tetrad train --data train.txt`"),
        ("run/model.tetrad", "is a model; try `tetrad chat run/model.tetrad`"),
        ("tiny.toml", "is a configuration; try `tetrad train tiny.toml`"),
        ("run", "is a run; continue it with `tetrad train run --resume`"),
        ("generate", "generate: is no command; try tetrad sample FILE"),
        ("finetune", "tetrad train --from MODEL --data TEXT"),
        ("serve", "llama-server"),
    ] {
        let message = place.fails(&[word]);
        assert!(message.contains(said) && message.lines().count() == 1, "{word}: {message}");
    }
    assert!(
        place
            .fails(&["sample", "run/model.tetrad", "--temperature", "-1"])
            .contains("--temperature -1: must be 0 or more")
    );
    assert!(place.fails(&["train", "tiny.toml", "--lr", "-1"]).contains("optimizer.lr = -1"));
    // What was typed is named, not what it is short for; `--set` has the last word, and so its name.
    for command in ["train", "plan"] {
        let said = |more: &[&str]| place.fails(&[&[command, "tiny.toml"], more].concat());
        for (option, key) in [("--lr", "optimizer.lr"), ("--steps", "train.steps"), ("--batch", "train.batch")] {
            let message = said(&[option, "abc"]);
            assert!(message.contains(&format!("{key} = \"abc\" ({option}): must be ")), "{message}");
        }
        let message = said(&["--steps", "10", "--set", "train.steps=abc"]);
        assert!(message.contains("train.steps = \"abc\" (--set): must be "), "{message}");
    }
    let message = place.fails(&["train", "tiny.toml", "--set", "data.train=[other.txt]"]);
    assert!(
        message.contains(
            "[other.txt]: matches no file; check the name, relative to the current folder; it looks like a list"
        ),
        "{message}"
    );
    let message = place.fails(&["export", "run/model.tetrad", "-o", "out.safetensors"]);
    assert!(message.contains("a name that ends in .gguf") && !place.path("out.safetensors").exists(), "{message}");
    assert!(place.ok(&["config", "learning_rate"]).starts_with("optimizer.lr\n"));
    assert!(place.fails(&["config", "nothing-like-it"]).contains("no such file, and no preset of that name"));
}
