//! Tokenizers that are made here, and text that is prepared ahead of a run.

use super::{names, workplace};

#[test]
fn a_tokenizer_is_made_of_texts_and_trains_a_model() {
    let place = workplace();
    let made = ["tokenizer", "train", "train.txt", "-o", "words.json", "--vocab", "400", "--special", "<|user|>"];
    let said = place.ok(&made);
    assert!(said.contains("words.json: 400 tokens") && said.contains("--set model.vocab=400"), "{said}");
    let first = place.read("words.json");
    assert!(place.fails(&made).contains("exists already"));
    place.ok(&[&made[..], &["--overwrite", "--threads", "1"]].concat());
    assert!(place.read("words.json") == first, "the same of the same texts, in any number of threads");
    assert!(
        place
            .fails(&["tokenizer", "train", "train.txt", "-o", "x.json", "--vocab", "200"])
            .contains("--vocab 200: must be at least 257")
    );
    // Prepared ahead, training finds it.
    let sets = ["--set", "tokenizer.file=words.json", "--set", "data.cache=cache"];
    let prepare = [&["prepare", "--data", "train.txt"], &sets[..]].concat();
    let said = place.ok(&prepare);
    assert!(said.contains("tokens to train on") && said.contains("kept in cache"), "{said}");
    let tokens: u64 = said.split(" tokens").next().unwrap().replace(' ', "").parse().unwrap();
    assert!((5_000..25_000).contains(&tokens), "fewer tokens than the 40 000 bytes: {said}");
    let kept = names(&place, "cache");
    assert_eq!(kept.len(), 1);
    let train = ["train", "tiny.toml", "--data", "train.txt", "--steps", "20", "--set", "model.vocab=400"];
    let said = place.ok(&[&train[..], &sets].concat());
    assert!(said.contains("weights: run/model.tetrad"), "{said}");
    assert_eq!(names(&place, "cache"), kept, "nothing was prepared twice");
    // The model carries it.
    let said = place.ok(&["prepare", "--from", "run/model.tetrad", "--data", "val.txt", "--set", "data.cache=cache"]);
    assert!(said.contains("tokens to train on"), "{said}");
    assert!(place.fails(&["prepare", "--data", "none.txt"]).contains("none.txt: matches no file"));
    // Patterns may overlap, and whoever names a file twice to see it twice is told how that is said.
    let twice = ["prepare", "--data", "train.txt", "--data", "./train.txt", "--set", "data.cache=cache"];
    let said = String::from_utf8(place.run(&twice).stderr).unwrap();
    let note = "note: ./train.txt is named more than once, and read once; to train on a text more often, give it a weight in a \
                [[data.source]] table";
    assert!(said.contains(note), "{said}");
    // A file with nothing in it is no text, here as in training.
    std::fs::write(place.path("head.csv"), "text\n").unwrap();
    let said = place.fails(&["tokenizer", "train", "train.txt", "head.csv", "-o", "y.json"]);
    assert!(said.contains("head.csv: has a first line that names columns, and no rows"), "{said}");
}
