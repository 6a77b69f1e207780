//! Reads a module of PTX: its arrays and its entry points. A kernel is decoded when it is first asked for.

mod allocate;
mod arithmetic;
mod decode;
mod memory;
mod operands;

use crate::code::{Data, Kernel};
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex};

/// What could not be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// In the text of the module, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the PTX: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

pub(crate) fn error<T>(line: u32, message: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError { line, message: message.into() })
}

/// A text without comments and line ends, and the line that it begins in.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub line: u32,
    pub text: String,
}

/// An array: where it begins among those of its kind, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Array {
    pub offset: u32,
    pub bytes: u32,
    pub align: u32,
}

/// What an entry point's text needs of the module around it.
pub(crate) struct Surroundings {
    /// Constant and global arrays.
    pub arrays: HashMap<String, Array>,
    pub data: Arc<Data>,
    /// Shared arrays outside of kernels; only the used ones take room.
    pub shared: Vec<(String, Array)>,
    /// Names of the dynamic array.
    pub dynamic: Vec<String>,
}

/// A module of PTX.
pub struct Module {
    text: Arc<str>,
    around: Surroundings,
    /// The first line and the number of lines of each entry point.
    entries: HashMap<String, (usize, usize)>,
    decoded: Mutex<HashMap<String, Arc<Kernel>>>,
}

impl Module {
    /// Reads what is outside of kernels, and finds those.
    ///
    /// # Errors
    /// If an array or an entry point is not understood. What is inside of kernels is read when they are asked for.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text: Arc<str> = text.into();
        let mut entries = HashMap::new();
        let mut outside = Vec::new();
        let (mut depth, mut open) = (0i32, None);
        for (at, line) in text.lines().enumerate() {
            let code = without_comment(line).trim();
            if depth == 0 && open.is_none() {
                if let Some(name) = entry_name(code) {
                    open = Some((name.to_owned(), at));
                } else if !is_directive(code) && !code.is_empty() {
                    outside.push(Statement { line: at as u32 + 1, text: code.to_owned() });
                    continue;
                }
            }
            depth += code.matches('{').count() as i32 - code.matches('}').count() as i32;
            if depth == 0 && code.contains('}') {
                let Some((name, first)) = open.take() else {
                    return error(at as u32 + 1, "a brace that closes nothing");
                };
                entries.insert(name, (first, at + 1 - first));
            }
        }
        match open {
            Some((name, at)) => error(at as u32 + 1, format!("{name} has no end")),
            None => Ok(Self { around: surroundings(&outside)?, entries, decoded: Mutex::default(), text }),
        }
    }

    /// The names of all kernels, sorted.
    pub fn kernels(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The text that was read.
    pub fn text(&self) -> Arc<str> {
        self.text.clone()
    }

    /// Whether there is such a kernel.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A kernel, decoded.
    ///
    /// # Errors
    /// If an instruction is not known, or there is no such kernel.
    pub(crate) fn kernel(&self, name: &str) -> Result<Arc<Kernel>, ParseError> {
        if let Some(known) = self.decoded.lock().expect("nothing panics with it").get(name) {
            return Ok(known.clone());
        }
        let Some(&(first, count)) = self.entries.get(name) else {
            return error(0, format!("there is no kernel {name}"));
        };
        let lines: Vec<&str> = self.text.lines().skip(first).take(count).collect();
        let kernel = Arc::new(decode::kernel(name, &lines, first as u32 + 1, &self.text, &self.around)?);
        self.decoded.lock().expect("nothing panics with it").insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    }
}

pub(crate) fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

/// Directives that end with their line.
pub(crate) fn is_directive(code: &str) -> bool {
    [".version", ".target", ".address_size", ".file", ".loc ", ".section"].iter().any(|word| code.starts_with(word))
}

fn entry_name(code: &str) -> Option<&str> {
    let rest = code.strip_prefix(".visible ").unwrap_or(code).strip_prefix(".entry ")?;
    Some(rest.split(['(', ' ', '{']).next().unwrap_or(rest).trim())
}

/// Arrays outside of kernels. Each has a line of its own.
fn surroundings(statements: &[Statement]) -> Result<Surroundings, ParseError> {
    let (mut arrays, mut bytes, mut shared, mut dynamic) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
    for Statement { line, text } in statements {
        let declared = Declaration::parse(*line, text)?;
        let array = Array { offset: 0, bytes: declared.bytes, align: declared.align };
        match declared.space.as_str() {
            "shared" if declared.is_external => dynamic.push(declared.name),
            "shared" => shared.push((declared.name, array)),
            "global" | "const" => {
                let offset = bytes.len().next_multiple_of(declared.align.max(1) as usize);
                bytes.resize(offset, 0);
                bytes.extend(&declared.content);
                bytes.resize(offset + declared.bytes as usize, 0);
                arrays.insert(declared.name, Array { offset: offset as u32, ..array });
            }
            other => return error(*line, format!("an array in {other}")),
        }
    }
    Ok(Surroundings { arrays, data: Arc::new(Data::new(&bytes)), shared, dynamic })
}

/// `.SPACE .align N .TYPE NAME[COUNT] = {...};`
pub(crate) struct Declaration {
    pub space: String,
    pub is_external: bool,
    pub align: u32,
    pub name: String,
    pub bytes: u32,
    content: Vec<u8>,
}

impl Declaration {
    pub(crate) fn parse(line: u32, text: &str) -> Result<Self, ParseError> {
        let text = text.trim_end_matches(';');
        let (left, right) = text.split_once('=').map_or((text, ""), |(left, right)| (left, right.trim()));
        let mut words = left.split_whitespace().peekable();
        let mut declared = Self {
            space: String::new(),
            is_external: false,
            align: 1,
            name: String::new(),
            bytes: 0,
            content: Vec::new(),
        };
        let mut element = 1;
        while let Some(word) = words.next() {
            match word {
                ".extern" => declared.is_external = true,
                ".visible" | ".weak" | ".common" => {}
                ".shared" | ".global" | ".const" | ".local" => declared.space = word[1..].to_owned(),
                ".align" => {
                    let Some(Ok(align)) = words.next().map(str::parse) else {
                        return error(line, "an alignment is no number");
                    };
                    declared.align = align;
                }
                word if word.starts_with('.') => element = operands::type_of(line, &word[1..])?.bytes(),
                name => {
                    let (name, count) = name.split_once('[').unwrap_or((name, "1]"));
                    let count = count.trim_end_matches(']');
                    let count = if count.is_empty() { Ok(0) } else { count.parse::<u32>() };
                    let Ok(count) = count else { return error(line, "the length of an array is no number") };
                    declared.name = name.to_owned();
                    declared.bytes = element * count;
                }
            }
        }
        if declared.name.is_empty() || declared.space.is_empty() {
            return error(line, format!("a declaration that is not understood: {text}"));
        }
        for value in right.trim_matches(['{', '}']).split(',').map(str::trim).filter(|value| !value.is_empty()) {
            let Some(bits) = operands::immediate(value, element == 8) else {
                return error(line, format!("no number: {value}"));
            };
            declared.content.extend(&bits.to_le_bytes()[..element as usize]);
        }
        Ok(declared)
    }
}
