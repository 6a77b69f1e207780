//! Standard output: buffered, silent about closed pipes, free of control characters.

use serde_json::Value;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use tetrad::error::{FormatError, StoreError};
use tetrad::format::File;
use tetrad::store::publish;

/// Runs `write` on buffered standard output. A closed pipe (`| head`) ends it silently.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| io::Error::new(e.kind(), format!("standard output: {e}"))),
    }
}

/// Writes a file, which has its name once it is complete.
///
/// # Errors
/// Those of the file system, with the path.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    publish(path, |out| out.write_all(content)).map_err(|e| StoreError::io(path, "write it", e))
}

/// Text from a file for a terminal: printable ASCII and the letters and digits of all scripts as they are, everything else
/// as `\u{..}`.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if (' '..='~').contains(&c) || c.is_alphanumeric() { out.push(c) } else { out.extend(c.escape_unicode()) }
    }
    out
}

/// A path as a word of a command that can be pasted into a shell.
pub(super) fn shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "_./-=+:@%,".contains(c);
    match text.chars().all(plain) && !text.is_empty() {
        true => escape(&text),
        false => format!("'{}'", escape(&text).replace('\'', r"'\''")),
    }
}

/// Generated text for a terminal: control characters other than line feed and tab become U+FFFD, since a terminal
/// executes them and a model can produce any.
pub(super) fn harmless(text: &str) -> String {
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.chars().map(|c| if control(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// An error of a file's content, with its path.
pub(super) fn in_file(path: &Path, error: &FormatError) -> String {
    format!("{}: {error}", escape(&path.to_string_lossy()))
}

/// Says of a file that is shown, and not all sound, what `tetrad verify` finds first.
pub(super) fn warn_of_damage(path: &Path, file: &File<'_>) {
    if let Some(first) = file.verify().first() {
        let shown = escape(&path.to_string_lossy());
        eprintln!("warning: {shown}: what is shown of it may be wrong: {first}");
    }
}

/// Pretty JSON in ASCII and a line feed.
pub(super) fn json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    out.write_all(ascii(&format!("{value:#}")).as_bytes())?;
    out.write_all(b"\n")
}

/// JSON on one line, in ASCII.
pub(super) fn json_line(value: &Value) -> String {
    ascii(&value.to_string())
}

/// JSON text with everything beyond printable ASCII as `\uXXXX`: it can only stand inside strings, where that is the
/// same value, and no terminal executes it.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        match c {
            '\n' | ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut units).iter().for_each(|u| out.push_str(&format!("\\u{u:04x}"))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_terminal_never_sees_control_characters() {
        let nasty = "a\u{1b}[31m\u{9b}2J\u{202e}\u{7f}\n\u{1f600}";
        let value = json!({ nasty: nasty });
        for shown in [escape(nasty), json_line(&value)] {
            assert!(shown.bytes().all(|b| (b' '..=b'~').contains(&b)), "{shown}");
        }
        assert_eq!(escape("L\u{e4}ufe/\u{65e5}\u{672c}\u{200b}"), "L\u{e4}ufe/\u{65e5}\u{672c}\\u{200b}");
        assert_eq!(serde_json::from_str::<Value>(&json_line(&value)).unwrap(), value);
        assert_eq!(
            ["runs/a-1", "my runs/\u{e4}", "it's", ""].map(|path| shell(Path::new(path))),
            ["runs/a-1", "'my runs/\u{e4}'", r"'it'\''s'", "''"]
        );
        assert_eq!(harmless("na\u{ef}ve\n\tx\u{1b}[2J\u{9b}"), "na\u{ef}ve\n\tx\u{fffd}[2J\u{fffd}");
    }
}
