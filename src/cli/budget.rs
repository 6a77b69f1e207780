//! Memory budgets: unset options are chosen to fit; if nothing fits, the error says what to change.

use super::units::bytes;
use tetrad::backend::DeviceInfo;
use tetrad::config::Config;
use tetrad::memory::Plan;
use tetrad::model::{GradientBuffer, KeptActivations, Residence};
use tetrad::train::{Limits, available, choose, fastest, plan};

/// A limit as it was given: bytes, or a share of what is free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Budget {
    Bytes(u64),
    /// Percent.
    Share(f64),
}

/// Reads a size: bytes, or a number with `KiB`, `MiB`, `GiB`, `TiB`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    match parse(text)? {
        Budget::Bytes(bytes) => Ok(bytes),
        Budget::Share(_) => Err(format!("{text:?}: a percentage has no base here; give a size, such as 2GiB")),
    }
}

/// The same, or a percentage of what is free.
pub(super) fn parse(text: &str) -> Result<Budget, String> {
    const UNITS: [(&str, f64); 5] =
        [("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("TiB", 1099511627776.0), ("B", 1.0)];
    let wrong = || format!("{text:?}: a size is a number of bytes, or a number with KiB, MiB, GiB, TiB or %");
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
    if let Some(share) = text.strip_suffix('%') {
        return number(share).filter(|share| *share <= 100.0).map(Budget::Share).ok_or_else(wrong);
    }
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1.0));
    Ok(Budget::Bytes((number(digits).ok_or_else(wrong)? * factor) as u64))
}

impl Budget {
    /// In bytes, for the memory of what `sizes` are of.
    pub(super) fn bytes(self, sizes: &dyn DeviceInfo) -> Result<u64, String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Share(share) => {
                let why = "the free memory of the device is unknown; give a size";
                Ok((free(sizes).ok_or(why)? as f64 * share / 100.0) as u64)
            }
        }
    }
}

/// Bytes free in the memory of what `sizes` are of, if that is known.
pub(super) fn free(sizes: &dyn DeviceInfo) -> Option<u64> {
    if sizes.in_place() { available() } else { sizes.free_memory() }
}

/// What a run may use.
pub(super) fn limits(sizes: &dyn DeviceInfo, device: u64) -> Limits {
    let host = if sizes.in_place() { None } else { available() };
    Limits { device, host: host.unwrap_or(u64::MAX) }
}

/// The largest `train.batch` up to `most` for which something that `config` leaves open fits.
pub(super) fn largest_batch(config: &Config, sizes: &dyn DeviceInfo, limits: &Limits, most: usize) -> Option<usize> {
    let fits = |batch: usize| {
        let mut config = config.clone();
        config.train.batch = batch;
        config.validate().is_ok() && choose(&config, sizes, limits).is_some()
    };
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good)
}

/// Keys that [`choose`] may set, with what was set.
fn keys(config: &Config) -> [(&'static str, String); 5] {
    [
        ("run.activations", word(&config.run.activations)),
        ("train.micro_batch", config.train.micro_batch.to_string()),
        ("run.gradient", word(&config.run.gradient)),
        ("run.state", word(&config.run.state)),
        ("run.weights", word(&config.run.weights)),
    ]
}

/// An enum's variant as the configuration spells it.
fn word(variant: &impl serde::Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a variant without content is a word, not {other:?}"),
    }
}

/// A configuration with nothing left open, and what there is to say about it: nothing if it is the fastest way.
///
/// # Errors
/// If nothing fits into `limits`, whose device memory is `limit`: names what takes most, and what would fit.
pub(super) fn resolve(
    config: &Config,
    sizes: &dyn DeviceInfo,
    limits: &Limits,
    limit: &str,
) -> Result<(Config, Option<String>), String> {
    let first = fastest(config, sizes);
    let Some(chosen) = choose(config, sizes, limits) else {
        return Err(refusal(config, sizes, &plan(&first, sizes).0, limits, limit));
    };
    if chosen == first {
        return Ok((chosen, None));
    }
    let differs = keys(&chosen).into_iter().zip(keys(&first)).filter(|(now, fastest)| now != fastest);
    let words: Vec<_> = differs.map(|((key, word), _)| format!("{key}={word}")).collect();
    let needed = bytes(plan(&first, sizes).0.total() as u64);
    let said =
        format!("{}, because {limit} {} and the fastest way takes {needed}", words.join(" "), bytes(limits.device));
    Ok((chosen, Some(said)))
}

fn refusal(config: &Config, sizes: &dyn DeviceInfo, planned: &Plan, limits: &Limits, limit: &str) -> String {
    let home = planned.host_total() as u64;
    if planned.total() as u64 <= limits.device && home > limits.host {
        return format!(
            "{} of this machine's memory are planned for parameters, {} are free; keep them in a file (--set \
             run.state=file) or on the device",
            bytes(home),
            bytes(limits.host)
        );
    }
    let mut items: Vec<_> = planned.items().iter().collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.span.bytes));
    let largest: Vec<_> =
        items.iter().take(3).map(|item| format!("{} ({})", item.name, bytes(item.span.bytes as u64))).collect();
    let advice = match advice(config, sizes, limits).as_slice() {
        [] => "not even train.batch=1 fits; shorten train.sequence or choose a smaller model".into(),
        ways => format!("what fits: {}", ways.join(", or ")),
    };
    format!(
        "{} of memory are planned, {limit} {}; the largest buffers are {}; {advice}",
        bytes(planned.total() as u64),
        bytes(limits.device),
        largest.join(", ")
    )
}

/// Settings that would fit: everything left open; inputs of blocks in four bits; a smaller batch.
fn advice(config: &Config, sizes: &dyn DeviceInfo, limits: &Limits) -> Vec<String> {
    let mut open = config.clone();
    (open.run.activations, open.run.gradient) = (KeptActivations::Auto, GradientBuffer::Auto);
    (open.run.weights, open.run.state) = (Residence::Auto, Residence::Auto);
    open.train.micro_batch = 0;
    let mut packed = open.clone();
    packed.run.activations = KeptActivations::RecomputePacked;
    let whole = [&open, &packed].into_iter().find(|other| choose(other, sizes, limits).is_some());
    // A smaller batch with what is set; with nothing set only if no other way was found.
    let others = if whole.is_none() { &[config, &open, &packed][..] } else { &[config][..] };
    let smaller = others.iter().find_map(|other| {
        let batch = largest_batch(other, sizes, limits, config.train.batch)?;
        Some(format!("--set train.batch={batch} {}", settings(config, other)).trim_end().to_owned())
    });
    whole.map(|other| settings(config, other)).into_iter().chain(smaller).collect()
}

/// The `--set` that lead from one configuration to another.
fn settings(from: &Config, to: &Config) -> String {
    let differ = keys(to).into_iter().zip(keys(from)).filter(|(to, from)| to != from);
    differ.map(|((key, word), _)| format!("--set {key}={word}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrad::backend::cpu::Cpu;

    fn only(device: u64) -> Limits {
        limits(&Cpu::new(), device)
    }

    #[test]
    fn sizes_have_units() {
        let sizes = ["1000", "2KiB", "1.5 MiB", "8GiB", "64B"].map(|text| parse(text).unwrap());
        assert_eq!(sizes, [1000, 2048, 1_572_864, 8 << 30, 64].map(Budget::Bytes));
        for wrong in ["", "GiB", "-1", "1GB", "nan", "inf", "0", "101%", "x%"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        if cfg!(target_os = "linux") {
            let [half, all] = ["50%", "100%"].map(|text| parse(text).unwrap().bytes(&Cpu::new()).unwrap());
            assert!(half > 0 && half < all);
        }
        // A GPU that is not there has no free memory.
        assert!(parse("50%").unwrap().bytes(&tetrad::backend::cuda::Info).unwrap_err().contains("give a size"));
    }

    #[test]
    fn the_largest_batch_fits_and_one_more_does_not() {
        let mut config = Config::default();
        config.run.activations = KeptActivations::Keep;
        config.train.micro_batch = 1 << 20;
        (config.run.weights, config.run.state) = (Residence::Device, Residence::Device);
        let total = |batch| {
            let mut config = config.clone();
            config.train.batch = batch;
            plan(&config, &Cpu::new()).0.total() as u64
        };
        let budget = 50 << 20;
        let batch = largest_batch(&config, &Cpu::new(), &only(budget), 1000).unwrap();
        assert!(total(batch) <= budget && budget < total(batch + 1), "{batch}");
        assert_eq!(largest_batch(&config, &Cpu::new(), &only(1 << 20), 1000), None);
        assert_eq!(largest_batch(&config, &Cpu::new(), &only(u64::MAX), 7), Some(7));
    }

    #[test]
    fn a_choice_says_what_and_why_and_the_fastest_way_says_nothing() {
        let config = Config::default();
        let (fast, said) = resolve(&config, &Cpu::new(), &only(1 << 30), "the budget is").unwrap();
        assert_eq!((fast.run.activations, fast.train.micro_batch, said), (KeptActivations::Keep, 16, None));
        let (chosen, said) = resolve(&config, &Cpu::new(), &only(50 << 20), "the budget is").unwrap();
        assert_eq!(chosen.run.activations, KeptActivations::Recompute);
        let said = said.unwrap();
        assert!(
            said.starts_with("run.activations=recompute, because the budget is 50.0 MiB and the fastest "),
            "{said}"
        );
    }

    #[test]
    fn a_refusal_names_the_largest_buffers_and_settings_that_fit() {
        let mut config = Config::default();
        config.run.activations = KeptActivations::Keep;
        let refused =
            |config: &Config, budget| resolve(config, &Cpu::new(), &only(budget), "the budget is").unwrap_err();
        let said = refused(&config, 50 << 20);
        assert!(said.contains("the budget is 50.0 MiB") && said.matches("MiB)").count() == 3, "{said}");
        assert!(said.contains("; what fits: --set run.activations=auto, or --set train.batch="), "{said}");
        assert!(refused(&config, 1000).contains("not even"));
        config.run.activations = KeptActivations::Auto;
        assert!(resolve(&config, &Cpu::new(), &only(50 << 20), "").is_ok(), "what was advised fits");
        config.run.state = Residence::Host;
        let limits = Limits { device: 1 << 40, host: 1 << 20 };
        let said = resolve(&config, &tetrad::backend::cuda::Info, &limits, "free are").unwrap_err();
        assert!(said.contains("of this machine's memory are planned for parameters, 1.00 MiB are free"), "{said}");
    }
}
