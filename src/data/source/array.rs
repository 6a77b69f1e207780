//! The elements of a JSON array, one in memory at a time.

use std::io::{self, BufRead};

/// Where a reader stands in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before its bracket.
    Outside,
    /// Before an element, or the array's end.
    First,
    /// Behind an element.
    Next,
    /// Behind its end.
    Done,
}

/// Reads an array element by element.
pub(super) struct Elements {
    state: State,
    most: usize,
}

fn wrong(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// Whether the first byte of a text that is no white space opens an array. Nothing but white space is consumed.
pub(super) fn begins(reader: &mut impl BufRead) -> io::Result<bool> {
    Ok(peek(reader)? == Some(b'['))
}

/// The next byte that is no white space, which is not consumed; nothing at the end.
fn peek(reader: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        let Some(first) = buffer.first() else { return Ok(None) };
        match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(0) => return Ok(Some(*first)),
            Some(at) => reader.consume(at),
            None => {
                let all = buffer.len();
                reader.consume(all);
            }
        }
    }
}

impl Elements {
    /// Elements of at most `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Elements { state: State::Outside, most }
    }

    /// The text of the next element; nothing behind the last.
    ///
    /// # Errors
    /// Those of the reader, and [`io::ErrorKind::InvalidInput`] with the reason if this is no array.
    pub(super) fn next(&mut self, reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        loop {
            let found = peek(reader)?;
            self.state = match (self.state, found) {
                (State::Outside, Some(b'[')) => State::First,
                (State::First | State::Next, Some(b']')) => State::Done,
                (State::Next, Some(b',')) => {
                    reader.consume(1);
                    self.state = State::Next;
                    return self.element(reader);
                }
                (State::First, Some(_)) => {
                    self.state = State::Next;
                    return self.element(reader);
                }
                (State::Done, None) => return Ok(None),
                (State::Done, Some(_)) => return Err(wrong("holds something behind its array")),
                (_, None) => return Err(wrong("its array does not end; the file was cut")),
                (_, Some(_)) => return Err(wrong("is no array of objects: a comma is missing")),
            };
            reader.consume(1);
        }
    }

    /// One element, up to the comma or bracket that follows it.
    fn element(&self, reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        let (mut out, mut depth, mut inside, mut escaped) = (Vec::new(), 0usize, false, false);
        loop {
            let buffer = reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(wrong("its array does not end; the file was cut"));
            }
            let end = buffer.iter().position(|byte| {
                match (inside, byte) {
                    (true, _) if escaped => escaped = false,
                    (true, b'\\') => escaped = true,
                    (_, b'"') => inside = !inside,
                    (false, b'{' | b'[') => depth += 1,
                    (false, b',' | b']') if depth == 0 => return true,
                    (false, b'}' | b']') => depth = depth.saturating_sub(1),
                    _ => {}
                }
                false
            });
            let taken = end.unwrap_or(buffer.len());
            out.extend_from_slice(&buffer[..taken]);
            reader.consume(taken);
            if out.len() > self.most {
                return Err(wrong(&format!("has an element of more than {} bytes", self.most)));
            }
            if end.is_some() {
                return Ok(Some(out));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &str) -> Result<Vec<String>, String> {
        // A buffer of three bytes: every element is read in parts.
        let mut reader = io::BufReader::with_capacity(3, text.as_bytes());
        let mut elements = Elements::new(40);
        let mut found = Vec::new();
        while let Some(element) = elements.next(&mut reader).map_err(|error| error.to_string())? {
            found.push(String::from_utf8(element).unwrap().trim().to_owned());
        }
        Ok(found)
    }

    #[test]
    fn elements_are_told_apart_whatever_they_hold() {
        let text = " [ {\"a\": [1, 2]},\n{\"b\": \"],\\\"{\"} , 3]\n";
        assert_eq!(elements(text).unwrap(), ["{\"a\": [1, 2]}", "{\"b\": \"],\\\"{\"}", "3"]);
        assert!(elements("[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for text in ["[1", "[1, ", "[1] 2", "[", "[\"a]"] {
            assert!(elements(text).is_err(), "{text}");
        }
        assert!(elements(&format!("[\"{}\"]", "a".repeat(50))).unwrap_err().contains("more than 40"));
    }
}
