//! `tetrad plan`.

use super::model_file::{finished_model, model_file};
use super::output::{json, print};
use super::overrides::Overrides;
use super::table::Table;
use super::train::header::resolution;
use super::train::origin::with_adapter;
use super::train::start::InitFrom;
use super::units::{bytes, grouped};
use super::{CliResult, Failure, budget, device, pool};
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::backend::DeviceInfo;
use tetrad::checkpoint::Checkpoint;
use tetrad::config::{Config, Method, RECORD, RunConfig, TrainConfig};
use tetrad::memory::{Category, Place, Plan};
use tetrad::model::{ActivationCheckpointing, Offload, StorageConfig};
use tetrad::train::{Exchanged, Limits, Setting, autotune, check_ranks, differences, largest_batch};

/// Print the memory that a training run takes, by buffer, without running it.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Preset, TOML file, or the folder of a run; the quick-start if absent.
    config: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
    /// Plan a run that starts from this model, a file or the folder of a finished run, as `train --from` would. Settings that
    /// training derives from the text, which is not read here, are those of a long text unless set.
    #[arg(long, value_name = "FILE", value_parser = model_file())]
    from: Option<PathBuf>,
    /// Plan a run that trains an adapter beside it: lora, prefix, bottleneck, or a trained adapter, its FILE or the folder of
    /// its finished run.
    #[arg(long, value_name = "KIND|FILE")]
    adapter: Option<String>,
    /// Pick unset options so that the run fits into SIZE, and report the largest train.batch that does: bytes, KiB, MiB,
    /// GiB, GB, or 90% of the free memory.
    #[arg(long, value_name = "SIZE")]
    budget: Option<String>,
    /// Plan for one of N processes that share each batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    ranks: u16,
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
    place: Place,
    name: String,
    count: usize,
    bytes: usize,
}

/// What is printed.
struct PlanReport {
    config: Config,
    plan: Plan,
    /// Whether offloaded parameters are in a file.
    in_file: bool,
    /// Whether a device has memory of its own.
    device: bool,
    budget: Option<Fits>,
    /// Rows and tokens of a row, if they follow from the text.
    assumed: Option<[usize; 2]>,
    /// How far apart the codes are that it starts from, and how far steps go.
    codes: Option<String>,
    /// What several ranks exchange in a step.
    exchanged: Exchanged,
}

/// What fits into a budget.
struct Fits {
    bytes: u64,
    /// What was chosen, if not the fastest settings; or why nothing fits.
    chosen: Result<Option<String>, String>,
    largest_batch: [(&'static str, Option<Largest>); 3],
}

/// A batch that fits, and what else that takes: where parameters must live for it.
struct Largest {
    batch: usize,
    with: Vec<String>,
}

/// Runs `tetrad plan`.
///
/// # Errors
/// Mistakes in the configuration.
pub fn run(args: Args) -> CliResult {
    let (mut config, distance) = configuration(&args)?;
    // A later task has an offline module.
    if config.adapter.is_some() && config.continual.task.len() > 1 {
        config.continual.stage = config.task_run(Method::Ema, 1).continual.stage;
    }
    let open = config.train.batch == 0 || config.train.sequence == 0;
    config.settle_shape();
    config.run.ranks = args.ranks.into();
    check_ranks(&config)?;
    let assumed = open.then_some([config.train.batch, config.train.sequence]);
    let budget = args.budget.as_deref().map(budget::parse).transpose().map_err(|e| format!("--budget {e}"))?;
    let mut report = pool::run(config.run.threads, || plan_report(&config, &args, budget, assumed))??;
    report.codes = resolution(&config, distance);
    let rows = rows(&report.plan, args.items);
    print(|out| {
        if args.json {
            return json(out, &as_json(&report, &rows));
        }
        verdict(&report, out)?;
        if report.device {
            writeln!(out, "beside:  CUDA's context takes device memory too, about 0.5 GiB (estimated, not measured)")?;
        }
        writeln!(out)?;
        table(&rows, &report).print(out)?;
        writeln!(out)?;
        sums(&report).print(out)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration that the same options give to `train`, and how far apart the codes are that the run starts from.
fn configuration(args: &Args) -> Result<(Config, Option<f64>), Failure> {
    let given = args.config.as_deref().map(|name| match Path::new(name).join(RECORD) {
        record if record.is_file() => record.to_string_lossy().into_owned(),
        _ => name.into(),
    });
    let (given, sets) = (given.as_deref(), args.overrides.all());
    let load = |base: Option<Config>| -> Result<Config, Failure> {
        let tunes = base.is_some();
        let (base, sets) = with_adapter(args.adapter.as_deref(), base.unwrap_or_default(), sets.clone())?;
        let loaded = match tunes {
            true => Config::load_tuning(base, given, &sets),
            false => Config::load_over(base, given, &sets),
        };
        Ok(loaded.map_err(|error| args.overrides.named(error))?)
    };
    let open = |path: &Path| -> Result<InitFrom, Failure> {
        Ok(InitFrom { checkpoint: Checkpoint::open(&finished_model(path))? })
    };
    let base = |model: &InitFrom| {
        let mut base = model.base();
        base.run.dir = RunConfig::default().dir;
        base
    };
    let model = args.from.as_deref().map(open).transpose()?;
    let config = load(model.as_ref().map(base))?;
    // What the configuration of an adapter leaves out of [model] and [storage] is its base's.
    if let (None, Some(path)) = (&model, &config.adapter.base) {
        return Ok((load(Some(base(&open(path)?)))?, None));
    }
    let is_kept = |model: &&InitFrom| {
        let kept = |storage: &StorageConfig| (storage.weights, storage.scheme, storage.group);
        kept(&model.checkpoint.meta.storage) == kept(&config.storage)
    };
    let distance = model.as_ref().filter(is_kept).and_then(|model| model.checkpoint.code_distance());
    Ok((config, distance))
}

/// The lines that most readers came for.
fn verdict(report: &PlanReport, out: &mut dyn Write) -> io::Result<()> {
    let size = |(place, bytes_there): (Place, usize)| match (place, place_name(place, report)) {
        (Place::Arena, name) => format!("{} on the {name}", bytes(bytes_there as u64)),
        (_, name) => format!("{} in the {name}", bytes(bytes_there as u64)),
    };
    let sizes: Vec<_> = places(report).into_iter().map(size).collect();
    let TrainConfig { batch, sequence, .. } = report.config.train;
    writeln!(out, "planned: {}, for steps of {batch} x {sequence} tokens", sizes.join(", "))?;
    if let Some([batch, sequence]) = report.assumed {
        let keys = format!("--set train.batch={batch} --set train.sequence={sequence}");
        writeln!(
            out,
            "assumed: {batch} x {sequence} tokens, as for a long text; training fits them to its text unless set ({keys})"
        )?;
    }
    if let Some(codes) = &report.codes {
        writeln!(out, "codes:   {codes}")?;
    }
    if report.config.run.ranks > 1 {
        let (ranks, rows) = (report.config.run.ranks, report.config.rank_batch());
        let (sent, shared) = (bytes(report.exchanged.sent), bytes(report.exchanged.shared));
        writeln!(
            out,
            "ranks:   the one of {ranks} that holds the most, with up to {rows} sequences a step; {sent} of gradients go \
             from one to the next in a step, and {shared} of updated weights to all"
        )?;
    }
    let Some(fits) = &report.budget else { return Ok(()) };
    let budget = bytes(fits.bytes);
    match &fits.chosen {
        Ok(Some(said)) => writeln!(out, "chosen:  {said}")?,
        Ok(None) => writeln!(out, "budget:  the fastest settings fit into {budget}")?,
        Err(said) => writeln!(out, "too much: {said}")?,
    }
    let batches = fits.largest_batch.iter().map(|(word, batch)| match batch {
        Some(Largest { batch, with }) if with.is_empty() => format!("{batch} with {word} and nothing offloaded"),
        Some(Largest { batch, with }) => format!("{batch} with {word} ({})", with.join(" ")),
        None => format!("none with {word}"),
    });
    let batches: Vec<_> = batches.collect();
    writeln!(out, "largest train.batch within {budget}, by run.activation_checkpointing: {}", batches.join(", "))
}

fn plan_report(
    config: &Config,
    args: &Args,
    budget: Option<budget::Budget>,
    assumed: Option<[usize; 2]>,
) -> Result<PlanReport, String> {
    let sizes = device::sizes(args.device);
    let sizes = &*sizes;
    let mut resolved = tetrad::train::fastest(config, sizes);
    let mut fits = None;
    if let Some(budget) = budget {
        let limits = budget::limits(sizes, budget.bytes(sizes).map_err(|e| format!("--budget {e}"))?);
        let chosen = budget::resolve(config, sizes, &limits, budget::Bound::Budget).map(|(chosen, said)| {
            resolved = chosen;
            said
        });
        fits = Some(Fits { bytes: limits.device, chosen, largest_batch: largest(config, sizes, &limits) });
    }
    let (plan, model) = tetrad::train::plan(&resolved, sizes);
    Ok(PlanReport {
        plan,
        exchanged: Exchanged::of(&model, &resolved),
        in_file: resolved.offload.uses_file(),
        device: !sizes.in_place(),
        config: resolved,
        budget: fits,
        assumed,
        codes: None,
    })
}

fn as_json(report: &PlanReport, rows: &[Row]) -> serde_json::Value {
    let plan = &report.plan;
    let items: Vec<_> = rows
        .iter()
        .map(|row| {
            let (category, place) = (row.category.name(), place_name(row.place, report));
            json!({ "category": category, "place": place, "name": row.name, "count": row.count, "bytes": row.bytes })
        })
        .collect();
    let sums: serde_json::Map<_, _> =
        Category::ALL.iter().map(|&c| (c.name().to_owned(), plan.category(c).into())).collect();
    let places: serde_json::Map<_, _> =
        places(report).into_iter().map(|(place, bytes)| (place_name(place, report).to_owned(), bytes.into())).collect();
    let mut value = json!({
        "parameters": report.config.model.parameters(),
        "total_bytes": plan.total(),
        "places": places,
        "outside_bytes": plan.outside_total(),
        "categories": sums,
        "items": items,
        "run": report.config.run,
        "offload": report.config.offload,
        "micro_batch": report.config.train.micro_batch,
    });
    if report.config.run.ranks > 1 {
        value["ranks"] = report.config.run.ranks.into();
        value["sent_bytes"] = report.exchanged.sent.into();
        value["shared_bytes"] = report.exchanged.shared.into();
    }
    if let Some(fits) = &report.budget {
        value["budget_bytes"] = fits.bytes.into();
        value["fits"] = fits.chosen.is_ok().into();
        value["largest_batch"] = fits
            .largest_batch
            .iter()
            .map(|(word, batch)| (word.to_string(), json!(batch.as_ref().map(|b| b.batch))))
            .collect();
    }
    value
}

/// Bytes of each place that is used.
fn places(report: &PlanReport) -> Vec<(Place, usize)> {
    let all = [(Place::Arena, report.plan.total()), (Place::Host, report.plan.host_total())];
    all.into_iter().filter(|&(_, bytes)| bytes > 0).collect()
}

fn place_name(place: Place, report: &PlanReport) -> &'static str {
    match place {
        Place::Arena if report.device => "device",
        Place::Host if report.in_file => "file",
        _ => "host",
    }
}

/// The largest batch that is tried.
const MOST_BATCH: usize = 1 << 16;

/// The largest batch for each way of keeping activations: with parameters on the device if one fits so, else wherever they
/// may live.
fn largest(config: &Config, sizes: &dyn DeviceInfo, limits: &Limits) -> [(&'static str, Option<Largest>); 3] {
    use ActivationCheckpointing::{Block, BlockInt4, None};
    [("none", None), ("block", Block), ("block-int4", BlockInt4)].map(|(word, checkpointing)| {
        let mut anywhere = config.clone();
        anywhere.run.activation_checkpointing = checkpointing;
        let mut here = anywhere.clone();
        for offload in [&mut here.offload.weights, &mut here.offload.optimizer] {
            if *offload == Offload::Auto {
                *offload = Offload::Device;
            }
        }
        let found = [&here, &anywhere].into_iter().find_map(|config| {
            let batch = largest_batch(config, sizes, limits, MOST_BATCH)?;
            let mut with = config.clone();
            with.train.batch = batch;
            let chosen = autotune(&with, sizes, limits)?;
            let moved = differences(&tetrad::train::fastest(&with, sizes), &chosen);
            let moved = moved.into_iter().filter(|setting| setting.key.starts_with("offload."));
            Some(Largest { batch, with: moved.map(|Setting { key, value }| format!("{key}={value}")).collect() })
        });
        (word, found)
    })
}

fn rows(plan: &Plan, items: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for item in plan.items() {
        let name = if items { item.name.clone() } else { without_numbers(&item.name) };
        let same = |row: &&mut Row| !items && row.name == name && row.category == item.category;
        match rows.iter_mut().find(|row| same(row) && row.place == item.span.place) {
            Some(row) => {
                row.count += 1;
                row.bytes += item.span.bytes;
            }
            None => {
                let (category, place, bytes) = (item.category, item.span.place, item.span.bytes);
                rows.push(Row { category, place, name, count: 1, bytes });
            }
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

fn table(rows: &[Row], report: &PlanReport) -> Table {
    let mut table = Table::new(&["category", "place", "buffer", "count", "bytes", ""], &[3, 4, 5]);
    for row in rows {
        let size = bytes(row.bytes as u64);
        table.row([
            row.category.name().into(),
            place_name(row.place, report).into(),
            row.name.clone(),
            row.count.to_string(),
            grouped(row.bytes as u64),
            size,
        ]);
    }
    table
}

fn sums(report: &PlanReport) -> Table {
    let (plan, parameters) = (&report.plan, report.config.model.parameters());
    let mut table = Table::new(&["category, most at once", "bytes", "", "bits per parameter"], &[1, 2, 3]);
    for category in Category::ALL {
        let size = plan.category(category) as u64;
        let bits = size as f64 * 8.0 / parameters as f64;
        table.row([category.name().into(), grouped(size), bytes(size), format!("{bits:.2}")]);
    }
    for (place, total) in places(report) {
        let name = match (place, place_name(place, report)) {
            (Place::Arena, name) => format!("planned on the {name}: buffers with disjoint lifetimes share bytes"),
            (_, name) => format!("planned in the {name}, in addition"),
        };
        table.row([name, grouped(total as u64), bytes(total as u64)]);
    }
    for &(name, size) in plan.outside() {
        table.row([format!("{name}, on the host, in addition"), grouped(size as u64), bytes(size as u64)]);
    }
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
