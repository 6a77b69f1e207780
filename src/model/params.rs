//! Where the planes of every parameter lie.

use super::low_rank::Pairs;
use super::spec::{ParamKind, ParamSpec, base_len, block_specs};
use super::{AdapterSite, Block, EmbeddingPair, Linear, LowRankPair, Norm, Settings, bottleneck, prefix};
use crate::backend::{Param, State, Weight};
use crate::memory::{Category, Span};
use crate::quant::WeightPlane;

/// All parameters of a model.
#[derive(Clone, Debug)]
pub struct Params {
    /// All, in the order of their specs.
    all: Vec<Param>,
    /// How many of them a block has.
    block_len: usize,
    /// Token embedding.
    pub embedding: Param,
    /// What adapters add to it.
    pub embedding_pairs: Vec<EmbeddingPair>,
    /// Blocks.
    pub blocks: Vec<Block>,
    /// Norm before the head.
    pub final_norm: Norm,
    /// The head, if untied.
    pub head: Option<Linear>,
    /// What adapters add to the head, tied or not.
    pub head_pairs: Vec<LowRankPair>,
}

impl Params {
    /// Arranges placed parameters, given in the order of `specs`, which are those of `settings`.
    ///
    /// # Panics
    /// If `placed` does not have a parameter for each spec.
    pub fn arrange(settings: &Settings, specs: &[ParamSpec], placed: Vec<Param>) -> Self {
        assert_eq!(placed.len(), specs.len(), "a place for each parameter");
        let pairs = Pairs::of(settings, specs, &placed);
        let prefixes = prefix::prefixes(settings, specs, &placed);
        let bottlenecks = bottleneck::bottlenecks(settings, specs, &placed);
        let specs = &specs[..base_len(specs)];
        let of = |kind| specs.iter().position(|spec| spec.kind == kind).map(|i| placed[i]);
        let must = |kind| of(kind).expect("every model has it");
        let block_len = block_specs(specs).len();
        let blocks = specs[1..].chunks(block_len.max(1)).zip(placed[1..].chunks(block_len.max(1)));
        let blocks = blocks.filter(|(specs, _)| specs[0].kind.block().is_some());
        let mut blocks: Vec<_> = blocks.map(|(specs, params)| Block::arrange(specs, params)).collect();
        for (layer, matrix, pair) in pairs.blocks {
            blocks[layer].linear_mut(matrix).low_rank.push(pair);
        }
        for (layer, prefix) in prefixes {
            blocks[layer].attention.prefixes.push(prefix);
        }
        for (site, bottleneck) in bottlenecks {
            let block = &mut blocks[site.layer().expect("bottlenecks stand in blocks")];
            match site {
                AdapterSite::Mlp(_) => block.mlp.bottlenecks.push(bottleneck),
                _ => block.attention.bottlenecks.push(bottleneck),
            }
        }
        Self {
            embedding: must(ParamKind::Embedding),
            embedding_pairs: pairs.embedding,
            blocks,
            final_norm: Norm { gain: must(ParamKind::FinalNorm) },
            head: of(ParamKind::Head).map(Linear::without_bias),
            head_pairs: pairs.head,
            all: placed,
            block_len,
        }
    }

    /// The matrix that makes logits: the head's, or the embedding if they are tied.
    pub fn head_matrix(&self) -> &Param {
        self.head.as_ref().map_or(&self.embedding, |head| &head.weight)
    }

    /// All parameters, in the order of their specs.
    pub fn all(&self) -> impl Iterator<Item = &Param> {
        self.all.iter()
    }

    /// The parameters of block `l`, in the order of their specs.
    pub(super) fn of_block(&self, l: usize) -> &[Param] {
        // The embedding comes before the blocks.
        &self.all[1 + l * self.block_len..][..self.block_len]
    }

    /// What is known of the parameters of block `l`, of the specs of all.
    pub(super) fn specs_of_block<'a>(&self, specs: &'a [ParamSpec], l: usize) -> &'a [ParamSpec] {
        &specs[1 + l * self.block_len..][..self.block_len]
    }

    /// The blocks with their weights' data, scales and offsets in other places, which are the same for all of them.
    pub(super) fn blocks_at(&self, specs: &[ParamSpec], places: &[[Span; 3]]) -> Vec<Block> {
        let moved = |l| {
            let mut params = self.of_block(l).to_vec();
            for (param, &[data, scales, offsets]) in params.iter_mut().zip(places) {
                (param.weight.data, param.weight.scales, param.weight.offsets) = (data, scales, offsets);
            }
            Block::arrange(self.specs_of_block(specs, l), &params)
        };
        (0..self.blocks.len()).map(moved).collect()
    }
}

/// The two parts of a parameter: what products read, and what only updates touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamPart {
    /// Data, scales, offsets.
    Weights,
    /// Residue and optimizer state.
    State,
}

impl ParamPart {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Weights, Self::State];

    /// The part that a plane belongs to.
    pub fn of(category: Category) -> Self {
        if category == Category::Weights { Self::Weights } else { Self::State }
    }
}

/// A parameter whose planes lie where `add` puts them, given each plane's name, category and bytes; without residue
/// and state unless it is trainable, and with these away if another rank updates it.
pub fn place(spec: &ParamSpec, add: &mut dyn FnMut(&str, Category, usize) -> Span) -> Param {
    let g = spec.shape;
    let format = spec.format.with_residue(spec.trainable && spec.format.has_residue());
    let add = &mut |plane: &str, category, bytes| match bytes {
        0 => Span::NONE,
        _ if !spec.held && ParamPart::of(category) == ParamPart::State => Span::away(bytes),
        _ => add(plane, category, bytes),
    };
    let weight = Weight::place(g, format, |plane, bytes| {
        let category = if plane == WeightPlane::Residue { Category::Residue } else { Category::Weights };
        add(plane.name(), category, bytes)
    });
    let mut add_state = |part: &str, bytes: usize| add(part, Category::State, bytes);
    let state = State::place(&spec.state, g, &mut add_state);
    let decay = !spec.kind.is_vector();
    Param { id: spec.id, group: spec.group, decay, sparse: spec.sparse, weight, state }
}

/// The planes of a weight that products read.
pub const READ_PLANES: [WeightPlane; 3] = [WeightPlane::Data, WeightPlane::Scales, WeightPlane::Offsets];
