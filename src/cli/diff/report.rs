//! A difference as text and as JSON.

use crate::cli::flatten::dotted;
use crate::cli::number::{self, percent, share, short};
use crate::cli::output::json_line;
use crate::cli::table::Table;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use tetrad::format::{Change, Diff};

/// Tensors that differ, one line each; then what else differs; then the count.
pub(super) fn text(out: &mut dyn Write, diff: &Diff) -> io::Result<()> {
    let differing: Vec<_> = diff.tensors.iter().filter(|t| !t.is_same()).collect();
    let mut table =
        Table::new(&["tensor", "storage", "changed", "of", "share", "rms", "trained-rms", "planes"], &[2, 3, 4, 5, 6]);
    for t in &differing {
        if let Some((there, here)) = &t.spec {
            let planes = format!("{there} -> {here}");
            table.row([
                t.name.clone(),
                t.storage.into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
                "".into(),
                planes,
            ]);
            continue;
        }
        let planes = t.planes.iter().map(|(kind, changed)| match changed {
            Change::Elements(n) => format!("{kind}:{n}"),
            Change::OnlyA => format!("-{kind}"),
            Change::OnlyB => format!("+{kind}"),
            Change::Element => format!("{kind}:type"),
            Change::Shape => format!("{kind}:shape"),
        });
        table.row([
            t.name.clone(),
            t.storage.into(),
            t.changed.to_string(),
            t.elements.to_string(),
            percent(t.changed, t.elements),
            short(t.rms),
            t.rms_trained.map_or("-".into(), short),
            planes.collect::<Vec<_>>().join(" "),
        ]);
    }
    if !differing.is_empty() {
        table.print(out)?;
        writeln!(out)?;
    }
    diff.only_a.iter().try_for_each(|name| writeln!(out, "- tensor {name}"))?;
    diff.only_b.iter().try_for_each(|name| writeln!(out, "+ tensor {name}"))?;
    for member in &diff.metadata {
        let show = |side: &Option<Value>| side.as_ref().map_or_else(|| "absent".into(), json_line);
        writeln!(out, "metadata {}: {} -> {}", dotted(&member.path), show(&member.a), show(&member.b))?;
    }
    diff.attachments.iter().try_for_each(|name| writeln!(out, "attachment {name} differs"))?;
    if diff.reordered {
        writeln!(out, "the tensors are in another order")?;
    }
    match diff.is_same() {
        true => writeln!(out, "same: {} tensors, metadata and attachments", diff.tensors.len()),
        false => writeln!(out, "different: {} of {} common tensors", differing.len(), diff.tensors.len()),
    }
}

/// Everything, tensors that are the same included.
pub(super) fn json(diff: &Diff) -> Value {
    let tensors = diff.tensors.iter().map(|t| {
        let planes: Map<_, _> = t.planes.iter().map(|(kind, n)| (kind.clone(), change(*n))).collect();
        json!({
            "name": t.name, "storage": t.storage, "same": t.is_same(),
            "spec": t.spec.as_ref().map(|(a, b)| json!({ "a": a, "b": b })),
            "changed": t.changed, "elements": t.elements, "share": share(t.changed, t.elements),
            "rms": number::json(t.rms), "rms_trained": t.rms_trained.map(number::json), "planes": planes,
        })
    });
    let metadata = diff.metadata.iter().map(|member| {
        let text = |side: &Option<Value>| side.as_ref().map(json_line);
        json!({ "path": dotted(&member.path), "a": text(&member.a), "b": text(&member.b) })
    });
    json!({
        "same": diff.is_same(), "tensors": tensors.collect::<Vec<_>>(), "only_a": diff.only_a, "only_b": diff.only_b,
        "metadata": metadata.collect::<Vec<_>>(), "attachments": diff.attachments, "reordered": diff.reordered,
    })
}

/// The number of elements, or a word.
fn change(change: Change) -> Value {
    match change {
        Change::Elements(n) => n.into(),
        Change::OnlyA => "only in a".into(),
        Change::OnlyB => "only in b".into(),
        Change::Element => "other type".into(),
        Change::Shape => "other shape".into(),
    }
}
