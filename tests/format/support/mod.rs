//! A second writer of `.tetrad` files, made from SPEC.md alone and able to lie in every field.
//!
//! It shares no code with `tetrad::format`, so that the two check each other.

pub mod bad;
pub mod good;
pub mod mutate;

use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_64;

/// A tensor record.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub storage: u8,
    pub dim_count: u8,
    pub reserved: u16,
    pub group: u32,
    pub dims: [u64; 4],
}

/// A plane record and the plane itself.
#[derive(Clone, Debug)]
pub struct Plane {
    pub tensor: u32,
    pub kind: u8,
    pub element: u8,
    pub flags: u8,
    pub reserved: u8,
    pub offset: u64,
    pub len: u64,
    pub checksum: u64,
    pub data: Vec<u8>,
}

/// A file in parts.
#[derive(Clone, Debug)]
pub struct Parts {
    pub minor: u16,
    pub required: u32,
    pub tensors: Vec<Tensor>,
    pub planes: Vec<Plane>,
    pub names: Vec<u8>,
    pub metadata: Vec<u8>,
    pub attachment_count: u32,
    pub attachments: Vec<u8>,
}

pub fn align(at: u64, to: u64) -> u64 {
    at.div_ceil(to) * to
}

pub fn prefixed(name: &[u8]) -> Vec<u8> {
    [&(name.len() as u16).to_le_bytes()[..], name].concat()
}

pub fn attachment(name: &[u8], content: &[u8]) -> Vec<u8> {
    [&prefixed(name)[..], &(content.len() as u64).to_le_bytes(), content].concat()
}

impl Parts {
    pub fn head_len(&self) -> u64 {
        let records = self.tensors.len() * 40 + self.planes.len() * 32;
        (128 + records + self.names.len() + self.metadata.len() + self.attachments.len()) as u64
    }

    /// Sets offset, length and checksum of every plane to what they should be.
    pub fn place(&mut self) -> &mut Self {
        let (mut end, mut optimizer) = (align(self.head_len(), 4096), false);
        for plane in &mut self.planes {
            let first = plane.kind >= 0x80 && !optimizer;
            optimizer |= first;
            plane.offset = align(end, if first { 4096 } else { 64 });
            plane.len = plane.data.len() as u64;
            plane.checksum = xxh3_64(&plane.data);
            end = plane.offset + plane.len;
        }
        self
    }

    /// The bytes, with every lie in the records as it stands; the header is true and the head's checksum right.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = vec![0u8; 128];
        for t in &self.tensors {
            file.extend([t.storage, t.dim_count]);
            file.extend(t.reserved.to_le_bytes());
            file.extend(t.group.to_le_bytes());
            t.dims.iter().for_each(|d| file.extend(d.to_le_bytes()));
        }
        for p in &self.planes {
            file.extend(p.tensor.to_le_bytes());
            file.extend([p.kind, p.element, p.flags, p.reserved]);
            [p.offset, p.len, p.checksum].iter().for_each(|x| file.extend(x.to_le_bytes()));
        }
        for section in [&self.names, &self.metadata, &self.attachments] {
            file.extend(section);
        }
        // Contents go where an honest layout puts them, whatever the records say.
        let mut honest = self.clone();
        honest.place();
        let optimizer = honest.planes.iter().find(|p| p.kind >= 0x80).map_or(0, |p| p.offset);
        for plane in &honest.planes {
            file.resize(plane.offset as usize, 0);
            file.extend(&plane.data);
        }
        let (len, head) = (file.len() as u64, self.head_len());
        file[..8].copy_from_slice(b"\x89TETRAD\n");
        put(&mut file, 8, &1u16.to_le_bytes());
        put(&mut file, 10, &self.minor.to_le_bytes());
        put(&mut file, 12, &self.required.to_le_bytes());
        for (at, value) in [(24, len), (32, head), (40, align(head, 4096)), (48, optimizer)] {
            put(&mut file, at, &u64::to_le_bytes(value));
        }
        let counts =
            [self.tensors.len() as u32, self.planes.len() as u32, self.attachment_count, self.names.len() as u32];
        for (i, count) in counts.into_iter().enumerate() {
            put(&mut file, 56 + 4 * i, &count.to_le_bytes());
        }
        put(&mut file, 72, &(self.metadata.len() as u64).to_le_bytes());
        put(&mut file, 80, &(self.attachments.len() as u64).to_le_bytes());
        seal(&mut file, head as usize);
        file
    }
}

pub fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Makes the head's checksum right.
pub fn seal(file: &mut [u8], head_len: usize) {
    put(file, 16, &[0; 8]);
    let sum = xxh3_64(&file[..head_len]);
    put(file, 16, &sum.to_le_bytes());
}

/// `fixtures/format/<rest>`.
pub fn fixture(rest: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/format").join(rest)
}

/// Whether committed fixtures are to be written anew instead of compared with.
pub fn writing() -> bool {
    std::env::var_os("TETRAD_WRITE_FIXTURES").is_some()
}

/// Compares with a committed file, or writes it.
pub fn committed(path: &PathBuf, bytes: &[u8]) {
    if writing() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        return std::fs::write(path, bytes).unwrap();
    }
    let found = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(found == bytes, "{}: differs from what the tests make; TETRAD_WRITE_FIXTURES=1 writes it", path.display());
}
