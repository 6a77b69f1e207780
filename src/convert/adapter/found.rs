//! Halves of pairs as they are found in a file, until every pair is whole.

use super::site::{Site, Sites};
use super::{LowRank, Parts, ScaleRule};
use crate::convert::gguf::TensorInfo;
use crate::convert::names::RowOrder;
use crate::convert::quants::Kind;
use crate::error::AdapterError;
use crate::model::ParamKind;

/// What a tensor is to its matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
    Magnitude,
}

/// How the two halves lie in a file, the contiguous dimension last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HalfLayout {
    /// A is `[cols, r]` instead of `[r, cols]`.
    pub a_transposed: bool,
    /// B is `[r, rows]` instead of `[rows, r]`.
    pub b_transposed: bool,
}

/// One tensor of a file.
struct Tensor<'a> {
    info: &'a TensorInfo,
    layout: HalfLayout,
}

/// The tensors of one matrix.
#[derive(Default)]
struct Found<'a> {
    a: Option<Tensor<'a>>,
    b: Option<Tensor<'a>>,
    magnitude: Option<Tensor<'a>>,
}

/// All that was found.
pub(super) struct Halves<'a> {
    sites: &'a Sites,
    bytes: &'a [u8],
    found: Vec<Found<'a>>,
    unknown: Vec<&'a str>,
}

impl<'a> Halves<'a> {
    /// Of a file of these bytes, beside the matrices of a base.
    pub fn new(sites: &'a Sites, bytes: &'a [u8]) -> Self {
        let found = (0..sites.count()).map(|_| Found::default()).collect();
        Self { sites, bytes, found, unknown: Vec::new() }
    }

    /// A tensor beside matrix `site`.
    ///
    /// # Errors
    /// If that has one already, under another name.
    pub fn add(
        &mut self,
        site: usize,
        part: Half,
        info: &'a TensorInfo,
        layout: HalfLayout,
    ) -> Result<(), AdapterError> {
        let found = &mut self.found[site];
        let place = match part {
            Half::A => &mut found.a,
            Half::B => &mut found.b,
            Half::Magnitude => &mut found.magnitude,
        };
        match place.replace(Tensor { info, layout }) {
            None => Ok(()),
            Some(other) => {
                let names = [other.info.name.as_str(), &info.name];
                Err(listed("tensors are the same half of one matrix under different names", &names))
            }
        }
    }

    /// A tensor that belongs to no matrix of the base.
    pub fn unknown(&mut self, name: &'a str) {
        self.unknown.push(name);
    }

    /// The numbers of the matrices that have any.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        let any = |found: &Found<'_>| found.a.is_some() || found.b.is_some() || found.magnitude.is_some();
        self.found.iter().enumerate().filter(move |(_, found)| any(found)).map(|(i, _)| i)
    }

    /// Whether there are only whole pairs and nothing else, with magnitudes where `magnitudes` says so.
    ///
    /// # Errors
    /// All that is missing or surplus, by name.
    pub fn check(&self, magnitudes: bool) -> Result<(), AdapterError> {
        if !self.unknown.is_empty() {
            return Err(listed(
                "tensors belong to no matrix of the base; an adapter of another model, or tensors that are more than an \
                 adapter",
                &self.unknown,
            ));
        }
        let (mut missing, mut surplus) = (Vec::new(), Vec::new());
        for i in self.numbers() {
            let (found, module) = (&self.found[i], &self.sites.at(i).module);
            let parts = [("A", found.a.is_some(), true), ("B", found.b.is_some(), true)];
            let magnitude = ("magnitude", found.magnitude.is_some(), magnitudes);
            for (name, there, wanted) in parts.into_iter().chain([magnitude]) {
                match (there, wanted) {
                    (false, true) => missing.push(format!("{module} ({name})")),
                    (true, false) => surplus.push(format!("{module} ({name})")),
                    _ => {}
                }
            }
        }
        if !missing.is_empty() {
            return Err(listed(
                "halves of pairs are missing; the file was cut, or written by a save that failed",
                &missing,
            ));
        }
        if !surplus.is_empty() {
            return Err(listed("magnitudes are there, and the configuration does not say use_dora", &surplus));
        }
        match self.numbers().next() {
            Some(_) => Ok(()),
            None => Err(AdapterError::Empty),
        }
    }

    /// The pairs. `alpha` gives that of a matrix of this rank, after [`Halves::check`]; `order` is that of the rows of B.
    ///
    /// # Errors
    /// Shapes that do not fit, numbers that are not finite, what `alpha` refuses.
    pub fn pairs(
        &self,
        rule: ScaleRule,
        order: impl Fn(ParamKind) -> RowOrder,
        mut alpha: impl FnMut(&Site, u64) -> Result<f64, AdapterError>,
    ) -> Result<Parts, AdapterError> {
        let pairs = self.numbers().map(|i| {
            let (site, found) = (self.sites.at(i), &self.found[i]);
            let (Some(a), Some(b)) = (&found.a, &found.b) else { unreachable!("pairs were found to be whole") };
            let ranks =
                [rank(a, site, site.cols, !a.layout.a_transposed)?, rank(b, site, site.rows, b.layout.b_transposed)?];
            if ranks[0] != ranks[1] {
                return Err(AdapterError::Halves { site: site.module.clone(), a: ranks[0], b: ranks[1] });
            }
            let alpha = alpha(site, ranks[0])?;
            let rank = ranks[0] as usize;
            let mut of_a = self.floats(a.info)?;
            if a.layout.a_transposed {
                of_a = transposed(&of_a, site.cols, rank);
            }
            let mut of_b = self.floats(b.info)?;
            if b.layout.b_transposed {
                of_b = transposed(&of_b, rank, site.rows);
            }
            let order = order(site.kind);
            let magnitude = found.magnitude.as_ref().map(|tensor| {
                let elements: u64 = tensor.info.dims.iter().product();
                if elements != site.rows as u64 {
                    return Err(shape(tensor.info, site, format!("[{}]", site.rows)));
                }
                self.floats(tensor.info)
            });
            Ok(LowRank {
                site: site.kind,
                rank,
                alpha,
                a: of_a,
                b: in_our_order(&of_b, rank, order),
                magnitude: magnitude.transpose()?,
            })
        });
        Ok(Parts::LowRank { rule, pairs: pairs.collect::<Result<_, _>>()? })
    }

    fn floats(&self, info: &TensorInfo) -> Result<Vec<f32>, AdapterError> {
        floats(self.bytes, info)
    }
}

/// Whether a file has numbers in bfloat16 and no others.
pub(super) fn is_bf16(tensors: &[TensorInfo]) -> bool {
    tensors.iter().all(|info| info.kind == Kind::Bf16)
}

/// The numbers of a tensor.
///
/// # Errors
/// The first that is not finite.
pub(super) fn floats(bytes: &[u8], info: &TensorInfo) -> Result<Vec<f32>, AdapterError> {
    let elements = info.dims.iter().product::<u64>() as usize;
    let mut values = vec![0.0; elements];
    info.kind.decode(&bytes[info.range.clone()], &mut values);
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(element) => Err(AdapterError::NotFinite { tensor: info.name.clone(), element, value: values[element] }),
    }
}

/// The rank of a half whose other side is `side`; whether the rank comes first.
fn rank(tensor: &Tensor<'_>, site: &Site, side: usize, rank_first: bool) -> Result<u64, AdapterError> {
    match (tensor.info.dims.as_slice(), rank_first) {
        (&[rank, found], true) | (&[found, rank], false) if found == side as u64 => Ok(rank),
        _ => {
            let expected = if rank_first { format!("[r, {side}]") } else { format!("[{side}, r]") };
            Err(shape(tensor.info, site, expected))
        }
    }
}

fn shape(info: &TensorInfo, site: &Site, expected: String) -> AdapterError {
    let (tensor, found) = (info.name.clone(), info.dims.clone());
    AdapterError::Shape { tensor, found, expected, rows: site.rows, cols: site.cols }
}

/// `[rows, cols]` as `[cols, rows]`.
pub(in crate::convert) fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

/// Rows of `width` numbers in our order.
fn in_our_order(theirs: &[f32], width: usize, order: RowOrder) -> Vec<f32> {
    match order {
        RowOrder::Same => theirs.to_vec(),
        _ => (0..theirs.len() / width).flat_map(|row| &theirs[order.theirs(row) * width..][..width]).copied().collect(),
    }
}

/// A refusal that names tensors.
pub(super) fn listed(problem: &'static str, names: &[impl AsRef<str>]) -> AdapterError {
    let mut shown = names.iter().take(20).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > 20 {
        shown += ", ...";
    }
    AdapterError::Tensors { count: names.len(), problem, names: shown }
}
