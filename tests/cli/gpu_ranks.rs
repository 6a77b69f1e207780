//! Ranks on (emulated) GPUs as a user starts them: by `mpirun`, by torchrun, and by hand.

use super::{TEXT, metrics, workplace};
use crate::harness::gpu::emulator;
use crate::harness::process::Workplace;
use crate::ranks::launchers;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Condvar, Mutex};

const STEPS: [&str; 6] = ["--set", "train.steps=4", "--set", "train.warmup=1", "--set", "train.checkpoint_every=2"];

/// The environment of a machine with three emulated GPUs.
fn with_gpus<'a>(command: &'a mut Command, place: &Workplace) -> &'a mut Command {
    command.current_dir(place.path(".")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("TETRAD_CUDA_LIBRARIES", emulator().libraries()).env_remove("TETRAD_DEVICE");
    command.env("CUDA_EMULATOR_DEVICES", "3").env("CUDA_EMULATOR_CHECKS", "0")
}

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "tiny.toml"], &TEXT[..], &STEPS, more].concat()
}

fn by_mpirun(place: &Workplace, launcher: &std::path::Path, ranks: usize, more: &[&str]) -> Output {
    let mut command = Command::new(launcher);
    command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_tetrad")]).args(args(more));
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ] {
        command.env(name, value);
    }
    with_gpus(&mut command, place).output().unwrap()
}

/// Both streams of a command that must succeed.
fn ok(output: Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out + &err
}

/// What is said by a command that must fail with a status.
fn fails(output: Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    said
}

/// One rank as torchrun starts it.
fn rank(place: &Workplace, rank: usize, size: usize, port: u16, more: &[&str], variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tetrad"));
    command.args(args(more)).env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command.env("LOCAL_RANK", rank.to_string()).env("LOCAL_WORLD_SIZE", size.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    with_gpus(&mut command, place).envs(variables.iter().copied()).spawn().unwrap()
}

const AGENT: [(&str, &str); 3] =
    [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "none"), ("TORCHELASTIC_RESTART_COUNT", "0")];

/// What torchrun's agent holds: keys and values, on a port.
#[derive(Default)]
struct Store {
    values: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    changed: Condvar,
}

impl Store {
    /// Serves on a port of its own until the test ends.
    fn serve() -> (&'static Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let store: &'static Self = Box::leak(Box::default());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || store.answer(stream.unwrap()));
            }
        });
        (store, port)
    }

    /// Answers one client, until it is gone.
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        fn read<const N: usize>(stream: &mut TcpStream) -> Option<[u8; N]> {
            let mut bytes = [0; N];
            stream.read_exact(&mut bytes).ok().map(|()| bytes)
        }
        fn text(stream: &mut TcpStream) -> Option<Vec<u8>> {
            let mut bytes = vec![0; u64::from_ne_bytes(read(stream)?) as usize];
            stream.read_exact(&mut bytes).ok().map(|()| bytes)
        }
        let hello: [u8; 5] = read(&mut stream)?;
        assert_eq!((hello[0], &hello[1..]), (0, &0x3c85_f7ce_u32.to_ne_bytes()[..]), "VALIDATE and its number");
        loop {
            match read::<1>(&mut stream)?[0] {
                13 => {
                    let nonce: [u8; 4] = read(&mut stream)?;
                    stream.write_all(&nonce).ok()?;
                }
                1 => {
                    let (key, value) = (text(&mut stream)?, text(&mut stream)?);
                    self.values.lock().unwrap().insert(key, value);
                    self.changed.notify_all();
                }
                5 => {
                    assert_eq!(read(&mut stream)?, 1u64.to_ne_bytes(), "one key");
                    let key = text(&mut stream)?;
                    let there = self.values.lock().unwrap().contains_key(&key);
                    stream.write_all(&[u8::from(!there)]).ok()?;
                }
                6 => {
                    assert_eq!(read(&mut stream)?, 1u64.to_ne_bytes(), "one key");
                    let key = text(&mut stream)?;
                    let values = self.values.lock().unwrap();
                    drop(self.changed.wait_while(values, |values| !values.contains_key(&key)).unwrap());
                    stream.write_all(&[0]).ok()?;
                }
                3 => {
                    let key = text(&mut stream)?;
                    let value = self.values.lock().unwrap()[&key].clone();
                    stream.write_all(&[&(value.len() as u64).to_ne_bytes()[..], &value].concat()).ok()?;
                }
                query => panic!("query {query}"),
            }
        }
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn mpirun_trains_on_gpus_and_another_number_goes_on() {
    for launcher in launchers() {
        let place = workplace();
        let out = ok(by_mpirun(&place, &launcher, 2, &["--device", "cuda", "--stop-at", "2"]));
        assert!(out.contains("on Emulated GPU, ") && out.contains("; 2 ranks by "), "{out}");
        assert!(out.contains(", GPUs by NCCL 2.27.5") && out.contains("stopped after step 2, saved"), "{out}");
        // Nothing was asked for, and each rank has a GPU.
        let out = ok(by_mpirun(&place, &launcher, 3, &["--resume"]));
        assert!(out.contains("on Emulated GPU, ") && out.contains("; 3 ranks by "), "{out}");
        place.assert_sound(&place.path("run/model.tetrad"));
        let lines = metrics(&place, "run");
        assert!(lines.iter().filter(|line| !line["loss"].is_null()).count() == 4, "{lines:?}");
        let slowest = |line: &serde_json::Value| line["slowest_rank"].as_u64().is_some_and(|rank| rank < 3);
        assert!(lines.iter().filter(|line| !line["loss"].is_null()).all(slowest), "{lines:?}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused_or_left_to_cpus() {
    let Some(launcher) = launchers().into_iter().next() else { return };
    let place = workplace();
    let few = fails(by_mpirun(&place, &launcher, 4, &["--device", "cuda"]), 2);
    assert!(
        few.contains("4 ranks on this machine, which has 3 GPUs; each rank needs its own; start fewer ranks"),
        "{few}"
    );
    let named = fails(by_mpirun(&place, &launcher, 2, &["--device", "cuda:1"]), 2);
    assert!(named.contains("--device cuda:1 names one GPU, and there are 2 ranks on this machine"), "{named}");
    assert!(!place.path("run").exists(), "a run was begun");
    let out = ok(by_mpirun(&place, &launcher, 4, &["--set", "train.steps=1"]));
    assert!(
        out.contains("on CPU") && out.contains("(no GPU is used: 4 ranks on this machine, which has 3 GPUs"),
        "{out}"
    );
}

/// The same bytes whatever the ranks met by.
#[test]
fn torchrun_and_ranks_started_by_hand_train_alike() {
    let (places, port) = ([workplace(), workplace(), workplace()], free_port());
    let (store, agent) = Store::serve();
    let device = ["--device", "cuda"];
    for (number, place) in places.iter().enumerate() {
        // By the agent's store; by an address; by one that the user names, where the launcher's port is another program's.
        let (address, named) = (format!("127.0.0.1:{port}"), [("NCCL_COMM_ID", "127.0.0.1:1")]);
        let (port, variables) = [(agent, &AGENT[..]), (port, &[]), (agent, &named)][number];
        let ranks = [0, 1].map(|number| rank(place, number, 2, port, &device, variables));
        let [out, silent] = ranks.map(|rank| ok(rank.wait_with_output().unwrap()));
        assert!(out.contains("; 2 ranks by NCCL 2.27.5"), "{out}");
        assert_eq!(silent, "", "only rank 0 speaks, {address}");
    }
    let ids = |values: &HashMap<Vec<u8>, Vec<u8>>| values.values().filter(|value| value.len() == 128).count();
    assert_eq!(ids(&store.values.lock().unwrap()), 1, "one other rank, and the address needs none");
    for place in &places[1..] {
        assert!(place.read("run/model.tetrad") == places[0].read("run/model.tetrad"));
    }
}

/// What Slurm sets in a step of two tasks on one machine.
fn task_of_slurm(place: &Workplace, number: usize, more: &[&str], variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tetrad"));
    command.args(args(more)).env("SLURM_PROCID", number.to_string()).env("SLURM_LOCALID", number.to_string());
    command.env("SLURM_STEP_NUM_TASKS", "2").env("SLURM_STEP_TASKS_PER_NODE", "2");
    command.env("SLURM_JOB_ID", "71").env("SLURM_STEP_ID", "0");
    // Where a system has an MPI it is not found either.
    command.env("TETRAD_MPI_LIBRARY", place.path("none"));
    with_gpus(&mut command, place).envs(variables.iter().copied()).spawn().unwrap()
}

#[test]
fn srun_without_mpi_trains_on_gpus_that_meet_by_a_file() {
    let (by_file, by_hand, port) = (workplace(), workplace(), free_port());
    let wait = |ranks: [Child; 2]| ranks.map(|rank| ok(rank.wait_with_output().unwrap()));
    let [out, silent] = wait([0, 1].map(|number| task_of_slurm(&by_file, number, &["--device", "cuda"], &[])));
    assert!(out.contains("; 2 ranks by NCCL 2.27.5") && silent.is_empty(), "{out}{silent}");
    wait([0, 1].map(|number| rank(&by_hand, number, 2, port, &["--device", "cuda"], &[])));
    assert!(by_file.read("run/model.tetrad") == by_hand.read("run/model.tetrad"));
    let names: Vec<_> = by_file.path("run").read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with(".meeting")), "it is removed: {names:?}");
    // Who waits for a rank 0 that never comes says where; without GPUs MPI is missed.
    let more = ["--device", "cuda", "--set", "ranks.timeout=1", "--set", "run.dir=other"];
    let alone = fails(task_of_slurm(&by_file, 1, &more, &[]).wait_with_output().unwrap(), 138);
    assert!(alone.contains("other/.meeting-71-0-, by which ranks meet: rank 0 left nothing there for 1 s"), "{alone}");
    let none = [("CUDA_EMULATOR_DEVICES", "0")];
    let cpus = fails(task_of_slurm(&by_file, 1, &[], &none).wait_with_output().unwrap(), 2);
    assert!(cpus.contains("no MPI library was found for 2 ranks started by srun"), "{cpus}");
}

/// PyTorch's own launcher, where there is one.
#[test]
fn the_real_torchrun_starts_ranks_and_starts_them_again() {
    let named = std::env::var_os("TETRAD_TORCHRUN").unwrap_or("torchrun".into());
    if Command::new(&named).arg("--help").output().is_err() {
        eprintln!("SKIPPED: there is no torchrun: `pip install torch` brings it, and TETRAD_TORCHRUN can name it");
        return;
    }
    let run = |place: &Workplace, options: &[&str], more: &[&str]| {
        let mut command = Command::new(&named);
        // A rank is lost in the middle of the first attempt.
        let script = "[ $TORCHELASTIC_RESTART_COUNT = 0 ] || unset CUDA_EMULATOR_LOSE; exec \"$@\"";
        command.args(["--nproc-per-node", "2", "--no-python"]).args(options);
        command.args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_tetrad")]).args(args(more));
        if !options.is_empty() {
            command.env("CUDA_EMULATOR_LOSE", "1:400");
        }
        with_gpus(&mut command, place).output().unwrap()
    };
    let (place, alone) = (workplace(), workplace());
    let more = ["--device", "cuda", "--resume", "auto"];
    assert!(ok(run(&alone, &[], &more)).contains("; 2 ranks by NCCL"));
    let said = ok(run(&place, &["--max-restarts", "1", "--monitor-interval", "0.1"], &more));
    assert!(said.contains("rank 1 is gone") && said.contains("exitcode: -9"), "{said}");
    assert!(place.read("run/model.tetrad") == alone.read("run/model.tetrad"), "{said}");
}

#[test]
fn without_gpus_torchrun_is_refused_and_a_port_that_is_no_store_is_named() {
    let place = workplace();
    let (_, agent) = Store::serve();
    let none = [&AGENT[..], &[("CUDA_EMULATOR_DEVICES", "0")]].concat();
    let said = fails(rank(&place, 1, 2, agent, &[], &none).wait_with_output().unwrap(), 2);
    assert!(said.contains("rank 1: torchrun started 2 processes; ranks on CPUs talk to each other by MPI"), "{said}");
    let words = place.path("words.json");
    let with_file = [&none[..], &[("TORCHELASTIC_ERROR_FILE", words.to_str().unwrap())]].concat();
    let asked = fails(rank(&place, 1, 2, agent, &["--device", "cuda"], &with_file).wait_with_output().unwrap(), 2);
    assert!(std::fs::read_to_string(words).unwrap().contains("CUDA"), "{asked}");
    assert!(asked.contains("there is no CUDA device") || asked.contains("no CUDA"), "{asked}");
    // Something else listens there, and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.accept().map(drop));
    let other = fails(rank(&place, 1, 2, port, &["--device", "cuda"], &AGENT).wait_with_output().unwrap(), 2);
    assert!(other.contains(&format!("the store of torchrun at 127.0.0.1:{port}: ")), "{other}");
    assert!(other.contains("NCCL_COMM_ID=HOST:PORT"), "{other}");
    assert!(!place.path("run").exists(), "a run was begun");
}

#[test]
fn a_rank_that_vanishes_ends_the_others_with_status_138() {
    let (place, port) = (workplace(), free_port());
    let more = ["--device", "cuda", "--set", "train.steps=1000"];
    let words = place.path("words.json");
    // Far behind the first checkpoint, in the middle of a step.
    let variables = [("CUDA_EMULATOR_LOSE", "1:400"), ("TORCHELASTIC_ERROR_FILE", words.to_str().unwrap())];
    let ranks = [0, 1].map(|number| rank(&place, number, 2, port, &more, &variables));
    let [left, lost] = ranks.map(|rank| rank.wait_with_output().unwrap());
    assert_eq!(lost.status.code(), None, "it was killed");
    let said = fails(left, 138);
    assert!(said.contains("remote process exited or there was a network error"), "{said}");
    assert!(said.contains("continue with --resume"), "{said}");
    let words: serde_json::Value = serde_json::from_slice(&std::fs::read(words).unwrap()).unwrap();
    let left = format!("tetrad: {}\n", words["message"]["message"].as_str().unwrap());
    assert!(said.ends_with(&left), "{left}, not {said}");
    assert!(words["message"]["extraInfo"]["timestamp"].as_str().unwrap().parse::<u64>().unwrap() > 0, "{words}");
    place.assert_sound(&place.checkpoints("run").pop().unwrap());
}

#[test]
fn a_rank_that_stands_still_ends_the_others_with_status_138() {
    let (place, port) = (workplace(), free_port());
    let more = ["--device", "cuda", "--set", "train.steps=100000", "--set", "ranks.timeout=2"];
    let [left, mut still] = [0, 1].map(|number| rank(&place, number, 2, port, &more, &[]));
    while place.checkpoints("run").len() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let signal = |name: &str| Command::new("kill").args([name, &still.id().to_string()]).status().unwrap();
    assert!(signal("-STOP").success());
    let said = fails(left.wait_with_output().unwrap(), 138);
    assert!(said.contains("NCCL: nothing came for 2 s; a rank is gone, stopped or far behind"), "{said}");
    still.kill().unwrap();
    still.wait().unwrap();
    place.assert_sound(&place.checkpoints("run").pop().unwrap());
}
