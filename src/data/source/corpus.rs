//! Which files a list of names and patterns means.

use crate::error::DataError;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The corpus in the program: see `assets/corpus/README.md` for source and licence.
static BUNDLED: &[u8] = include_bytes!("../../../assets/corpus/austen.txt");

/// Files in the order in which they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// At least one.
    pub inputs: Vec<Input>,
    /// Files that were named once more, by this name, which is passed over.
    pub repeated: Vec<PathBuf>,
}

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The file, or "bundled corpus".
    pub name: PathBuf,
    /// How documents are cut out of it.
    pub kind: InputKind,
    /// Whether it is packed by Zstandard (`.zst`).
    pub compressed: bool,
    /// The text itself if it is not a file.
    pub(crate) held: Option<Cow<'static, [u8]>>,
}

/// How documents are cut out of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// `.txt`: the file is one document.
    Text,
    /// `.jsonl` and `.json`: each line, or each element of an array, is one document, an object with `text`, with `prompt` and `completion`, or with `messages`.
    JsonLines,
    /// `.csv` and `.tsv`: each row is one document, with columns of those names.
    Csv,
    /// `.parquet`: each row is one document, with columns of those names. Needs the feature `parquet`.
    Parquet,
    /// `.bin`: tokens as llm.c keeps them, GPT-2's in two bytes each or LLaMA 3's in four.
    LlmC,
}

impl Input {
    /// A text in memory, which `name` stands for in messages.
    pub fn in_memory(name: &str, kind: InputKind, bytes: Vec<u8>) -> Self {
        Input { name: name.into(), kind, compressed: false, held: Some(Cow::Owned(bytes)) }
    }
}

impl Corpus {
    /// The files that `patterns` name, sorted within each pattern, each file once; the bundled corpus if there are
    /// no patterns.
    ///
    /// # Errors
    /// A pattern that matches nothing, a folder, an empty or unreadable file, a kind of file that is not read.
    pub fn resolve(patterns: &[String]) -> Result<Corpus, DataError> {
        if patterns.is_empty() {
            return Ok(Corpus::bundled());
        }
        let mut seen = HashSet::new();
        let (mut inputs, mut repeated) = (Vec::new(), Vec::new());
        for pattern in patterns {
            for path in expand(pattern)? {
                let input = inspect(&path)?;
                // The same file under two names (a link, "./a" and "a") would be trained on twice, which patterns that
                // overlap do not mean.
                match seen.insert(identity(&path)) {
                    true => inputs.push(input),
                    false => repeated.push(path),
                }
            }
        }
        Ok(Corpus { inputs, repeated })
    }

    /// The corpus in the program.
    pub fn bundled() -> Corpus {
        let name = "bundled corpus".into();
        let held = Some(Cow::Borrowed(BUNDLED));
        Corpus { inputs: vec![Input { name, kind: InputKind::Text, compressed: false, held }], repeated: Vec::new() }
    }

    /// The files that are named twice, in words; nothing if none is.
    pub fn told_repeated(&self) -> Option<String> {
        let first = self.repeated.first()?.display();
        let others = match self.repeated.len() {
            1 => String::new(),
            files => format!(" and {} more files are", files - 1),
        };
        let is = if others.is_empty() { " is" } else { "" };
        Some(format!("{first}{others}{is} named more than once, and read once"))
    }

    /// Refuses a validation corpus that shares a file with this one.
    ///
    /// # Errors
    /// [`DataError::TrainedAndValidated`] with the first such file.
    pub fn check_disjoint(&self, validation: &Corpus) -> Result<(), DataError> {
        match self.shared_file(validation) {
            Some(path) => Err(DataError::TrainedAndValidated { path }),
            None => Ok(()),
        }
    }

    /// The first file of `other` that is one of these too.
    pub(crate) fn shared_file(&self, other: &Corpus) -> Option<PathBuf> {
        let own: HashSet<PathBuf> = self.inputs.iter().map(|input| identity(&input.name)).collect();
        other.inputs.iter().find(|input| own.contains(&identity(&input.name))).map(|input| input.name.clone())
    }
}

/// The files of one pattern. A name that exists is that file even if it holds `*` or `[`.
fn expand(pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    let literal = Path::new(pattern);
    if fs::symlink_metadata(literal).is_ok() || !pattern.contains(['*', '?', '[']) {
        return Ok(vec![literal.into()]);
    }
    let matches =
        glob::glob(pattern).map_err(|error| DataError::BadPattern { pattern: pattern.into(), reason: error.msg })?;
    let (mut files, mut folders) = (Vec::new(), false);
    for entry in matches {
        let path = entry.map_err(|error| DataError::Read { path: error.path().into(), source: error.into() })?;
        match path.is_dir() {
            true => folders = true,
            false => files.push(path),
        }
    }
    files.sort();
    if files.is_empty() {
        let note = if folders { " (folders are not searched)" } else { "" };
        return Err(DataError::NoMatch { pattern: pattern.into(), note });
    }
    Ok(files)
}

fn inspect(path: &Path) -> Result<Input, DataError> {
    let unreadable = |source| DataError::Read { path: path.into(), source };
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => DataError::NoMatch { pattern: path.display().to_string(), note: "" },
        _ => unreadable(error),
    })?;
    if metadata.is_dir() {
        return Err(DataError::Folder { path: path.into() });
    }
    let extension = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let compressed = extension(path) == "zst";
    let inner = if compressed { extension(Path::new(path.file_stem().unwrap_or_default())) } else { extension(path) };
    let kind = match (inner.as_str(), compressed) {
        ("txt", _) => InputKind::Text,
        ("jsonl" | "json", _) => InputKind::JsonLines,
        ("csv" | "tsv", _) => InputKind::Csv,
        ("parquet", false) if cfg!(feature = "parquet") => InputKind::Parquet,
        ("parquet", false) => return Err(DataError::NoParquet { path: path.into() }),
        ("bin", false) => InputKind::LlmC,
        _ => return Err(DataError::UnknownKind { path: path.into() }),
    };
    if metadata.len() == 0 {
        return Err(DataError::Empty { path: path.into() });
    }
    fs::File::open(path).map_err(unreadable)?;
    Ok(Input { name: path.into(), kind, compressed, held: None })
}

/// The file behind a name: links and `..` resolved where the system can.
fn identity(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(corpus: &Corpus) -> Vec<String> {
        corpus.inputs.iter().map(|input| input.name.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(folder.path().join(file), "some text").unwrap();
        }
        folder
    }

    fn resolve(folder: &tempfile::TempDir, patterns: &[&str]) -> Result<Corpus, DataError> {
        let patterns: Vec<String> =
            patterns.iter().map(|pattern| folder.path().join(pattern).display().to_string()).collect();
        Corpus::resolve(&patterns)
    }

    #[test]
    fn a_file_named_twice_is_read_once_and_order_is_the_list_then_the_alphabet() {
        let folder = folder(&["b.txt", "a.txt", "c.txt", "d.jsonl"]);
        let corpus = resolve(&folder, &["c.txt", "./*.txt", "d.jsonl", "a.txt"]).unwrap();
        assert_eq!(names(&corpus), ["c.txt", "a.txt", "b.txt", "d.jsonl"]);
        let again: Vec<_> = corpus.repeated.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(again, ["c.txt", "a.txt"]);
        let said = corpus.told_repeated().unwrap();
        assert!(said.ends_with("c.txt and 1 more files are named more than once, and read once"), "{said}");
        assert_eq!(resolve(&folder, &["*.txt"]).unwrap().told_repeated(), None);
        assert_eq!(corpus.inputs[3].kind, InputKind::JsonLines);
    }

    #[test]
    fn a_link_to_a_file_is_not_trained_on_twice() {
        let folder = folder(&["a.txt"]);
        std::os::unix::fs::symlink("a.txt", folder.path().join("b.txt")).unwrap();
        assert_eq!(names(&resolve(&folder, &["*.txt"]).unwrap()), ["a.txt"]);
    }

    #[test]
    fn a_name_with_pattern_characters_is_still_a_name() {
        let folder = folder(&["book[1].txt", "book1.txt"]);
        assert_eq!(names(&resolve(&folder, &["book[1].txt"]).unwrap()), ["book[1].txt"]);
    }

    #[test]
    fn a_file_cannot_be_trained_and_validated_on() {
        let folder = folder(&["a.txt", "b.txt"]);
        let (train, validation) = (resolve(&folder, &["*.txt"]).unwrap(), resolve(&folder, &["./b.txt"]).unwrap());
        assert!(matches!(train.check_disjoint(&validation), Err(DataError::TrainedAndValidated { .. })));
        assert!(resolve(&folder, &["a.txt"]).unwrap().check_disjoint(&validation).is_ok());
    }

    #[test]
    fn the_bundled_corpus_is_the_file_in_the_tree() {
        assert_eq!(Corpus::resolve(&[]).unwrap(), Corpus::bundled());
        assert!(BUNDLED.len() > 1_000_000 && BUNDLED.is_ascii());
    }
}
