//! What differs between two files, as numbers.

use super::metadata::members;
use super::{Decoder, File, NamedState, PlaneKind, PlaneView, Role, Tensor};
use crate::quant::{Element, WeightPlane};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that differs between two files.
#[derive(Clone, Debug)]
pub struct Diff {
    /// Tensors in both files, in the order of the first.
    pub tensors: Vec<TensorDiff>,
    /// Names only in the first file.
    pub only_a: Vec<String>,
    /// Names only in the second file.
    pub only_b: Vec<String>,
    /// Members of the metadata that differ, in order of their paths.
    pub metadata: Vec<MemberDiff>,
    /// Attachments that differ or exist in one file only.
    pub attachments: Vec<String>,
    /// Whether the order of the common tensors differs.
    pub reordered: bool,
}

/// A member of the metadata that differs: no object, unless it is an empty one.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberDiff {
    /// The names of the objects that it is in, the outermost first, and its own.
    pub path: Vec<String>,
    /// Its value in the first file, if it is there.
    pub a: Option<Value>,
    /// Its value in the second file, if it is there.
    pub b: Option<Value>,
}

/// What differs in one tensor.
#[derive(Clone, Debug)]
pub struct TensorDiff {
    /// Its name.
    pub name: String,
    /// How the first file stores it.
    pub storage: &'static str,
    /// `shape storage group`, there and here, if they differ; then nothing else is compared.
    pub spec: Option<(String, String)>,
    /// Elements without padding.
    pub elements: u64,
    /// Elements of the weight's own plane (codes, bytes or floats) that differ.
    pub changed: u64,
    /// Root mean square over all elements of the change in the deployed value.
    pub rms: f64,
    /// The same of the trained value, if both files hold it.
    pub rms_trained: Option<f64>,
    /// Planes that differ, by the names that the files give them.
    pub planes: Vec<(String, Change)>,
}

/// How a plane differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// In this many elements.
    Elements(u64),
    /// Only the first file has it.
    OnlyA,
    /// Only the second file has it.
    OnlyB,
    /// The files hold it in different types.
    Element,
    /// The files hold it in different shapes.
    Shape,
}

impl TensorDiff {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.spec.is_none() && self.planes.is_empty()
    }
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.tensors.iter().all(TensorDiff::is_same)
            && self.only_a.is_empty()
            && self.only_b.is_empty()
            && self.metadata.is_empty()
            && self.attachments.is_empty()
            && !self.reordered
    }
}

/// Compares two files plane by plane; tensors that have one name are compared.
pub fn diff(a: &File<'_>, b: &File<'_>) -> Diff {
    let common: Vec<_> =
        (a.tensors().iter().enumerate()).filter_map(|(i, t)| b.tensor(&t.spec.name).map(|(j, _)| (i, j))).collect();
    Diff {
        tensors: common.par_iter().map(|&(i, j)| tensors(a, i, b, j)).collect(),
        only_a: only(a, b),
        only_b: only(b, a),
        metadata: metadata(a, b),
        attachments: attachments(a, b),
        reordered: !common.is_sorted_by_key(|c| c.1),
    }
}

fn only(a: &File<'_>, b: &File<'_>) -> Vec<String> {
    let names = a.tensors().iter().map(|t| &t.spec.name);
    names.filter(|name| b.tensor(name).is_none()).cloned().collect()
}

fn tensors(a: &File<'_>, i: usize, b: &File<'_>, j: usize) -> TensorDiff {
    let (ta, tb) = (&a.tensors()[i], &b.tensors()[j]);
    let spec = &ta.spec;
    let mut diff = TensorDiff {
        name: spec.name.clone(),
        storage: spec.storage.name(),
        spec: (spec != &tb.spec).then(|| (describe(ta), describe(tb))),
        elements: spec.elements(),
        changed: 0,
        rms: 0.0,
        rms_trained: None,
        planes: Vec::new(),
    };
    if diff.spec.is_some() {
        return diff;
    }
    let own = PlaneKind::of_weight(spec.storage, WeightPlane::Data).name();
    // State that the files name may have another number in each.
    let mut planes: Vec<(u8, String)> = Vec::new();
    for (tensor, plane) in ta.planes.iter().map(|p| (ta, p)).chain(tb.planes.iter().map(|p| (tb, p))) {
        let name = tensor.plane_name(plane.kind);
        if planes.iter().all(|(_, known)| *known != name) {
            planes.push((plane.kind.tag(), name));
        }
    }
    planes.sort();
    for (_, name) in planes {
        let kind = |tensor: &Tensor| tensor.plane_named(&name).map(|plane| plane.kind);
        let found = (kind(ta).and_then(|kind| a.plane(i, kind)), kind(tb).and_then(|kind| b.plane(j, kind)));
        let change = match found {
            (Some(pa), Some(pb)) if pa.plane.element_tag != pb.plane.element_tag => Change::Element,
            (Some(pa), Some(pb)) if shape(ta, &pa) != shape(tb, &pb) => Change::Shape,
            (Some(pa), Some(pb)) => Change::Elements(changed(&pa, &pb)),
            (Some(_), None) => Change::OnlyA,
            _ => Change::OnlyB,
        };
        match change {
            Change::Elements(0) => continue,
            Change::Elements(n) if name == own => diff.changed = n,
            _ => {}
        }
        diff.planes.push((name, change));
    }
    if !diff.planes.is_empty() {
        diff.rms = rms(a, i, b, j, Role::Weight).unwrap_or(0.0);
        diff.rms_trained = rms(a, i, b, j, Role::Trained);
    }
    diff
}

/// What the file says of the shape of a state tensor that it names.
fn shape<'t>(tensor: &'t Tensor, view: &PlaneView<'_>) -> Option<&'t NamedState> {
    view.plane.kind.named_state().map(|(entry, _)| &tensor.state[entry])
}

fn describe(tensor: &Tensor) -> String {
    format!("{} {} {}", tensor.spec.shape(), tensor.spec.storage.name(), tensor.spec.group)
}

/// Elements that differ between two planes of one type.
fn changed(a: &PlaneView<'_>, b: &PlaneView<'_>) -> u64 {
    if a.bytes == b.bytes {
        return 0;
    }
    let differing = |size: usize| {
        let pairs = a.bytes.chunks(size).zip(b.bytes.chunks(size));
        pairs.filter(|(x, y)| x != y).count() as u64
    };
    match a.plane.element() {
        Some(Element::Nibble) => {
            let xor = a.bytes.iter().zip(b.bytes).map(|(x, y)| x ^ y);
            xor.map(|x| u64::from(x & 15 != 0) + u64::from(x >> 4 != 0)).sum()
        }
        Some(Element::F32) => differing(4),
        Some(Element::F16 | Element::Bf16) => differing(2),
        // Unknown planes of different lengths differ at least in their bytes beyond the shorter one.
        _ => differing(1) + a.bytes.len().abs_diff(b.bytes.len()) as u64,
    }
}

/// Root mean square of b - a; NaN if either holds one.
fn rms(a: &File<'_>, i: usize, b: &File<'_>, j: usize, role: Role) -> Option<f64> {
    let (da, db) = (Decoder::new(a, i, role)?, Decoder::new(b, j, role)?);
    let (mut xs, mut ys) = (vec![0.0; da.cols()], vec![0.0; da.cols()]);
    let mut sum = 0.0;
    for row in 0..da.rows() {
        da.row(row, &mut xs);
        db.row(row, &mut ys);
        sum += xs.iter().zip(&ys).map(|(x, y)| (f64::from(*y) - f64::from(*x)).powi(2)).sum::<f64>();
    }
    Some((sum / (da.rows() as f64 * da.cols() as f64)).sqrt())
}

fn metadata(a: &File<'_>, b: &File<'_>) -> Vec<MemberDiff> {
    let (there, here): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (members(a.metadata()).into_iter().collect(), members(b.metadata()).into_iter().collect());
    let paths: BTreeSet<_> = there.keys().chain(here.keys()).collect();
    let differing = paths.into_iter().filter(|path| there.get(*path) != here.get(*path));
    let member = |path: &Vec<&str>| MemberDiff {
        path: path.iter().map(|&name| name.to_owned()).collect(),
        a: there.get(path).copied().cloned(),
        b: here.get(path).copied().cloned(),
    };
    differing.map(member).collect()
}

fn attachments(a: &File<'_>, b: &File<'_>) -> Vec<String> {
    let names: BTreeSet<_> = a.head().attachments.iter().chain(&b.head().attachments).map(|x| &x.0).collect();
    names.into_iter().filter(|name| a.attachment(name) != b.attachment(name)).cloned().collect()
}
