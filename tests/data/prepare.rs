//! Files to tokens: exact however they are cut, the same for any number of threads, and cached without trust.

use std::fs;
use std::path::{Path, PathBuf};
use tetrad::config::Config;
use tetrad::data::{Corpus, Prepared, Shard, Stage, Tokenizer};
use tetrad::error::DataError;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn austen() -> String {
    include_str!("../../assets/corpus/austen.txt").to_owned()
}

/// Both tokenizer fixtures and bytes.
fn tokenizers() -> [Tokenizer; 3] {
    let file = |name: &str| Tokenizer::from_file(&fixture(name)).unwrap();
    [Tokenizer::bytes(), file("tokenizer/byte_level.json"), file("tokenizer/byte_fallback.json")]
}

/// A folder with files and a cache.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The shard of `files`, and whether it had to be made.
    fn prepare(&self, files: &[String], tokenizer: &Tokenizer) -> (Shard, bool) {
        let mut made = false;
        let mut progress = |progress: tetrad::data::Progress<'_>| {
            made |= progress.stage == Stage::Tokenizing;
            assert!(progress.total == 0 || progress.bytes <= progress.total, "more than everything is done");
        };
        let corpus = Corpus::resolve(files).unwrap();
        let shard = Shard::prepare(&corpus, &tokenizer.into(), &self.cache(), &mut progress).unwrap();
        (shard, made)
    }

    fn cached(&self) -> Vec<PathBuf> {
        fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn a_text_cut_into_pieces_has_the_tokens_of_the_whole() {
    let place = Place::new();
    let text = austen();
    let file = place.write("austen.txt", &text);
    for tokenizer in tokenizers() {
        let mut whole = tokenizer.encode(&text).unwrap();
        whole.extend(tokenizer.eos());
        let (shard, _) = place.prepare(std::slice::from_ref(&file), &tokenizer);
        assert!(shard.tokens.to_vec() == whole, "tokens differ for a vocabulary of {}", tokenizer.vocab_size());
        assert_eq!(shard.inputs[0].largest, whole.iter().copied().max());
    }
}

/// No line ends anywhere: words are the only places left to cut.
#[test]
fn one_endless_line_has_the_tokens_of_the_whole() {
    let place = Place::new();
    let text = austen()[..700_000].replace('\n', " ");
    let file = place.write("line.txt", &text);
    let document = serde_json::json!({ "text": text }).to_string();
    let line = place.write("line.jsonl", &document);
    for tokenizer in &tokenizers()[1..] {
        let mut whole = tokenizer.encode(&text).unwrap();
        whole.extend(tokenizer.eos());
        for file in [&file, &line] {
            let (shard, _) = place.prepare(std::slice::from_ref(file), tokenizer);
            assert!(shard.tokens.to_vec() == whole, "{file}: tokens differ");
        }
    }
}

#[test]
fn characters_of_several_bytes_are_not_cut_at_the_end_of_a_buffer() {
    let place = Place::new();
    for shift in 0..4 {
        let text = "x".repeat(shift) + &"\u{1f600}\u{20ac}\u{e9}".repeat(100_000);
        let file = place.write("wide.txt", &text);
        let (shard, _) = place.prepare(&[file], &Tokenizer::bytes());
        let bytes: Vec<u8> = shard.tokens.to_vec().into_iter().map(|id| id as u8).collect();
        assert!(bytes == (text + "\n").into_bytes());
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let text = austen();
    let files = |place: &Place| [place.write("a.txt", &text), place.write("b.jsonl", "{\"text\":\"b\"}\n".repeat(999))];
    let tokenizer = &tokenizers()[1];
    let tokens = [1, 2, 7].map(|threads| {
        let place = Place::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| place.prepare(&files(&place), tokenizer).0.tokens.to_vec())
    });
    assert!(tokens[0] == tokens[1] && tokens[0] == tokens[2]);
}

#[test]
fn documents_end_with_the_end_of_text_or_a_newline() {
    let place = Place::new();
    let lines =
        "{\"text\": \"one\"}\n\n  \n{\"id\": 3, \"text\": \"two\\n\"}\r\n{\"text\": \"\"}\n{\"text\": \"three\"}";
    let files = [place.write("a.jsonl", lines), place.write("b.txt", "four")];
    let (shard, _) = place.prepare(&files, &Tokenizer::bytes());
    assert_eq!(Tokenizer::bytes().decode(&shard.tokens.to_vec()), "one\ntwo\nthree\nfour\n");
    assert_eq!(shard.text_bytes, 16);
    assert_eq!(shard.inputs.iter().map(|source| source.range.len()).collect::<Vec<_>>(), [14, 5]);

    let level = &tokenizers()[1];
    let (shard, _) = place.prepare(&files, level);
    let end = "<|endoftext|>";
    assert_eq!(level.decode(&shard.tokens.to_vec()), format!("one{end}two\n{end}three{end}four{end}"));
}

#[test]
fn prepared_tokens_are_found_again_by_content_not_by_name() {
    let place = Place::new();
    let first = place.write("a.txt", "the same text\n");
    assert!(place.prepare(std::slice::from_ref(&first), &Tokenizer::bytes()).1);
    assert!(!place.prepare(std::slice::from_ref(&first), &Tokenizer::bytes()).1, "prepared twice");
    let renamed = place.write("b.txt", "the same text\n");
    assert!(!place.prepare(&[renamed], &Tokenizer::bytes()).1, "the name is part of the key");
    assert!(place.prepare(std::slice::from_ref(&first), &tokenizers()[1]).1, "the tokenizer is not part of the key");
    place.write("a.txt", "the same texT\n");
    let (shard, made) = place.prepare(&[first], &Tokenizer::bytes());
    assert!(made, "the content is not part of the key");
    assert_eq!(Tokenizer::bytes().decode(&shard.tokens.to_vec()), "the same texT\n");
}

/// Same bytes, other meaning: as `.txt` the file is one document, as `.jsonl` two.
#[test]
fn the_kind_of_a_file_is_part_of_its_key() {
    let place = Place::new();
    let content = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
    let (text, lines) = (place.write("a.txt", content), place.write("a.jsonl", content));
    assert_eq!(place.prepare(&[text], &Tokenizer::bytes()).0.tokens.len(), content.len());
    assert_eq!(place.prepare(&[lines], &Tokenizer::bytes()).0.tokens.len(), 4);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let place = Place::new();
    let file = place.write("a.txt", "some text\n");
    place.prepare(std::slice::from_ref(&file), &Tokenizer::bytes());
    let shard = place.cached().remove(0);
    let whole = fs::read(&shard).unwrap();
    for damaged in [&whole[..whole.len() - 1], &whole[1..], b"", b"not a shard", &[0; 64]] {
        fs::write(&shard, damaged).unwrap();
        let (again, made) = place.prepare(std::slice::from_ref(&file), &Tokenizer::bytes());
        assert!(made && again.tokens.len() == 10);
        assert_eq!(fs::read(&shard).unwrap(), whole);
    }
}

#[test]
fn several_at_once_do_not_spoil_each_other() {
    let place = Place::new();
    let file = place.write("austen.txt", austen());
    let expected = place.prepare(std::slice::from_ref(&file), &Tokenizer::bytes()).0.tokens.to_vec();
    fs::remove_dir_all(place.cache()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let (shard, _) = place.prepare(std::slice::from_ref(&file), &Tokenizer::bytes());
                assert!(shard.tokens.to_vec() == expected);
            });
        }
    });
    assert_eq!(place.cached().len(), 1, "temporary files are left: {:?}", place.cached());
}

#[test]
fn a_refused_text_leaves_nothing_in_the_cache() {
    let place = Place::new();
    let file = place.write("a.txt", [b"fine text ".repeat(100_000), vec![0xff]].concat());
    let corpus = Corpus::resolve(&[file]).unwrap();
    assert!(Shard::prepare(&corpus, &(&Tokenizer::bytes()).into(), &place.cache(), &mut |_| {}).is_err());
    assert_eq!(place.cached(), [] as [PathBuf; 0]);
}

#[test]
fn the_quick_start_trains_on_the_bundled_text_and_validates_on_its_end() {
    let place = Place::new();
    let mut config = Config::default();
    config.data.cache = place.cache();
    let prepared = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| {}).unwrap();
    let text = austen().into_bytes();
    let bytes = |tokens: &tetrad::data::Tokens| tokens.to_vec().into_iter().map(|id| id as u8).collect::<Vec<u8>>();
    let (train, validation) =
        (bytes(prepared.train[0].dataset.tokens()), bytes(prepared.validation[0].dataset.tokens()));
    assert_eq!(validation.len(), (text.len() as f64 * 0.05).round() as usize);
    assert!([train, validation].concat() == text);
    assert_eq!(prepared.bytes_per_token, Some(1.0));
}

#[test]
fn validation_files_leave_the_training_text_whole() {
    let place = Place::new();
    let mut config = Config::default();
    config.data.cache = place.cache();
    config.data.train = vec![place.write("a.txt", "trained\n")];
    config.data.validation = vec![place.write("b.txt", "validated the\n")];
    config.tokenizer.file = Some(fixture("tokenizer/byte_level.json"));
    config.model.vocab = 557;
    let prepared = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| {}).unwrap();
    let text = |tokens: &tetrad::data::Tokens| prepared.tokenizer.decode(&tokens.to_vec());
    assert_eq!(text(prepared.train[0].dataset.tokens()), "trained\n<|endoftext|>");
    assert_eq!(text(prepared.validation[0].dataset.tokens()), "validated the\n<|endoftext|>");
    // 14 bytes of text; the end of text is a token too.
    let tokens = prepared.validation[0].dataset.tokens().len();
    assert_eq!(prepared.bytes_per_token, Some(14.0 / tokens as f64));
}

/// The end of the text has three times as many bytes in a token as the rest: it is the end that is validated on.
#[test]
fn bytes_per_token_of_a_held_out_end_are_those_of_the_end() {
    let place = Place::new();
    let mut config = Config::default();
    config.data.cache = place.cache();
    let [dense, plain] = [" 0 1 2 3 4 5 6 7 8 9".repeat(1500), " the of and to in".repeat(300)];
    config.data.train = vec![place.write("a.txt", dense + &plain)];
    config.tokenizer.file = Some(fixture("tokenizer/byte_level.json"));
    config.model.vocab = 557;
    let prepared = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| {}).unwrap();
    let held_out = prepared.validation[0].dataset.tokens().to_vec();
    let exact = prepared.tokenizer.decode(&held_out).len() as f64 / held_out.len() as f64;
    let found = prepared.bytes_per_token.unwrap();
    assert!((found / exact - 1.0).abs() < 0.01, "{found} and {exact}");
    let train = prepared.train[0].dataset.tokens().to_vec();
    let before = prepared.tokenizer.decode(&train).len() as f64 / train.len() as f64;
    assert!(exact > 1.3 * before, "{exact} and {before} differ");
}

/// Each file of several batches, and each kind of input; stopped after every batch.
#[test]
fn what_was_prepared_before_an_interruption_is_not_prepared_again() {
    let place = Place::new();
    let text = austen();
    let long: String = std::iter::repeat_n(text.as_str(), 18).collect();
    let line = |i: usize| serde_json::json!({ "prompt": format!("{i}"), "completion": &text[..60_000] }).to_string();
    let pairs: String = (0..300).map(|i| line(i) + "\n").collect();
    let texts = [place.write("a.txt", &long), place.write("b.txt", &text), place.write("c.txt", &long)];
    let samples = [place.write("d.jsonl", &pairs)];
    for (files, marked) in [(&texts[..], false), (&samples, true)] {
        let corpus = Corpus::resolve(files).unwrap();
        let format = (&Tokenizer::bytes()).into();
        let prepare = |cache: &str, progress: &mut dyn FnMut(tetrad::data::Progress<'_>)| {
            let cache = place.folder.path().join(cache);
            match marked {
                true => Shard::prepare_samples(&corpus, &format, &cache, progress),
                false => Shard::prepare(&corpus, &format, &cache, progress),
            }
        };
        let whole = prepare("whole", &mut |_| {}).unwrap();
        let (mut rounds, mut furthest) = (0, 0);
        let resumed = loop {
            let mut begun = None;
            let outcome = prepare("parts", &mut |progress| {
                if progress.stage == Stage::Tokenizing {
                    begun.get_or_insert(progress.bytes);
                    progress.stop();
                }
            });
            match outcome {
                Ok(shard) => break shard,
                Err(DataError::Interrupted { kept }) => {
                    assert!(kept.unwrap().exists());
                    assert!(begun.unwrap() > furthest, "a batch was made twice");
                    furthest = begun.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
            rounds += 1;
        };
        assert!(rounds >= 3, "{rounds} interruptions");
        assert!(resumed.tokens.to_vec() == whole.tokens.to_vec());
        assert_eq!((resumed.inputs, resumed.text_bytes), (whole.inputs, whole.text_bytes));
        assert_eq!(resumed.targets, whole.targets);
        let left = fs::read_dir(place.folder.path().join("parts")).unwrap().map(|entry| entry.unwrap().path());
        assert!(left.into_iter().all(|path| path.extension().is_some_and(|extension| extension == "tokens")));
    }
}

#[test]
fn an_unfinished_shard_that_is_damaged_is_made_anew() {
    let place = Place::new();
    let file = place.write("a.txt", austen().repeat(9));
    let corpus = Corpus::resolve(&[file]).unwrap();
    let format = (&Tokenizer::bytes()).into();
    let interrupted = || match Shard::prepare(&corpus, &format, &place.cache(), &mut |progress| progress_stop(progress))
    {
        Err(DataError::Interrupted { kept }) => kept.unwrap(),
        other => panic!("{other:?}"),
    };
    let kept = interrupted();
    let whole = fs::read(&kept).unwrap();
    let cut = whole.len() - 1;
    let mut flipped = whole.clone();
    flipped[1000] ^= 1;
    for damaged in [&whole[..cut], &whole[..10], &[], &flipped] {
        fs::write(&kept, damaged).unwrap();
        let shard = Shard::prepare(&corpus, &format, &place.cache(), &mut |_| {}).unwrap();
        assert_eq!(shard.tokens.len() as u64, shard.text_bytes, "a token per byte");
        let made = place.cached();
        assert_eq!(made.len(), 1, "{made:?}");
        fs::remove_file(&made[0]).unwrap();
    }
}

fn progress_stop(progress: tetrad::data::Progress<'_>) {
    if progress.stage == Stage::Tokenizing {
        progress.stop();
    }
}

#[test]
fn progress_counts_text_as_it_is_read_and_files_as_they_lie() {
    let place = Place::new();
    let packed = format!("{}/fixtures/inputs/frames.txt.zst", env!("CARGO_MANIFEST_DIR"));
    let size = fs::metadata(&packed).unwrap().len();
    let corpus = Corpus::resolve(&[packed]).unwrap();
    let mut last = (0, 0);
    let shard = Shard::prepare(&corpus, &(&Tokenizer::bytes()).into(), &place.cache(), &mut |progress| {
        if progress.stage == Stage::Tokenizing {
            assert!(progress.total == size && progress.bytes <= size);
            last = (progress.total, progress.text);
        }
    });
    assert_eq!(last, (size, shard.unwrap().text_bytes));
    assert_ne!(last.0, last.1, "what is packed is not what is read");
}
