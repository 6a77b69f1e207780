//! Numbers as text and as JSON.

use super::units::grouped;
use serde_json::Value;

/// Five significant digits; in fixed notation where that is short.
pub(super) fn short(x: f64) -> String {
    match x.abs() {
        _ if x.is_nan() => "nan".into(),
        a if a.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.into(),
        0.0 => "0".into(),
        a if (1e-3..1e6).contains(&a) => {
            let digits = (4 - a.log10().floor() as i32).clamp(0, 8) as usize;
            let text = format!("{x:.digits$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
        }
        _ => format!("{x:.4e}"),
    }
}

/// Two significant digits, for what is an estimate: `0.39`, `46`, `7.0e-5`.
pub(super) fn rough(x: f64) -> String {
    match x.abs() {
        a if (1e-3..1e6).contains(&a) => format!("{x:.*}", (1 - a.log10().floor() as i32).max(0) as usize),
        a if a > 0.0 && a.is_finite() => format!("{x:.1e}"),
        _ => short(x),
    }
}

/// `1 run` or `3 runs`, of a noun whose plural has an s.
pub(super) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `12.3%`; nothing of nothing is 0.
pub(super) fn percent(part: u64, whole: u64) -> String {
    format!("{:.2}%", share(part, whole) * 100.0)
}

/// Part of a whole; nothing of nothing is 0.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A JSON number; what JSON has no number for becomes the string "nan", "inf" or "-inf".
pub(super) fn json(x: f64) -> Value {
    serde_json::Number::from_f64(x).map_or_else(|| Value::from(short(x)), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_json_stays_json() {
        let shown = [0.0, 1.0, -0.5, 123456.0, 1234567.0, 0.000123, 0.00123456, f64::NAN, f64::NEG_INFINITY].map(short);
        assert_eq!(shown, ["0", "1", "-0.5", "123456", "1.2346e6", "1.2300e-4", "0.0012346", "nan", "-inf"]);
        let shown = [0.0, 0.391_73, 46.521, 4.31, 1234.5, 0.0068552, 7e-5, f64::INFINITY].map(rough);
        assert_eq!(shown, ["0", "0.39", "47", "4.3", "1234", "0.0069", "7.0e-5", "inf"]);
        assert_eq!(json(f64::INFINITY).to_string(), "\"inf\"");
        assert_eq!(json(0.25).to_string(), "0.25");
    }
}
