//! The matrices of a model that something can stand beside.

use crate::model::{BlockParam, ModelConfig, ParamKind};

/// A matrix, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatrixSite {
    /// The token embedding, in its part of a table of tokens alone: what stands beside it does not change a tied head.
    Embedding,
    /// One of the seven of the block of this number.
    Block(usize, BlockParam),
    /// What makes logits. If it is tied its matrix is the embedding's, and what stands beside it does not change that.
    Head,
}

impl MatrixSite {
    /// The site of a matrix.
    pub fn of(kind: ParamKind) -> Option<Self> {
        match kind {
            ParamKind::Embedding => Some(Self::Embedding),
            ParamKind::Head => Some(Self::Head),
            ParamKind::Block(layer, matrix) if BlockParam::MATRICES.contains(&matrix) => {
                Some(Self::Block(layer, matrix))
            }
            _ => None,
        }
    }

    /// The matrix; of a tied head one that the model does not have.
    pub fn kind(self) -> ParamKind {
        match self {
            Self::Embedding => ParamKind::Embedding,
            Self::Block(layer, matrix) => ParamKind::Block(layer, matrix),
            Self::Head => ParamKind::Head,
        }
    }

    /// The number of its block.
    pub fn layer(self) -> Option<usize> {
        self.kind().block()
    }

    /// Rows and columns.
    pub fn shape(self, model: &ModelConfig) -> [usize; 2] {
        match self {
            Self::Embedding | Self::Head => [model.vocab, model.hidden],
            Self::Block(_, matrix) => matrix.shape(model),
        }
    }

    /// The module's path as in Hugging Face's models: `model.layers.0.self_attn.q_proj`, `model.embed_tokens`, `lm_head`.
    pub fn path(self) -> String {
        let name = self.kind().name();
        name.strip_suffix(".weight").unwrap_or(&name).to_owned()
    }

    /// The last part of that.
    pub fn module_name(self) -> String {
        let path = self.path();
        path.rsplit_once('.').map_or(path.as_str(), |(_, name)| name).to_owned()
    }

    /// Its word in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Block(_, matrix) => matrix.word(),
            Self::Head => "head",
        }
    }
}
