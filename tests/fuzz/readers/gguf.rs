//! The GGUF reader: everything that it hands out is walked over.

use tetrad::convert::gguf::{Gguf, Value};

pub fn run(bytes: &[u8]) -> String {
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(error) => return error.to_string(),
    };
    for (_, value) in &gguf.metadata {
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    for tensor in &gguf.tensors {
        let cols = *tensor.dims.last().expect("a tensor has dimensions") as usize;
        let row = tensor.kind.row_bytes(cols);
        let mut values = vec![0.0; cols];
        bytes[tensor.range.clone()].chunks_exact(row).take(4).for_each(|row| tensor.kind.decode(row, &mut values));
    }
    "read".into()
}
