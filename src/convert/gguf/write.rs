//! The writer: keys and tensors in the order given; contents are requested when the file is written.

use crate::convert::Sink;
use crate::convert::quants::Kind;
use std::io::{self, Write};

/// Offset of data is a multiple of this: the default of the format.
const ALIGNMENT: u64 = 32;

/// A value to be written.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum MetaValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Its dimensions, the contiguous one last.
    pub dims: Vec<u64>,
    /// Its type.
    pub kind: Kind,
}

impl Item {
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.dims.iter().product::<u64>() / self.kind.block() as u64 * self.kind.block_bytes() as u64
    }
}

/// A file before it is written.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    keys: Vec<(String, MetaValue)>,
    items: Vec<Item>,
}

impl GgufWriter {
    /// Adds a key.
    pub fn key(&mut self, key: impl Into<String>, value: MetaValue) {
        self.keys.push((key.into(), value));
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, item: Item) {
        self.items.push(item);
    }

    /// The tensors.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Everything before the data, padding included.
    pub fn head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(b"GGUF");
        out.extend_from_slice(&3u32.to_le_bytes());
        out.extend_from_slice(&(self.items.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut out, key);
            put(&mut out, value);
        }
        let mut offset = 0u64;
        for item in &self.items {
            text(&mut out, &item.name);
            out.extend_from_slice(&(item.dims.len() as u32).to_le_bytes());
            for dim in item.dims.iter().rev() {
                out.extend_from_slice(&dim.to_le_bytes());
            }
            out.extend_from_slice(&item.kind.tag().to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
            offset += item.bytes().next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        out
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.head().len() as u64 + self.items.iter().map(|item| item.bytes().next_multiple_of(ALIGNMENT)).sum::<u64>()
    }

    /// Writes the file; `send` sends the bytes of tensor `i` to its sink.
    ///
    /// # Errors
    /// Those of `out` and `send`.
    ///
    /// # Panics
    /// If `send` sends another number of bytes than the tensor has.
    pub fn write(
        &self,
        out: &mut impl Write,
        send: &mut dyn FnMut(usize, &mut Sink) -> io::Result<()>,
    ) -> io::Result<()> {
        out.write_all(&self.head())?;
        for (i, item) in self.items.iter().enumerate() {
            let mut sent = 0;
            send(i, &mut |bytes| {
                sent += bytes.len() as u64;
                out.write_all(bytes)
            })?;
            assert_eq!(sent, item.bytes(), "{} has another length than was announced", item.name);
            let padding = sent.next_multiple_of(ALIGNMENT) - sent;
            out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(())
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &MetaValue) {
    let tag = |out: &mut Vec<u8>, tag: u32| out.extend_from_slice(&tag.to_le_bytes());
    let array = |out: &mut Vec<u8>, kind: u32, len: usize| {
        tag(out, 9);
        tag(out, kind);
        out.extend_from_slice(&(len as u64).to_le_bytes());
    };
    match value {
        MetaValue::U32(n) => {
            tag(out, 4);
            out.extend_from_slice(&n.to_le_bytes());
        }
        MetaValue::F32(x) => {
            tag(out, 6);
            out.extend_from_slice(&x.to_le_bytes());
        }
        MetaValue::Bool(b) => {
            tag(out, 7);
            out.push(u8::from(*b));
        }
        MetaValue::Text(t) => {
            tag(out, 8);
            text(out, t);
        }
        MetaValue::Texts(texts) => {
            array(out, 8, texts.len());
            texts.iter().for_each(|t| text(out, t));
        }
        MetaValue::I32s(values) => {
            array(out, 5, values.len());
            values.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        MetaValue::F32s(values) => {
            array(out, 6, values.len());
            values.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
    }
}
