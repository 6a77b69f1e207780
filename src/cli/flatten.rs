//! Metadata as a flat list of `path value`, which can be grepped and diffed.

use super::output::{escape, json_line};
use serde_json::{Map, Value};

/// Every member that is no object, under its dotted path, in order of the paths; arrays stay whole.
pub(super) fn flatten(map: &Map<String, Value>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    members(map, "", &mut out);
    out.sort();
    out
}

/// Recurses as deep as objects nest, which the format caps.
fn members(map: &Map<String, Value>, prefix: &str, out: &mut Vec<(String, String)>) {
    for (name, value) in map {
        let path = format!("{prefix}{}", segment(name));
        match value {
            Value::Object(inner) if !inner.is_empty() => members(inner, &format!("{path}."), out),
            value => out.push((path, json_line(value))),
        }
    }
}

/// A member's name in a path; quoted where it could be taken for two.
fn segment(name: &str) -> String {
    if name.is_empty() || name.contains(['.', ' ', '"']) { json_line(&name.into()) } else { escape(name) }
}
