//! From files to a shard: hash the inputs, look in the cache, tokenize what is not there.

use super::file::{MARKED_VERSION, Part, Shard, VERSION, Writer};
use super::tokens::{Width, mark};
use crate::data::source::{
    BYTE_ORDER_MARK, Content, Corpus, Document, Documents, HashingReader, Input, InputKind, llm_c,
};
use crate::data::tokenize::words::Words;
use crate::data::tokenize::{Chunk, Chunks, Refused, SampleEncoder, SampleFormat, Tokenizer};
use crate::error::DataError;
use crate::store::Draft;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of text that are tokenized at a time, by all threads together: what preparing needs in memory, times a
/// few. Small enough for any machine, large enough that every core has several chunks.
const BATCH: usize = 8 << 20;

/// How far preparing is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What is being done.
    pub stage: Stage,
    /// The file at hand.
    pub path: &'a Path,
    /// Bytes of all files that are done, of a compressed file as it lies.
    pub bytes: u64,
    /// Bytes of all files; 0 while they are hashed, since they are counted then.
    pub total: u64,
    /// Bytes of text that became tokens since this began: not those of an earlier preparation, nor of files that hold tokens.
    pub text: u64,
    /// Set to stop.
    stop: &'a Cell<bool>,
}

impl Progress<'_> {
    /// Stops: preparing ends with [`DataError::Interrupted`], and goes on next time where it stopped.
    pub fn stop(&self) {
        self.stop.set(true);
    }
}

/// The two passes over the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Content is hashed, to find prepared tokens in the cache.
    Hashing,
    /// Text becomes tokens, since the cache has none.
    Tokenizing,
}

impl Shard {
    /// The tokens of `corpus`: out of the folder `cache` if they were prepared before from the same content with the
    /// same tokenizer, else made now and left there. Several processes may do so at once.
    ///
    /// The tokens of a text do not depend on the number of threads, nor on the names of files. Documents (whole
    /// `.txt` files, lines of `.jsonl` files) begin with the tokens that the model expects before a text, if any, and end
    /// with the end of text; if there is none, with a newline. `progress` is called a few times a second.
    ///
    /// # Errors
    /// Files that cannot be read or are no text, text that the tokenizer refuses, a cache that cannot be written.
    pub fn prepare(
        corpus: &Corpus,
        format: &SampleFormat,
        cache: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Shard, DataError> {
        Self::find_or_make(corpus, format, false, cache, progress)
    }

    /// The same of samples: each document is one, and only a part of it may be learned.
    ///
    /// # Errors
    /// As [`Shard::prepare`], and documents that the format cannot make samples of.
    pub fn prepare_samples(
        corpus: &Corpus,
        format: &SampleFormat,
        cache: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Shard, DataError> {
        Self::find_or_make(corpus, format, true, cache, progress)
    }

    fn find_or_make(
        corpus: &Corpus,
        format: &SampleFormat,
        samples: bool,
        cache: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Shard, DataError> {
        let contents = hash_all(corpus, progress)?;
        let key = key(corpus, &contents, format, samples);
        let path = cache.join(format!("{key:032x}.tokens"));
        if let Some(shard) = Shard::open(&path, key) {
            return Ok(shard);
        }
        let stop = Cell::new(false);
        let (words, progress, text) = (Words::default(), RefCell::new(progress), Cell::new(0));
        let job = Job { corpus, contents: &contents, format, samples, words, progress, text, stop };
        job.write(&path, key)?;
        let gone = || io::Error::other("what was just written there cannot be read back");
        Shard::open(&path, key).ok_or_else(|| DataError::Cache { path, source: gone() })
    }

    /// Refuses tokens that a model of `vocab` rows has no row for.
    ///
    /// # Errors
    /// [`DataError::Vocabulary`] with the file of `corpus` that has the largest id.
    pub fn check_vocabulary(&self, corpus: &Corpus, vocab: usize) -> Result<(), DataError> {
        let vocab = vocab as u64;
        let worst = self.inputs.iter().zip(&corpus.inputs).max_by_key(|(source, _)| source.largest);
        match worst {
            Some((source, input)) if source.largest.is_some_and(|id| u64::from(id) >= vocab) => {
                let largest = source.largest.map_or(0, u64::from);
                Err(DataError::Vocabulary { name: input.name.display().to_string(), largest, vocab })
            }
            _ => Ok(()),
        }
    }
}

/// What an input holds.
struct Contents {
    whole: Content,
    /// Whether it begins with a byte order mark.
    marked: bool,
}

/// Hashes every input.
fn hash_all(corpus: &Corpus, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Vec<Contents>, DataError> {
    let mut done = 0;
    let mut contents = Vec::with_capacity(corpus.inputs.len());
    let mut buffer = vec![0; 1 << 20];
    let stop = Cell::new(false);
    for input in &corpus.inputs {
        let path = &input.name;
        let mut reader = HashingReader::open(input)?;
        let failed = |source| DataError::Read { path: path.clone(), source };
        let marked = reader.fill_buf().map_err(failed)?.starts_with(BYTE_ORDER_MARK);
        while reader.read(&mut buffer).map_err(failed)? > 0 {
            let bytes = done + reader.content().bytes;
            progress(Progress { stage: Stage::Hashing, path, bytes, total: 0, text: 0, stop: &stop });
            if stop.get() {
                return Err(DataError::Interrupted { kept: None });
            }
        }
        done += reader.content().bytes;
        contents.push(Contents { whole: reader.content(), marked });
    }
    Ok(contents)
}

/// What the tokens depend on, and nothing else.
fn key(corpus: &Corpus, contents: &[Contents], format: &SampleFormat, samples: bool) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&if samples { MARKED_VERSION } else { VERSION }.to_le_bytes());
    hash.update(&format.tokenizer.fingerprint().to_le_bytes());
    match samples {
        true => format.hash_samples(&mut hash),
        false => format.hash_texts(&mut hash),
    }
    for (input, content) in corpus.inputs.iter().zip(contents) {
        let kind = match input.kind {
            InputKind::Text => 0,
            InputKind::JsonLines => 1,
            InputKind::Parquet => 2,
            InputKind::LlmC => 3,
            InputKind::Csv => 4,
        };
        let compressed = if input.compressed { 0x80 } else { 0 };
        // Such a mark was once a part of the text.
        let marked = if content.marked { 0x40 } else { 0 };
        hash.update(&[kind | compressed | marked]);
        hash.update(&content.whole.bytes.to_le_bytes());
        hash.update(&content.whole.hash.to_le_bytes());
    }
    hash.digest128()
}

/// Why a shard was not written to its end: its text, the disk, or a request.
enum Failure {
    Data(DataError),
    Disk(io::Error),
    Stopped,
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Failure::Data(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Disk(error)
    }
}

/// Everything that tokenizing a corpus needs.
struct Job<'a> {
    corpus: &'a Corpus,
    contents: &'a [Contents],
    format: &'a SampleFormat,
    /// Whether each document is a sample.
    samples: bool,
    /// What is remembered of texts.
    words: Words,
    progress: RefCell<&'a mut dyn FnMut(Progress<'_>)>,
    /// Bytes of text that became tokens.
    text: Cell<u64>,
    /// Whether it was asked to stop.
    stop: Cell<bool>,
}

/// What is done, beside the tokens.
struct Tally {
    /// Bytes of text; nothing if nobody knows.
    text_bytes: Option<u64>,
    /// Batches of the input at hand.
    batches: u32,
    /// How many of those were done before, and are only read again.
    before: u32,
}

impl Tally {
    /// Counts the next batch of an input; whether it was done before.
    fn knows(&mut self) -> bool {
        let known = self.before > 0;
        match known {
            true => self.before -= 1,
            false => self.batches += 1,
        }
        known
    }

    fn count(&mut self, bytes: u64) {
        self.text_bytes = self.text_bytes.map(|sum| sum + bytes);
    }
}

impl Job<'_> {
    fn write(&self, path: &Path, key: u128) -> Result<(), DataError> {
        let failed = |source| DataError::Cache { path: PathBuf::from(path), source };
        let unfinished = path.with_extension("unfinished");
        let (mut draft, part) = self.begin(path, &unfinished, key)?;
        match self.write_to(&mut draft, key, part) {
            Ok(()) => draft.publish(path).map_err(failed),
            Err(Failure::Data(error)) => Err(error),
            Err(Failure::Disk(error)) => Err(failed(error)),
            Err(Failure::Stopped) => {
                draft.publish(&unfinished).map_err(failed)?;
                Err(DataError::Interrupted { kept: Some(unfinished) })
            }
        }
    }

    /// The file to write, and what it holds already. What is wrong with an unfinished shard does not matter: then all is
    /// made anew.
    fn begin(&self, path: &Path, unfinished: &Path, key: u128) -> Result<(Draft, Option<Part>), DataError> {
        let failed = |source| DataError::Cache { path: PathBuf::from(path), source };
        if let Some(mut draft) = Draft::take(unfinished).map_err(failed)? {
            let width = self.width()?;
            let part = File::open(draft.path()).and_then(|mut file| Part::read(&mut file, key, width));
            let fits = |part: &Part| part.inputs.len() < self.contents.len();
            if let Some(part) = part.ok().flatten().filter(fits) {
                draft.truncate(part.token_bytes).map_err(failed)?;
                return Ok((draft, Some(part)));
            }
        }
        Ok((Draft::create(path).map_err(failed)?, None))
    }

    fn write_to(&self, out: &mut dyn Write, key: u128, part: Option<Part>) -> Result<(), Failure> {
        let width = self.width()?;
        let mut tally = Tally { text_bytes: Some(0), batches: 0, before: 0 };
        let (mut writer, finished) = match part {
            Some(part) => {
                tally = Tally { text_bytes: part.text_bytes, batches: part.batches, before: part.batches };
                let finished = part.inputs.len();
                (Writer::behind(out, width, part), finished)
            }
            None => (Writer::new(out, width), 0),
        };
        match self.write_inputs(&mut writer, &mut tally, finished) {
            Ok(()) => writer.finish(key, tally.text_bytes.unwrap_or(0)).map_err(Failure::Disk),
            Err(Failure::Stopped) => {
                writer.pause(key, tally.text_bytes, tally.batches)?;
                Err(Failure::Stopped)
            }
            Err(other) => Err(other),
        }
    }

    fn write_inputs(&self, writer: &mut Writer<'_>, tally: &mut Tally, finished: usize) -> Result<(), Failure> {
        let encoder = self.samples.then(|| self.format.encoder()).transpose()?;
        let mut done = self.contents[..finished].iter().map(|content| content.whole.bytes).sum();
        for (input, content) in self.corpus.inputs.iter().zip(self.contents).skip(finished) {
            let found = match (&encoder, input.kind) {
                (Some(encoder), _) => self.write_samples(input, encoder, done, writer, tally)?,
                (None, InputKind::LlmC) => self.write_tokens(input, done, writer, tally)?,
                (None, _) => self.write_text(input, done, writer, tally)?,
            };
            if found != content.whole {
                return Err(DataError::Changed { path: input.name.clone() }.into());
            }
            writer.end_input();
            tally.batches = 0;
            done += content.whole.bytes;
        }
        Ok(())
    }

    /// Bytes of an id: as the tokenizer needs, or the files that hold ids already.
    fn width(&self) -> Result<Width, DataError> {
        if self.samples {
            return Ok(Width::Marked);
        }
        let ready = self.corpus.inputs.iter().filter(|input| input.kind == InputKind::LlmC);
        let id_bytes =
            ready.map(|input| Ok(llm_c::Reader::open(input)?.id_bytes)).collect::<Result<Vec<_>, DataError>>()?;
        let own = Width::of(self.format.tokenizer.vocab_size());
        Ok(if own == Width::Four || id_bytes.contains(&Width::Four.bytes()) { Width::Four } else { Width::Two })
    }

    /// The text of one input; what the file held.
    fn write_text(
        &self,
        input: &Input,
        done: u64,
        writer: &mut Writer<'_>,
        tally: &mut Tally,
    ) -> Result<Content, Failure> {
        let mut chunks = Chunks::new(input, &self.format.tokenizer)?;
        loop {
            let batch = next_batch(&mut chunks)?;
            if batch.is_empty() {
                return Ok(chunks.content());
            }
            if !tally.knows() {
                let text = batch.iter().map(|chunk| chunk.text.len() as u64).sum();
                tally.count(text);
                self.tokenize(input, batch, writer)?;
                self.report(input, done + chunks.content().bytes, text)?;
            }
        }
    }

    /// The tokens of one input that holds nothing else, of how much text, nobody knows; what the file held.
    fn write_tokens(
        &self,
        input: &Input,
        done: u64,
        writer: &mut Writer<'_>,
        tally: &mut Tally,
    ) -> Result<Content, Failure> {
        let mut reader = llm_c::Reader::open(input)?;
        tally.text_bytes = None;
        loop {
            let ids = reader.next_ids()?;
            if ids.is_empty() {
                return Ok(reader.content());
            }
            if !tally.knows() {
                writer.tokens(&ids)?;
                self.report(input, done + reader.content().bytes, 0)?;
            }
        }
    }

    /// The samples of one input, of whose text the bytes that are learned count; what the file held.
    fn write_samples(
        &self,
        input: &Input,
        encoder: &SampleEncoder<'_>,
        done: u64,
        writer: &mut Writer<'_>,
        tally: &mut Tally,
    ) -> Result<Content, Failure> {
        let mut documents = Documents::open(input)?;
        loop {
            let batch = next_documents(&mut documents)?;
            if batch.is_empty() {
                return Ok(documents.content());
            }
            if tally.knows() {
                continue;
            }
            let samples: Vec<_> = batch.par_iter().map(|(line, document)| (*line, encoder.encode(document))).collect();
            for (line, sample) in samples {
                let sample = sample.map_err(|refused| match refused {
                    Refused::Document(reason) => documents.refuse_at(line, reason),
                    Refused::NoTemplate => DataError::NoTemplate { path: input.name.clone() },
                })?;
                tally.count(sample.target_bytes);
                let marked =
                    mark(&sample.ids, &sample.loss_mask).map_err(|reason| documents.refuse_at(line, reason))?;
                writer.tokens(&marked)?;
            }
            let text = batch.iter().map(|(_, document)| document.bytes() as u64).sum();
            self.report(input, done + documents.content().bytes, text)?;
        }
    }

    /// Tokenizes chunks on all threads and writes them in their order.
    fn tokenize(&self, input: &Input, batch: Vec<Chunk>, writer: &mut Writer<'_>) -> Result<(), Failure> {
        let (begin, end) = (self.format.begin(), self.format.end());
        let (tokenizer, words) = (&self.format.tokenizer, &self.words);
        let encode = |chunk| encode(tokenizer, words, &begin, end, chunk);
        let encoded: Vec<Result<Vec<u32>, DataError>> = batch.into_par_iter().map(encode).collect();
        for ids in encoded {
            let ids = ids.map_err(|error| match error {
                DataError::Encode { reason, .. } => {
                    DataError::Encode { name: input.name.display().to_string(), reason }
                }
                other => other,
            })?;
            writer.tokens(&ids)?;
        }
        Ok(())
    }

    /// Tells how far it is, `text` bytes of text further than last time.
    fn report(&self, input: &Input, bytes: u64, text: u64) -> Result<(), Failure> {
        self.text.set(self.text.get() + text);
        let total = self.contents.iter().map(|content| content.whole.bytes).sum();
        let (path, text) = (input.name.as_path(), self.text.get());
        let progress = Progress { stage: Stage::Tokenizing, path, bytes, total, text, stop: &self.stop };
        (self.progress.borrow_mut())(progress);
        if self.stop.get() { Err(Failure::Stopped) } else { Ok(()) }
    }
}

/// Chunks of about [`BATCH`] bytes together; none at the end of the input.
fn next_batch(chunks: &mut Chunks<'_>) -> Result<Vec<Chunk>, DataError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH
        && let Some(chunk) = chunks.next()
    {
        let chunk = chunk?;
        // A document costs more than its text: without this, a file of empty documents would be held whole.
        bytes += chunk.text.len() + size_of::<Chunk>();
        batch.push(chunk);
    }
    Ok(batch)
}

/// Documents of about [`BATCH`] bytes together, with their lines; none at the end of the input.
fn next_documents(documents: &mut Documents<'_>) -> Result<Vec<(u64, Document)>, DataError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH
        && let Some(document) = documents.next_document()?
    {
        bytes += document.bytes() + size_of::<Document>();
        batch.push((documents.line(), document));
    }
    Ok(batch)
}

/// The ids of a chunk, with the beginning and the end of its document.
fn encode(
    tokenizer: &Tokenizer,
    words: &Words,
    begin: &[u32],
    end: Option<u32>,
    mut chunk: Chunk,
) -> Result<Vec<u32>, DataError> {
    if chunk.last && end.is_none() && !chunk.text.ends_with('\n') {
        chunk.text.push('\n');
    }
    let mut ids = tokenizer.encode_words(&chunk.text, words)?;
    // A text that spells the beginning out has it already.
    if chunk.first && !ids.starts_with(begin) {
        ids.splice(..0, begin.iter().copied());
    }
    ids.extend(end.filter(|_| chunk.last));
    Ok(ids)
}
