//! The summary that a run prints before it starts.

use super::observer::hardly_moves;
use crate::cli::number::{counted, rough, short};
use crate::cli::output::{escape, print};
use crate::cli::units::{bytes, grouped, rate};
use serde_json::Value;
use std::io::{self, Write};
use tetrad::backend::Param;
use tetrad::checkpoint::{Checkpoint, Meta};
use tetrad::config::{Config, Offline, Stage, TrainConfig};
use tetrad::data::{PackingStats, SourceStats};
use tetrad::memory::Category;
use tetrad::model::{READ_PLANES, StorageConfig};
use tetrad::optim::{LearningRate, Schedule};
use tetrad::quant::WeightPlane;
use tetrad::train::{Counters, Samples, Trainer, code_distance};

/// Prints it.
pub(super) fn print_header(
    trainer: &Trainer,
    device: &str,
    samples: &Samples,
    from: Option<&Checkpoint>,
    resumed: bool,
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
            "text     {} tokens, {} more held out for validation; {} of {} x {} tokens",
            grouped(shares.iter().map(|share| share.tokens).sum()),
            grouped(held_out),
            counted(config.train.steps, "step"),
            config.train.batch,
            config.train.sequence
        )?;
        let rows = rows(config, trainer.counters());
        length(config, rows, &shares, out)?;
        for share in &shares {
            source(share, shares.len() > 1, (config, rows), out)?;
        }
        if let Some(most) = most_tokens(trainer) {
            let flops = trainer.backend().peak_flops().unwrap_or_default();
            writeln!(
                out,
                "speed    at most {} by the device's {:.0} TFLOP/s of bf16 products",
                rate(most),
                flops / 1e12
            )?;
        }
        writeln!(out, "rate     {}", rates(&config.learning_rate()))?;
        if let Some(line) = resolution(config, code_distance(trainer)) {
            writeln!(out, "codes    {line}")?;
        }
        if config.optimizer.grad_clip > 0.0 {
            let norm = short(config.optimizer.grad_clip);
            writeln!(
                out,
                "clip     the whole gradient to a norm of {norm}: each step runs forward and backward twice"
            )?;
        }
        match from {
            None => writeln!(out, "run      {}, from new weights", escape(&config.run.dir.to_string_lossy())),
            Some(checkpoint) => {
                let (path, step) = (escape(&checkpoint.path().to_string_lossy()), trainer.counters().step);
                writeln!(out, "run      from {path}, step {step}")
            }
        }?;
        match from.filter(|_| resumed) {
            Some(checkpoint) => changed(&checkpoint.meta, config, out),
            None => Ok(()),
        }
    })
}

/// Tokens in a second if a device whose data are known did nothing but the products of steps, at its highest clock.
pub(super) fn most_tokens(trainer: &Trainer) -> Option<f64> {
    let TrainConfig { batch, sequence, .. } = trainer.config().train;
    let (rows, ranks) = (trainer.rows().len().max(1), trainer.ranks().size());
    let seconds = trainer.model().step_flops(rows, sequence) / trainer.backend().peak_flops()?;
    // Ranks have as many rows, but for one.
    let tokens = if ranks > 1 { rows * ranks } else { batch } * sequence;
    Some(tokens as f64 / seconds)
}

/// Says which weights of a model the run stores otherwise, and so rounded anew.
pub(super) fn storage_note(saved: &StorageConfig, now: &StorageConfig) {
    let table = |storage: &StorageConfig| serde_json::to_value(storage).expect("a table of plain values");
    let (saved, now) = (table(saved), table(now));
    for key in ["weights", "embedding", "head", "group", "scheme"] {
        let word = |value: &Value| value[key].to_string().replace('"', "");
        if saved[key] != now[key] {
            eprintln!(
                "note: storage.{key} is {} in the model's file and {} here; its weights are rounded to that",
                word(&saved),
                word(&now)
            );
        }
    }
}

/// The learning rates of a run.
fn rates(rate: &LearningRate) -> String {
    let (steps, last) = (rate.steps, short(rate.at(rate.steps)));
    let start = match rate.warmup {
        0 => short(rate.peak),
        1 => format!("{} after 1 step", short(rate.peak)),
        warmup => format!("{} after {warmup} steps", short(rate.peak)),
    };
    match rate.schedule {
        Schedule::Constant => start,
        Schedule::Cosine => format!("{start}, then a cosine to {last} at step {steps}"),
        Schedule::Linear => format!("{start}, then a straight line to {last} at step {steps}"),
        Schedule::Wsd => {
            format!("{start}, stable to step {}, then a straight line to {last} at step {steps}", rate.decay_from())
        }
    }
}

/// Distances between codes that all steps in one direction should cover, which is about the largest share of the codes that can change:
/// in quick-starts of 1 to 20 steps 4.4 % did where it was 4.7 %, 27 of 30, 62 of 107, and with low rates 3.1 of 6.1 and 11 of 25.
const ENOUGH: f64 = 0.2;

/// How far steps move weights, measured by the distance between two codes: what is below it, products never see. Only of
/// rules whose steps are about as large as the rate.
pub fn resolution(config: &Config, distance: Option<f64>) -> Option<String> {
    let distance = distance.filter(|distance| *distance > 0.0 && config.optimizer.lr > 0.0)?;
    // The codes of an adapter's base stay as they are.
    if !config.optimizer.name.is_adam_like() || config.adapter.is_some() {
        return None;
    }
    let rates = config.learning_rate();
    let (one, all) = (100.0 * config.optimizer.lr / distance, way(&rates) / distance);
    let step =
        format!("{} apart (median); a step at the peak rate covers about {} % of that", rough(distance), rough(one));
    // How many there are may follow from the text.
    if config.train.steps == 0 {
        return Some(step);
    }
    let hint = match all < ENOUGH {
        true => format!("; few codes will change: {}", hardly_moves(config, ENOUGH / all)),
        false => String::new(),
    };
    Some(format!("{step}, all steps in one direction {} %{hint}", rough(100.0 * all)))
}

/// The sum of a run's rates; of a very long one from so many of its steps, each for the stretch that it is the middle of.
fn way(rates: &LearningRate) -> f64 {
    const MOST: u64 = 1 << 20;
    if rates.steps <= MOST {
        return (1..=rates.steps).map(|step| rates.at(step)).sum();
    }
    let stretch = rates.steps as f64 / MOST as f64;
    let middle = |i: u64| ((i as f64 + 0.5) * stretch).ceil() as u64;
    stretch * (0..MOST).map(|i| rates.at(middle(i))).sum::<f64>()
}

/// What a resumed run does otherwise than the run that saved the state: allowed, but never in silence.
fn changed(saved: &Meta, config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let now = Meta::new(config, saved.counters, saved.has_tokenizer(), &saved.data);
    let (before, now) = (saved.to_map(), now.to_map());
    for table in ["train", "optimizer"] {
        let (Some(before), Some(now)) = (before[table].as_object(), now[table].as_object()) else { continue };
        let keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
        for key in keys.filter(|key| !CADENCES.contains(&key.as_str()) && before.get(*key) != now.get(*key)) {
            let word = |value: Option<&Value>| value.map_or("its default".into(), |value| escape(&value.to_string()));
            writeln!(
                out,
                "changed  {table}.{key} is {}, the saved run had {}",
                word(now.get(key)),
                word(before.get(key))
            )?;
        }
    }
    Ok(())
}

/// Keys of `[train]` that change no weight.
const CADENCES: [&str; 11] = [
    "eval_every",
    "eval_sequences",
    "checkpoint_every",
    "keep",
    "milestone_every",
    "sample_every",
    "sample_prompt",
    "sample_tokens",
    "max_nonfinite",
    "audit_every",
    "max_unmoved",
];

/// Rows that a run goes through: those of the steps that are done, which may have had other batches, and the rest.
fn rows(config: &Config, done: Counters) -> u64 {
    let TrainConfig { steps, batch, .. } = config.train;
    done.position.saturating_add(steps.saturating_sub(done.step).saturating_mul(batch as u64))
}

/// How much text a run of so many rows goes through, and how often it sees each piece.
fn length(config: &Config, rows: u64, shares: &[SourceStats], out: &mut dyn Write) -> io::Result<()> {
    let TrainConfig { sequence, overfit, .. } = config.train;
    let epochs = rows as f64 / shares.iter().map(|share| share.rows).sum::<u64>() as f64;
    let seen = match shares {
        _ if overfit => "all of them the first batch (train.overfit)".into(),
        [_] if epochs < 1.0 => format!("{epochs:.3} epochs: {:.1} % of the rows are seen, once", 100.0 * epochs),
        [_] if epochs < 1.05 => format!("{epochs:.2} epochs: each row is seen once"),
        [_] => format!("{epochs:.2} epochs: each row is seen {} times", short((epochs * 10.0).round() / 10.0)),
        // Each source has a share of its own.
        _ => format!("{epochs:.2} times as many rows as there are"),
    };
    writeln!(out, "length   {} tokens, {seen}", grouped(rows.saturating_mul(sequence as u64)))
}

/// How a run uses one source; a single text needs no line.
fn source(share: &SourceStats, several: bool, (config, rows): (&Config, u64), out: &mut dyn Write) -> io::Result<()> {
    if several {
        let rows = share.share * rows as f64;
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
    let PackingStats { samples, truncated, skipped, cut, empty, rows, tokens, targets } = *packing;
    let filled = 100.0 * tokens as f64 / (rows * sequence) as f64;
    let mut line = format!(
        "samples  {} in {}, {filled:.1} % filled; {} target tokens",
        grouped((samples - skipped - cut - empty) as u64),
        counted(rows as u64, "row"),
        grouped(targets)
    );
    for (count, what) in [
        (truncated, "longer than a row and truncated (data.overlong)"),
        (skipped, "longer than a row and left out (data.overlong)"),
        (cut, "left out because what is learned in them lies behind the end of a row"),
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
    let model = trainer.model();
    let base = model.specs.iter().zip(&model.stored).filter(|(spec, _)| !spec.kind.is_adapter());
    for (_, param) in base {
        let (kind, count) = (param.weight.format.to_string(), param.weight.shape.len() as u64);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += count,
            None => kinds.push((kind, count)),
        }
    }
    kinds.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let total: u64 = kinds.iter().map(|(_, count)| count).sum();
    let parts: Vec<_> = kinds.iter().map(|(kind, count)| format!("{} in {kind}", grouped(*count))).collect();
    writeln!(out, "model    {} parameters: {}", grouped(total), parts.join(", "))?;
    let Some(base) = trainer.base() else { return Ok(()) };
    let adapter = model.specs.iter().filter(|spec| spec.kind.is_trained_adapter());
    let trained: u64 = adapter.map(|spec| spec.shape.len() as u64).sum();
    let share = 100.0 * trained as f64 / (total + trained) as f64;
    writeln!(out, "adapter  {} trained ({share:.2} %); the model, fingerprint {base}, is frozen", grouped(trained))?;
    match trainer.config().continual.stage {
        Some(Stage { task, offline: Some(Offline { keep, keep_at_end }), .. }) => writeln!(
            out,
            "task     {task}; an offline module follows, of which a step keeps {} and the task's end {}",
            short(keep),
            short(keep_at_end)
        ),
        _ => Ok(()),
    }
}

fn memory(trainer: &Trainer, out: &mut dyn Write) -> io::Result<()> {
    let plan = trainer.plan();
    let total: usize = trainer.model().stored.iter().map(|param| param.weight.shape.len()).sum();
    // Of all ranks: each holds a part of the residue and the state.
    let bits = |bytes: usize| bytes as f64 * 8.0 / total as f64;
    let of_all = |bytes: &dyn Fn(&Param) -> usize| trainer.model().stored.iter().map(bytes).sum::<usize>();
    let weights = of_all(&|param| READ_PLANES.iter().map(|&plane| param.weight.span(plane).bytes).sum());
    let residue = of_all(&|param| param.weight.span(WeightPlane::Residue).bytes);
    let state = of_all(&|param| param.state.planes().map(|span| span.bytes).sum());
    let parts: Vec<_> =
        Category::ALL.iter().map(|&c| format!("{} {}", c.name(), bytes(plan.category(c) as u64))).collect();
    let offloaded = match plan.host_total() {
        0 => String::new(),
        home => format!(", {} offloaded", bytes(home as u64)),
    };
    writeln!(out, "memory   {}; planned {} in all{offloaded}", parts.join(", "), bytes(plan.total() as u64))?;
    if trainer.base().is_some() {
        return Ok(());
    }
    writeln!(
        out,
        "bits     {:.2} per parameter in weights, {:.2} with residue, {:.2} with optimizer state",
        bits(weights),
        bits(weights + residue),
        bits(weights + residue + state)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrad::model::Weights;

    #[test]
    fn steps_are_measured_by_the_distance_between_codes() {
        let mut config = Config::default();
        (config.train.steps, config.train.warmup, config.train.schedule) = (100, 0, Schedule::Constant);
        config.optimizer.lr = 2e-5;
        let told = |config: &Config| resolution(config, Some(0.02));
        let line = told(&config).unwrap();
        assert!(
            line.starts_with("0.020 apart (median); a step at the peak rate covers about 0.10 % of that, "),
            "{line}"
        );
        assert!(
            line.ends_with(
                "in one direction 10 %; few codes will change: raise optimizer.lr, train longer, or set \
                                storage.weights=int8"
            ),
            "{line}"
        );
        config.optimizer.lr = 1e-3;
        assert!(!told(&config).unwrap().contains("few codes"));
        // A rate that is warned of is not to be raised, and bytes are as fine as it gets.
        (config.optimizer.lr, config.train.steps) = (1e-3, 1);
        assert!(told(&config).unwrap().ends_with("few codes will change: train longer, or set storage.weights=int8"));
        config.storage.weights = Weights::Int8;
        assert!(told(&config).unwrap().ends_with("few codes will change: train longer"));
        (config.storage.weights, config.train.steps) = (Weights::Int4, 100);
        assert_eq!(resolution(&config, None), None);
        config.optimizer.lr = 0.0;
        assert_eq!(told(&config), None);
    }

    #[test]
    fn the_way_of_a_run_of_any_length_is_told_at_once() {
        let long = |schedule, steps: u64| {
            let (warmup, decay) = (steps / 50, steps / 5);
            LearningRate { peak: 1e-3, warmup, steps, schedule, final_lr: 0.1, decay }
        };
        for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::Linear, Schedule::Wsd] {
            // Per step, a long run goes as far as a longer one.
            let [exact, sampled, longest] =
                [1u64 << 20, (1 << 20) + 50, i64::MAX as u64].map(|steps| way(&long(schedule, steps)) / steps as f64);
            assert!((sampled / exact - 1.0).abs() < 1e-4, "{schedule:?}: {exact} {sampled}");
            assert!((longest / exact - 1.0).abs() < 1e-4, "{schedule:?}: {exact} {longest}");
        }
        // One step of warm-up is not lost among billions.
        let flat = LearningRate { warmup: 1, ..long(Schedule::Constant, 100_000_000_000) };
        assert!((way(&flat) - 1e8).abs() < 1e3, "{}", way(&flat));
    }

    #[test]
    fn rows_that_are_done_count_as_they_were() {
        let mut config = Config::default();
        (config.train.steps, config.train.batch) = (100, 8);
        let done = |step, position| Counters { step, position, ..Counters::default() };
        assert_eq!(rows(&config, done(0, 0)), 800);
        // Forty steps of 16 rows, then sixty of eight.
        assert_eq!(rows(&config, done(40, 640)), 640 + 480);
        assert_eq!(rows(&config, done(100, 900)), 900);
        config.train.steps = u64::MAX;
        assert_eq!(rows(&config, done(0, 0)), u64::MAX);
    }

    #[test]
    fn rates_are_told_in_words() {
        let wsd =
            LearningRate { peak: 0.004, warmup: 40, steps: 400, schedule: Schedule::Wsd, final_lr: 0.0, decay: 80 };
        let told = "0.004 after 40 steps, stable to step 320, then a straight line to 0 at step 400";
        assert_eq!(rates(&wsd), told);
        let flat = LearningRate { warmup: 0, schedule: Schedule::Constant, ..wsd };
        assert_eq!(rates(&flat), "0.004");
        assert_eq!(rates(&LearningRate { warmup: 1, ..flat }), "0.004 after 1 step");
        let cosine = LearningRate { schedule: Schedule::Cosine, final_lr: 0.03, ..flat };
        assert_eq!(rates(&cosine), "0.004, then a cosine to 1.2000e-4 at step 400");
    }
}
