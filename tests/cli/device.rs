//! `--device`: a GPU (emulated) does what the CPU does, and whatever is missing is said, never a panic.

use super::{TEXT, json, trained, workplace};
use crate::harness::gpu::emulator;
use crate::harness::process::Workplace;
use std::process::Command;

/// A command whose CUDA libraries are those of a folder and no others.
fn with_libraries(place: &Workplace, folder: &str, args: &[&str]) -> Command {
    let mut command = place.command(args);
    command.env_remove("TETRAD_DEVICE").env("TETRAD_CUDA_LIBRARIES", folder);
    command
}

fn emulated(place: &Workplace, args: &[&str]) -> Command {
    with_libraries(place, emulator().libraries().to_str().unwrap(), args)
}

/// What a command that must succeed prints.
fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}

/// What a command that must fail with status 2 says.
fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{command:?} should fail; it said: {err}");
    err
}

fn training<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "tiny.toml"], &TEXT[..], &["--set", "train.steps=6", "--set", "train.warmup=1"], more].concat()
}

#[test]
fn a_run_moves_between_cpu_and_gpu() {
    let place = workplace();
    place.ok(&training(&["--stop-at", "2"]));
    let said = ok(emulated(&place, &training(&["--resume", "--stop-at", "4", "--device", "cuda"])));
    assert!(said.starts_with("tetrad 0.1.0 on ") && said.contains("Emulated GPU"), "{said}");
    assert!(said.contains("run      from") && said.contains("step 2"), "{said}");
    // 4 multiprocessors at 1 GHz, 4096 operations in a cycle each; what a run does of that is told beside its rate.
    assert!(said.contains(" by the device's 16 TFLOP/s of bf16 products\n"), "{said}");
    assert!(said.contains("tokens/s (") && said.contains(" % of the most)"), "{said}");
    place.checkpoints("run").iter().for_each(|file| place.assert_sound(file));
    place.ok(&training(&["--resume"]));
    let eval = ["eval", "run/model.tetrad", "--text", "val.txt", "--json", "--sequence", "16", "--sequences", "6"];
    let (on_cpu, on_gpu) = (json(&place.ok(&eval)), json(&ok(emulated(&place, &eval))));
    let [a, b] = [&on_cpu, &on_gpu].map(|value| value["loss"].as_f64().unwrap());
    // bfloat16 activations beside float32.
    assert!(a != b && (a - b).abs() < 0.005 * a, "{a} and {b}");
    let [a, b] = [&on_cpu, &on_gpu].map(|value| value["device"].as_str().unwrap());
    assert!(a.starts_with("CPU") && b.contains("Emulated GPU"), "{a}, {b}");
}

#[test]
fn auto_takes_a_gpu_if_there_is_one_and_says_why_if_not() {
    let place = trained();
    let args = ["eval", "run/model.tetrad", "--text", "val.txt", "--sequence", "8", "--sequences", "2"];
    assert!(ok(emulated(&place, &args)).contains("Emulated GPU"));
    let missing: [(&str, &str, &[&str]); 3] = [
        ("CUDA_EMULATOR_DEVICES", "0", &["no CUDA device 0"]),
        ("CUDA_EMULATOR_DRIVER", "11080", &["11.8"]),
        ("CUDA_EMULATOR_MEMORY", "2000000", &["are free"]),
    ];
    for (name, value, words) in missing {
        let mut command = emulated(&place, &args);
        command.env(name, value);
        let said = ok(command);
        let line = said.lines().last().unwrap();
        assert!(line.starts_with("on CPU") && line.contains("no GPU is used: "), "{line}");
        let mut command = emulated(&place, &[&args[..], &["--device", "cuda"]].concat());
        command.env(name, value);
        let refused = fails(command);
        assert!(words.iter().all(|word| line.contains(word) && refused.contains(word)), "{line}\n{refused}");
        // Advice is for those who asked for the GPU.
        assert!(!line.contains("--device cpu"), "{line}");
    }
    let refused = fails(emulated(&place, &[&args[..], &["--device", "cuda:1"]].concat()));
    assert!(refused.contains("no CUDA device 1: the driver shows 1"), "{refused}");
}

#[test]
fn without_a_driver_auto_is_the_cpu_and_cuda_is_refused() {
    let place = trained();
    let empty = tempfile::tempdir().unwrap();
    let args = ["eval", "run/model.tetrad", "--text", "val.txt", "--sequence", "8", "--sequences", "2"];
    let folder = empty.path().to_str().unwrap();
    let said = ok(with_libraries(&place, folder, &args));
    assert!(said.contains("on CPU") && said.contains("libcuda"), "{said}");
    for command in [&args[..], &["sample", "run/model.tetrad"], &training(&["--overwrite"])] {
        let refused = fails(with_libraries(&place, folder, &[command, &["--device", "cuda"]].concat()));
        assert!(refused.contains("libcuda") && !refused.contains("panicked"), "{refused}");
    }
    let wrong = fails(place.command(&[&args[..], &["--device", "tpu"]].concat()));
    assert!(wrong.contains("auto, cpu, cuda"), "{wrong}");
}

#[test]
fn sampling_on_a_gpu_writes_text() {
    let place = trained();
    let args = ["sample", "run/model.tetrad", "--prompt", "It is", "--max-tokens", "12", "--temperature", "0"];
    let (on_cpu, on_gpu) = (place.ok(&args), ok(emulated(&place, &args)));
    assert!(on_gpu.starts_with("It is") && on_gpu.len() > 8, "{on_gpu:?}");
    // Greedy: the same letters until two are about as likely.
    assert!(on_cpu.as_bytes()[..7] == on_gpu.as_bytes()[..7], "{on_cpu:?} and {on_gpu:?}");
}

/// A run that its device cannot compute is refused before the one in its folder is deleted.
#[test]
fn a_product_that_the_device_cannot_compute_is_told_before_anything_is_deleted() {
    let place = trained();
    let before = std::fs::read(place.path("run/model.tetrad")).unwrap();
    let args = training(&["--overwrite", "--device", "cuda"]);
    let mut command = emulated(&place, &args);
    command.env("CUDA_EMULATOR_LT_KNOWS", "nothing");
    let said = fails(command);
    assert!(said.contains("multiply Nt, m ") && said.contains("CUBLAS_STATUS_NOT_SUPPORTED"), "{said}");
    assert!(std::fs::read(place.path("run/model.tetrad")).unwrap() == before);
}

#[test]
fn compiling_kernels_is_told_once() {
    let place = trained();
    let args = ["eval", "run/model.tetrad", "--text", "val.txt", "--sequence", "8", "--sequences", "2"];
    let said = || {
        let mut command = emulated(&place, &args);
        command.env("XDG_CACHE_HOME", place.path("cache"));
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let first = said();
    let note = first.lines().find(|line| line.starts_with("note: compiling ")).unwrap_or_else(|| panic!("{first}"));
    assert!(note.ends_with(" files of kernels for this GPU; they are kept for later starts"), "{note}");
    assert!(!said().contains("compiling"));
}

#[test]
fn a_plan_for_a_gpu_needs_none() {
    let place = workplace();
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
        let mut command = place.command(&["plan", "60m", "--json", "--device", device]);
        command.env("TETRAD_CUDA_LIBRARIES", place.path("nowhere"));
        json(&ok(command))
    });
    let part = |plan: &serde_json::Value, name: &str| plan["categories"][name].as_u64().unwrap();
    let said = |device: &str| {
        let mut command = place.command(&["plan", "60m", "--device", device]);
        command.env("TETRAD_CUDA_LIBRARIES", place.path("nowhere"));
        ok(command)
    };
    assert!(said("cuda").contains("\nbeside:  CUDA's context takes device memory too, about 0.5 GiB"));
    assert!(!said("cpu").contains("beside:"));
    // Half as wide; the log sums and norms' statistics stay float32.
    assert!(part(&cuda, "activations") < part(&cpu, "activations") * 11 / 20);
    assert_eq!(part(&cuda, "weights"), part(&cpu, "weights"));
    assert_eq!(part(&cuda, "state"), part(&cpu, "state"));
}
