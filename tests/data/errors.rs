//! What a user is told about text, tokenizers and vocabularies that cannot be trained on.

use insta::assert_snapshot;
use std::fs;
use std::path::Path;
use tetrad::config::Config;
use tetrad::data::Prepared;

/// The message for a configuration whose relative paths are in a folder with `files`, the folder left out.
fn refusal(files: &[(&str, &[u8])], sets: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    // The current folder belongs to the whole process, so paths are made absolute instead.
    let mut config = Config::load(None, &sets.iter().map(|set| set.to_string()).collect::<Vec<_>>()).unwrap();
    let inside = |name: &mut String| *name = folder.path().join(&name).display().to_string();
    config.data.train.iter_mut().chain(&mut config.data.validation).for_each(inside);
    config.data.cache = folder.path().join(&config.data.cache);
    config.tokenizer.file = config.tokenizer.file.map(|file| folder.path().join(file));
    config.data.source.iter_mut().flat_map(|source| &mut source.files).for_each(inside);
    let prepared =
        Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| {}).and_then(|prepared| {
            prepared.batches(config.train.sequence, config.run.seed)?;
            prepared.windows(config.train.sequence, config.train.eval_sequences)
        });
    let message = prepared.expect_err("this text is wrong").to_string();
    message.replace(&format!("{}/", folder.path().display()), "")
}

fn tokenizer(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer").join(name)).unwrap()
}

#[test]
fn a_file_of_two_sources_would_be_validated_and_trained_on() {
    let files: [(&str, &[u8]); 2] = [("a.txt", &[b'a'; 9000]), ("b.txt", &[b'b'; 9000])];
    let sources = "data.source=[{files=['a.txt']},{files=['b.txt','a.txt']}]";
    assert_snapshot!(refusal(&files, &[sources]), @"a.txt: is in two sources, and its end would be held out of one and trained on in the other");
}

#[test]
fn files_that_are_not_there_are_named() {
    assert_snapshot!(refusal(&[], &["data.train=no.txt"]), @"no.txt: matches no file; check the name, relative to the current folder");
    assert_snapshot!(refusal(&[("a.csv", b"x")], &["data.train=*.txt"]), @"*.txt: matches no file; check the name, relative to the current folder");
    assert_snapshot!(refusal(&[("books/a.txt", b"x")], &["data.train=b*"]), @"b*: matches no file; check the name, relative to the current folder (folders are not searched)");
    assert_snapshot!(refusal(&[], &["data.train=a[.txt"]), @"a[.txt: not a pattern: invalid range pattern; write [[] for a bracket in a name");
    assert_snapshot!(refusal(&[], &["tokenizer.file=no.json"]), @"no.json: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn files_that_cannot_be_text_are_named() {
    assert_snapshot!(refusal(&[("books/a.txt", b"x")], &["data.train=books"]), @"books: is a folder; name its files, such as books/*.txt");
    assert_snapshot!(refusal(&[("a.txt", b"")], &["data.train=a.txt"]), @"a.txt: is empty; remove it from the list");
    #[cfg(not(feature = "parquet"))]
    assert_snapshot!(refusal(&[("a.parquet", b"PAR1"), ("a.txt", b"x")], &["data.train=a.*"]), @"a.parquet: this program was built without its reader of Parquet files");
    assert_snapshot!(refusal(&[("a", b"x")], &["data.train=a"]), @"a: unsupported file type; expected .txt, .jsonl, .json, .csv, .tsv (each also compressed, .zst), .parquet, or llm.c's .bin");
}

#[test]
fn files_with_nothing_in_them_are_named_beside_others() {
    let text = b"some words ".repeat(2000);
    let refuse = |name: &str, content: &[u8], key: &str| {
        let files: [(&str, &[u8]); 3] = [("a.txt", &text), ("b.txt", &text), (name, content)];
        let (train, validation) = match key {
            "train" => (format!("data.train=['a.txt', '{name}']"), "data.validation=['b.txt']".into()),
            _ => ("data.train=['a.txt']".into(), format!("data.validation=['b.txt', '{name}']")),
        };
        refusal(&files, &[&train, &validation])
    };
    let nothing: [(&str, &[u8], &str); 4] = [
        ("h.csv", b"text,id\n", "has a first line that names columns, and no rows"),
        ("e.json", b" []\n", "is an array without records"),
        ("n.jsonl", b"\n \n", "has no lines but empty ones"),
        ("m.txt", b"\xef\xbb\xbf", "holds no text"),
    ];
    for (name, content, found) in nothing {
        for key in ["train", "validation"] {
            assert_eq!(refuse(name, content, key), format!("{name}: {found}; remove it from the list"), "{key}");
        }
    }
    let empty = b"{\"text\": \"\"}\n".repeat(2);
    assert_snapshot!(refuse("t.jsonl", &empty, "train"), @"t.jsonl: its 2 texts are all empty; remove it from the list");
    assert_snapshot!(refuse("t.jsonl", &empty[..13], "validation"), @"t.jsonl: its only text is empty; remove it from the list");
    // Alone as beside others.
    assert_snapshot!(refusal(&[("h.csv", b"text\n")], &["data.train=h.csv"]), @"h.csv: has a first line that names columns, and no rows; remove it from the list");
}

#[test]
fn text_in_another_encoding_is_located() {
    assert_snapshot!(refusal(&[("a.txt", b"caf\xe9 au lait")], &["data.train=a.txt"]), @"a.txt: byte 3 is not UTF-8 text (0xe9); convert the file, for example with iconv");
    // Beyond the first piece, and a character that the end of the file cuts.
    let late = [b"line of text\n".repeat(100_000), b"\xe2\x82".to_vec()].concat();
    assert_snapshot!(refusal(&[("a.txt", &late)], &["data.train=a.txt"]), @"a.txt: byte 1300000 is not UTF-8 text (0xe2); convert the file, for example with iconv");
}

#[test]
fn a_bad_line_is_named_by_number() {
    let refuse = |lines: &str| refusal(&[("a.jsonl", lines.as_bytes())], &["data.train=a.jsonl"]);
    assert_snapshot!(refuse("{\"text\": \"a\"}\n\n{\"text\": }\n"), @r#"a.jsonl, line 3: expected value (column 10); each line is one object with "text", with "prompt" and "completion", or with "messages""#);
    assert_snapshot!(refuse("{\"content\": \"a\"}\n"), @r#"a.jsonl, line 1: has none of the fields that are read; each line is one object with "text", with "prompt" and "completion", or with "messages""#);
    assert_snapshot!(refuse("{\"text\": [\"a\"]}\n"), @r#"a.jsonl, line 1: its "text" is a list, and a text is needed"#);
    assert_snapshot!(refuse("{\"text\": \"a\"}{\"text\": \"b\"}\n"), @r#"a.jsonl, line 1: trailing characters (column 14); each line is one object with "text", with "prompt" and "completion", or with "messages""#);
    assert_snapshot!(refuse("{\"text\": \"\\ud800\"}\n"), @r#"a.jsonl, line 1: unexpected end of hex escape (column 17); each line is one object with "text", with "prompt" and "completion", or with "messages""#);
    assert_snapshot!(refuse("plain text\n"), @r#"a.jsonl, line 1: expected value (column 1); each line is one object with "text", with "prompt" and "completion", or with "messages""#);
}

#[test]
fn validating_on_trained_text_is_refused() {
    let files: [(&str, &[u8]); 2] = [("a.txt", b"x"), ("b.txt", b"y")];
    assert_snapshot!(refusal(&files, &["data.train=*.txt", "data.validation=./b.txt"]), @"./b.txt: is listed both for training and for validation; a loss on trained text says nothing");
}

#[test]
fn texts_without_one_sequence_are_refused_with_the_numbers() {
    assert_snapshot!(refusal(&[("a.txt", &[b'x'; 100])], &["data.train=a.txt"]), @"the training text: 96 tokens, and one sequence needs 129 (128 and the next token)");
    assert_snapshot!(refusal(&[("a.txt", &[b'x'; 1000])], &["data.train=a.txt"]), @"the validation text: 50 tokens, and one sequence needs 129 (128 and the next token)");
}

#[test]
fn a_tokenizer_larger_than_the_model_is_found_before_any_text_is_read() {
    let level = tokenizer("byte_level.json");
    let files: [(&str, &[u8]); 2] = [("a.txt", b"\xff"), ("t.json", &level)];
    assert_snapshot!(refusal(&files, &["data.train=a.txt", "tokenizer.file=t.json"]), @"t.json: has token ids up to 556, and the model has a vocabulary of 256");
}

#[test]
fn a_token_beyond_the_vocabulary_names_the_file_that_has_it() {
    // An added token behind the vocabulary matters only where a text uses it.
    let mut json: serde_json::Value = serde_json::from_slice(&tokenizer("byte_level.json")).unwrap();
    let base = json["model"]["vocab"].as_object().unwrap().len();
    let mut added = json["added_tokens"][0].clone();
    (added["id"], added["content"]) = (base.into(), "<pad>".into());
    json["added_tokens"].as_array_mut().unwrap().push(added);
    let json = json.to_string();
    let text = "some words ".repeat(2000);
    let padded = format!("{text}<pad>");
    let files: [(&str, &[u8]); 4] = [
        ("a.txt", text.as_bytes()),
        ("b.txt", padded.as_bytes()),
        ("c.txt", text.as_bytes()),
        ("t.json", json.as_bytes()),
    ];
    let vocab = format!("model.vocab={base}");
    assert_snapshot!(refusal(&files, &["data.train=[\"a.txt\", \"b.txt\", \"c.txt\"]", "tokenizer.file=t.json", &vocab]), @"b.txt: token id 557 is beyond the model's vocabulary of 557 (ids up to 556)");
}

#[test]
fn files_that_are_no_tokenizer_are_named() {
    let refuse = |json: &[u8]| refusal(&[("t.json", json)], &["tokenizer.file=t.json"]);
    assert_snapshot!(refuse(b"{}"), @"t.json: not a usable tokenizer.json: Model missing. at line 1 column 2");
    assert_snapshot!(refuse(b"not json"), @"t.json: not a usable tokenizer.json: expected ident at line 1 column 2");
    assert_snapshot!(refuse(&tokenizer("byte_level.json")[..3000]), @"t.json: not a usable tokenizer.json: EOF while parsing an object at line 214 column 11");
    let random =
        String::from_utf8(tokenizer("byte_level.json")).unwrap().replace("\"dropout\": null", "\"dropout\": 0.1");
    assert_snapshot!(refuse(random.as_bytes()), @"t.json: not a usable tokenizer.json: its merges are dropped at random (model.dropout); set dropout to null");
}
