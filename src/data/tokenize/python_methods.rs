//! Methods of Python's `str` and `list` that the template engine's Python compatibility lacks.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Called for methods that the engine does not know.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match pycompat::unknown_method_callback(state, value, name, args) {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => match (value.as_str(), value.kind()) {
            (Some(text), _) => of_text(text, name, args).unwrap_or(Err(error)),
            (None, ValueKind::Seq) if name == "index" => of_list(value, args),
            _ => Err(error),
        },
        known => known,
    }
}

fn of_list(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(args)?;
    let at = list.try_iter()?.position(|item| item == wanted);
    at.map(Value::from).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in the list")))
}

/// Nothing if Python has no such method, or it makes no sense in a template.
fn of_text(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match name {
        "partition" | "rpartition" => parts(text, name, args),
        "rsplit" => rsplit(text, args),
        "index" => index(text, args),
        "zfill" => from_args(args).map(|(width,): (usize,)| zero_filled(text, width).into()),
        "ljust" | "rjust" | "center" => padded(text, name, args),
        "removeprefix" => from_args(args).map(|(prefix,): (&str,)| text.strip_prefix(prefix).unwrap_or(text).into()),
        "removesuffix" => from_args(args).map(|(suffix,): (&str,)| text.strip_suffix(suffix).unwrap_or(text).into()),
        "casefold" => from_args(args).map(|()| text.to_lowercase().replace('ß', "ss").into()),
        "swapcase" => from_args(args).map(|()| text.chars().map(swapped).collect::<String>().into()),
        _ => return None,
    })
}

fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// What is before a separator, the separator, and what is behind it.
fn parts(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let first = name == "partition";
    let found = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
    let parts = match (found, first) {
        (Some((before, behind)), _) => [before, separator, behind],
        (None, true) => [text, "", ""],
        (None, false) => ["", "", text],
    };
    Ok(parts.into_iter().collect())
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX - 1);
    let found: Vec<&str> = match separator {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) => text.rsplitn(most + 1, separator).collect(),
        None => {
            let (mut rest, mut found) = (text.trim_end(), Vec::new());
            while !rest.is_empty() && found.len() < most {
                let at = rest
                    .rfind(char::is_whitespace)
                    .map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
                found.push(&rest[at..]);
                rest = rest[..at].trim_end();
            }
            found.extend(Some(rest).filter(|rest| !rest.is_empty()));
            found
        }
    };
    Ok(found.into_iter().rev().collect())
}

/// The position in characters.
fn index(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&str,) = from_args(args)?;
    let at = text.find(wanted).ok_or_else(|| invalid("substring not found"))?;
    Ok(text[..at].chars().count().into())
}

/// Most characters that a text is filled up to.
const WIDEST: usize = 4096;

fn zero_filled(text: &str, width: usize) -> String {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = &text[..text.len() - digits.len()];
    let zeros = width.min(WIDEST).saturating_sub(text.chars().count());
    format!("{sign}{}{digits}", "0".repeat(zeros))
}

fn padded(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    let missing = width.min(WIDEST).saturating_sub(text.chars().count());
    let before = match name {
        "ljust" => 0,
        "rjust" => missing,
        // The odd one goes to the left if the width is odd, as in CPython.
        _ => missing / 2 + (missing & width & 1),
    };
    let of = |count: usize| String::from(fill.unwrap_or(' ')).repeat(count);
    Ok(format!("{}{text}{}", of(before), of(missing - before)).into())
}

fn swapped(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    /// Each as Python 3.11 answers.
    #[test]
    fn methods_answer_as_python_does() {
        let mut environment = Environment::new();
        environment.set_unknown_method_callback(super::method);
        for (expression, wanted) in [
            ("'a,b,c'.partition(',')", "['a', ',', 'b,c']"),
            ("'a,b,c'.rpartition(',')", "['a,b', ',', 'c']"),
            ("'abc'.partition('x')", "['abc', '', '']"),
            ("'abc'.rpartition('x')", "['', '', 'abc']"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("' a b  c '.rsplit(none, 1)", "[' a b', 'c']"),
            ("' a b  c '.rsplit()", "['a', 'b', 'c']"),
            ("'éab'.index('b')", "2"),
            ("['x', 'y'].index('y')", "1"),
            ("'-42'.zfill(6)", "-00042"),
            ("'ab'.ljust(4, '.')", "ab.."),
            ("'ab'.rjust(4)", "  ab"),
            ("'ab'.center(5, '-')", "--ab-"),
            ("'abc'.center(6, '-')", "-abc--"),
            ("'Straße'.casefold()", "strasse"),
            ("'aBc'.swapcase()", "AbC"),
            ("'abc'.removeprefix('ab')", "c"),
            ("'abc'.removesuffix('ab')", "abc"),
            ("'a b'.split() | length", "2"),
        ] {
            let found = environment.render_str(&format!("{{{{ {expression} }}}}"), context! {}).unwrap();
            assert_eq!(found, wanted, "{expression}");
        }
        let error = |text: &str| environment.render_str(text, context! {}).unwrap_err().to_string();
        assert!(error("{{ 'a'.index('b') }}").contains("substring not found"));
        assert!(error("{{ 'a'.encode() }}").contains("encode"));
        assert!(error("{{ 'a'.partition('') }}").contains("empty separator"));
    }
}
