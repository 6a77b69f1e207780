//! A run's training and validation rows, ready and checked.

use super::batch::{Batches, Body, Part, Samples, Windows};
use super::shard::{Progress, Shard};
use super::source::{Corpus, Documents, Input, InputKind};
use super::tokenize::{Companion, Recipe, Tokenizer};
use crate::config::{self, Config};
use crate::error::DataError;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Everything a run reads.
#[derive(Clone)]
pub struct Prepared {
    /// How text became tokens.
    pub tokenizer: Tokenizer,
    /// What is trained on.
    pub train: Vec<Part>,
    /// What is validated on, never trained on; empty if `data.validation_fraction` is 0 and no files are named.
    pub validation: Vec<Part>,
    /// Bytes of text per validation token: nats per token divided by it (and by ln 2) are bits per byte. For a tail
    /// it is that of the text it was cut from. Nothing where a file holds tokens whose text nobody knows.
    pub bytes_per_token: Option<f64>,
    /// Of the training tokens: a position in them means nothing in others.
    pub fingerprint: String,
}

/// How a source's documents become rows, once its files were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Stream,
    /// Samples beyond a text, one after another all the same.
    MarkedStream,
    Samples {
        share: bool,
    },
}

/// Whether a row of this configuration may hold several samples, each with attention of its own: decided by the first
/// document of each file.
///
/// # Errors
/// Files that cannot be read.
pub fn shares_rows(config: &Config) -> Result<bool, DataError> {
    let mut corpora = sources(config)?.into_iter().map(|(corpus, _)| corpus).collect::<Vec<_>>();
    if !config.data.validation.is_empty() {
        corpora.push(Corpus::resolve(&config.data.validation)?);
    }
    for corpus in &corpora {
        if form(corpus, config.data.samples)? == (Form::Samples { share: true }) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The training sources with their weights.
fn sources(config: &Config) -> Result<Vec<(Corpus, f64)>, DataError> {
    match config.data.source.as_slice() {
        [] => Ok(vec![(Corpus::resolve(&config.data.train)?, 1.0)]),
        sources => sources.iter().map(|source| Ok((Corpus::resolve(&source.files)?, source.weight))).collect(),
    }
}

/// How the documents of `corpus` become rows.
fn form(corpus: &Corpus, asked: config::Samples) -> Result<Form, DataError> {
    let unbound = corpus.inputs.iter().find(|input| input.kind == InputKind::LlmC);
    let samples = match asked {
        config::Samples::Pack | config::Samples::Pad => {
            let (share, name) = if asked == config::Samples::Pack { (true, "pack") } else { (false, "pad") };
            return match unbound {
                Some(input) => Err(DataError::NoBounds { path: input.name.clone(), samples: name }),
                None => Ok(Form::Samples { share }),
            };
        }
        config::Samples::Stream => corpus.inputs.iter().map(first_sample).collect::<Result<Vec<_>, _>>()?,
        config::Samples::Auto => {
            let found = corpus.inputs.iter().map(first_sample).collect::<Result<Vec<_>, _>>()?;
            let with = found.iter().position(Option::is_some);
            let without = found.iter().position(Option::is_none);
            return match (with, without) {
                (None, _) => Ok(Form::Stream),
                (Some(_), None) => Ok(Form::Samples { share: true }),
                (Some(with), Some(without)) => Err(DataError::Mixed {
                    path: corpus.inputs[without].name.clone(),
                    samples: corpus.inputs[with].name.clone(),
                    what: found[with].unwrap_or_default(),
                }),
            };
        }
    };
    match (samples.iter().any(Option::is_some), unbound) {
        (false, _) => Ok(Form::Stream),
        (true, None) => Ok(Form::MarkedStream),
        (true, Some(input)) => {
            let with = samples.iter().position(Option::is_some).unwrap_or(0);
            let (samples, what) = (corpus.inputs[with].name.clone(), samples[with].unwrap_or_default());
            Err(DataError::Mixed { path: input.name.clone(), samples, what })
        }
    }
}

/// What makes the first document of a file more than a text, if it is.
fn first_sample(input: &Input) -> Result<Option<&'static str>, DataError> {
    match input.kind {
        InputKind::Text | InputKind::LlmC => Ok(None),
        InputKind::JsonLines | InputKind::Parquet => {
            let first = Documents::open(input)?.next_document()?;
            Ok(first.and_then(|document| document.is_sample()))
        }
    }
}

impl Prepared {
    /// Resolves, tokenizes (or finds in the cache) and splits the text of a configuration, and checks every token
    /// against `model.vocab`.
    ///
    /// # Errors
    /// Every mistake in files, tokenizer and vocabulary; [`Prepared::batches`] and [`Prepared::windows`] refuse texts
    /// that are too short.
    pub fn new(config: &Config, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Self, DataError> {
        let tokenizer = Tokenizer::of(&config.tokenizer)?;
        tokenizer.check_vocabulary(config.model.vocab)?;
        let train = sources(config)?;
        let validation = match config.data.validation.as_slice() {
            [] => None,
            patterns => Some(Corpus::resolve(patterns)?),
        };
        // Names are checked before any text is read: preparing may take hours.
        if let Some(validation) = &validation {
            train.iter().try_for_each(|(train, _)| train.check_disjoint(validation))?;
        }
        let recipe = Recipe { tokenizer: tokenizer.clone(), companion: companion(config)? };
        let mut prepare = |corpus: &Corpus, weight: f64| Source::prepare(corpus, weight, &recipe, config, progress);
        let train = train.iter().map(|(corpus, weight)| prepare(corpus, *weight)).collect::<Result<Vec<_>, _>>()?;
        let validation = validation.as_ref().map(|corpus| prepare(corpus, 1.0)).transpose()?;
        let bytes_per_token = match &validation {
            Some(validation) => validation.shard.bytes_per_token(),
            None => bytes_per_token(&train),
        };
        let (parts, tails): (Vec<Part>, Vec<Part>) = match &validation {
            Some(validation) => {
                (train.iter().map(|source| source.part.clone()).collect(), vec![validation.part.clone()])
            }
            None => train.iter().map(|source| source.cut_tail(config.data.validation_fraction)).unzip(),
        };
        let fingerprint = fingerprint(&train, &parts, config);
        let validation = tails.into_iter().filter(|part| !part.body.tokens().is_empty()).collect();
        Ok(Prepared { tokenizer, train: parts, validation, bytes_per_token, fingerprint })
    }

    /// The training rows.
    ///
    /// # Errors
    /// See [`Batches::of`].
    pub fn batches(&self, config: &Config) -> Result<Batches, DataError> {
        Batches::of(&self.train, config.train.sequence, config.run.seed)
    }

    /// The validation rows, if anything was held out.
    ///
    /// # Errors
    /// See [`Windows::of`].
    pub fn windows(&self, config: &Config) -> Result<Option<Windows>, DataError> {
        match self.validation.as_slice() {
            [] => Ok(None),
            parts => Windows::of(parts, config.train.sequence, config.train.eval_sequences).map(Some),
        }
    }
}

/// A source with the shard of its files.
struct Source {
    shard: Shard,
    part: Part,
}

impl Source {
    fn prepare(
        corpus: &Corpus,
        weight: f64,
        recipe: &Recipe,
        config: &Config,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, DataError> {
        let (cache, data) = (&config.data.cache, &config.data);
        let (shard, body) = prepare(corpus, recipe, data.samples, data.long, cache, progress)?;
        shard.check_vocabulary(corpus, config.model.vocab)?;
        let name = match corpus.inputs.as_slice() {
            [one] => one.name.display().to_string(),
            [first, others @ ..] => format!("{} and {} more", first.name.display(), others.len()),
            [] => String::new(),
        };
        Ok(Source { shard, part: Part { name, weight, body } })
    }

    fn cut_tail(&self, fraction: f64) -> (Part, Part) {
        let (body, tail) = self.part.body.cut_tail(fraction);
        (Part { body, ..self.part.clone() }, Part { body: tail, ..self.part.clone() })
    }
}

/// The tokens of `corpus`, and what rows are made of.
///
/// # Errors
/// As [`Shard::prepare`]; files that do not go together.
pub fn prepare(
    corpus: &Corpus,
    recipe: &Recipe,
    samples: config::Samples,
    long: config::Long,
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Shard, Body), DataError> {
    let form = form(corpus, samples)?;
    let shard = match form {
        Form::Stream => Shard::prepare(corpus, &recipe.tokenizer, cache, progress)?,
        _ => Shard::prepare_samples(corpus, recipe, cache, progress)?,
    };
    let body = match form {
        Form::Samples { share } => {
            let ends = shard.sources.iter().map(|source| source.range.end);
            let files: Vec<_> = corpus.inputs.iter().map(|input| input.name.clone()).zip(ends).collect();
            Body::Samples(Samples::new(shard.tokens.clone(), share, long, &files))
        }
        _ => Body::Stream(shard.tokens.clone()),
    };
    Ok((shard, body))
}

/// What came with the configuration's tokenizer: the file beside it, with the template that the configuration names.
fn companion(config: &Config) -> Result<Companion, DataError> {
    let found = match config.tokenizer.file.as_deref().map(Tokenizer::companion) {
        Some(path) => match std::fs::read(&path) {
            Ok(json) => Companion::parse(&path.display().to_string(), &json),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Companion::default(),
            Err(source) => return Err(DataError::Read { path, source }),
        },
        None => Companion::default(),
    };
    // Newer directories keep the template in a file of its own, which then counts.
    let beside = config.tokenizer.file.as_deref().map(|file| file.with_file_name("chat_template.jinja"));
    match (&config.data.chat_template, beside.filter(|path| path.is_file())) {
        (Some(given), _) => found.with_template(given),
        (None, Some(path)) => found.with_template(&path.to_string_lossy()),
        (None, None) => Ok(found),
    }
}

/// Of several sources, each by its share of the rows.
fn bytes_per_token(sources: &[Source]) -> Option<f64> {
    let total: f64 = sources.iter().map(|source| source.part.body.tokens().len() as f64).sum();
    let shares = sources
        .iter()
        .map(|source| Some(source.shard.bytes_per_token()? * source.part.body.tokens().len() as f64 / total.max(1.0)));
    shares.sum()
}

/// What a position depends on.
fn fingerprint(sources: &[Source], parts: &[Part], config: &Config) -> String {
    let tokens: usize = parts.iter().map(|part| part.body.tokens().len()).sum();
    let mut key = sources[0].shard.key;
    if let [Part { body: Body::Stream(_), .. }] = parts {
        return format!("{key:032x}-{tokens}");
    }
    let mut hash = Xxh3::new();
    for (source, part) in sources.iter().zip(parts) {
        let form = match &part.body {
            Body::Stream(_) => 0u8,
            Body::Samples(_) => 1 + config.data.samples as u8,
        };
        hash.update(&source.shard.key.to_le_bytes());
        hash.update(&(part.body.tokens().len() as u64).to_le_bytes());
        hash.update(&part.weight.to_bits().to_le_bytes());
        hash.update(&[form, config.data.long as u8]);
    }
    key = hash.digest128();
    format!("{key:032x}-{tokens}")
}

impl Tokenizer {
    /// The tokenizer of a configuration.
    ///
    /// # Errors
    /// A file that cannot be read or is no usable tokenizer.
    pub fn of(config: &config::Tokenizer) -> Result<Self, DataError> {
        config.file.as_deref().map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::from_file)
    }

    /// Where special tokens and chat template of the tokenizer at `path` are kept: `tokenizer_config.json` beside
    /// `tokenizer.json`, and likewise for other names.
    pub fn companion(path: &Path) -> std::path::PathBuf {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!("{stem}_config.json"))
    }
}

impl Shard {
    /// Bytes of text per token (of samples: of those that are learned), 1 for bytes; nothing where nobody knows.
    pub fn bytes_per_token(&self) -> Option<f64> {
        let tokens = self.learned.unwrap_or(self.tokens.len() as u64);
        (self.text_bytes > 0).then(|| self.text_bytes as f64 / tokens.max(1) as f64)
    }
}
