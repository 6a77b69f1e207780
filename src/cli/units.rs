//! Quantities with their units.

use std::time::Duration;

/// Bytes in binary units: `88.1 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.*} {}", if value < 10.0 { 2 } else { 1 }, UNITS[unit]),
    }
}

/// Digits in threes: `853 120`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Tokens per second: `31.7k tokens/s`, `3.2 tokens/s`.
pub(super) fn rate(tokens: f64) -> String {
    if tokens < 1000.0 { format!("{tokens:.1} tokens/s") } else { format!("{:.1}k tokens/s", tokens / 1e3) }
}

/// `1h02m`, `3m07s`, `12s`.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_carry_their_units() {
        assert_eq!([0, 1023, 1024, 92_379_546].map(bytes), ["0 B", "1023 B", "1.00 KiB", "88.1 MiB"]);
        assert_eq!([3.25, 31_690.0].map(rate), ["3.2 tokens/s", "31.7k tokens/s"]);
        assert_eq!([7, 1000, 853_120].map(grouped), ["7", "1 000", "853 120"]);
        assert_eq!([12, 187, 3720].map(|s| duration(Duration::from_secs(s))), ["12s", "3m07s", "1h02m"]);
    }
}
