//! `tetrad plan`.

use super::output::{json, print};
use super::table::Table;
use super::units::{bytes, grouped};
use super::{CliResult, budget, device, pool};
use crate::backend::Sizes;
use crate::config::{Config, KeptActivations};
use crate::memory::{Category, Plan};
use serde_json::json;
use std::process::ExitCode;

/// Print the memory that a training run will take, by item, without running it.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Preset or TOML file; the quick-start if absent.
    config: Option<String>,
    /// Override a key, as in `--set train.batch=8`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Name the largest train.batch that fits into SIZE: bytes, KiB, MiB, GiB, or 90% of what is free.
    #[arg(long, value_name = "SIZE")]
    budget: Option<String>,
    /// Device to plan for: auto, cpu, cuda.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
    /// One row per buffer, instead of one for all blocks' buffers of a kind.
    #[arg(long)]
    items: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One row of the table.
struct Row {
    category: Category,
    name: String,
    count: usize,
    bytes: usize,
}

/// Runs `tetrad plan`.
///
/// # Errors
/// Mistakes in the configuration.
pub fn run(args: Args) -> CliResult {
    let config = Config::load(args.config.as_deref(), &args.sets)?;
    let budget = args.budget.as_deref().map(budget::parse).transpose().map_err(|e| format!("--budget {e}"))?;
    let (plan, fits) = pool::run(config.run.threads, || {
        let sizes = device::sizes(args.device);
        (crate::train::plan(&config, &*sizes).0, budget.map(|budget| fits(&config, &*sizes, budget)))
    })?;
    let rows = rows(&plan, args.items);
    print(|out| {
        if args.json {
            let items: Vec<_> = rows
                .iter()
                .map(|row| {
                    json!({ "category": row.category.name(), "name": row.name, "count": row.count, "bytes": row.bytes })
                })
                .collect();
            let sums: serde_json::Map<_, _> =
                Category::ALL.iter().map(|&c| (c.name().to_owned(), plan.category(c).into())).collect();
            let parameters = config.model.parameters();
            let mut value =
                json!({ "parameters": parameters, "total_bytes": plan.total(), "categories": sums, "items": items });
            if let (Some(budget), Some([keep, recompute])) = (budget, fits) {
                value["budget_bytes"] = budget.into();
                value["largest_batch"] = json!({ "keep": keep, "recompute": recompute });
            }
            return json(out, &value);
        }
        table(&rows).print(out)?;
        writeln!(out)?;
        sums(&plan, &config).print(out)?;
        let (Some(budget), Some(fits)) = (budget, fits) else { return Ok(()) };
        let [keep, recompute] = fits.map(|batch| batch.map_or("none".into(), |batch| batch.to_string()));
        writeln!(
            out,
            "\nlargest train.batch within {}: {keep}, with run.activations=recompute {recompute}",
            bytes(budget)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Sequences beyond which nobody asks.
const MOST_BATCH: usize = 1 << 16;

/// The largest batch with everything kept, and with activations computed again.
fn fits(config: &Config, sizes: &dyn Sizes, budget: u64) -> [Option<usize>; 2] {
    [KeptActivations::Keep, KeptActivations::Recompute].map(|kept| {
        let mut config = config.clone();
        config.run.activations = kept;
        budget::largest_batch(&config, sizes, budget, MOST_BATCH)
    })
}

fn rows(plan: &Plan, items: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for item in plan.items() {
        let name = if items { item.name.clone() } else { without_numbers(&item.name) };
        match rows.iter_mut().find(|row| !items && row.name == name && row.category == item.category) {
            Some(row) => {
                row.count += 1;
                row.bytes += item.span.bytes;
            }
            None => rows.push(Row { category: item.category, name, count: 1, bytes: item.span.bytes }),
        }
    }
    rows.sort_by_key(|row| row.category);
    rows
}

/// `model.layers.3.mlp.up_proj.weight data` -> `model.layers.*.mlp.up_proj.weight data`.
fn without_numbers(name: &str) -> String {
    let number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let word = |word: &str| {
        let parts: Vec<_> = word.split('.').map(|part| if number(part) { "*" } else { part }).collect();
        parts.join(".")
    };
    name.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["category", "buffer", "count", "bytes", ""], &[2, 3, 4]);
    for row in rows {
        let size = bytes(row.bytes as u64);
        table.row([
            row.category.name().into(),
            row.name.clone(),
            row.count.to_string(),
            grouped(row.bytes as u64),
            size,
        ]);
    }
    table
}

fn sums(plan: &Plan, config: &Config) -> Table {
    let parameters = config.model.parameters();
    let mut table = Table::new(&["category", "bytes", "", "bits per parameter"], &[1, 2, 3]);
    let mut sum = 0;
    for category in Category::ALL {
        let size = plan.category(category) as u64;
        sum += size;
        let bits = size as f64 * 8.0 / parameters as f64;
        table.row([category.name().into(), grouped(size), bytes(size), format!("{bits:.2}")]);
    }
    let total = plan.total() as u64;
    table.row(["sum".into(), grouped(sum), bytes(sum), String::new()]);
    table.row(["planned: buffers that never live together share bytes".into(), grouped(total), bytes(total)]);
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn blocks_are_gathered_under_one_name() {
        assert_eq!(
            super::without_numbers("model.layers.13.mlp.up_proj.weight m scales"),
            "model.layers.*.mlp.up_proj.weight m scales"
        );
        assert_eq!(super::without_numbers("block 3 second 1/rms"), "block * second 1/rms");
    }
}
