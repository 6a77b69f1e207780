//! The summary that a run prints before it starts.

use crate::cli::output::{escape, print};
use crate::cli::units::{bytes, grouped};
use std::io::{self, Write};
use std::path::Path;
use tetrad::config::Config;
use tetrad::data::{PackingStats, SourceStats};
use tetrad::memory::Category;
use tetrad::train::{Samples, Trainer};

/// Prints it.
pub(super) fn print_header(
    trainer: &Trainer,
    device: &str,
    samples: &Samples,
    from: Option<&Path>,
    chosen: Option<&str>,
) -> io::Result<()> {
    let config = trainer.config();
    print(|out| {
        writeln!(out, "tetrad {} on {device}", env!("CARGO_PKG_VERSION"))?;
        parameters(trainer, out)?;
        memory(trainer, out)?;
        if let Some(chosen) = chosen {
            writeln!(out, "chosen   {chosen}")?;
        }
        let held_out = samples.validation.as_ref().map_or(0, |windows| windows.targets());
        let shares = samples.train.shares();
        writeln!(
            out,
            "text     {} tokens, {} more held out for validation; {} steps of {} x {} tokens",
            grouped(shares.iter().map(|share| share.tokens).sum()),
            grouped(held_out),
            grouped(config.train.steps),
            config.train.batch,
            config.train.sequence
        )?;
        for share in &shares {
            source(share, shares.len() > 1, config, out)?;
        }
        match from {
            None => writeln!(out, "run      {}, from new weights", escape(&config.run.dir.to_string_lossy())),
            Some(path) => {
                writeln!(out, "run      from {}, step {}", escape(&path.to_string_lossy()), trainer.counters().step)
            }
        }
    })
}

/// How a run uses one source; a single text needs no line.
fn source(share: &SourceStats, several: bool, config: &Config, out: &mut dyn Write) -> io::Result<()> {
    if several {
        let rows = share.share * config.train.steps as f64 * config.train.batch as f64;
        let (name, percent) = (escape(&share.name), 100.0 * share.share);
        let (tokens, epochs) = (grouped(share.tokens), rows / share.rows as f64);
        writeln!(out, "source   {name}: {tokens} tokens, {percent:.1} % of the rows, {epochs:.2} epochs")?;
    }
    match &share.packing {
        Some(packing) => samples(packing, config.train.sequence, out),
        None => Ok(()),
    }
}

/// How samples were packed, and which were left out.
fn samples(packing: &PackingStats, sequence: usize, out: &mut dyn Write) -> io::Result<()> {
    let PackingStats { samples, truncated, skipped, empty, rows, tokens, targets } = *packing;
    let filled = 100.0 * tokens as f64 / (rows * sequence) as f64;
    let mut line = format!(
        "samples  {} in {} rows, {filled:.1} % filled; {} target tokens",
        grouped((samples - skipped - empty) as u64),
        grouped(rows as u64),
        grouped(targets)
    );
    for (count, what) in [
        (truncated, "longer than a row and truncated (data.overlong)"),
        (skipped, "longer than a row and left out (data.overlong)"),
        (empty, "left out because they have no target"),
    ] {
        if count > 0 {
            line += &format!("; {} {what}", grouped(count as u64));
        }
    }
    writeln!(out, "{line}")
}

/// Elements of parameters by storage.
fn parameters(trainer: &Trainer, out: &mut dyn Write) -> io::Result<()> {
    let mut kinds: Vec<(String, u64)> = Vec::new();
    for param in trainer.model().stored.all() {
        let (kind, count) = (param.weight.format.to_string(), param.weight.shape.len() as u64);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += count,
            None => kinds.push((kind, count)),
        }
    }
    kinds.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let total: u64 = kinds.iter().map(|(_, count)| count).sum();
    let parts: Vec<_> = kinds.iter().map(|(kind, count)| format!("{} in {kind}", grouped(*count))).collect();
    writeln!(out, "model    {} parameters: {}", grouped(total), parts.join(", "))
}

fn memory(trainer: &Trainer, out: &mut dyn Write) -> io::Result<()> {
    let plan = trainer.plan();
    let total: usize = trainer.model().stored.all().map(|param| param.weight.shape.len()).sum();
    let bits = |category| plan.category(category) as f64 * 8.0 / total as f64;
    let parts: Vec<_> =
        Category::ALL.iter().map(|&c| format!("{} {}", c.name(), bytes(plan.category(c) as u64))).collect();
    let offloaded = match plan.host_total() {
        0 => String::new(),
        home => format!(", {} offloaded", bytes(home as u64)),
    };
    writeln!(out, "memory   {}; planned {} in all{offloaded}", parts.join(", "), bytes(plan.total() as u64))?;
    writeln!(
        out,
        "bits     {:.2} per parameter in weights, {:.2} with residue, {:.2} with optimizer state",
        bits(Category::Weights),
        bits(Category::Weights) + bits(Category::Residue),
        bits(Category::Weights) + bits(Category::Residue) + bits(Category::State)
    )
}
