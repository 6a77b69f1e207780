//! Jinja as transformers runs chat templates: where the engine differs from Python's jinja2, Python's way.

use super::python_json::{PythonJson, python_float};
use super::python_methods;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, escape_formatter};
use serde::Serialize;

/// Instructions of a template that one rendering may take: a conversation of thousands of turns needs a tenth.
const FUEL: u64 = 20_000_000;

/// What stands before and behind what a template marks with `{% generation %}`: noncharacters of Unicode, which no text
/// that is exchanged may hold.
pub(super) const GENERATION: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// The environment of one template.
pub(super) fn environment(template: &str) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(python_methods::method);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            escape_formatter(out, state, &Value::from(python_text(value)))
        }
        _ => escape_formatter(out, state, value),
    });
    environment.add_function("raise_exception", |reason: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    // Texts must not depend on the day. A template that asks whether there is a clock has a date of its own for where
    // there is none; the others get one day, the date that LLaMA 3.1's template has.
    if !template.contains("strftime_now is") {
        environment.add_function("strftime_now", |format: String| strftime(&format));
    }
    environment.add_filter("tojson", to_json);
    environment.add_filter("truncate", minijinja_contrib::filters::truncate);
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_filter("string", |value: Value| python_text(&value));
    environment.add_filter("generation_marks", |text: String| format!("{}{text}{}", GENERATION[0], GENERATION[1]));
    let iterable = |kind| matches!(kind, ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    environment.add_test("iterable", move |value: Value| value.is_undefined() || iterable(value.kind()));
    environment.add_test("sequence", move |value: Value| value.is_undefined() || iterable(value.kind()));
    environment
}

/// A template with `{% generation %}`, transformers' own mark around what the assistant says, as a filter that marks it in
/// the text; and whether there was one.
pub(super) fn with_marks(template: &str) -> (String, bool) {
    let (mut out, mut rest, mut found) = (String::with_capacity(template.len()), template, false);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let end = tag.find("%}").unwrap_or(tag.len());
        let inside = &tag[..end];
        out.push_str(&match inside.trim_matches(|c: char| c == '-' || c.is_whitespace()) {
            "generation" => {
                found = true;
                inside.replace("generation", "filter generation_marks")
            }
            "endgeneration" => inside.replace("endgeneration", "endfilter"),
            _ => inside.into(),
        });
        rest = &tag[end..];
    }
    (out + rest, found)
}

/// A value as Python's `str` writes it.
fn python_text(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or(value.to_string(), python_float)
        }
        ValueKind::Seq => {
            let items: Vec<String> = value.try_iter().into_iter().flatten().map(|item| python_repr(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let entry = |key: Value| {
                let held = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", python_repr(&key), python_repr(&held))
            };
            let entries: Vec<String> = value.try_iter().into_iter().flatten().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
        _ => value.to_string(),
    }
}

/// A value as Python's `repr` writes it.
fn python_repr(value: &Value) -> String {
    let Some(text) = value.as_str() else { return python_text(value) };
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Friday, 26 July 2024, at midnight, in the words of `strftime`.
fn strftime(format: &str) -> Result<String, Error> {
    let (mut out, mut chars) = (String::new(), format.chars().peekable());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let unpadded = chars.next_if_eq(&'-').is_some();
        out.push_str(match chars.next() {
            Some('d' | 'e') => "26",
            Some('m') if unpadded => "7",
            Some('m') => "07",
            Some('y') => "24",
            Some('Y' | 'G') => "2024",
            Some('B') => "July",
            Some('b' | 'h') => "Jul",
            Some('A') => "Friday",
            Some('a') => "Fri",
            Some('j') => "208",
            Some('u' | 'w') => "5",
            Some('F') => "2024-07-26",
            Some('D' | 'x') => "07/26/24",
            Some('H' | 'M' | 'S') if unpadded => "0",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('T' | 'X') => "00:00:00",
            Some('R') => "00:00",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('Z' | 'z') => "",
            Some('%') => "%",
            other => {
                let other = other.map_or_else(String::new, String::from);
                let reason = format!("strftime_now: %{other} is not known");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        });
    }
    Ok(out)
}

/// JSON as Python's `json.dumps` writes it, as transformers calls it: the engine's own is meant for web pages.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let refuse = |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let indent = options.get::<Option<usize>>("indent")?.map(|width| " ".repeat(width.min(64)));
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    options.assert_all_used()?;
    let value = if sorted { sorted_keys(&value) } else { value };
    let (item, key) = match (separators.as_deref(), &indent) {
        (None, None) => (", ", ": "),
        (None, Some(_)) => (",", ": "),
        (Some([item, key]), _) => (item.as_str(), key.as_str()),
        (Some(_), _) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts"));
        }
    };
    let python = PythonJson { item, key, indent: indent.as_deref(), ascii, depth: 0, filled: false };
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, python)).map_err(refuse)?;
    Ok(String::from_utf8(out).unwrap_or_default())
}

/// The same value with the keys of every map in the order of the alphabet.
fn sorted_keys(value: &Value) -> Value {
    let all = |value: &Value| value.try_iter().into_iter().flatten().collect::<Vec<Value>>();
    match value.kind() {
        ValueKind::Seq => all(value).iter().map(sorted_keys).collect(),
        ValueKind::Map => {
            let mut keys = all(value);
            keys.sort();
            let held = |key: &Value| sorted_keys(&value.get_item(key).unwrap_or_default());
            Value::from_pairs(keys.iter().map(|key| (key.to_string(), held(key))))
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn render(template: &str) -> String {
        let value = Value::from_pairs([("z", Value::from(vec![1, 2])), ("a", Value::from("it's"))]);
        environment(template).render_str(template, context! { value, yes => true }).unwrap()
    }

    /// Each with what transformers' environment writes (jinja2 3.1).
    #[test]
    fn values_are_written_and_tested_as_python_does() {
        for (template, wanted) in [
            ("{{ none }} {{ yes }} {{ not yes }}", "None True False"),
            ("{{ value }}", "{'z': [1, 2], 'a': \"it's\"}"),
            ("{{ value | string }}", "{'z': [1, 2], 'a': \"it's\"}"),
            ("{{ value | tojson }}", r#"{"z": [1, 2], "a": "it's"}"#),
            ("{{ value | tojson(separators=(',', ':')) }}", r#"{"z":[1,2],"a":"it's"}"#),
            ("{{ value | tojson(sort_keys=true) }}", r#"{"a": "it's", "z": [1, 2]}"#),
            ("{{ [1, 'é']  | tojson(indent=2) }}", "[\n  1,\n  \"é\"\n]"),
            ("{{ ['é\u{1f600}\u{7f}', []] | tojson(ensure_ascii=true) }}", r#"["\u00e9\ud83d\ude00\u007f", []]"#),
            ("{{ 1.5e-7 }} {{ [0.00001, 2.0, 1e16] }} {{ 0.00001 | tojson }}", "1.5e-07 [1e-05, 2.0, 1e+16] 1e-05"),
            ("{% for key, held in value | items %}{{ key }}{% endfor %}", "za"),
            (
                "{{ none is iterable }} {{ 'a' is iterable }} {{ value is iterable }} {{ 3 is iterable }}",
                "False True True False",
            ),
            ("{{ none is sequence }} {{ 'a' is sequence }} {{ value is mapping }}", "False True True"),
            ("{{ strftime_now('%d %B %Y, %-m %%') }}", "26 July 2024, 7 %"),
            ("{{ 'ab'.startswith('a') }} {{ 'a b'.split() | length }}", "True 2"),
        ] {
            assert_eq!(render(template), wanted, "{template}");
        }
    }

    #[test]
    fn marks_keep_the_white_space_of_their_tags() {
        let (marked, found) = with_marks("a\n  {%- generation -%}\n b {% endgeneration %}\nc");
        assert!(found);
        assert_eq!(render(&marked), "a\u{fdd0}b \u{fdd1}c");
    }
}
