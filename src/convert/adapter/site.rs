//! The matrices of a base that an adapter can stand beside, by the names that other programs give them.

use crate::config::Config;
use crate::model::{MatrixSite, ModelConfig, ParamKind, param_specs};
use std::collections::HashMap;

/// A matrix of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What it is.
    pub kind: ParamKind,
    /// The path of its module in transformers: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Outputs; of the embedding the vocabulary.
    pub rows: usize,
    /// Inputs; of the embedding the hidden size.
    pub cols: usize,
}

impl Site {
    /// Its name in GGUF, `blk.0.attn_q.weight`.
    pub fn gguf(&self) -> String {
        self.kind.gguf_name()
    }
}

/// All of a base, in the order of its file.
#[derive(Debug)]
pub struct Sites {
    all: Vec<Site>,
    modules: HashMap<String, usize>,
}

impl Sites {
    /// Those of a model; its head too where that is tied.
    pub fn of(model: &ModelConfig) -> Self {
        let config = Config { model: model.clone(), ..Config::default() };
        let specs = param_specs(&config.settings());
        let matrices = specs.iter().filter_map(|spec| MatrixSite::of(spec.kind));
        let tied_head = model.tied.then_some(MatrixSite::Head);
        let site = |matrix: MatrixSite| {
            let [rows, cols] = matrix.shape(model);
            Site { kind: matrix.kind(), module: matrix.path(), rows, cols }
        };
        let all: Vec<Site> = matrices.chain(tied_head).map(site).collect();
        let modules = all.iter().enumerate().map(|(i, site)| (site.module.clone(), i)).collect();
        Self { all, modules }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Site> {
        self.all.iter()
    }

    /// That of a number.
    pub fn at(&self, number: usize) -> &Site {
        &self.all[number]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The number of the matrix of a module.
    pub fn module(&self, path: &str) -> Option<usize> {
        self.modules.get(path).copied()
    }

    /// The numbers of all by their names in GGUF, of those that a file of the base has.
    pub fn by_gguf(&self, model: &ModelConfig) -> HashMap<String, usize> {
        let there = self.all.iter().enumerate().filter(|(_, site)| !(model.tied && site.kind == ParamKind::Head));
        there.map(|(i, site)| (site.gguf(), i)).collect()
    }
}
