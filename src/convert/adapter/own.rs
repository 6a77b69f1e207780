//! Between an adapter of another program and our own, whose B lies transposed.

use super::found::transposed;
use super::{ForeignAdapter, LowRank, Parts, ScaleRule};
use crate::checkpoint::{Adapter, Checkpoint, Meta};
use crate::error::{AdapterError, CheckpointError, ConvertError};
use crate::model::{
    AdapterConfig, AdapterKind, AdapterPart, AdapterScale, AdapterSite, AdapterWeights, BlockParam, LowRankSite,
    MatrixSite, ModelConfig, ParamKind,
};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// A pair of matrices of an adapter of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair<'a> {
    /// Where it stands, its rank and its factor without a scale that was learned.
    pub site: LowRankSite,
    /// `[r, in]`; of an adapter that sees sums of groups each of its numbers once for every input of its group, which is the
    /// same.
    pub a: Cow<'a, [f32]>,
    /// `[r, out]`.
    pub b_transposed: Cow<'a, [f32]>,
    /// The scale that was learned, 1 if none was.
    pub learned: f32,
    /// DoRA's norms, `[out]`.
    pub magnitude: Option<&'a [f32]>,
}

impl Pair<'_> {
    /// `[out, r]`, with the learned scale in it.
    pub fn b(&self) -> Vec<f32> {
        let rank = self.site.rank;
        let mut b = transposed(&self.b_transposed, rank, self.b_transposed.len() / rank);
        if self.learned != 1.0 {
            b.iter_mut().for_each(|x| *x *= self.learned);
        }
        b
    }
}

/// The pairs of an adapter, in the order of its base's matrices.
pub fn pairs(adapter: &Adapter) -> Vec<Pair<'_>> {
    let Some(config) = &adapter.meta.adapter else { return Vec::new() };
    let parts = parts(adapter);
    let of = |site: LowRankSite| {
        let part = |part| parts.get(&(AdapterSite::Matrix(site.matrix), part)).copied();
        let ([outputs, inputs], a) = (site.matrix.shape(&adapter.meta.model), part(AdapterPart::A)?);
        let spread = |row: &[f32]| (0..inputs).map(|i| row[i / adapter.meta.storage.group]).collect::<Vec<_>>();
        Some(Pair {
            a: match config.group {
                true => a.chunks(a.len() / site.rank).flat_map(spread).collect(),
                false => a.into(),
            },
            b_transposed: match part(AdapterPart::BTransposed) {
                Some(b) => b.into(),
                None => transposed(part(AdapterPart::B)?, outputs, site.rank).into(),
            },
            learned: part(AdapterPart::Scale).map_or(1.0, |scale| scale[0]),
            magnitude: part(AdapterPart::Magnitude),
            site,
        })
    };
    config.sites(&adapter.meta.model).into_iter().filter_map(of).collect()
}

/// The values of an adapter by what they stand beside and what they are.
fn parts(adapter: &Adapter) -> HashMap<(AdapterSite, AdapterPart), &[f32]> {
    let tensors = adapter.tensors.iter();
    let placed = tensors.filter_map(|(spec, values)| match spec.kind {
        ParamKind::Adapter(param) => Some(((param.site, param.part), values.as_slice())),
        _ => None,
    });
    placed.collect()
}

/// Keys and values of each block of a prefix, `[length, kv width]`, with what was learned as their scales in them; none of
/// another kind of adapter.
pub fn prefix_blocks(adapter: &Adapter) -> Vec<[Vec<f32>; 2]> {
    let Some(config) = adapter.meta.adapter.as_ref().filter(|config| config.kind == AdapterKind::Prefix) else {
        return Vec::new();
    };
    let parts = parts(adapter);
    let scaled = |layer, part, scale| {
        let of = |part| parts.get(&(AdapterSite::Attention(layer), part)).copied();
        let by = of(scale).map_or(1.0, |scale| scale[0]);
        of(part).unwrap_or_default().iter().map(|x| x * by).collect()
    };
    let of = |layer| {
        let key = scaled(layer, AdapterPart::PrefixKey, AdapterPart::PrefixKeyScale);
        [key, scaled(layer, AdapterPart::PrefixValue, AdapterPart::PrefixValueScale)]
    };
    config.blocks(&adapter.meta.model).into_iter().map(of).collect()
}

impl ForeignAdapter {
    /// As an adapter of ours beside `base`, all values in float32, or in bfloat16 if the file has no others and is of pairs.
    ///
    /// # Errors
    /// Another base than the one whose fingerprint was exported with it; what adapters of ours do not have.
    pub fn into_own(self, base: &Checkpoint) -> Result<Adapter, ConvertError> {
        self.check_base(base)?;
        let refused = |source| ConvertError::Adapter { path: self.path.clone(), source: Box::new(source) };
        let model = &base.meta.model;
        let config = match &self.parts {
            Parts::LowRank { rule, pairs } => config(*rule, pairs, self.dropout, self.bf16, model).map_err(refused)?,
            Parts::Prefix { length, .. } => AdapterConfig {
                kind: AdapterKind::Prefix,
                length: *length,
                compensate: false,
                ..AdapterConfig::default()
            },
        };
        let mut adapter = Adapter::new(base, config)?;
        if let Some(meta) = self.own.as_ref().and_then(|own| restored(own, &adapter, base)) {
            adapter.meta = meta;
        }
        let pairs: &[LowRank] = if let Parts::LowRank { pairs, .. } = &self.parts { pairs } else { &[] };
        let by_site: HashMap<ParamKind, &LowRank> = pairs.iter().map(|pair| (pair.site, pair)).collect();
        for (spec, values) in &mut adapter.tensors {
            let ParamKind::Adapter(param) = spec.kind else { continue };
            match (&self.parts, param.site) {
                (Parts::LowRank { .. }, AdapterSite::Matrix(matrix)) => {
                    let pair = by_site[&matrix.kind()];
                    match param.part {
                        AdapterPart::A => values.copy_from_slice(&pair.a),
                        AdapterPart::B => values.copy_from_slice(&pair.b),
                        AdapterPart::BTransposed => {
                            values.copy_from_slice(&transposed(&pair.b, pair.b.len() / pair.rank, pair.rank));
                        }
                        AdapterPart::Magnitude => {
                            values.copy_from_slice(pair.magnitude.as_ref().expect("all pairs have one"));
                        }
                        other => unreachable!("no pair of another program has a {}", other.suffix()),
                    }
                }
                (Parts::Prefix { blocks, .. }, AdapterSite::Attention(layer)) => {
                    let which = usize::from(param.part == AdapterPart::PrefixValue);
                    values.copy_from_slice(&blocks[layer][which]);
                }
                (_, site) => unreachable!("the settings are of what was read, and have nothing at {}", site.path()),
            }
        }
        Ok(adapter)
    }

    /// What was exported here names its base, and must not be given another by a detour.
    fn check_base(&self, base: &Checkpoint) -> Result<(), CheckpointError> {
        let found = base.fingerprint().to_string();
        match &self.fingerprint {
            Some(expected) if *expected != found => Err(CheckpointError::OtherBase {
                path: self.path.clone(),
                base: base.path().into(),
                expected: expected.clone(),
                found,
            }),
            _ => Ok(()),
        }
    }
}

/// The metadata of our file that an adapter was exported from, if they still say what was read: the same base, matrices,
/// ranks, factors and types.
fn restored(own: &Map<String, Value>, read: &Adapter, base: &Checkpoint) -> Option<Meta> {
    let meta = Meta::from_map(own).ok().filter(|meta| meta.check(false).is_ok() && meta.validate().is_ok())?;
    let (adapter, found) = (meta.adapter.as_ref()?, read.meta.adapter.as_ref()?);
    let model = &base.meta.model;
    let same = meta.base == read.meta.base
        && meta.model == *model
        && adapter.kind == found.kind
        && adapter.scale != AdapterScale::Learned
        && !adapter.group
        && adapter.magnitude == found.magnitude
        && adapter.weights == found.weights
        && adapter.dropout == found.dropout
        && adapter.sites(model) == found.sites(model)
        && (adapter.blocks(model), adapter.length, adapter.compensate)
            == (found.blocks(model), found.length, found.compensate);
    same.then_some(meta)
}

fn inexpressible(what: &str) -> AdapterError {
    AdapterError::Inexpressible {
        what: what.into(),
        format: "a .tetrad adapter",
        instead: "adapters are pairs beside the seven matrices of blocks, the embedding and the head",
    }
}

/// What the settings say of a pair.
#[derive(Clone, Copy)]
struct PairPlace {
    matrix: MatrixSite,
    rank: usize,
    alpha: f64,
}

/// The settings of an adapter of these pairs.
fn config(
    rule: ScaleRule,
    pairs: &[LowRank],
    dropout: f64,
    bf16: bool,
    model: &ModelConfig,
) -> Result<AdapterConfig, AdapterError> {
    let magnitude = pairs.iter().all(|pair| pair.magnitude.is_some());
    if let Some(pair) = pairs.iter().find(|pair| pair.magnitude.is_some() != magnitude) {
        return Err(inexpressible(&format!("a magnitude (DoRA) of some pairs only, as {} has one,", pair.site.name())));
    }
    let mut found = Vec::new();
    for pair in pairs {
        match MatrixSite::of(pair.site) {
            Some(matrix) if magnitude && matrix.layer().is_none() => {
                return Err(inexpressible(&format!("a magnitude (DoRA) beside {}", pair.site.name())));
            }
            Some(matrix) => found.push(PairPlace { matrix, rank: pair.rank, alpha: pair.alpha }),
            None => return Err(inexpressible(&format!("a pair beside {}", pair.site.name()))),
        }
    }
    let rank = most_common(found.iter().map(|place| place.rank as f64)) as usize;
    let alpha = most_common(found.iter().map(|place| place.alpha));
    let config = AdapterConfig {
        kind: AdapterKind::Lora,
        rank,
        alpha,
        scale: match rule {
            ScaleRule::AlphaOverRank => AdapterScale::AlphaOverRank,
            ScaleRule::RankStabilized => AdapterScale::RsLora,
        },
        rank_pattern: exceptions(&found, |place| place.rank as f64, rank as f64),
        alpha_pattern: exceptions(&found, |place| place.alpha, alpha),
        magnitude,
        dropout,
        weights: if bf16 { AdapterWeights::Bf16 } else { AdapterWeights::F32 },
        ..placed(&found, model)
    };
    // What was written must say what was read.
    let sites = config.sites(model);
    let same = sites.len() == found.len()
        && sites.iter().zip(&found).all(|(site, place)| {
            let factor = rule.factor(place.alpha, place.rank);
            (site.matrix, site.rank, site.factor) == (place.matrix, place.rank, factor)
        });
    match same {
        true => Ok(config),
        false => Err(inexpressible("this choice of matrices, ranks and alphas")),
    }
}

/// Targets and blocks: words where they say it all, else the paths of the modules.
fn placed(found: &[PairPlace], model: &ModelConfig) -> AdapterConfig {
    let mut layers: Vec<usize> = found.iter().filter_map(|place| place.matrix.layer()).collect();
    let in_blocks = layers.len();
    layers.dedup();
    let has = |word: &str| found.iter().any(|place| place.matrix.word() == word);
    let words: Vec<&str> = BlockParam::MATRICES.map(BlockParam::word).into_iter().filter(|word| has(word)).collect();
    if layers.len() * words.len() != in_blocks {
        let targets = found.iter().map(|place| place.matrix.path()).collect();
        return AdapterConfig { targets, ..AdapterConfig::default() };
    }
    let of_blocks = if words.len() == BlockParam::MATRICES.len() { vec!["all"] } else { words };
    let tables = [MatrixSite::Embedding, MatrixSite::Head].map(MatrixSite::word).into_iter().filter(|word| has(word));
    let targets = of_blocks.into_iter().chain(tables).map(str::to_owned).collect();
    let layers = if [0, model.layers].contains(&layers.len()) { "all".into() } else { ranges(&layers) };
    AdapterConfig { targets, layers, ..AdapterConfig::default() }
}

/// `0-4,7` for ascending numbers.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match parts.last_mut() {
            Some(last) if last.1 + 1 == n => last.1 = n,
            _ => parts.push((n, n)),
        }
    }
    let text = |(a, b): (usize, usize)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// The modules whose number is not the usual one, as `PATTERN=NUMBER`: one pattern for a matrix that has the same in all
/// blocks.
fn exceptions(found: &[PairPlace], number: impl Fn(&PairPlace) -> f64, usual: f64) -> Vec<String> {
    let mut patterns = Vec::new();
    let words = BlockParam::MATRICES.map(BlockParam::word);
    for word in words.into_iter().chain([MatrixSite::Embedding, MatrixSite::Head].map(MatrixSite::word)) {
        let of: Vec<&PairPlace> = found.iter().filter(|place| place.matrix.word() == word).collect();
        let Some(&place) = of.first() else { continue };
        let first = number(place);
        if of.iter().all(|place| number(place) == first) {
            if first != usual {
                patterns.push(format!("{}={first}", place.matrix.module_name()));
            }
            continue;
        }
        let other = of.iter().filter(|place| number(place) != usual);
        patterns.extend(other.map(|place| format!("{}={}", place.matrix.path(), number(place))));
    }
    patterns
}

/// The number that occurs most often, the first of several.
fn most_common(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut counts: Vec<(f64, usize)> = Vec::new();
    for number in numbers {
        match counts.iter_mut().find(|(known, _)| *known == number) {
            Some((_, count)) => *count += 1,
            None => counts.push((number, 1)),
        }
    }
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(0.0, |(number, _)| *number)
}
