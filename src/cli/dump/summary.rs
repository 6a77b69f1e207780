//! The plain dump: sizes, metadata, and one line per tensor.

use super::pairs::{self, Added};
use super::stats::{self, Stats};
use crate::cli::flatten::flatten;
use crate::cli::output;
use crate::cli::table::Table;
use serde_json::{Value, json};
use std::io::{self, Write};
use tetrad::format::{File, MAJOR, Plane, PlaneKind, Tensor};
use tetrad::quant::StateShape;

/// Prints the summary.
pub(super) fn text(out: &mut dyn Write, file: &File<'_>, tensors: &[usize]) -> io::Result<()> {
    let head = file.head();
    let sections = &head.sections;
    let size = |range: &std::ops::Range<u64>| range.end - range.start;
    let total = Sizes::of(&head.tensors);
    writeln!(out, "format            {MAJOR}.{}", head.minor)?;
    writeln!(out, "kind              {}", kind(file))?;
    writeln!(out, "file bytes        {}", head.file_len())?;
    writeln!(out, "head bytes        {}", sections.attachments.end)?;
    writeln!(out, "weight bytes      {}", size(&sections.weights))?;
    writeln!(out, "optimizer bytes   {}", size(&sections.optimizer))?;
    writeln!(out, "tensors           {}", head.tensors.len())?;
    writeln!(out, "planes            {}", head.planes.len())?;
    writeln!(out, "elements          {}", total.elements)?;
    writeln!(out, "bits per weight   {:.3} weights, {:.3} in all", total.weight_bits(), total.bits())?;

    writeln!(out, "\nmetadata")?;
    for (path, value) in flatten(&head.metadata) {
        writeln!(out, "{path} {value}")?;
    }
    if !head.attachments.is_empty() {
        writeln!(out, "\nattachments")?;
    }
    for (name, range) in &head.attachments {
        writeln!(out, "{name} {} bytes", size(range))?;
    }
    writeln!(out)?;
    let mut table = Table::new(
        &["tensor", "shape", "storage", "group", "bytes", "bits/weight", "with state", "planes"],
        &[3, 4, 5, 6],
    );
    for tensor in tensors.iter().map(|&i| &head.tensors[i]) {
        let sizes = Sizes::of(std::slice::from_ref(tensor));
        let planes = tensor.planes.iter().map(|plane| {
            let shape = own_shape(tensor, plane).map(|shape| format!("({shape})")).unwrap_or_default();
            format!("{}:{}{shape}", tensor.plane_name(plane.kind), plane.element_name())
        });
        table.row([
            tensor.spec.name.clone(),
            shape(tensor),
            tensor.spec.storage.name().into(),
            if tensor.spec.group == 0 { "-".into() } else { tensor.spec.group.to_string() },
            (sizes.weight_bytes + sizes.optimizer_bytes).to_string(),
            format!("{:.3}", sizes.weight_bits()),
            format!("{:.3}", sizes.bits()),
            planes.collect::<Vec<_>>().join(" "),
        ]);
    }
    table.print(out)
}

/// Prints all of it as one JSON object.
pub(super) fn json(
    out: &mut dyn Write,
    file: &File<'_>,
    tensors: &[usize],
    stats: &[Stats],
    pairs: &[Added],
) -> io::Result<()> {
    let head = file.head();
    let total = Sizes::of(&head.tensors);
    let sections = &head.sections;
    let attachments = head.attachments.iter().map(|(name, r)| json!({ "name": name, "bytes": r.end - r.start }));
    let mut value = json!({
        "format": { "major": MAJOR, "minor": head.minor },
        "kind": kind(file),
        "file_bytes": head.file_len(),
        "head_bytes": sections.attachments.end,
        "weight_bytes": sections.weights.end - sections.weights.start,
        "optimizer_bytes": sections.optimizer.end - sections.optimizer.start,
        "elements": total.elements,
        "weight_bits": total.weight_bits(),
        "all_bits": total.bits(),
        "metadata": head.metadata,
        "attachments": attachments.collect::<Vec<_>>(),
        "tensors": tensors.iter().map(|&i| tensor(&head.tensors[i], i, stats)).collect::<Vec<_>>(),
    });
    if !pairs.is_empty() {
        value["pairs"] = pairs::json(pairs);
    }
    output::json(out, &value)
}

fn tensor(tensor: &Tensor, index: usize, stats: &[Stats]) -> Value {
    let sizes = Sizes::of(std::slice::from_ref(tensor));
    let spec = &tensor.spec;
    let mut value = json!({
        "name": spec.name, "shape": spec.dims, "storage": spec.storage.name(), "group": spec.group,
        "weight_bits": sizes.weight_bits(), "all_bits": sizes.bits(),
        "planes": tensor.planes.iter().map(|p| plane(tensor, p)).collect::<Vec<_>>(),
    });
    let stats: Vec<_> = stats.iter().filter(|s| s.tensor == index).map(stats::json).collect();
    if !stats.is_empty() {
        value["stats"] = stats.into();
    }
    value
}

fn plane(tensor: &Tensor, plane: &Plane) -> Value {
    let mut value = json!({
        "kind": tensor.plane_name(plane.kind), "element": plane.element_name(), "offset": plane.offset,
        "bytes": plane.len, "xxh3": format!("{:016x}", plane.checksum),
    });
    if let Some(shape) = own_shape(tensor, plane) {
        value["shape"] = shape.into();
    }
    value
}

/// The shape of a state tensor that the file names, unless it has one element per weight: `row`, `column`, `8x40`.
fn own_shape(tensor: &Tensor, plane: &Plane) -> Option<String> {
    match (plane.kind, plane.kind.named_state()) {
        (PlaneKind::State(_), Some((entry, _))) => match tensor.state[entry].format.shape {
            StateShape::PerWeight => None,
            StateShape::PerRow => Some("row".into()),
            StateShape::PerCol => Some("column".into()),
            StateShape::Matrix { rows, cols } => Some(format!("{rows}x{cols}")),
            StateShape::Scalars(count) => Some(count.to_string()),
        },
        _ => None,
    }
}

fn kind(file: &File<'_>) -> &'static str {
    if file.head().has_optimizer() { "weights and optimizer state" } else { "weights" }
}

/// `4x96`.
pub(super) fn shape(tensor: &Tensor) -> String {
    tensor.spec.dims.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

/// Elements and bytes of some tensors.
struct Sizes {
    elements: u64,
    weight_bytes: u64,
    optimizer_bytes: u64,
}

impl Sizes {
    fn of(tensors: &[Tensor]) -> Self {
        let bytes = |optimizer| {
            let planes = tensors.iter().flat_map(|t| &t.planes);
            planes.filter(|p| p.kind.is_optimizer() == optimizer).map(|p| p.len).sum()
        };
        let elements = tensors.iter().map(|t| t.spec.elements()).sum();
        Self { elements, weight_bytes: bytes(false), optimizer_bytes: bytes(true) }
    }

    fn weight_bits(&self) -> f64 {
        self.weight_bytes as f64 * 8.0 / self.elements as f64
    }

    fn bits(&self) -> f64 {
        (self.weight_bytes + self.optimizer_bytes) as f64 * 8.0 / self.elements as f64
    }
}
