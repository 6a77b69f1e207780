//! Values of a GGUF file's keys, borrowed from the file.

use super::cursor::Cursor;
use crate::error::GgufError;

/// A value. Strings and arrays borrow the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any whole number.
    Whole(i128),
    /// f32 or f64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// Text.
    Text(&'a str),
    /// A text that is not UTF-8: no reason to refuse a file while nobody needs it.
    Bytes(&'a [u8]),
    /// Elements of one type.
    Array(Array<'a>),
}

/// An array, decoded during iteration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    pub(super) kind: u32,
    pub(super) count: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let kind = self.kind;
        // Opening the file decoded all elements once, so none fails now.
        (0..self.count).map_while(move |_| cursor.value("", kind, 0).ok())
    }

    /// Its elements, if they are texts.
    pub fn texts(&self) -> Option<Vec<&'a str>> {
        self.iter().map(|value| value.text()).collect()
    }

    /// Its elements, if they are numbers.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        self.iter().map(|value| value.number()).collect()
    }
}

impl<'a> Value<'a> {
    /// The element that an array has only equal ones of; anything else as it is.
    pub fn same(self) -> Self {
        let Value::Array(array) = self else { return self };
        let first = array.iter().next();
        first.filter(|first| array.iter().all(|element| element == *first)).unwrap_or(self)
    }

    /// A text.
    pub fn text(self) -> Option<&'a str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// A number of any type.
    pub fn number(self) -> Option<f64> {
        match self {
            Value::Whole(n) => Some(n as f64),
            Value::Float(x) => Some(x),
            _ => None,
        }
    }

    /// A count.
    pub fn count(self) -> Option<u64> {
        if let Value::Whole(n) = self { u64::try_from(n).ok() } else { None }
    }

    /// For a message: short, without control characters.
    pub fn describe(self) -> String {
        match self {
            Value::Whole(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Value::Bytes(_) => "a text that is not UTF-8".into(),
            Value::Array(array) => format!("an array of {}", array.len()),
        }
    }
}

/// Most levels of nested arrays.
const DEPTH: usize = 4;

impl<'a> Cursor<'a> {
    /// A value of type `kind`.
    pub(super) fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<Value<'a>, GgufError> {
        let what = "a value";
        Ok(match kind {
            0 => Value::Whole(self.array::<1>(what)?[0].into()),
            1 => Value::Whole((self.array::<1>(what)?[0] as i8).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array(what)?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array(what)?).into()),
            4 => Value::Whole(u32::from_le_bytes(self.array(what)?).into()),
            5 => Value::Whole(i32::from_le_bytes(self.array(what)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(what)?).into()),
            7 => Value::Bool(self.array::<1>(what)?[0] != 0),
            8 => {
                let len = self.u64("a text")?;
                let bytes = self.take("a text", len)?;
                std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text)
            }
            9 if depth < DEPTH => Value::Array(self.array_value(key, depth)?),
            10 => Value::Whole(u64::from_le_bytes(self.array(what)?).into()),
            11 => Value::Whole(i64::from_le_bytes(self.array(what)?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            found => return Err(GgufError::ValueType { key: key.into(), found, max: DEPTH }),
        })
    }

    fn array_value(&mut self, key: &str, depth: usize) -> Result<Array<'a>, GgufError> {
        let kind = u32::from_le_bytes(self.array("an array")?);
        let count = u64::from_le_bytes(self.array("an array")?);
        let start = self.rest();
        // Every element takes at least a byte: a count beyond the bytes left is refused at once.
        let width = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8].get(kind as usize).copied().unwrap_or(1);
        if count.saturating_mul(width) > start.len() as u64 {
            return Err(self.short("an array", count.saturating_mul(width)));
        }
        for _ in 0..count {
            self.value(key, kind, depth + 1)?;
        }
        let bytes = &start[..start.len() - self.rest().len()];
        Ok(Array { kind, count: count as usize, bytes })
    }
}
