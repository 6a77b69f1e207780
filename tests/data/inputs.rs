//! Kinds of files besides `.txt` and `.jsonl`, and several sources at once.

use crate::texts::Place;
use insta::assert_snapshot;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::fs;
use std::path::{Path, PathBuf};
use tetrad::data::SourceConfig;
use tetrad::data::{Batches, Prepared, Tokenizer, Tokens};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn austen() -> String {
    include_str!("../../assets/corpus/austen.txt").to_owned()
}

/// A place whose rows hold 16 bytes.
fn reading(files: &[(&str, &[u8])]) -> Place {
    Place::with_rows(files, 16)
}

impl Place {
    fn tokens(&self) -> Tokens {
        self.prepared().train[0].dataset.tokens().clone()
    }

    fn text(&self) -> String {
        Tokenizer::bytes().decode(&self.tokens().to_vec())
    }
}

/// Made by the zstd program: a frame with a checksum, one that is to be skipped, and one without a checksum.
fn frames() -> Vec<u8> {
    fs::read(fixture("inputs/frames.txt.zst")).unwrap()
}

#[test]
fn all_frames_of_a_packed_text_are_read() {
    let place = reading(&[("a.txt.zst", &frames())]);
    assert_eq!(place.text(), austen()[..7000].to_owned() + "\n");
    assert_eq!(place.prepared().bytes_per_token, Some(7000.0 / 7001.0));
}

#[test]
fn a_packed_text_has_the_tokens_of_the_text() {
    let text = austen()[..900_000].to_owned();
    let packed = compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
    assert!(packed.len() < text.len());
    assert_eq!(reading(&[("a.txt.zst", &packed)]).text(), text + "\n");
    let lines = "{\"text\": \"one\"}\n".repeat(5000);
    let packed = compress_to_vec(lines.as_bytes(), CompressionLevel::Fastest);
    assert_eq!(reading(&[("a.jsonl.zst", &packed)]).text(), "one\n".repeat(5000));
}

#[test]
fn packed_texts_that_are_not_whole_are_refused() {
    let refuse = |bytes: &[u8]| reading(&[("a.txt.zst", bytes)]).refusal();
    let whole = frames();
    for cut in (1..40).chain((40..whole.len()).step_by(61)) {
        // Where a frame ends the file may end as well.
        let place = reading(&[("a.txt.zst", &whole[..cut])]);
        match Prepared::new(&place.config.data, &place.config.tokenizer, place.config.model.vocab, &mut |_| {}) {
            Ok(prepared) => assert_eq!(prepared.train[0].dataset.tokens().len(), 3001, "cut to {cut}"),
            Err(error) => assert!(error.to_string().contains("cannot be decompressed: "), "cut to {cut}: {error}"),
        }
    }
    let mut broken = whole.clone();
    broken[500] ^= 1;
    assert!(refuse(&broken).starts_with("a.txt.zst: cannot be decompressed: "), "{}", refuse(&broken));
    assert!(refuse(b"just a text").contains("cannot be decompressed: "), "{}", refuse(b"just a text"));
    assert_snapshot!(refuse(&compress_to_vec(&b"{\"text\": \"\xff\"}"[..], CompressionLevel::Fastest)), @"a.txt.zst: byte 10 is not UTF-8 text (0xff); convert the file, for example with iconv");
    let place = reading(&[("a.csv.zst", b"x")]);
    assert!(place.refusal().starts_with("a.csv.zst: cannot be decompressed: "), "{}", place.refusal());
    let place = reading(&[("a.xml.zst", b"x")]);
    assert_snapshot!(place.refusal(), @"a.xml.zst: unsupported file type; expected .txt, .jsonl, .json, .csv, .tsv (each also compressed, .zst), .parquet, or llm.c's .bin");
}

/// A file as llm.c's scripts write it.
fn shard(magic: u32, version: u32, count: u32, tokens: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 1024];
    for (i, number) in [magic, version, count].into_iter().enumerate() {
        header[4 * i..][..4].copy_from_slice(&number.to_le_bytes());
    }
    [header, tokens.to_vec()].concat()
}

fn two_bytes(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn four_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

#[test]
fn tokens_of_llm_c_are_read_as_they_are() {
    let ids: Vec<u16> = (0..300).map(|i| 50_256 - i).collect();
    let mut place = reading(&[("a.bin", &shard(20240520, 1, 300, &two_bytes(&ids)))]);
    place.config.model.vocab = 50_257;
    assert_eq!(place.tokens().to_vec(), ids.iter().map(|id| u32::from(*id)).collect::<Vec<_>>());
    assert_eq!(place.prepared().bytes_per_token, None, "nobody knows their text");
    let ids: Vec<u32> = (0..300).map(|i| 128_000 - i).collect();
    let mut place = reading(&[("a.bin", &shard(20240801, 7, 300, &four_bytes(&ids))), ("b.txt", b"a")]);
    place.config.model.vocab = 128_256;
    assert_eq!(place.tokens().to_vec(), [&ids[..], &[97, 10]].concat());
    assert_eq!(place.prepared().bytes_per_token, None);
}

#[test]
fn files_that_are_not_llm_c_s_are_refused() {
    let refuse = |bytes: &[u8]| reading(&[("a.bin", bytes)]).refusal();
    let ids = two_bytes(&[1; 40]);
    assert_snapshot!(refuse(&ids), @"a.bin: 80 bytes, and llm.c's header alone has 1024");
    assert_snapshot!(refuse(&shard(20240521, 1, 40, &ids)), @"a.bin: begins with 20240521, and tokens of llm.c with 20240520 (GPT-2) or 20240801 (LLaMA 3)");
    assert_snapshot!(refuse(&shard(20240520, 2, 40, &ids)), @"a.bin: has version 2, and 1 is read");
    assert_snapshot!(refuse(&shard(20240520, 1, 41, &ids)), @"a.bin: 1104 bytes, and its 41 tokens make 1106; it was cut");
    assert_snapshot!(refuse(&shard(20240520, 1, 39, &ids)), @"a.bin: 1104 bytes, and its 39 tokens make 1102; it holds something else");
    assert_snapshot!(refuse(&shard(20240520, 1, u32::MAX, &ids)), @"a.bin: 1104 bytes, and its 4294967295 tokens make 8589935614; it was cut");
    // The vocabulary is the model's, and the wrong one is found before step 0.
    assert_snapshot!(refuse(&shard(20240520, 1, 3, &two_bytes(&[1, 50_256, 2]))), @"a.bin: token id 50256 is beyond the model's vocabulary of 256 (ids up to 255)");
    let mut place = reading(&[("a.bin", &shard(20240520, 1, 40, &ids))]);
    place.config.data.packing = tetrad::data::Packing::Pack;
    assert_snapshot!(place.refusal(), @r#"a.bin: holds tokens without sample boundaries, which the mode "pack" needs"#);
}

/// Two sources of 7 to 3; the first has letters, the second digits.
fn mixed() -> Place {
    let mut place = reading(&[("a.txt", "abcdefgh".repeat(200).as_bytes()), ("b.txt", "0123".repeat(60).as_bytes())]);
    let files = std::mem::take(&mut place.config.data.train);
    place.config.data.source =
        files.into_iter().zip([0.7, 0.3]).map(|(file, weight)| SourceConfig { files: vec![file], weight }).collect();
    place
}

fn row(batches: &Batches, position: u64) -> String {
    let [mut inputs, mut targets] = [(); 2].map(|()| vec![0; 16]);
    batches.fill(position, &mut inputs, &mut targets);
    Tokenizer::bytes().decode(&inputs)
}

#[test]
fn sources_are_mixed_by_their_weights_each_in_epochs_of_its_own() {
    let place = mixed();
    let batches = place.prepared().batches(place.config.train.sequence, place.config.run.seed).unwrap();
    let shares = batches.shares();
    assert_eq!(shares.iter().map(|share| share.rows).collect::<Vec<_>>(), [99, 14]);
    assert!((shares[0].share - 0.7).abs() < 1e-3 && (shares[1].share - 0.3).abs() < 1e-3);
    let digits = |position| row(&batches, position).starts_with(|c: char| c.is_ascii_digit());
    for from in [0, 100, 5000] {
        let found = (from..from + 1000).filter(|position| digits(*position)).count();
        assert!((299..=301).contains(&found), "{found} of 1000 rows from {from}");
    }
    // Wherever a batch begins, it is the rows of its positions.
    let [mut inputs, mut targets] = [(); 2].map(|()| vec![0; 16 * 50]);
    batches.fill(4090, &mut inputs, &mut targets);
    let whole: String = (4090..4140).map(|position| row(&batches, position)).collect();
    assert_eq!(Tokenizer::bytes().decode(&inputs), whole);
}

#[test]
fn each_source_leaves_its_tail_for_validation() {
    let mut place = mixed();
    place.config.data.validation_fraction = 0.1;
    let prepared = place.prepared();
    let tails: Vec<usize> = prepared.validation.iter().map(|part| part.dataset.tokens().len()).collect();
    assert_eq!(tails, [160, 24]);
    assert_eq!(
        prepared.windows(place.config.train.sequence, place.config.train.eval_sequences).unwrap().unwrap().targets(),
        16 * (9 + 1)
    );
}

#[test]
fn other_weights_are_another_run() {
    let mut place = mixed();
    let before = place.prepared().fingerprint;
    assert_eq!(place.prepared().fingerprint, before);
    place.config.data.source[0].weight = 0.6;
    assert_ne!(place.prepared().fingerprint, before);
}

#[cfg(feature = "parquet")]
mod parquet {
    use super::*;
    use tetrad::backend::IGNORE;

    /// Made by `fixtures/inputs/make.py` with pyarrow.
    fn read(name: &str) -> Vec<u8> {
        fs::read(fixture("inputs").join(name)).unwrap()
    }

    #[test]
    fn texts_are_a_column() {
        assert_eq!(reading(&[("a.parquet", &read("text.parquet"))]).text(), "one\ntwo\nthree\n");
    }

    #[test]
    fn conversations_are_lists_of_structs() {
        let mut place = reading(&[("a.parquet", &read("messages.parquet"))]);
        place.config.data.chat_template = Some(
            "{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}{% if add_generation_prompt %}a{% endif %}"
                .into(),
        );
        let batches = place.prepared().batches(place.config.train.sequence, place.config.run.seed).unwrap();
        let [mut inputs, mut targets] = [(); 2].map(|()| vec![0; 16]);
        batches.fill(0, &mut inputs, &mut targets);
        let learned: Vec<u32> = targets.into_iter().filter(|target| *target != IGNORE).collect();
        // The last token of each is a target only.
        assert_eq!(Tokenizer::bytes().decode(&inputs[..12]), "uHiaOhuHoaAh");
        assert_eq!(Tokenizer::bytes().decode(&learned), "Oh!Ah!");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refuse = |bytes: &[u8]| reading(&[("a.parquet", bytes)]).refusal();
        assert_snapshot!(refuse(&read("other.parquet")), @"a.parquet: cannot be read: has the columns words, id, and none of text, prompt, completion, messages, conversations, conversation, instruction, question, query, input");
        assert_snapshot!(refuse(&read("pairs.parquet")), @r#"a.parquet, row 2: its "completion" is empty, and nothing would be learned; remove it"#);
        assert!(refuse(&read("text.parquet")[..200]).contains("not a usable Parquet file"));
        assert!(refuse(b"PAR1").contains("not a usable Parquet file"));
    }
}
