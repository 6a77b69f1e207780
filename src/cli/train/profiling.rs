//! `tetrad train --profile`: where the time of a step goes, as a table and as a trace.

use crate::cli::Failure;
use crate::cli::output::{escape, print};
use crate::cli::overwrite::{OutputKind, is_free};
use crate::cli::table::Table;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tetrad::backend::Backend;
use tetrad::backend::cpu::{Peaks, peaks};
use tetrad::backend::profile::{Cost, Profile, Record, StepTime};
use tetrad::store::publish;

/// The trace's name in the run's folder, unless another is given.
const FILE: &str = "profile.json";

/// What every trace begins with.
const HEAD: &str = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"args\":{\"name\":\"steps\"}";

/// A run whose operations are noted.
pub(super) struct Profiling {
    pub profile: Profile,
    file: PathBuf,
}

impl Profiling {
    /// Before a run in `dir`: whether its trace can be written is found now rather than at its end.
    ///
    /// # Errors
    /// If the file cannot be written or is another than a trace, or operations of `backend` are carried out later than they return.
    pub fn begin(file: Option<&Path>, dir: &Path, backend: &dyn Backend) -> Result<Self, Failure> {
        if !backend.in_place() {
            return Err(
                "--profile measures operations on a CPU (--device cpu); on a GPU use NVIDIA's profiler: nsys profile \
                        --trace=cuda tetrad train ..."
                    .into(),
            );
        }
        let file = file.map_or_else(|| dir.join(FILE), Path::to_owned);
        if !is_free(&file, OutputKind { name: "a trace", head: HEAD }) {
            let shown = escape(&file.to_string_lossy());
            return Err(format!("--profile: {shown}: exists already and is not a trace; name another file").into());
        }
        let profiling = Self { profile: Profile::new(), file };
        profiling.write(&Record::default())?;
        Ok(profiling)
    }

    /// Prints the table and writes the trace.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn end(&self) -> Result<(), Failure> {
        let record = self.profile.record();
        self.write(&record)?;
        let file = escape(&self.file.to_string_lossy());
        Ok(print(|out| {
            writeln!(out)?;
            match record.steps {
                0 => writeln!(out, "profile: no table, since it leaves out the first step and there was no other")?,
                _ => table(&record, &peaks(), rayon::current_num_threads(), out)?,
            }
            let left = match record.later {
                0 => String::new(),
                later => format!("; {later} later ones are left out"),
            };
            writeln!(
                out,
                "trace: {file} ({} operations{left}), for chrome://tracing or ui.perfetto.dev",
                record.events.len()
            )
        })?)
    }

    fn write(&self, record: &Record) -> Result<(), Failure> {
        let written = publish(&self.file, |out| trace(record, out));
        written.map_err(|error| format!("--profile: {}: {error}", escape(&self.file.to_string_lossy())).into())
    }
}

/// Operations by the time that they take, and what is left of a step.
fn table(record: &Record, peaks: &Peaks, threads: usize, out: &mut dyn Write) -> io::Result<()> {
    let (steps, step) = (record.steps as f64, record.stepping.as_secs_f64() / record.steps as f64);
    let [flops, bf16, bytes] = [peaks.flops, peaks.bf16_flops, peaks.bytes].map(|peak| peak / 1e9);
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    writeln!(
        out,
        "profile of {} step{} after the first; this machine's {threads} thread{}: {flops:.0} float32 GFLOP/s in registers, \
         {bf16:.0} in tiles of bfloat16, {bytes:.1} GB/s in copies",
        record.steps,
        plural(record.steps),
        plural(threads as u64)
    )?;
    let heading = ["operation", "calls/step", "ms/step", "share", "GFLOP/s", "of peak", "GB/s", "of copying"];
    let mut table = Table::new(&heading, &[1, 2, 3, 4, 5, 6, 7]);
    let share = |seconds: f64| format!("{:.1} %", 100.0 * seconds / step);
    let of = |rate: f64, peak: f64| format!("{:.0} %", 100.0 * rate / peak);
    let mut totals: Vec<_> = record.totals.iter().collect();
    totals.sort_by_key(|(_, total)| std::cmp::Reverse(total.took));
    let mut noted = Duration::ZERO;
    for (name, total) in totals {
        noted += total.took;
        let seconds = total.took.as_secs_f64();
        let Cost { flops, bytes } = total.cost;
        let mut cells = vec![
            (*name).to_owned(),
            format!("{:.1}", total.calls as f64 / steps),
            format!("{:.3}", 1e3 * seconds / steps),
            share(seconds / steps),
        ];
        let peak = if name.ends_with("_bf16") { peaks.bf16_flops } else { peaks.flops };
        for (done, peak) in [(flops, peak), (bytes, peaks.bytes)] {
            let rate = done as f64 / seconds.max(1e-9);
            cells.extend(match done {
                0 => ["-".to_owned(), "-".to_owned()],
                _ => [format!("{:.1}", rate / 1e9), of(rate, peak)],
            });
        }
        table.row(cells);
    }
    let between = record.stepping.saturating_sub(noted).as_secs_f64() / steps;
    for (name, seconds) in [("between operations", between), ("a step", step)] {
        table.row([name.to_owned(), String::new(), format!("{:.3}", 1e3 * seconds), share(seconds)]);
    }
    table.print(out)
}

/// The trace in the format of Chrome's trace viewer: complete events ("X"), in microseconds; steps above operations.
fn trace(record: &Record, out: &mut dyn Write) -> io::Result<()> {
    const STEPS: u64 = 1;
    const OPERATIONS: u64 = 2;
    let name = |thread: u64, name: &str| json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": {"name": name}});
    let event = |thread: u64, name: &str, begun: Duration, took: Duration, args: Value| {
        let [begun, took] = [begun, took].map(|time| time.as_nanos() as f64 / 1e3);
        json!({"ph": "X", "name": name, "pid": 1, "tid": thread, "ts": begun, "dur": took, "args": args})
    };
    let names = [name(STEPS, "steps"), name(OPERATIONS, "operations")];
    let steps = record
        .step_times
        .iter()
        .map(|&StepTime { number, begun, took }| event(STEPS, &format!("step {number}"), begun, took, json!({})));
    let operations = record.events.iter().map(|noted| {
        let args = json!({"flops": noted.cost.flops, "bytes": noted.cost.bytes});
        event(OPERATIONS, noted.name, noted.begun, noted.took, args)
    });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
    for (i, event) in names.into_iter().chain(steps).chain(operations).enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(out, "{comma}\n{event}")?;
    }
    writeln!(out, "\n]}}")
}
