//! Metadata as a flat list of `path value`, which can be grepped and diffed.

use super::output::{escape, json_line};
use serde_json::{Map, Value};
use tetrad::format::members;

/// Every member that is no object, under its dotted path, in order of the paths; arrays stay whole.
pub(super) fn flatten(map: &Map<String, Value>) -> Vec<(String, String)> {
    let mut out: Vec<_> = members(map).iter().map(|(path, value)| (dotted(path), json_line(value))).collect();
    out.sort();
    out
}

/// The names that lead to a member.
pub(super) fn dotted(path: &[impl AsRef<str>]) -> String {
    path.iter().map(|name| segment(name.as_ref())).collect::<Vec<_>>().join(".")
}

/// A member's name in a path; quoted where it could be taken for two.
fn segment(name: &str) -> String {
    if name.is_empty() || name.contains(['.', ' ', '"']) { json_line(&name.into()) } else { escape(name) }
}
