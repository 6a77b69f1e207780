//! Memory as a limit: what fits into it, and what to change if nothing does.

use super::units::bytes;
use crate::backend::Sizes;
use crate::config::{Config, KeptActivations};
use crate::memory::Plan;
use crate::train::plan;

/// Reads a size: bytes, or a number with `KiB`, `MiB`, `GiB`, `TiB`, or a percentage of what is free.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 5] =
        [("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("TiB", 1099511627776.0), ("B", 1.0)];
    let wrong = || format!("{text:?}: a size is a number of bytes, or a number with KiB, MiB, GiB, TiB or %");
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
    if let Some(share) = text.strip_suffix('%') {
        let share = number(share).filter(|share| *share <= 100.0).ok_or_else(wrong)?;
        let free = crate::train::available().ok_or("this system does not say how much memory is free; give a size")?;
        return Ok((free as f64 * share / 100.0) as u64);
    }
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1.0));
    Ok((number(digits).ok_or_else(wrong)? * factor) as u64)
}

/// The largest `train.batch` up to `most` whose plan fits into `budget`.
pub(super) fn largest_batch(config: &Config, sizes: &dyn Sizes, budget: u64, most: usize) -> Option<usize> {
    let fits = |batch: usize| {
        let mut config = config.clone();
        config.train.batch = batch;
        config.validate().is_ok() && plan(&config, sizes).0.total() as u64 <= budget
    };
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good)
}

/// Refuses a configuration whose plan takes more than `budget`, which is `limit`: names what takes most, and what
/// would fit.
pub(super) fn check(config: &Config, sizes: &dyn Sizes, budget: u64, limit: &str) -> Result<(), String> {
    let planned = plan(config, sizes).0;
    if planned.total() as u64 <= budget { Ok(()) } else { Err(refusal(config, sizes, &planned, budget, limit)) }
}

fn refusal(config: &Config, sizes: &dyn Sizes, planned: &Plan, budget: u64, limit: &str) -> String {
    let mut items: Vec<_> = planned.items().iter().collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.span.bytes));
    let largest: Vec<_> =
        items.iter().take(3).map(|item| format!("{} ({})", item.name, bytes(item.span.bytes as u64))).collect();
    let mut ways = Vec::new();
    for kept in [KeptActivations::Keep, KeptActivations::Recompute] {
        let mut other = config.clone();
        other.run.activations = kept;
        // Recomputing never takes more, so what already recomputes has no other way.
        if config.run.activations == KeptActivations::Recompute && kept == KeptActivations::Keep {
            continue;
        }
        if let Some(batch) = largest_batch(&other, sizes, budget, config.train.batch) {
            let word = if kept == KeptActivations::Recompute { "run.activations=recompute with " } else { "" };
            ways.push(format!("{word}train.batch={batch}"));
        }
    }
    let advice = match ways.as_slice() {
        [] => "not even train.batch=1 fits; shorten train.sequence or choose a smaller model".into(),
        ways => format!("what fits: --set {}", ways.join(", or --set ").replace(" with ", " --set ")),
    };
    format!(
        "{} of memory are planned, {limit} {}; the largest buffers are {}; {advice}",
        bytes(planned.total() as u64),
        bytes(budget),
        largest.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn sizes_have_units() {
        let sizes = ["1000", "2KiB", "1.5 MiB", "8GiB", "64B"].map(|text| parse(text).unwrap());
        assert_eq!(sizes, [1000, 2048, 1_572_864, 8 << 30, 64]);
        for wrong in ["", "GiB", "-1", "1GB", "nan", "inf", "0", "101%", "x%"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        if cfg!(target_os = "linux") {
            let (half, all) = (parse("50%").unwrap(), parse("100%").unwrap());
            assert!(half > 0 && half < all);
        }
    }

    #[test]
    fn the_largest_batch_fits_and_one_more_does_not() {
        let config = Config::default();
        let total = |batch| {
            let mut config = config.clone();
            config.train.batch = batch;
            plan(&config, &Cpu::new()).0.total() as u64
        };
        let budget = 50 << 20;
        let batch = largest_batch(&config, &Cpu::new(), budget, 1000).unwrap();
        assert!(total(batch) <= budget && budget < total(batch + 1), "{batch}");
        assert_eq!(largest_batch(&config, &Cpu::new(), 1 << 20, 1000), None);
        assert_eq!(largest_batch(&config, &Cpu::new(), u64::MAX, 7), Some(7));
    }

    #[test]
    fn a_refusal_names_the_largest_buffers_and_settings_that_fit() {
        let config = Config::default();
        let said = check(&config, &Cpu::new(), 50 << 20, "the budget is").unwrap_err();
        let batch = largest_batch(&config, &Cpu::new(), 50 << 20, 16).unwrap();
        assert!(
            said.contains(&format!("--set train.batch={batch}, or --set run.activations=recompute --set ")),
            "{said}"
        );
        assert!(said.contains("the budget is 50.0 MiB") && said.matches("MiB)").count() == 3, "{said}");
        assert!(check(&config, &Cpu::new(), 1000, "the budget is").unwrap_err().contains("not even"));
        assert_eq!(check(&config, &Cpu::new(), 1 << 30, "the budget is"), Ok(()));
    }
}
