//! Memory budgets: unset options are chosen to fit; if nothing fits, the error says what to change.

use super::units::bytes;
use tetrad::backend::DeviceInfo;
use tetrad::config::Config;
use tetrad::memory::Plan;
use tetrad::train::{Limits, Setting, alternatives, autotune, available, differences, fastest, plan};

/// A limit as it was given: bytes, or a share of what is free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Budget {
    Bytes(u64),
    /// Percent.
    Share(f64),
}

/// What limits a run: what was asked for, or what is free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    Budget,
    Free,
}

impl Bound {
    fn told(self, limit: u64) -> String {
        match self {
            Self::Budget => format!("the budget is {}", bytes(limit)),
            Self::Free => format!("{} are free", bytes(limit)),
        }
    }
}

/// Reads a size: bytes, or a number with `KiB`, `MiB`, `GiB`, `TiB`, or with `kB`, `MB`, `GB`, `TB`, which count by 1000; in
/// capitals or not.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    match parse(text)? {
        Budget::Bytes(bytes) => Ok(bytes),
        Budget::Share(_) => Err(format!("{text:?}: a percentage has no base here; give a size, such as 2GiB")),
    }
}

/// The same, or a percentage of what is free.
pub(super) fn parse(text: &str) -> Result<Budget, String> {
    const UNITS: [(&str, f64); 9] = [
        ("kib", 1024.0),
        ("mib", 1048576.0),
        ("gib", 1073741824.0),
        ("tib", 1099511627776.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
        ("b", 1.0),
    ];
    let wrong = || {
        format!(
            "{text:?}: a size is a number above 0, of bytes or with KiB, MiB, GiB, TiB (by 1024), kB, MB, GB, TB (by 1000) or, \
             up to 100, %"
        )
    };
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
    if let Some(share) = text.strip_suffix('%') {
        return number(share).filter(|share| *share <= 100.0).map(Budget::Share).ok_or_else(wrong);
    }
    let small = text.to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((small.strip_suffix(unit)?, *factor)));
    let (digits, factor) = unit.unwrap_or((&small, 1.0));
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

/// A configuration with nothing left open, and what there is to say about it: nothing if it is the fastest way.
///
/// # Errors
/// If nothing fits into `limits`, whose device memory is bound by `bound`: names what takes most, and what would fit.
pub(super) fn resolve(
    config: &Config,
    sizes: &dyn DeviceInfo,
    limits: &Limits,
    bound: Bound,
) -> Result<(Config, Option<String>), String> {
    let first = fastest(config, sizes);
    let Some(chosen) = autotune(config, sizes, limits) else {
        return Err(refusal(config, sizes, &plan(&first, sizes).0, limits, bound));
    };
    if chosen == first {
        return Ok((chosen, None));
    }
    let words: Vec<_> =
        differences(&first, &chosen).iter().map(|Setting { key, value }| format!("{key}={value}")).collect();
    let needed = bytes(plan(&first, sizes).0.limited_total() as u64);
    let limit = bound.told(limits.device);
    let said = format!("{}, because {limit} and the fastest settings take {needed}", words.join(" "));
    Ok((chosen, Some(said)))
}

fn refusal(config: &Config, sizes: &dyn DeviceInfo, planned: &Plan, limits: &Limits, bound: Bound) -> String {
    let home = planned.host_total() as u64;
    if planned.limited_total() as u64 <= limits.device && home > limits.host {
        return format!(
            "{} of this machine's memory are planned for parameters, {} are free; keep them in a file (--set \
             offload.optimizer=file) or on the device",
            bytes(home),
            bytes(limits.host)
        );
    }
    let mut items: Vec<_> = planned.items().iter().collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.span.bytes));
    let largest: Vec<_> =
        items.iter().take(3).map(|item| format!("{} ({})", item.name, bytes(item.span.bytes as u64))).collect();
    let advice = match alternatives(config, sizes, limits).as_slice() {
        [] => "not even train.batch=1 fits; shorten train.sequence or choose a smaller model".into(),
        some => format!("what fits: {}", some.iter().map(|settings| flags(settings)).collect::<Vec<_>>().join(", or ")),
    };
    format!(
        "{} of memory are planned, {}; the largest buffers are {}; {advice}",
        bytes(planned.limited_total() as u64),
        bound.told(limits.device),
        largest.join(", ")
    )
}

/// Settings as options of the command line.
fn flags(settings: &[Setting]) -> String {
    settings.iter().map(|Setting { key, value }| format!("--set {key}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrad::backend::cpu::Cpu;
    use tetrad::model::{ActivationCheckpointing, Offload};

    fn only(device: u64) -> Limits {
        limits(&Cpu::new(), device)
    }

    #[test]
    fn sizes_have_units() {
        let sizes = ["1000", "2KiB", "1.5 MiB", "8GiB", "64B"].map(|text| parse(text).unwrap());
        assert_eq!(sizes, [1000, 2048, 1_572_864, 8 << 30, 64].map(Budget::Bytes));
        assert_eq!(parse("8gib"), parse("8GiB"));
        assert_eq!(
            ["8GB", "1.5 MB", "2kB", "8gb", "2 KB"].map(|text| parse(text).unwrap()),
            [8_000_000_000, 1_500_000, 2000, 8_000_000_000, 2000].map(Budget::Bytes)
        );
        for wrong in ["", "GiB", "-1", "1G", "nan", "inf", "0", "101%", "x%"] {
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
    fn a_choice_says_what_and_why_and_the_fastest_way_says_nothing() {
        let config = Config::default();
        let (fast, said) = resolve(&config, &Cpu::new(), &only(1 << 30), Bound::Budget).unwrap();
        assert_eq!(
            (fast.run.activation_checkpointing, fast.train.micro_batch, said),
            (ActivationCheckpointing::None, 16, None)
        );
        let (chosen, said) = resolve(&config, &Cpu::new(), &only(50 << 20), Bound::Budget).unwrap();
        assert_eq!(chosen.run.activation_checkpointing, ActivationCheckpointing::Block);
        let said = said.unwrap();
        assert!(
            said.starts_with("run.activation_checkpointing=block, because the budget is 50.0 MiB and the fastest "),
            "{said}"
        );
    }

    #[test]
    fn a_refusal_names_the_largest_buffers_and_settings_that_fit() {
        let mut config = Config::default();
        config.run.activation_checkpointing = ActivationCheckpointing::None;
        let refused = |config: &Config, budget| resolve(config, &Cpu::new(), &only(budget), Bound::Budget).unwrap_err();
        let said = refused(&config, 50 << 20);
        assert!(said.contains("the budget is 50.0 MiB") && said.matches("MiB)").count() == 3, "{said}");
        assert!(said.contains("; what fits: --set run.activation_checkpointing=auto, or --set train.batch="), "{said}");
        assert!(refused(&config, 1000).contains("not even"));
        config.run.activation_checkpointing = ActivationCheckpointing::Auto;
        assert!(resolve(&config, &Cpu::new(), &only(50 << 20), Bound::Free).is_ok(), "what was advised fits");
        config.offload.optimizer = Offload::Host;
        let limits = Limits { device: 1 << 40, host: 1 << 20 };
        let said = resolve(&config, &tetrad::backend::cuda::Info, &limits, Bound::Free).unwrap_err();
        assert!(said.contains("of this machine's memory are planned for parameters, 1.00 MiB are free"), "{said}");
    }
}
