//! `tetrad chat` and `sample --chat`: the conversation that the template writes is what the model goes on from.

use crate::harness::process::Workplace;
use std::io::Write;
use std::process::{Output, Stdio};

/// Messages on lines of their own.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}\
                        {% if add_generation_prompt %}a:{% endif %}";

/// A trained byte model and a template beside it.
fn model() -> Workplace {
    let place = Workplace::new();
    place.ok(&["train", "tiny.toml"]);
    std::fs::write(place.path("talk.jinja"), TEMPLATE).unwrap();
    place
}

fn chat(place: &Workplace, args: &[&str], said: &str) -> Output {
    chat_bytes(place, args, said.as_bytes())
}

fn chat_bytes(place: &Workplace, args: &[&str], said: &[u8]) -> Output {
    let fixed = ["chat", "run/model.tetrad", "--chat-template", "talk.jinja", "--temperature", "0"];
    let mut command = place.command(&[&fixed[..], args].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(said).unwrap();
    child.wait_with_output().unwrap()
}

/// What the model goes on to say after a text.
fn continued(place: &Workplace, text: &str, more: &[&str]) -> String {
    let fixed = ["sample", "run/model.tetrad", "--temperature", "0", "--json", "--prompt", text];
    let said: serde_json::Value = serde_json::from_str(&place.ok(&[&fixed[..], more].concat())).unwrap();
    said["text"].as_str().unwrap().to_owned()
}

#[test]
fn each_reply_continues_the_whole_conversation_and_reset_begins_another() {
    let place = model();
    let output = chat(&place, &["--max-tokens", "5", "--system", "S"], "Hi\n\nHo\n/reset\nHi\n/quit\nnever\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let first = continued(&place, "s:S\nu:Hi\na:", &["--max-tokens", "5"]);
    let talk = format!("s:S\nu:Hi\na:{}\nu:Ho\na:", first.trim());
    let second = continued(&place, &talk, &["--max-tokens", "5"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{first}\n{second}\n{first}\n"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("15 tokens, ") && said.ends_with(" tokens/s\n"), "{said}");
}

#[test]
fn old_messages_are_left_out_where_the_context_ends_and_one_too_long_is_refused() {
    let place = model();
    let long = "x".repeat(2000);
    let output = chat(&place, &["--max-tokens", "4"], &format!("{}{long}\nHi\n", "0123456789\n".repeat(40)));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("oldest messages no longer fit into the context and are left out"), "{said}");
    assert!(said.contains("the message has 20"), "{said}");
    assert!(String::from_utf8(output.stdout).unwrap().lines().count() >= 41);
}

#[test]
fn a_message_may_have_several_lines_and_a_word_that_is_no_command_is_not_sent() {
    let place = model();
    let output = chat(&place, &["--max-tokens", "5", "--context", "64"], "Hi\\\nHo\n/nonsense\n/help\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let reply = continued(&place, "u:Hi\nHo\na:", &["--max-tokens", "5"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{reply}\n"));
    assert!(said.starts_with("/nonsense is no command; /reset begins a new conversation, "), "{said}");
    assert_eq!(said.matches("/quit ends").count(), 2, "{said}");
    for wrong in ["0", "100000"] {
        let error = place.fails(&["chat", "run/model.tetrad", "--chat-template", "talk.jinja", "--context", wrong]);
        assert!(error.contains("the model's context"), "{error}");
    }
}

#[test]
fn the_folder_of_a_finished_run_stands_for_its_model_and_a_prompt_beyond_the_context_is_told() {
    let place = model();
    let args = ["--temperature", "0", "--max-tokens", "4", "--prompt", "The "];
    let whole = place.ok(&[&["sample", "run/model.tetrad"], &args[..]].concat());
    assert_eq!(place.ok(&[&["sample", "run"], &args[..]].concat()), whole);
    let asked =
        ["sample", "run", "--chat", "--chat-template", "talk.jinja", "--system", "S", "-p", "Hi", "--max-tokens", "5"];
    let replied = place.ok(&[&asked[..], &["--temperature", "0"]].concat());
    assert_eq!(replied, format!("{}\n", continued(&place, "s:S\nu:Hi\na:", &["--max-tokens", "5"])));
    let long = "x".repeat(2000);
    let refused = place.fails(&["sample", "run", "--chat", "--chat-template", "talk.jinja", "-p", &long]);
    assert!(refused.contains("shorten the message"), "{refused}");
    let output = place.run(&["sample", "run", "--max-tokens", "1", "--prompt", &long]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("the prompt has 2000 tokens, the model's context "), "{said}");
}

#[test]
fn a_model_without_a_template_says_what_to_do() {
    let place = model();
    let error = place.fails(&["chat", "run/model.tetrad"]);
    assert!(error.contains("no chat template; name one with --chat-template"), "{error}");
    let error = place.fails(&["sample", "run/model.tetrad", "--chat"]);
    assert!(error.contains("no chat template"), "{error}");
    let error = place.fails(&["chat", "run/model.tetrad", "--min-p", "2"]);
    assert!(error.contains("--min-p 2: must be 0 to 1"), "{error}");
}

#[test]
fn a_stop_ends_the_text_and_a_prompt_may_come_from_a_file_or_standard_input() {
    let place = model();
    let whole = continued(&place, "The ", &["--max-tokens", "40"]);
    let stop: String = whole.chars().skip(7).take(2).collect();
    let cut = continued(&place, "The ", &["--max-tokens", "40", "--stop", &stop]);
    assert_eq!(cut, whole[..whole.find(&stop).unwrap()]);
    std::fs::write(place.path("prompt.txt"), "The ").unwrap();
    let args = ["sample", "run/model.tetrad", "--temperature", "0", "--max-tokens", "40"];
    let expected = place.ok(&[&args[..], &["--prompt", "The "]].concat());
    assert_eq!(place.ok(&[&args[..], &["--prompt-file", "prompt.txt"]].concat()), expected);
    let mut command = place.command(&[&args[..], &["--prompt-file", "-"]].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"The ").unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), expected);
    assert!(place.fails(&["sample", "run/model.tetrad", "--prompt-file", "none.txt"]).contains("none.txt"));
    let empty = place.fails(&["sample", "run/model.tetrad", "--prompt-file", "-"]);
    assert!(empty.contains("--prompt-file -: empty; give at least one character"), "{empty}");
    assert!(place.fails(&["sample", "run/model.tetrad", "--prompt", ""]).contains("--prompt: empty"));
}

#[test]
fn text_that_is_not_utf8_is_named_by_its_line() {
    let place = model();
    let output = chat_bytes(&place, &["--max-tokens", "2"], b"Hi\n\nna\xefve\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("tetrad: standard input, line 3: is not UTF-8; convert it, as `iconv"), "{said}");
    assert_eq!(output.status.code(), Some(2));
    std::fs::write(place.path("prompt.txt"), b"na\xefve").unwrap();
    let said = place.fails(&["sample", "run/model.tetrad", "--prompt-file", "prompt.txt"]);
    assert!(said.contains("--prompt-file prompt.txt: is not UTF-8; convert it"), "{said}");
}

/// Text samples of a run on conversations ask their question as `chat` does, and end where the model ends its answer.
#[test]
fn a_run_on_conversations_is_sampled_in_their_template() {
    let place = Workplace::new();
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{% if m.role == 'assistant' %}<|endoftext|>{% endif %}\n\
                    {% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    std::fs::write(place.path("talk.jinja"), template).unwrap();
    let said = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
    let line =
        serde_json::json!({ "messages": [said("user", "Is it?"), said("assistant", "It is.")] }).to_string() + "\n";
    std::fs::write(place.path("talk.jsonl"), line.repeat(40)).unwrap();
    let tokenizer = format!("tokenizer.file={}/fixtures/tokenizer/byte_level.json", env!("CARGO_MANIFEST_DIR"));
    let sets = [
        tokenizer.as_str(),
        "model.vocab=560",
        "data.chat_template=talk.jinja",
        "data.validation_fraction=0.1",
        "optimizer.lr=0.01",
        "train.steps=60",
        "train.batch=4",
        "train.sample_prompt=",
        "train.sample_tokens=40",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let said = place.ok(&[&["train", "tiny.toml", "--data", "talk.jsonl"], &sets[..]].concat());
    assert!(said.contains("--- sample after step 60, asked \"Is it?\" ---\nIt is.\n---"), "{said}");
    assert!(said.contains("try: tetrad chat run/model.tetrad"), "{said}");
    let own = ["--overwrite", "--set", "train.sample_prompt=Why?"];
    let said = place.ok(&[&["train", "tiny.toml", "--data", "talk.jsonl"], &sets[..], &own].concat());
    assert!(said.contains(", asked \"Why?\" ---\n"), "{said}");
}
