//! A fuzzer without instrumentation: mutations of a corpus, which grows by every input that ends in words not met before.
//! It needs no toolchain of its own and reads a hundred thousand inputs a second; `run.sh` has the one that sees branches.

use super::mutate::{Random, mutate};
use super::readers::Reader;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest input.
const LONGEST: usize = 1 << 16;

/// Most inputs of a corpus.
const MOST: usize = 4096;

/// Words that readers look for, so that chance need not spell them.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "\n",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\\ud800",
    "\u{0}",
    "{{",
    "}}",
    "{%",
    "%}",
    "[[",
    "=",
    "\u{feff}",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":{\"a\":",
];

/// Told of every input before the reader is.
pub type Before<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// A reader with its corpus.
pub struct Engine<'a> {
    reader: &'static Reader,
    before: Before<'a>,
    corpus: Vec<Vec<u8>>,
    /// How inputs ended.
    met: HashSet<String>,
    seed: u64,
    pub executions: u64,
}

/// An input that a reader panics on.
pub struct Finding {
    pub input: Vec<u8>,
    pub panic: String,
}

/// Words without what differs between inputs that end alike: numbers, and what is quoted from the input.
fn shape(words: &str) -> String {
    let mut quoted = false;
    let letters = words.chars().filter(|&c| {
        quoted ^= c == '"';
        !quoted && (c.is_ascii_alphabetic() || c == ' ')
    });
    letters.take(120).collect()
}

impl<'a> Engine<'a> {
    /// Reads the corpus as it is. Another seed makes other mutations.
    pub fn new(reader: &'static Reader, seed: u64, before: Before<'a>) -> Result<Self, Finding> {
        let mut engine = Self { reader, before, corpus: Vec::new(), met: HashSet::new(), seed, executions: 0 };
        for input in reader.corpus() {
            let ended = engine.read(&input)?;
            engine.met.insert(shape(&ended));
            engine.corpus.push(input);
        }
        Ok(engine)
    }

    /// How many ways to end were met.
    pub fn ways(&self) -> usize {
        self.met.len()
    }

    /// Makes one mutation after the other and hands it to the reader.
    ///
    /// # Errors
    /// An input that the reader panics on.
    pub fn run(&mut self, executions: u64) -> Result<(), Finding> {
        for _ in 0..executions {
            let input = self.mutation();
            let ended = self.read(&input)?;
            if self.corpus.len() < MOST && self.met.insert(shape(&ended)) {
                self.corpus.push(input);
            }
        }
        Ok(())
    }

    fn read(&mut self, input: &[u8]) -> Result<String, Finding> {
        self.executions += 1;
        (self.before)(input);
        let run = self.reader.run;
        catch_unwind(AssertUnwindSafe(|| run(input))).map_err(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| words.to_string()));
            Finding { input: input.into(), panic: words.unwrap_or_else(|| "without words".into()) }
        })
    }

    fn mutation(&mut self) -> Vec<u8> {
        self.seed += 1;
        let mut random = Random(self.seed);
        let mut bytes = self.corpus[random.next(self.corpus.len())].clone();
        bytes.resize(bytes.len().max(1), 0);
        match random.next(4) {
            0 => insert(&mut bytes, WORDS[random.next(WORDS.len())].as_bytes(), &mut random),
            1 => {
                // A piece of another input, or of this one once more.
                let other = &self.corpus[random.next(self.corpus.len())];
                let from = random.next(other.len().max(1)).min(other.len());
                let to = (from + random.next(64)).min(other.len());
                let piece = other[from..to].to_vec();
                insert(&mut bytes, &piece, &mut random);
            }
            // Most of a binary file is data, which no mutation makes wrong: half of them change the first bytes only.
            2 => {
                let head = bytes.len().min(256);
                mutate(&mut bytes, head, &mut random);
            }
            _ => {
                let head = bytes.len();
                mutate(&mut bytes, head, &mut random);
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}

/// Puts a piece somewhere, in the place of what is there or before it.
fn insert(bytes: &mut Vec<u8>, piece: &[u8], random: &mut Random) {
    let at = random.next(bytes.len());
    let until = if random.next(2) == 0 { at } else { (at + piece.len()).min(bytes.len()) };
    bytes.splice(at..until, piece.iter().copied());
}
