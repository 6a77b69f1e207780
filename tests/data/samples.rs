//! Samples out of files: what is learned of them, how they share rows, and what is refused.

use crate::texts::Place;
use insta::assert_snapshot;
use std::fs;
use std::path::{Path, PathBuf};
use tetrad::backend::IGNORE;
use tetrad::data::{Batches, Overlong, Packing, PackingStats, Texts, Tokenizer};

const CHATML: &str = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

fn tokenizer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer").join(name)
}

/// A place whose rows hold 64 bytes.
fn reading(files: &[(&str, &str)]) -> Place {
    Place::with_rows(files, 64)
}

impl Place {
    fn batches(&self) -> Batches {
        self.prepared()
            .batches(self.config.train.sequence, self.config.run.seed)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The rows of one epoch: inputs as text with padding as `_`, targets with `.` for those that do not count.
    fn rows(&self) -> Vec<(String, String)> {
        let (batches, sequence) = (self.batches(), self.config.train.sequence);
        let row = |position| {
            let [mut inputs, mut targets] = [(); 2].map(|()| vec![0; sequence]);
            batches.fill(position, &mut inputs, &mut targets);
            let show = |ids: &[u32]| -> String {
                let letter = |id: &u32| match *id {
                    0 => '_',
                    IGNORE => '.',
                    id => char::from_u32(id).unwrap(),
                };
                ids.iter().map(letter).collect()
            };
            (show(&inputs), show(&targets))
        };
        let mut rows: Vec<_> = (0..batches.epoch_samples()).map(row).collect();
        rows.sort();
        rows
    }

    fn packing(&self) -> PackingStats {
        self.batches().shares()[0].packing.expect("samples")
    }
}

fn pairs(count: usize) -> String {
    let line = |i: usize| {
        let completion = "y".repeat(1 + i * 7 % 23);
        serde_json::json!({ "prompt": format!("{i}: "), "completion": completion }).to_string() + "\n"
    };
    (0..count).map(line).collect()
}

fn talk(user: &str, assistant: &str) -> String {
    let say = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
    serde_json::json!({ "messages": [say("user", user), say("assistant", assistant)] }).to_string() + "\n"
}

#[test]
fn of_pairs_the_completions_are_learned() {
    let mut place = reading(&[(
        "a.jsonl",
        "{\"prompt\": \"2+2=\", \"completion\": \"four\"}\n\n{\"prompt\": \"Hi \", \"completion\": \"you\\n\"}\n",
    )]);
    place.config.train.sequence = 20;
    assert!(
        Texts::find(&place.config.data).unwrap().share_rows().unwrap(),
        "samples are packed unless something else is asked for"
    );
    assert_eq!(place.rows(), [("2+2=fourHi you______".into(), "...four\n..you\n......".into())]);
    assert_eq!(place.prepared().bytes_per_token, Some(8.0 / 9.0), "4 + 4 bytes, an end of line was added to one");
    place.config.data.packing = Packing::Pad;
    assert!(!Texts::find(&place.config.data).unwrap().share_rows().unwrap());
    let apart = [("2+2=four____________", "...four\n............"), ("Hi you______________", "..you\n..............")];
    assert_eq!(place.rows(), apart.map(|(inputs, targets)| (inputs.into(), targets.into())));
}

#[test]
fn of_messages_what_the_assistant_says_is_learned() {
    let mut place = reading(&[("a.jsonl", &talk("Hi", "Oh!"))]);
    place.config.data.chat_template = Some(CHATML.into());
    assert_eq!(
        place.rows(),
        [(
            "<|user|>Hi<|end|>\n<|assistant|>Oh!<|end|>_______________________".into(),
            "..............................Oh!<|end|>........................".into()
        )]
    );
}

#[test]
fn texts_can_be_packed_too() {
    let mut place = reading(&[("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"\"}\n{\"text\": \"three\"}\n")]);
    place.config.train.sequence = 9;
    assert!(!Texts::find(&place.config.data).unwrap().share_rows().unwrap());
    place.config.data.packing = Packing::Pack;
    assert_eq!(place.rows(), [("threeone_".into(), "hree\nne\n.".into())]);
}

/// The present behaviour for text, with targets that do not count.
#[test]
fn a_stream_of_samples_keeps_what_is_learned() {
    let mut place = reading(&[("a.jsonl", "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n")]);
    (place.config.data.packing, place.config.train.sequence) = (Packing::Concat, 4);
    assert_eq!(place.rows(), [("abcd".into(), ".cd\n".into())]);
}

/// The template and its tokens are found beside the tokenizer; the tokenizer's own end of text ends pairs.
#[test]
fn the_template_beside_the_tokenizer_is_used() {
    let mut place = reading(&[("a.jsonl", &talk("It is", "a truth"))]);
    let file = place.folder.path().join("tokenizer.json");
    fs::copy(tokenizer("byte_level.json"), &file).unwrap();
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}\
        {{ m.content }}{% endif %}{% endfor %}";
    let told = serde_json::json!({ "chat_template": template, "eos_token": "<|endoftext|>" });
    fs::write(place.folder.path().join("tokenizer_config.json"), told.to_string()).unwrap();
    (place.config.tokenizer.file, place.config.model.vocab) = (Some(file.clone()), 557);
    let batches = place.batches();
    let [mut inputs, mut targets] = [(); 2].map(|()| vec![0; 64]);
    batches.fill(0, &mut inputs, &mut targets);
    let tokenizer = Tokenizer::from_file(&file).unwrap();
    let learned: Vec<u32> = targets.into_iter().filter(|&target| target != IGNORE).collect();
    assert_eq!(tokenizer.decode(&learned), " a truth<|endoftext|>");
    assert_eq!(inputs[..2], tokenizer.encode("It is").unwrap()[..2]);
}

#[test]
fn rows_and_their_order_depend_on_seed_and_position_alone() {
    let place = reading(&[("a.jsonl", &pairs(200))]);
    let (batches, again) = (place.batches(), place.batches());
    let read = |batches: &Batches, position, rows: usize| {
        let [mut inputs, mut targets, mut first] = [(); 3].map(|()| vec![0; 64 * rows]);
        batches.fill_segments(position, &mut inputs, &mut targets, &mut first);
        [inputs, targets, first]
    };
    let epoch = batches.epoch_samples();
    assert!(epoch > 20);
    let whole = read(&batches, 0, 2 * epoch as usize);
    for position in 0..2 * epoch - 3 {
        let part = read(&again, position, 3);
        for (whole, part) in whole.iter().zip(&part) {
            assert_eq!(whole[64 * position as usize..][..64 * 3], part[..]);
        }
    }
    let rows = |epoch_number: u64| -> Vec<Vec<u32>> {
        (0..epoch).map(|row| read(&batches, epoch_number * epoch + row, 1)[0].clone()).collect()
    };
    let (mut first, mut second) = (rows(0), rows(1));
    assert_ne!(first, second, "each epoch has an order of its own");
    first.sort();
    second.sort();
    assert_eq!(first, second, "of the same rows");
    assert_eq!(first.windows(2).filter(|pair| pair[0] == pair[1]).count(), 0, "each once");
}

#[test]
fn the_tail_of_samples_is_validated_on_and_never_trained_on() {
    let mut place = reading(&[("a.jsonl", &pairs(100))]);
    place.config.data.validation_fraction = 0.1;
    let prepared = place.prepared();
    let text = |part: &tetrad::data::Source| Tokenizer::bytes().decode(&part.dataset.tokens().to_vec());
    let whole: String = pairs(100).lines().map(read_line).collect();
    assert_eq!(text(&prepared.train[0]) + &text(&prepared.validation[0]), whole);
    assert!(text(&prepared.validation[0]).starts_with("90: "));
    let windows = prepared.windows(place.config.train.sequence, place.config.train.eval_sequences).unwrap().unwrap();
    let learned = (90..100).map(|i| 1 + i * 7 % 23 + 1).sum::<usize>();
    assert_eq!(windows.targets(), learned as u64, "what is not learned is not counted");
}

fn read_line(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["prompt"].as_str().unwrap().to_owned() + line["completion"].as_str().unwrap() + "\n"
}

#[test]
fn long_samples_are_cut_skipped_or_refused_and_counted() {
    let long = talk("Hi", &"long ".repeat(30));
    let mut place = reading(&[("a.jsonl", &(talk("Hi", "Oh!") + &long))]);
    place.config.data.chat_template = Some(CHATML.into());
    let packing = place.packing();
    assert_eq!((packing.samples, packing.truncated, packing.rows), (2, 1, 2));
    place.config.data.overlong = Overlong::Skip;
    assert_eq!((place.packing().skipped, place.packing().rows), (1, 1));
    place.config.data.overlong = Overlong::Error;
    assert_snapshot!(place.refusal(), @"a.jsonl: sample 2 has 189 tokens, and a row holds 65 (a sequence of 64 and the next token)");
    // Nothing that fits has anything to learn.
    place.config.data.overlong = Overlong::Truncate;
    place.config.train.sequence = 10;
    assert_snapshot!(place.refusal(), @"the training samples: none of 2 can be used: 2 are longer than a sequence of 10 tokens, and what is learned in them lies behind its end");
    place.config.data.overlong = Overlong::Skip;
    assert_snapshot!(place.refusal(), @"the training samples: none of 2 can be used: 2 are longer than a sequence of 10 tokens");
}

#[test]
fn a_conversation_without_the_assistant_is_left_out_and_counted() {
    let silent = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n";
    let mut place = reading(&[("a.jsonl", &(talk("Hi", "Oh!") + silent))]);
    place.config.data.chat_template = Some(CHATML.into());
    assert_eq!((place.packing().samples, place.packing().empty, place.packing().rows), (2, 1, 1));
    let mut place = reading(&[("a.jsonl", silent)]);
    place.config.data.chat_template = Some(CHATML.into());
    assert_snapshot!(place.refusal(), @"the training samples: none of 1 can be used: 1 are without anything that is learned");
}

#[test]
fn a_bad_line_is_named_by_number() {
    let refuse = |line: &str| {
        let mut place = reading(&[("a.jsonl", &(talk("Hi", "Oh!") + "\n" + line))]);
        place.config.data.chat_template = Some(CHATML.into());
        place.refusal()
    };
    assert_snapshot!(refuse("{\"text\": \"a\", \"messages\": []}"), @r#"a.jsonl, line 3: holds "text" and "messages" at once; keep one of them"#);
    assert_snapshot!(refuse("{\"prompt\": \"a\"}"), @r#"a.jsonl, line 3: has a "prompt" without "completion""#);
    assert_snapshot!(refuse("{\"completion\": \"a\"}"), @r#"a.jsonl, line 3: has a "completion" without "prompt"; an empty prompt is """#);
    assert_snapshot!(refuse("{\"prompt\": \"a\", \"completion\": \"\"}"), @r#"a.jsonl, line 3: its "completion" is empty, and nothing would be learned; remove it"#);
    assert_snapshot!(refuse("{\"prompt\": [\"a\"], \"completion\": \"b\"}"), @r#"a.jsonl, line 3: its "prompt" is a list, and a text is needed"#);
    assert_snapshot!(refuse("{\"messages\": []}"), @"a.jsonl, line 3: its list of messages is empty; remove it");
    assert_snapshot!(refuse("{\"messages\": \"Hi\"}"), @r#"a.jsonl, line 3: its "messages" is a text, and a list is needed"#);
    assert_snapshot!(refuse("{\"messages\": [{\"content\": \"a\"}]}"), @"a.jsonl, line 3: message 1 has no role; known are system, developer, user, assistant, tool");
    assert_snapshot!(refuse("{\"messages\": [{\"role\": \"narrator\", \"content\": \"a\"}]}"), @r#"a.jsonl, line 3: message 1: unknown role "narrator"; known are system, developer, user, assistant, tool"#);
    assert_snapshot!(refuse("{\"messages\": [{\"role\": \"user\", \"content\": [\"a\"]}]}"), @"a.jsonl, line 3: message 1: its content is no text; only texts are read");
    assert_snapshot!(refuse("{\"messages\": [{\"role\": \"user\"}]}"), @"a.jsonl, line 3: message 1 has no content");
    assert_snapshot!(refuse("{\"conversations\": [{\"from\": \"narrator\", \"value\": \"a\"}]}"), @r#"a.jsonl, line 3: message 1: unknown role "narrator"; known are system, developer, user, assistant, tool"#);
    assert_snapshot!(refuse("{\"messages\": [{\"role\": \"user\", \"content\": \"a\""), @r#"a.jsonl, line 3: EOF while parsing an object (column 45); each line is one object with "text", with "prompt" and "completion", or with "messages""#);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let place = reading(&[("a.jsonl", &pairs(2))]);
    let broken = [pairs(2).as_bytes(), b"{\"prompt\": \"\xff\", \"completion\": \"a\"}\n"].concat();
    fs::write(place.folder.path().join("a.jsonl"), broken).unwrap();
    assert_snapshot!(place.refusal(), @r#"a.jsonl, line 3: invalid unicode code point (column 13); each line is one object with "text", with "prompt" and "completion", or with "messages""#);
}

#[test]
fn templates_that_cannot_be_used_are_named() {
    let mut place = reading(&[("a.jsonl", &talk("Hi", "Oh!"))]);
    assert_snapshot!(place.refusal(), @"a.jsonl: has conversations, and no chat template came with the tokenizer");
    let mut refuse = |template: &str| {
        place.config.data.chat_template = Some(template.into());
        place.refusal()
    };
    assert_snapshot!(refuse("{{ messages }"), @"data.chat_template: not a usable chat template: syntax error: unexpected `}`, expected end of variable block (line 1 of the template)");
    assert_snapshot!(refuse("{{ raise_exception('only in Latin') }}"), @"a.jsonl, line 1: the chat template refuses this conversation: invalid operation: only in Latin (line 1 of the template)");
    assert_snapshot!(refuse("{{ messages | length }}{{ messages[0].content }}"), @"a.jsonl, line 1: the chat template writes what is before message 2 in another way once it is there, so what the assistant says cannot be told apart; use another with data.chat_template");
    assert_snapshot!(refuse("{{ messages[0].content | shout }}"), @"a.jsonl, line 1: the chat template refuses this conversation: unknown filter: filter shout is unknown (line 1 of the template)");
    assert_snapshot!(refuse("no/such.jinja"), @"no/such.jinja: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn another_template_makes_other_samples() {
    let mut place = reading(&[("a.jsonl", &talk("Hi", "Oh!"))]);
    place.config.data.chat_template = Some(CHATML.into());
    let (one, again) = (place.prepared().fingerprint, place.prepared().fingerprint);
    assert_eq!(one, again);
    place.config.data.chat_template = Some(CHATML.replace("<|end|>", "<|fin|>"));
    assert_ne!(place.prepared().fingerprint, one);
    place.config.data.chat_template = Some(CHATML.into());
    place.config.data.overlong = Overlong::Skip;
    assert_ne!(place.prepared().fingerprint, one, "a position is a row, and those may be others");
}

#[test]
fn samples_and_texts_do_not_share_a_source() {
    let place = reading(&[("a.jsonl", &pairs(2)), ("b.txt", "some text")]);
    assert_snapshot!(place.refusal(), @"b.txt: has no samples, but a.jsonl in the same source has (prompt and completion)");
    let mut late = reading(&[("a.jsonl", &("{\"text\": \"a\"}\n".to_owned() + &pairs(1)))]);
    assert_snapshot!(late.refusal(), @r#"a.jsonl, line 2: holds a sample, not "text"; set data.packing = "pack""#);
    (late.config.data.packing, late.config.train.sequence) = (Packing::Pack, 6);
    assert_eq!(late.rows().len(), 1);
}
