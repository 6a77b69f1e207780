//! Fuzzes every reader, or those that are named, for as long as one lets it:
//!
//! ```text
//! cargo run --release --example fuzz -- [--seconds N] [--threads N] [READER...]
//! ```
//! A line a minute says for each reader how many inputs were read, now and in all runs so far, and what was found. What
//! breaks a reader is kept under `target/fuzz/findings`, and the counts beside it. Of what ends the process, such as a stack
//! that overflows, the input is found by the next run: each thread writes it to a file before it reads it.

#[path = "engine.rs"]
mod engine;
#[path = "../format/support/mutate.rs"]
mod mutate;
#[path = "readers/mod.rs"]
mod readers;

use engine::{Engine, Finding};
use readers::{ALL, Reader};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long a thread stays with a reader.
const TURN: Duration = Duration::from_millis(500);

/// A reader that computes for longer on 64 KiB hangs. Counted is the time that its thread had a processor, so a process that
/// is stopped, or on a busy machine, is no finding.
const LONGEST: Duration = Duration::from_secs(20);

/// What was done with one reader.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Now.
    executions: u64,
    /// In earlier runs.
    earlier: u64,
    findings: u64,
    ways: usize,
    spent: Duration,
}

/// A thread, and what it reads.
struct Worker {
    /// Holds the input that is being read: its length, its bytes, and what is left of longer ones.
    file: File,
    path: PathBuf,
    /// Inputs so far.
    count: AtomicU64,
    /// Where Linux says how long the thread had a processor.
    clock: OnceLock<PathBuf>,
}

impl Worker {
    fn new(path: PathBuf) -> Self {
        let file = File::options().write(true).create(true).truncate(true).open(&path).unwrap();
        Self { file, path, count: AtomicU64::new(0), clock: OnceLock::new() }
    }

    /// Keeps an input until the next one, whatever it does to the process. Of none the length is `u64::MAX`.
    fn note(&self, input: Option<&[u8]>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let (len, input) = input.map_or((u64::MAX, &[][..]), |input| (input.len() as u64, input));
        self.file.write_all_at(&[&len.to_le_bytes(), input].concat(), 0).unwrap();
    }

    /// The input that a file holds, if one was being read.
    fn noted(path: &Path) -> Option<Vec<u8>> {
        let bytes = std::fs::read(path).ok()?;
        let (len, rest) = bytes.split_first_chunk()?;
        rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?).map(Into::into)
    }

    /// How long the thread had a processor; nothing where the system does not say so.
    fn busy(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(self.clock.get()?).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }
}

/// Which input a thread was seen at, and how long it had been busy then.
type Seen = (u64, Duration);

struct Fuzzing {
    folder: PathBuf,
    tallies: Mutex<BTreeMap<&'static str, Tally>>,
    workers: Vec<Worker>,
    stop: AtomicBool,
}

fn main() {
    let mut seconds = u64::MAX;
    let mut threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut chosen: Vec<&'static Reader> = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match arg.as_str() {
            "--seconds" => seconds = number(),
            "--threads" => threads = number() as usize,
            name => chosen.push(Reader::named(name).unwrap_or_else(|| {
                let names: Vec<_> = ALL.iter().map(|reader| reader.name).collect();
                panic!("no reader is called {name}; there are {}", names.join(", "))
            })),
        }
    }
    if chosen.is_empty() {
        chosen = ALL.iter().collect();
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let reading = folder.join("reading");
    std::fs::create_dir_all(&reading).unwrap();
    std::fs::create_dir_all(folder.join("findings")).unwrap();
    for entry in std::fs::read_dir(&reading).unwrap().map(Result::unwrap) {
        if let Some(input) = Worker::noted(&entry.path()) {
            let path = folder.join("findings").join(format!("ended-{:016x}", xxhash_rust::xxh3::xxh3_64(&input)));
            std::fs::write(&path, input).unwrap();
            println!("{}: was being read when an earlier run was ended", path.display());
        }
    }
    let earlier = std::fs::read_to_string(folder.join("executions.tsv")).unwrap_or_default();
    let tallies = ALL.iter().map(|reader| {
        let row = earlier.lines().find_map(|line| line.strip_prefix(reader.name)?.strip_prefix('\t'));
        let earlier = row.and_then(|row| row.split('\t').next()?.parse().ok()).unwrap_or(0);
        (reader.name, Tally { earlier, ..Tally::default() })
    });
    let fuzzing = Fuzzing {
        tallies: Mutex::new(tallies.collect()),
        workers: (0..threads).map(|thread| Worker::new(reading.join(thread.to_string()))).collect(),
        stop: AtomicBool::new(false),
        folder,
    };
    // Panics are caught and counted.
    std::panic::set_hook(Box::new(|_| {}));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (fuzzing, chosen) = (&fuzzing, &chosen);
            scope.spawn(move || fuzzing.work(thread, chosen));
        }
        let mut said = Instant::now();
        let mut seen = vec![(0, Duration::ZERO); threads];
        while begun.elapsed().as_secs() < seconds {
            std::thread::sleep(Duration::from_millis(500).min(Duration::from_secs(seconds)));
            fuzzing.look_for_hangs(&mut seen);
            if said.elapsed() > Duration::from_secs(60) {
                said = Instant::now();
                fuzzing.report(begun);
            }
        }
        fuzzing.stop.store(true, Ordering::Relaxed);
    });
    fuzzing.report(begun);
    let findings: u64 = fuzzing.tallies.lock().unwrap().values().map(|tally| tally.findings).sum();
    std::process::exit(i32::from(findings > 0));
}

impl Fuzzing {
    /// Takes turns with the readers.
    fn work(&self, thread: usize, chosen: &[&'static Reader]) {
        let worker = &self.workers[thread];
        if let Ok(own) = std::fs::read_link("/proc/thread-self") {
            worker.clock.get_or_init(|| Path::new("/proc").join(own).join("schedstat"));
        }
        let mut engines: BTreeMap<&str, Engine<'_>> = BTreeMap::new();
        for reader in chosen.iter().cycle().skip(thread) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let earlier = self.tallies.lock().unwrap()[reader.name].earlier;
            let seed = ((thread as u64) << 48) + earlier;
            let begun = Instant::now();
            let mut outcome = Ok(());
            let engine = match engines.entry(reader.name) {
                std::collections::btree_map::Entry::Occupied(engine) => engine.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    match Engine::new(reader, seed, Box::new(|input| worker.note(Some(input)))) {
                        Ok(engine) => place.insert(engine),
                        Err(finding) => {
                            self.keep(reader, &finding);
                            continue;
                        }
                    }
                }
            };
            let before = engine.executions;
            while begun.elapsed() < TURN && outcome.is_ok() {
                outcome = engine.run(64);
            }
            worker.note(None);
            let mut tallies = self.tallies.lock().unwrap();
            let tally = tallies.get_mut(reader.name).expect("every reader has one");
            tally.executions += engine.executions - before;
            tally.ways = tally.ways.max(engine.ways());
            tally.spent += begun.elapsed();
            drop(tallies);
            if let Err(finding) = outcome {
                self.keep(reader, &finding);
            }
        }
    }

    /// Keeps an input that breaks a reader.
    fn keep(&self, reader: &Reader, finding: &Finding) {
        self.tallies.lock().unwrap().get_mut(reader.name).expect("every reader has one").findings += 1;
        let folder = self.folder.join("findings");
        let name = format!("{}-{:016x}", reader.name, xxhash_rust::xxh3::xxh3_64(finding.panic.as_bytes()));
        // One input for each panic.
        if !folder.join(&name).exists() {
            std::fs::write(folder.join(&name), &finding.input).unwrap();
            println!("FOUND {}: {}", folder.join(name).display(), finding.panic);
        }
    }

    /// Ends with the input of a reader that does not end.
    fn look_for_hangs(&self, seen: &mut [Seen]) {
        for (worker, seen) in self.workers.iter().zip(seen) {
            let (count, Some(busy)) = (worker.count.load(Ordering::Relaxed), worker.busy()) else { continue };
            if seen.0 != count {
                *seen = (count, busy);
            } else if busy.saturating_sub(seen.1) > LONGEST
                && let Some(input) = Worker::noted(&worker.path)
            {
                let path =
                    self.folder.join("findings").join(format!("hang-{:016x}", xxhash_rust::xxh3::xxh3_64(&input)));
                std::fs::write(&path, input).unwrap();
                println!("FOUND {}: takes longer than {LONGEST:?}", path.display());
                std::process::exit(1);
            }
        }
    }

    fn report(&self, begun: Instant) {
        let tallies = self.tallies.lock().unwrap();
        let mut table = String::from("reader\texecutions\tof this run\tper second and thread\tways to end\tfindings\n");
        for (name, tally) in tallies.iter() {
            let rate = tally.executions as f64 / tally.spent.as_secs_f64().max(1e-9);
            let all = tally.earlier + tally.executions;
            writeln!(table, "{name}\t{all}\t{}\t{rate:.0}\t{}\t{}", tally.executions, tally.ways, tally.findings)
                .unwrap();
        }
        let all: u64 = tallies.values().map(|tally| tally.earlier + tally.executions).sum();
        println!("{table}{all} executions in all, {:.0} s", begun.elapsed().as_secs_f64());
        std::fs::write(self.folder.join("executions.tsv"), table).unwrap();
    }
}
