//! `import` and `export` as a user runs them.

use super::{json, metrics, train, trained, workplace};
use crate::harness::process::Workplace;
use insta::assert_snapshot;

fn fixture(name: &str) -> String {
    format!("{}/fixtures/convert/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn number(text: &str, key: &str) -> f64 {
    json(text)[key].as_f64().unwrap()
}

#[test]
fn a_gguf_model_comes_in_is_measured_written_and_goes_out() {
    let place = Workplace::new();
    let said = place.ok(&["import", &fixture("q4_1.gguf"), "-o", "model.tetrad"]);
    assert_snapshot!(said, @r"
    model.tetrad: 91.9 KiB, 97 600 parameters, from a GGUF
    15 tensors kept bit for bit or code for code, 0 rounded, 5 floats
    ");
    place.assert_sound(&place.path("model.tetrad"));
    std::fs::write(place.path("text.txt"), "It is a truth universally acknowledged. ".repeat(20)).unwrap();
    let eval = ["eval", "model.tetrad", "--text", "text.txt", "--json", "--sequence", "64"];
    let loss = number(&place.ok(&eval), "loss");
    // Random weights: about the logarithm of 560.
    assert!((loss - 560f64.ln()).abs() < 1.5, "{loss}");
    place.ok(&["sample", "model.tetrad", "--prompt", "It is", "--max-tokens", "5"]);
    assert_snapshot!(place.ok(&["export", "model.tetrad", "-o", "out.gguf"]), @"out.gguf: 89.9 KiB, tensors: 5 F32, 14 Q4_1, 1 Q8_0");
    assert_snapshot!(place.ok(&["export", "model.tetrad", "-o", "out", "--type", "f32"]), @"out: model.safetensors as float32");
    place.ok(&["import", "out.gguf", "-o", "again.tetrad"]);
    assert!(place.read("model.tetrad") == place.read("again.tetrad"), "another file");
    // The values alone make the same model, up to their second rounding.
    place.ok(&[
        "import",
        "out",
        "-o",
        "rounded.tetrad",
        "--group",
        "32",
        "--scheme",
        "asymmetric",
        "--embedding",
        "f32",
    ]);
    let rounded = number(&place.ok(&[&["eval", "rounded.tetrad"], &eval[2..]].concat()), "loss");
    assert!((rounded - loss).abs() < 0.2, "{rounded}, not {loss}");
}

/// ggml's groups use every code and scales of either sign: training goes on from them as they are.
#[test]
fn imported_groups_are_trained_on_their_own_grids() {
    let place = workplace();
    for name in ["q4_0", "q4_1", "mixed"] {
        let model = format!("{name}.tetrad");
        place.ok(&["import", &fixture(&format!("{name}.gguf")), "-o", &model]);
        for (residue, lr) in [("true", "0"), ("true", "1e-9"), ("false", "0")] {
            let run = format!("{name}-{residue}-{lr}");
            let (dir, residue) = (format!("run.dir={run}"), format!("storage.residue={residue}"));
            let from = ["train", "--from", &model, "--data", "train.txt", "--set", &dir, "--set", &residue];
            place.ok(&[&from[..], &["--steps", "2", "--lr", lr, "--set", "train.warmup=0"]].concat());
            let rescaled: u64 = metrics(&place, &run).iter().filter_map(|line| line["refits"].as_u64()).sum();
            // Four groups there have a scale of 0 and get another as they move.
            assert_eq!(rescaled, if run == "mixed-true-1e-9" { 4 } else { 0 }, "{run}");
        }
    }
}

#[test]
fn what_was_trained_here_goes_out_and_comes_back() {
    let place = trained();
    place.ok(&["export", "run/model.tetrad", "-o", "out.gguf"]);
    // Rows of 40 and 88 are no multiples of 32: they go as F16, in which a four-bit value is exact.
    place.ok(&["import", "out.gguf", "-o", "again.tetrad", "--embedding", "f32", "--head", "f32"]);
    let eval = |file: &str| number(&place.ok(&["eval", file, "--text", "val.txt", "--json"]), "loss");
    let (first, second) = (eval("run/model.tetrad"), eval("again.tetrad"));
    assert!((first - second).abs() < 0.2, "{first}, {second} after rounding to four bits again");
    // A full state is stripped on its way out.
    place.ok(&["export", "run/step-00000030.tetrad", "-o", "state.gguf"]);
    assert!(place.read("state.gguf") == place.read("out.gguf"), "the training state leaves no trace");
}

#[test]
fn what_cannot_come_in_or_go_out_is_refused() {
    let place = trained();
    std::fs::write(place.path("cut.gguf"), &std::fs::read(fixture("q4_0.gguf")).unwrap()[..5000]).unwrap();
    std::fs::write(place.path("x.safetensors"), [2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']).unwrap();
    let model = fixture("q4_0.gguf");
    let import = |more: &[&str]| place.fails(&[&["import"], more, &["-o", "new.tetrad"]].concat());
    assert_snapshot!(import(&["none.gguf"]), @"tetrad: none.gguf: no such file");
    assert_snapshot!(import(&["run"]), @"tetrad: run: holds neither model.safetensors nor model.safetensors.index.json; .bin files (pickles) are not read, convert them with transformers' save_pretrained");
    assert_snapshot!(import(&["cut.gguf"]), @"tetrad: cut.gguf: an array at byte 568 needs 4480 bytes, and 4432 are left; the file is cut off or damaged");
    assert_snapshot!(import(&["x.safetensors"]), @"tetrad: x.safetensors: a safetensors file does not say what model it is; give the directory that holds it and its config.json, or name that with --config FILE");
    assert_snapshot!(import(&["run/model.tetrad"]), @"tetrad: run/model.tetrad: is a .tetrad file already; GGUF, safetensors and Hugging Face directories are imported");
    assert_snapshot!(import(&[&model, "--group", "48"]).replace(&model, "q4_0.gguf"), @"tetrad: q4_0.gguf: storage.group = 48: must be one of 32, 64, 128, 256");
    place.ok(&["export", "run/model.tetrad", "-o", "out"]);
    std::fs::write(place.path("pytorch_model.bin"), b"PK\x03\x04\0\0\0\0").unwrap();
    std::fs::copy(&model, place.path("mine.gguf")).unwrap();
    assert_snapshot!(import(&["out/config.json"]), @"tetrad: out/config.json: is JSON; give the directory that it lies in, or the .safetensors file");
    assert_snapshot!(import(&["pytorch_model.bin"]), @"tetrad: pytorch_model.bin: is a pickle of PyTorch, which is not read; convert it with transformers' save_pretrained");
    assert_snapshot!(place.fails(&["import", "mine.gguf", "-o", "./mine.gguf"]), @"tetrad: ./mine.gguf: is the file that is read; name another one to write");
    assert!(place.read("mine.gguf") == std::fs::read(&model).unwrap());
    assert_snapshot!(place.fails(&["import", "mine.gguf", "-o", "none/new.tetrad"]), @"tetrad: none/new.tetrad: its directory does not exist; create it, or name another path");
    assert!(!place.path("new.tetrad").exists());
    assert_snapshot!(place.fails(&["sample", "mine.gguf"]), @"tetrad: mine.gguf: the file begins with 47 47 55 46 03 00 00 00, a .tetrad file with 89 54 45 54 52 41 44 0a: it is a GGUF file (R2); `tetrad import` converts it");
    // A file whose name says that it is another program's.
    for name in ["y.gguf", "y.safetensors", "y.BIN", "y.pt"] {
        let said = place.fails(&["import", &model, "-o", name]);
        assert!(said.contains("name it y.tetrad, and `tetrad export` makes other programs' files of it"), "{said}");
        let merged = place.fails(&["merge", "run/model.tetrad", "--adapter", "none.tetrad", "-o", name]);
        assert_eq!(merged, said);
        assert!(!place.path(name).exists(), "{name}");
    }
    assert_snapshot!(place.fails(&["import", &model, "-o", "run"]), @"tetrad: run: is a directory, and a .tetrad file is written; name the file, such as run/model.tetrad");
    assert_snapshot!(import(&["val.txt"]), @"tetrad: val.txt: is of no format that is read: GGUF files, safetensors files, and Hugging Face directories with config.json and model.safetensors are; adapters are folders with adapter_config.json, or GGUF files");
    let export = |more: &[&str]| place.fails(&[&["export"], more].concat());
    assert!(export(&["run/model.tetrad", "-o", "m.SafeTensors"]).contains("without .safetensors"));
    assert_snapshot!(export(&["run/model.tetrad", "-o", "out.gguf", "--type", "f32"]), @"tetrad: --type applies to directories; a GGUF file gets the bits of the model (see --embedding, --head)");
    assert_snapshot!(export(&["run/model.tetrad", "-o", "out", "--embedding", "f16"]), @"tetrad: --embedding and --head apply to GGUF; give --output a name that ends in .gguf");
    assert_snapshot!(export(&["run/model.tetrad", "-o", "out.gguf", "--head", "q4_0"]), @"tetrad: lm_head.weight has rows of 40 elements, and Q4_0 needs a multiple of 32; ask for f16");
    assert_snapshot!(export(&["run/model.tetrad", "-o", "run/model.tetrad"]), @"tetrad: run/model.tetrad: is a file; give a name that ends in .gguf, or a directory");
    assert_snapshot!(export(&["val.txt", "-o", "out.gguf"]), @"tetrad: val.txt: the file begins with 65 6e 74 20 63 65 61 73, a .tetrad file with 89 54 45 54 52 41 44 0a: it is another kind of file (R2); models come from `tetrad train` and `tetrad import`");
}

/// A model of bytes is one for other programs too: they find a tokenizer that gives its ids, and its chat template.
#[test]
fn a_model_of_bytes_keeps_its_ids_and_its_template_in_a_directory() {
    let place = workplace();
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>";
    let given = format!("data.chat_template=\"{template}\"");
    train(&place, &["--set", "train.steps=2", "--set", "train.warmup=1", "--set", &given]);
    place.ok(&["export", "run/model.tetrad", "-o", "out"]);
    let whole = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(super::names(&place, "out"), whole);
    let told = json(&String::from_utf8(place.read("out/tokenizer_config.json")).unwrap());
    assert_eq!(
        (&told["chat_template"], &told["tokenizer_class"]),
        (&template.into(), &"PreTrainedTokenizerFast".into())
    );
    let import = ["import", "out", "-o", "again.tetrad"];
    let said = String::from_utf8(place.run(&import).stderr).unwrap();
    assert!(!said.contains("tokenizer") && place.path("again.tetrad").exists(), "{said}");
    let text = "na\u{ef}ve  \u{1f600}<|im_end|>\tx\n";
    for model in ["run/model.tetrad", "again.tetrad"] {
        let sampled = place.ok(&["sample", model, "--prompt", text, "--max-tokens", "1", "--json"]);
        assert_eq!(json(&sampled)["prompt_tokens"], serde_json::json!(text.as_bytes()), "{model}");
    }
    // Out once more it is the same, and GGUF has the same template.
    place.ok(&["export", "again.tetrad", "-o", "more"]);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert!(place.read(&format!("out/{name}")) == place.read(&format!("more/{name}")), "{name}");
    }
    place.ok(&["export", "again.tetrad", "-o", "again.gguf"]);
    place.ok(&["import", "again.gguf", "-o", "third.tetrad"]);
    let third = tetrad::checkpoint::Checkpoint::open(&place.path("third.tetrad")).unwrap();
    let tokenizer = tetrad::data::Tokenizer::from_json(&third.tokenizer().unwrap()).unwrap();
    assert_eq!(third.special_tokens(&tokenizer).template.as_deref(), Some(template));
}

#[test]
fn nothing_is_replaced_unless_it_is_asked_for() {
    let place = trained();
    std::fs::create_dir(place.path("other")).unwrap();
    let kept = ["other/config.json", "other/chat_template.jinja", "mine.gguf", "mine.tetrad"];
    for file in kept {
        std::fs::write(place.path(file), "kept").unwrap();
    }
    let fails = |args: &[&str]| place.fails(args);
    assert_snapshot!(fails(&["export", "run/model.tetrad", "-o", "other"]), @"tetrad: other: is not empty, it holds chat_template.jinja; name another folder, or replace the model in it with --overwrite");
    assert_snapshot!(fails(&["export", "run/model.tetrad", "-o", "mine.gguf"]), @"tetrad: mine.gguf: exists already; name another file, or replace it with --overwrite");
    assert_snapshot!(fails(&["import", &fixture("q4_1.gguf"), "-o", "mine.tetrad"]), @"tetrad: mine.tetrad: exists already; name another file, or replace it with --overwrite");
    assert!(kept.iter().all(|file| place.read(file) == b"kept"));
    place.ok(&["export", "run/model.tetrad", "-o", "mine.gguf", "--overwrite"]);
    place.ok(&["import", &fixture("q4_1.gguf"), "-o", "mine.tetrad", "--overwrite"]);
    // Nothing of the other model stays that a reader would take for a part of this one; other files do.
    for (file, text) in [("other/notes.md", "mine"), ("other/model-00001-of-00002.safetensors", "stale")] {
        std::fs::write(place.path(file), text).unwrap();
    }
    place.ok(&["export", "run/model.tetrad", "-o", "other", "--overwrite"]);
    let whole = ["config.json", "model.safetensors", "notes.md", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(super::names(&place, "other"), whole);
}
