//! Lists and ranges of values.

use toml::Value;

/// Values that one key takes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Values(pub Vec<Value>);

/// Values of a range at most.
const MOST: usize = 1000;

impl Values {
    /// Reads a list; `{ from, to, factor }`, a geometric range; or `{ from, to, step }`, an arithmetic one. Ends are
    /// included. A single value is a list of one.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(items) if items.is_empty() => Err("= []: has no value; leave it out or name one".into()),
            Value::Array(items) => Ok(Self(items.clone())),
            Value::Table(range) => Self::range(range).map_err(|what| format!("= {value}: {what}")),
            single => Ok(Self(vec![single.clone()])),
        }
    }

    fn range(range: &toml::Table) -> Result<Self, String> {
        const FORM: &str = "a range is { from = 1e-3, to = 8e-3, factor = 2 } or { from = 10, to = 30, step = 10 }";
        let number = |key: &str| match range.get(key) {
            Some(Value::Integer(i)) => Ok(*i as f64),
            Some(Value::Float(x)) if x.is_finite() => Ok(*x),
            _ => Err(format!("{key} must be a number; {FORM}")),
        };
        let whole = range.values().all(|value| value.is_integer());
        let (from, to) = (number("from")?, number("to")?);
        let next: Box<dyn Fn(i32) -> f64> = match (range.contains_key("factor"), range.contains_key("step")) {
            (true, false) => {
                let factor = number("factor")?;
                if from <= 0.0 || factor <= 1.0 {
                    return Err(format!("from must be above 0 and factor above 1; {FORM}"));
                }
                Box::new(move |i| from * factor.powi(i))
            }
            (false, true) => {
                let step = number("step")?;
                if step <= 0.0 {
                    return Err(format!("step must be above 0; {FORM}"));
                }
                Box::new(move |i| from + step * f64::from(i))
            }
            _ => return Err(format!("one of factor and step is needed; {FORM}")),
        };
        if range.len() != 3 || to < from {
            return Err(format!("from must not exceed to, and nothing else belongs here; {FORM}"));
        }
        // The last value may miss the end by the rounding of its factors.
        let values = (0..).map(next).take_while(|value| *value <= to * (1.0 + 1e-9) + f64::MIN_POSITIVE);
        let values: Vec<Value> =
            values.take(MOST + 1).map(|x| if whole { (x.round() as i64).into() } else { round(x) }).collect();
        if values.len() > MOST {
            return Err(format!("has more than {MOST} values"));
        }
        Ok(Self(values))
    }
}

/// Six digits: roots of two have no end, and names of runs do.
fn round(x: f64) -> Value {
    Value::Float(format!("{x:.5e}").parse().expect("a number as it was printed"))
}

/// A value as it is shown and as it stands in a path: texts without quotes.
pub(in crate::cli) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // Rust's digits: `1e-7` for what TOML writes with all its zeros.
        Value::Float(x) => format!("{x:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let table: toml::Table = format!("x = {text}").parse().unwrap();
        Values::read(&table["x"]).map(|values| values.0.iter().map(super::text).collect())
    }

    #[test]
    fn lists_and_ranges_have_their_ends() {
        assert_eq!(read("[1, 'a', 0.5]").unwrap(), ["1", "a", "0.5"]);
        assert_eq!(read("'wsd'").unwrap(), ["wsd"]);
        assert_eq!(
            read("{ from = 1e-3, to = 1.6e-2, factor = 2 }").unwrap(),
            ["0.001", "0.002", "0.004", "0.008", "0.016"]
        );
        assert_eq!(read("{ from = 100, to = 1600, factor = 4 }").unwrap(), ["100", "400", "1600"]);
        assert_eq!(read("{ from = 0.1, to = 0.3, step = 0.1 }").unwrap(), ["0.1", "0.2", "0.3"]);
        assert_eq!(read("{ from = 1, to = 5, step = 1 }").unwrap(), ["1", "2", "3", "4", "5"]);
        assert_eq!(
            read("{ from = 0.001, to = 0.002, factor = 1.41421356 }").unwrap(),
            ["0.001", "0.00141421", "0.002"]
        );
    }

    #[test]
    fn ranges_without_an_end_are_refused() {
        for (text, said) in [
            ("[]", "has no value"),
            ("{ from = 1, to = 2 }", "one of factor and step is needed"),
            ("{ from = 1, to = 2, factor = 1 }", "factor above 1"),
            ("{ from = 0, to = 2, factor = 2 }", "from must be above 0"),
            ("{ from = 1, to = 2, step = 0 }", "step must be above 0"),
            ("{ from = 3, to = 2, step = 1 }", "from must not exceed to"),
            ("{ from = 1, to = 2, step = 1, count = 3 }", "nothing else belongs here"),
            ("{ from = 1, to = 'x', step = 1 }", "to must be a number"),
            ("{ from = 1, to = inf, factor = 2 }", "to must be a number"),
            ("{ from = 0.0, to = 1.0, step = 1e-9 }", "more than 1000"),
        ] {
            let found = read(text).unwrap_err();
            assert!(found.contains(said), "{text}: {found}");
        }
    }
}
