//! Signals finish the step and save; a killed process leaves the previous checkpoint readable.

use crate::harness::process::Workplace;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tetrad::optim::Rule;
use tetrad::quant::philox;

const FOREVER: &str = "train.steps=1000000";

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits until `done`, which the process under test will bring about unless it is broken.
fn wait_until(child: &mut Child, what: &str, mut done: impl FnMut() -> bool) {
    while !done() {
        assert!(child.try_wait().unwrap().is_none(), "the process ended before {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn steps_in(metrics: &Path) -> usize {
    std::fs::read_to_string(metrics).map_or(0, |text| text.lines().count())
}

#[test]
fn the_first_signal_finishes_the_step_and_saves() {
    for kind in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let place = Workplace::new();
        let mut child = place
            .command(&["train", "tiny.toml", "--set", FOREVER])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let metrics = place.path("run/metrics.jsonl");
        wait_until(&mut child, "step 5", || steps_in(&metrics) >= 5);
        signal(&child, kind);
        let said: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success());
        let last = place.checkpoints("run").pop().unwrap();
        place.assert_sound(&last);
        let steps = steps_in(&metrics);
        assert_eq!(last, place.path(&format!("run/step-{steps:08}.tetrad")), "every step that was counted is saved");
        let hint = format!("stopped after step {steps}, saved; continue with `tetrad train run/config.toml --resume`");
        assert_eq!(said.last().unwrap(), &hint);
        place.ok(&["train", "run/config.toml", "--resume", "--stop-at", &(steps + 2).to_string()]);
        assert_eq!(steps_in(&metrics), steps + 2);
    }
}

#[test]
fn kill_at_random_moments_leaves_the_previous_checkpoint_readable() {
    let place = Workplace::new();
    let args = [
        "train",
        "tiny.toml",
        "--resume",
        "--set",
        FOREVER,
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "train.keep=2",
    ];
    let mut newest = None;
    for round in 0..20 {
        // Where parameters live makes no difference to a checkpoint, nor to what is left of a half-done step.
        let home = if round % 2 == 0 { "device" } else { "file" };
        let homes = [format!("offload.weights={home}"), format!("offload.optimizer={home}")];
        let args = [&args[..], &["--set", &homes[0], "--set", &homes[1]]].concat();
        let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = newest.clone();
        wait_until(&mut child, "a new checkpoint", || place.checkpoints("run").pop() != before);
        // Saving fills most of the time: a random moment is usually the middle of a save.
        let pause = philox([round, 0, 0, 0], [1, 2])[0] % 20_000;
        let until = Instant::now() + Duration::from_micros(pause.into());
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let checkpoints = place.checkpoints("run");
        assert!(!checkpoints.is_empty());
        for checkpoint in &checkpoints {
            place.assert_sound(checkpoint);
        }
        newest = checkpoints.last().cloned();
    }
    // And the run goes on from there.
    let step: u64 = {
        let name = newest.unwrap().file_stem().unwrap().to_string_lossy().into_owned();
        name.strip_prefix("step-").unwrap().parse().unwrap()
    };
    let until = (step + 3).to_string();
    place.ok(&[&args[..], &["--stop-at", &until]].concat());
    assert_eq!(place.checkpoints("run").pop().unwrap(), place.path(&format!("run/step-{:08}.tetrad", step + 3)));
    let leftovers: Vec<_> = std::fs::read_dir(place.path("run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".partial"))
        .collect();
    assert_eq!(leftovers, [""; 0], "what killed saves left behind is cleaned up");
}

#[test]
fn every_rule_goes_on_after_a_kill_to_the_bytes_of_a_run_that_was_not_killed() {
    for &rule in Rule::ALL {
        let place = Workplace::new();
        let mut sets =
            vec![format!("optimizer.name={}", rule.name()), FOREVER.into(), "train.checkpoint_every=1".into()];
        // The published ranks are those of larger models.
        sets.extend(rule.reads("rank").then(|| "optimizer.rank=4".into()));
        sets.extend(rule.reads("update_proj_gap").then(|| "optimizer.update_proj_gap=2".into()));
        let args = |dir: &str, more: &[&str]| -> Vec<String> {
            let sets = sets.iter().flat_map(|set| ["--set".to_owned(), set.clone()]);
            let first = ["train", "tiny.toml", "--set"].map(str::to_owned).into_iter();
            first.chain([format!("run.dir={dir}")]).chain(sets).chain(more.iter().map(|arg| arg.to_string())).collect()
        };
        fn refs(args: &[String]) -> Vec<&str> {
            args.iter().map(String::as_str).collect()
        }
        let mut child =
            place.command(&refs(&args("killed", &[]))).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until(&mut child, "two checkpoints", || place.checkpoints("killed").len() >= 2);
        child.kill().unwrap();
        child.wait().unwrap();
        let newest = place.checkpoints("killed").pop().unwrap();
        place.assert_sound(&newest);
        let step: u64 = newest.file_stem().unwrap().to_str().unwrap().strip_prefix("step-").unwrap().parse().unwrap();
        let until = (step + 3).to_string();
        place.ok(&refs(&args("killed", &["--resume", "--stop-at", &until])));
        place.ok(&refs(&args("whole", &["--stop-at", &until])));
        let bytes = |dir: &str| std::fs::read(place.path(&format!("{dir}/step-{:08}.tetrad", step + 3))).unwrap();
        assert!(bytes("killed") == bytes("whole"), "{rule:?}, killed after step {step}");
    }
}

/// GNU `timeout` signals the process and its group: both signals are one request.
#[test]
fn two_signals_that_come_together_are_one_and_it_is_acknowledged() {
    let place = Workplace::new();
    let mut child = place
        .command(&["train", "tiny.toml", "--set", FOREVER])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = place.path("run/metrics.jsonl");
    wait_until(&mut child, "step 5", || steps_in(&metrics) >= 5);
    for kind in [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        signal(&child, kind);
    }
    let said: Vec<String> = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    assert_eq!(said, ["stopping: the current step is finished and saved (again after a second: leave at once)"]);
    let steps = steps_in(&metrics);
    place.assert_sound(&place.path(&format!("run/step-{steps:08}.tetrad")));
}

/// A step of many seconds, so that the process cannot have ended by itself.
const LONG: [&str; 14] = [
    "--set",
    "model.hidden=512",
    "--set",
    "model.intermediate=1408",
    "--set",
    "model.layers=12",
    "--set",
    "model.heads=8",
    "--set",
    "model.kv_heads=8",
    "--set",
    "train.batch=512",
    "--set",
    "train.micro_batch=4",
];

#[test]
fn a_later_signal_leaves_a_long_step_at_once() {
    let place = Workplace::new();
    let mut child = place
        .command(&[&["train", "tiny.toml", "--set", FOREVER][..], &LONG].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(&mut child, "the first checkpoint", || place.path("run/step-00000000.tetrad").exists());
    // The loop begins right after it; a request before that would end the run by itself.
    std::thread::sleep(Duration::from_millis(300));
    let ended = loop {
        signal(&child, rustix::process::Signal::INT);
        std::thread::sleep(Duration::from_millis(50));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert_eq!(ended.code(), Some(130));
    let said: Vec<String> = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    place.assert_sound(&place.path("run/step-00000000.tetrad"));
    assert_eq!(place.checkpoints("run").len(), 1);
}

#[test]
fn text_that_was_prepared_before_an_interruption_is_kept() {
    let place = Workplace::new();
    let corpus = include_str!("../../assets/corpus/austen.txt");
    std::fs::write(place.path("long.txt"), corpus.repeat(24)).unwrap();
    let tokenizer = format!("tokenizer.file={}/fixtures/tokenizer/byte_level.json", env!("CARGO_MANIFEST_DIR"));
    let args = [
        "train",
        "tiny.toml",
        "--set",
        "data.train=['long.txt']",
        "--set",
        &tokenizer,
        "--set",
        "data.cache=cache",
        "--set",
        "model.vocab=1024",
        "--set",
        "train.eval_sequences=1",
        "--stop-at",
        "1",
    ];
    let mut child = place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let bytes = || -> u64 {
        let files = std::fs::read_dir(place.path("cache")).into_iter().flatten().flatten();
        files.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum()
    };
    wait_until(&mut child, "the first tokens", || bytes() > 0);
    signal(&child, rustix::process::Signal::TERM);
    signal(&child, rustix::process::Signal::INT);
    let said: Vec<String> = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    let told: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("stopping: what is prepared of the text is kept")), "{said:?}");
    assert!(told.iter().any(|line| line.contains("goes on from there")), "{told:?}");
    let kept = || -> Vec<String> {
        let files = std::fs::read_dir(place.path("cache")).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(matches!(kept().as_slice(), [one] if one.ends_with(".unfinished")), "{:?}", kept());
    place.ok(&args);
    assert!(matches!(kept().as_slice(), [one] if one.ends_with(".tokens")), "{:?}", kept());
}
