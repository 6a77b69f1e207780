//! Sound files, one per storage and per kind of optimizer state.

use super::{Parts, Plane, Tensor, attachment, prefixed};
use half::{bf16, f16};

pub const F32: u8 = 1;
pub const F16: u8 = 2;
pub const BF16: u8 = 3;
pub const I8: u8 = 4;
pub const U8: u8 = 5;
pub const NIBBLE: u8 = 6;
pub const E8M0: u8 = 7;

pub const DATA: u8 = 1;
pub const CODES: u8 = 2;
pub const BYTES: u8 = 3;
pub const SCALES: u8 = 4;
pub const OFFSETS: u8 = 5;
pub const RESIDUE: u8 = 0x81;
pub const M: u8 = 0x82;
pub const M_SCALES: u8 = 0x83;
pub const V: u8 = 0x84;
pub const V_SCALES: u8 = 0x85;
pub const V_ROWS: u8 = 0x86;
pub const V_COLS: u8 = 0x87;
pub const SCALARS: u8 = 0x88;
/// State that the file names, and its scales.
pub const STATE: u8 = 0x90;
pub const STATE_SCALES: u8 = 0xa0;

/// A matrix `[rows, cols]`; padded when it has groups.
#[derive(Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
    pub group: usize,
}

impl Shape {
    pub fn per_row(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    pub fn padded(&self) -> usize {
        self.per_row() * self.group
    }

    /// One nibble per element, `code(i)` inside and `pad` outside, in the order of R38: the first sixteen elements of
    /// a run in the low nibbles.
    pub fn nibbles(&self, pad: u8, code: impl Fn(usize) -> u8) -> Vec<u8> {
        let all = self.each(pad, code);
        all.chunks(32).flat_map(|run| (0..16).map(|j| run[j] | run[j + 16] << 4).collect::<Vec<_>>()).collect()
    }

    /// One byte per element.
    pub fn each(&self, pad: u8, code: impl Fn(usize) -> u8) -> Vec<u8> {
        let padded = self.padded();
        (0..self.rows * padded).map(|i| if i % padded < self.cols { code(i) } else { pad }).collect()
    }

    pub fn groups(&self) -> usize {
        self.rows * self.per_row()
    }
}

pub fn f32s(n: usize, value: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..n).flat_map(|i| value(i).to_le_bytes()).collect()
}

pub fn f16s(n: usize, value: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..n).flat_map(|i| f16::from_f32(value(i)).to_le_bytes()).collect()
}

pub fn bf16s(n: usize, value: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..n).flat_map(|i| bf16::from_f32(value(i)).to_le_bytes()).collect()
}

pub fn plane(tensor: u32, kind: u8, element: u8, data: Vec<u8>) -> Plane {
    Plane { tensor, kind, element, flags: 0, reserved: 0, offset: 0, len: 0, checksum: 0, data }
}

fn tensor(storage: u8, group: u32, dims: &[u64]) -> Tensor {
    let mut all = [0; 4];
    all[..dims.len()].copy_from_slice(dims);
    Tensor { storage, dim_count: dims.len() as u8, reserved: 0, group, dims: all }
}

/// The matrix of all samples: three rows of 70 in groups of 32, so that 26 elements of each row are padding.
pub const Q: Shape = Shape { rows: 3, cols: 70, group: 32 };

/// A matrix `blocks.0.q` and a vector `norm`, with these planes of the matrix and its optimizer state.
fn parts(storage: u8, group: u32, planes: Vec<Plane>) -> Parts {
    let mut planes = planes;
    planes.push(plane(1, DATA, F32, f32s(5, |i| 1.0 + i as f32 / 4.0)));
    planes.sort_by_key(|p| (p.kind >= 0x80, p.tensor, p.kind));
    let mut parts = Parts {
        minor: 0,
        required: 0,
        tensors: vec![tensor(storage, group, &[3, 70]), tensor(1, 0, &[5])],
        planes,
        names: [prefixed(b"blocks.0.q"), prefixed(b"norm")].concat(),
        metadata: br#"{"model":{"hidden":70,"layers":1},"step":7,"tool":"tetrad \u00e9\u001b[31m"}"#.to_vec(),
        attachment_count: 1,
        attachments: attachment(b"config.toml", b"[model]\nhidden = 70\n"),
    };
    // Members in ascending order, non-ASCII as UTF-8, control characters escaped: what the writer makes of it.
    parts.metadata = String::from_utf8(parts.metadata).unwrap().replace("\\u00e9", "\u{e9}").into_bytes();
    parts.place();
    parts
}

fn with(mut parts: Parts, planes: Vec<Plane>) -> Parts {
    parts.planes.extend(planes);
    parts.planes.sort_by_key(|p| (p.kind >= 0x80, p.tensor, p.kind));
    parts.place();
    parts
}

/// One scale is zero, as that of a group of zeros is.
fn scales() -> Plane {
    plane(0, SCALES, F16, f16s(Q.groups(), |g| if g == 4 { 0.0 } else { (g + 1) as f32 * 0.125 }))
}

/// A code per element, other in the second half of a run than in the first, so that a wrong order shows.
fn code(i: usize, factor: usize) -> u8 {
    ((i * factor + i / 16 * 3) % 16) as u8
}

pub fn float(storage: u8) -> Parts {
    let value = |i: usize| (i as f32 - 100.0) / 64.0;
    let data = match storage {
        1 => f32s(210, value),
        2 => f16s(210, value),
        _ => bf16s(210, value),
    };
    parts(storage, 0, vec![plane(0, DATA, [F32, F16, BF16][storage as usize - 1], data)])
}

pub fn int8() -> Parts {
    parts(4, 32, vec![plane(0, BYTES, I8, Q.each(0, |i| ((i * 37 % 255) as i16 - 127) as u8)), scales()])
}

pub fn int4() -> Parts {
    parts(5, 32, vec![plane(0, CODES, NIBBLE, Q.nibbles(8, |i| code(i, 7))), scales()])
}

pub fn int4_asymmetric() -> Parts {
    let offsets = plane(0, OFFSETS, F16, f16s(Q.groups(), |g| -0.5 * g as f32));
    let codes = plane(0, CODES, NIBBLE, Q.nibbles(8, |i| (i / 3 % 16) as u8));
    parts(6, 32, vec![codes, scales(), offsets])
}

/// Four-bit floats; one scale is the smallest that there is.
pub fn fp4() -> Parts {
    let powers = (0..Q.groups()).map(|g| if g == 4 { 0 } else { 120 + g as u8 }).collect();
    let codes = plane(0, CODES, NIBBLE, Q.nibbles(8, |i| code(i, 7)));
    let mut parts = parts(7, 32, vec![codes, plane(0, SCALES, E8M0, powers)]);
    parts.required = 1;
    parts
}

/// The same as they are trained.
pub fn state_fp4() -> Parts {
    let m = plane(0, M, NIBBLE, Q.nibbles(8, |i| (i * 7 % 15 + 1) as u8));
    with(fp4(), vec![residue(), m, state_scales(M_SCALES)])
}

fn residue() -> Plane {
    plane(0, RESIDUE, NIBBLE, Q.nibbles(8, |i| code(i, 11)))
}

fn state_scales(kind: u8) -> Plane {
    plane(0, kind, BF16, bf16s(Q.groups(), |g| (g + 1) as f32 / 1_048_576.0))
}

/// The vector's own state.
fn norm_state() -> Vec<Plane> {
    let [m, v, own] = [M, V, SCALARS].map(|kind| plane(1, kind, F32, f32s(5, |i| i as f32 / 1024.0)));
    vec![m, v, Plane { data: f32s(8, |i| i as f32 + 0.5), ..own }]
}

/// The quick-start's state: residue, moments of four bits.
pub fn state_int4() -> Parts {
    let m = plane(0, M, NIBBLE, Q.nibbles(8, |i| (i * 7 % 15 + 1) as u8));
    let v = plane(0, V, NIBBLE, Q.nibbles(0, |i| code(i, 5)));
    let parts = with(int4(), vec![residue(), m, v, state_scales(M_SCALES), state_scales(V_SCALES)]);
    with(parts, norm_state())
}

/// Moments of eight bits, asymmetric weights.
pub fn state_int8() -> Parts {
    let m = plane(0, M, I8, Q.each(0, |i| ((i * 37 % 255) as i16 - 127) as u8));
    let v = plane(0, V, U8, Q.each(0, |i| (i * 41 % 256) as u8));
    let mut parts = with(int4_asymmetric(), vec![residue(), m, v, state_scales(M_SCALES), state_scales(V_SCALES)]);
    parts.metadata = String::from_utf8(parts.metadata).unwrap().replace("\"step\":7", "\"step\":8").into_bytes();
    parts
}

/// Float master weights and float moments.
pub fn state_f32() -> Parts {
    let [m, v] = [M, V].map(|kind| plane(0, kind, F32, f32s(210, |i| i as f32 / 4096.0)));
    with(with(float(1), vec![m, v]), norm_state())
}

/// Float moments of packed weights, the second one factored.
pub fn state_factored() -> Parts {
    let m = plane(0, M, F32, f32s(210, |i| (i as f32 - 100.0) / 4096.0));
    let rows = plane(0, V_ROWS, F32, f32s(3, |i| i as f32 / 8.0));
    let cols = plane(0, V_COLS, F32, f32s(70, |i| i as f32 / 8.0));
    with(int4(), vec![residue(), m, rows, cols])
}

/// What the state of [`state_named`] is, in the form in which it is written.
pub const NAMED: &str = concat!(
    r#"{"blocks.0.q":[{"codec":"f32","dims":[2,70],"name":"projection","per":"matrix"},"#,
    r#"{"codec":"int4","dims":[3,40],"group":32,"name":"projected","per":"matrix"},"#,
    r#"{"codec":"int8-root","group":64,"name":"square","per":"weight"},"#,
    r#"{"codec":"f32","name":"of-row","per":"row"},{"codec":"f32","name":"of-column","per":"column"},"#,
    r#"{"codec":"f32","dims":[3],"name":"limiter","per":"tensor"}],"#,
    r#""norm":[{"codec":"int4-root","group":32,"name":"square","per":"weight"},"#,
    r#"{"codec":"int8","dims":[2,33],"group":32,"name":"past","per":"matrix"}]}"#
);

/// State that no version knows the meaning of, beside a first moment.
pub fn state_named() -> Parts {
    let state = |tensor, entry, element, data| Plane { flags: 1, ..plane(tensor, STATE + entry, element, data) };
    let scales = |tensor, entry, groups| {
        let data = bf16s(groups, |g| (g + 1) as f32 / 1024.0);
        Plane { flags: 1, ..plane(tensor, STATE_SCALES + entry, BF16, data) }
    };
    let (projected, square) = (Shape { rows: 3, cols: 40, group: 32 }, Shape { group: 64, ..Q });
    let (vector, past) = (Shape { rows: 1, cols: 5, group: 32 }, Shape { rows: 2, cols: 33, group: 32 });
    let m = plane(0, M, F32, f32s(210, |i| (i as f32 - 100.0) / 4096.0));
    let of_matrix = vec![
        residue(),
        m,
        state(0, 0, F32, f32s(140, |i| (i as f32 - 70.0) / 32.0)),
        state(0, 1, NIBBLE, projected.nibbles(8, |i| (i * 7 % 15 + 1) as u8)),
        state(0, 2, U8, square.each(0, |i| (i * 41 % 256) as u8)),
        state(0, 3, F32, f32s(3, |i| i as f32 - 1.0)),
        state(0, 4, F32, f32s(70, |i| i as f32 / -8.0)),
        state(0, 5, F32, f32s(3, |i| 0.5 - i as f32)),
        scales(0, 1, projected.groups()),
        scales(0, 2, square.groups()),
    ];
    let of_vector = vec![
        state(1, 0, NIBBLE, vector.nibbles(0, |i| code(i, 5))),
        state(1, 1, I8, past.each(0, |i| ((i * 37 % 255) as i16 - 127) as u8)),
        scales(1, 0, vector.groups()),
        scales(1, 1, past.groups()),
    ];
    let mut parts = with(int4(), of_matrix);
    parts.minor = 1;
    let named = format!("\"state\":{NAMED},\"step\"");
    parts.metadata = String::from_utf8(parts.metadata).unwrap().replace("\"step\"", &named).into_bytes();
    with(parts, of_vector)
}

/// A file of a newer minor version with optional planes of unknown kind and type in both regions.
pub fn newer_minor() -> Parts {
    let optional = |tensor, kind| Plane { flags: 1, ..plane(tensor, kind, 0x40, vec![0xa5; 100]) };
    let mut parts = with(int4(), vec![optional(0, 0x20), optional(1, 0xb0)]);
    parts.minor = 9;
    parts
}

/// All of them, by name.
pub fn all() -> Vec<(&'static str, Parts)> {
    vec![
        ("f32", float(1)),
        ("f16", float(2)),
        ("bf16", float(3)),
        ("int8", int8()),
        ("int4", int4()),
        ("int4-asymmetric", int4_asymmetric()),
        ("fp4", fp4()),
        ("state-fp4", state_fp4()),
        ("state-int4", state_int4()),
        ("state-int8", state_int8()),
        ("state-f32", state_f32()),
        ("state-factored", state_factored()),
        ("state-named", state_named()),
        ("newer-minor", newer_minor()),
    ]
}
