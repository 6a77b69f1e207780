//! One file per way to break a rule of SPEC.md.

use super::good::*;
use super::{Parts, attachment, prefixed, put, seal};
use xxhash_rust::xxh3::xxh3_64;

/// A broken file: its name, the rule it breaks, its bytes.
pub type Bad = (&'static str, &'static str, Vec<u8>);

/// The int4 state with one change to its parts, everything else following suit.
fn parts(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    from(state_int4(), change)
}

fn from(mut parts: Parts, change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    change(&mut parts);
    parts.place().encode()
}

/// The same with a lie in the records: nothing follows suit but the head's checksum.
fn lie(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = state_int4();
    change(&mut parts);
    parts.encode()
}

/// The same with a lie in the header.
fn header(at: usize, bytes: &[u8]) -> Vec<u8> {
    let parts = state_int4();
    let mut file = parts.encode();
    put(&mut file, at, bytes);
    seal(&mut file, parts.head_len() as usize);
    file
}

/// The same with bytes changed and no checksum mended.
fn raw(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = state_int4().encode();
    change(&mut file);
    file
}

/// A file whose plane of this kind of tensor 0 is changed, with its checksum mended.
fn plane_bytes(parts: Parts, tensor: u32, kind: u8, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    from(parts, |p| {
        let plane = p.planes.iter_mut().find(|p| p.tensor == tensor && p.kind == kind).unwrap();
        change(&mut plane.data);
    })
}

fn without(parts: Parts, kind: u8) -> Vec<u8> {
    from(parts, |p| p.planes.retain(|plane| plane.tensor != 0 || plane.kind != kind))
}

fn names(first: &[u8], second: &[u8]) -> Vec<u8> {
    parts(|p| p.names = [prefixed(first), prefixed(second)].concat())
}

fn metadata(json: &[u8]) -> Vec<u8> {
    parts(|p| p.metadata = json.to_vec())
}

fn set(at: usize, bytes: &'static [u8]) -> impl FnOnce(&mut Vec<u8>) {
    move |data| put(data, at, bytes)
}

const NAN: [u8; 4] = f32::NAN.to_le_bytes();
const INFINITE: [u8; 4] = f32::INFINITY.to_le_bytes();
const MINUS_ONE: [u8; 4] = (-1f32).to_le_bytes();
/// NaN, infinity and -1 as f16 and as bf16.
const NAN16: [u8; 2] = [0x01, 0x7e];
const INFINITE16: [u8; 2] = [0x00, 0x7c];
const NEGATIVE16: [u8; 2] = [0x00, 0xbc];
const BRAIN_NAN: [u8; 2] = [0xc0, 0x7f];
const BRAIN_NEGATIVE: [u8; 2] = [0x80, 0xbf];

/// Header and sections.
fn head() -> Vec<Bad> {
    let max = u64::MAX.to_le_bytes();
    vec![
        ("empty", "R1", Vec::new()),
        ("header-cut", "R1", raw(|f| f.truncate(127))),
        ("magic-other", "R2", header(0, b"GGUF\x03\0\0\0")),
        ("magic-text-mode", "R2", header(0, b"\x09TETRAD\n")),
        ("version-0", "R3", header(8, &[0, 0])),
        ("version-2", "R3", header(8, &[2, 0])),
        ("feature-unknown", "R4", header(12, &[0, 0, 0, 0x80])),
        ("reserved-header", "R5", header(127, &[1])),
        ("reserved-tensor", "R5", lie(|p| p.tensors[1].reserved = 0x100)),
        ("reserved-plane", "R5", lie(|p| p.planes[3].reserved = 9)),
        ("cut-by-one", "R6", raw(|f| f.truncate(f.len() - 1))),
        ("one-byte-more", "R6", raw(|f| f.push(0))),
        ("file-len-max", "R6", header(24, &max)),
        ("file-len-0", "R6", header(24, &[0; 8])),
        ("tensors-0", "R7", header(56, &[0; 4])),
        ("tensors-max", "R7", header(56, &max[..4])),
        ("planes-0", "R7", header(60, &[0; 4])),
        ("planes-max", "R7", header(60, &max[..4])),
        ("attachments-65", "R7", header(64, &[65, 0, 0, 0])),
        ("names-len-0", "R8", header(68, &[0; 4])),
        ("names-len-max", "R8", header(68, &max[..4])),
        ("metadata-len-0", "R8", header(72, &[0; 8])),
        ("metadata-len-max", "R8", header(72, &max)),
        ("attachments-len-max", "R8", header(80, &max)),
        ("head-len-0", "R8", header(32, &[0; 8])),
        ("head-len-max", "R8", header(32, &max)),
        ("head-outside", "R8", {
            // Every count and length agrees, but the records would not fit into the file.
            let head = state_int4().head_len() + (60_000 - 2) * 40;
            let mut file = header(56, &60_000u32.to_le_bytes());
            put(&mut file, 32, &head.to_le_bytes());
            file
        }),
        ("head-checksum", "R9", raw(|f| f[16] ^= 1)),
        ("head-damaged", "R9", raw(|f| f[130] ^= 1)),
        ("weights-offset-0", "R10", header(40, &[0; 8])),
        ("weights-offset-late", "R10", header(40, &8192u64.to_le_bytes())),
    ]
}

/// Tensor records and names.
fn tensors() -> Vec<Bad> {
    let dims = |dims: [u64; 4], count: u8| {
        lie(|p| {
            p.tensors[0].dims = dims;
            p.tensors[0].dim_count = count;
        })
    };
    let vector = |dims: [u64; 4], count: u8, group: u32| {
        lie(|p| {
            p.tensors[1].dims = dims;
            p.tensors[1].dim_count = count;
            p.tensors[1].group = group;
        })
    };
    vec![
        ("storage-0", "R11", lie(|p| p.tensors[0].storage = 0)),
        ("storage-7", "R11", lie(|p| p.tensors[0].storage = 7)),
        ("storage-fp4-not-required", "R11", from(fp4(), |p| p.required = 0)),
        ("storage-8", "R11", from(fp4(), |p| p.tensors[0].storage = 8)),
        ("dims-none", "R12", vector([0; 4], 0, 0)),
        ("dims-five", "R12", vector([1; 4], 5, 0)),
        ("dims-zero", "R12", dims([3, 0, 0, 0], 2)),
        ("dims-unused", "R12", dims([3, 70, 1, 0], 2)),
        ("int4-vector", "R12", dims([70, 0, 0, 0], 1)),
        ("grouped-vector", "R12", vector([5, 0, 0, 0], 1, 32)),
        ("elements-wrap", "R13", dims([u64::MAX, u64::MAX, 0, 0], 2)),
        ("elements-padding-wraps", "R13", dims([1, u64::MAX, 0, 0], 2)),
        ("elements-bits", "R13", vector([1 << 62, 0, 0, 0], 1, 0)),
        ("elements-over-cap", "R13", dims([1 << 24, (1 << 24) + 1, 0, 0], 2)),
        ("group-0", "R14", lie(|p| p.tensors[0].group = 0)),
        ("group-48", "R14", lie(|p| p.tensors[0].group = 48)),
        ("group-64-of-fp4", "R14", from(fp4(), |p| p.tensors[0].group = 64)),
        ("group-float", "R14", vector([1, 5, 0, 0], 2, 33)),
        ("names-short", "R15", parts(|p| p.names = vec![1, 0, b'a', 9, 0])),
        ("names-one-missing", "R15", parts(|p| p.names = prefixed(b"a"))),
        ("names-left-over", "R15", parts(|p| p.names = [prefixed(b"a"), prefixed(b"b"), vec![0]].concat())),
        ("name-empty", "R16", names(b"", b"norm")),
        ("name-256", "R16", names(&[b'a'; 256], b"norm")),
        ("name-not-utf8", "R16", names(b"a\xff", b"norm")),
        ("name-nul", "R16", names(b"a\0", b"norm")),
        ("name-escape", "R16", names(b"a\x1b[31m", b"norm")),
        ("name-c1", "R16", names("a\u{9b}2J".as_bytes(), b"norm")),
        ("name-newline", "R16", names(b"a\nb", b"norm")),
        ("name-parent", "R16", names(b"..", b"norm")),
        ("name-slash", "R16", names(b"../../etc/passwd", b"norm")),
        ("name-backslash", "R16", names(b"a\\b", b"norm")),
        ("name-last-dot", "R16", names(b"a.", b"norm")),
        ("name-twice", "R17", names(b"norm", b"norm")),
    ]
}

/// Plane records: what they say.
fn planes() -> Vec<Bad> {
    vec![
        ("plane-of-no-tensor", "R18", lie(|p| p.planes[10].tensor = 2)),
        ("plane-of-tensor-max", "R18", lie(|p| p.planes[10].tensor = u32::MAX)),
        ("flags-unknown", "R19", lie(|p| p.planes[0].flags = 2)),
        ("flags-optional-codes", "R19", lie(|p| p.planes[0].flags = 1)),
        ("kind-unknown", "R20", parts(|p| p.planes.push(plane(1, 0x90, F32, vec![0; 4])))),
        ("kind-0", "R20", lie(|p| p.planes[0].kind = 0)),
        ("planes-swapped", "R21", parts(|p| p.planes.swap(0, 1))),
        ("codes-twice", "R21", parts(|p| p.planes.insert(1, p.planes[0].clone()))),
        ("weights-after-state", "R21", parts(|p| p.planes.rotate_left(3))),
        ("codes-of-float", "R22", parts(|p| p.planes[2].kind = CODES)),
        ("residue-of-float", "R22", parts(|p| p.planes.insert(8, plane(1, RESIDUE, NIBBLE, vec![0x88; 16])))),
        ("m-nibbles-ungrouped", "R22", parts(|p| p.planes[8].element = NIBBLE)),
        ("scales-f16-of-fp4", "R22", from(fp4(), |p| p.planes[1].element = F16)),
        ("scales-f32", "R22", parts(|p| p.planes[1].element = F32)),
        ("offsets-symmetric", "R22", parts(|p| p.planes.insert(2, plane(0, OFFSETS, F16, vec![0; 18])))),
        ("element-unknown", "R22", parts(|p| p.planes[0].element = 0x40)),
        ("v-rows-of-vector", "R22", parts(|p| p.planes.insert(10, plane(1, V_ROWS, F32, vec![0; 4])))),
        ("len-one-more", "R23", parts(|p| p.planes[0].data.push(0x88))),
        ("len-unpadded", "R23", parts(|p| p.planes[0].data.truncate(105))),
        ("len-0", "R23", lie(|p| p.planes[0].len = 0)),
        ("len-max", "R23", lie(|p| p.planes[0].len = u64::MAX)),
        ("optional-len-0", "R23", from(newer_minor(), |p| p.planes[2].data.clear())),
    ]
}

/// Plane records: where they lie, and whether they make a whole.
fn layout() -> Vec<Bad> {
    let offset = |i: usize, to: fn(&Parts) -> u64| lie(|p| p.planes[i].offset = to(p));
    vec![
        ("offset-unaligned", "R24", offset(0, |p| p.planes[0].offset + 8)),
        ("offset-in-header", "R24", offset(0, |_| 64)),
        ("offset-0", "R24", offset(0, |_| 0)),
        ("offset-past-end", "R24", offset(10, |_| 1 << 40)),
        ("offset-wraps", "R24", offset(0, |_| 0u64.wrapping_sub(64))),
        ("offset-one-byte-early", "R24", offset(1, |p| p.planes[1].offset - 1)),
        ("offset-overlap", "R24", offset(1, |p| p.planes[1].offset - 64)),
        ("offset-hole", "R24", offset(1, |p| p.planes[1].offset + 64)),
        (
            "offset-out-of-order",
            "R24",
            lie(|p| {
                (p.planes[1].offset, p.planes[2].offset) = (p.planes[2].offset, p.planes[1].offset);
            }),
        ),
        ("offset-shared", "R24", offset(2, |p| p.planes[1].offset)),
        (
            "offset-all-on-one",
            "R24",
            lie(|p| {
                let one = p.planes[0].offset;
                p.planes.iter_mut().for_each(|plane| plane.offset = one);
            }),
        ),
        ("state-in-weight-region", "R24", offset(3, |p| p.planes[2].offset + 64)),
        ("codes-missing", "R25", without(state_int4(), CODES)),
        ("scales-missing", "R25", without(state_int4(), SCALES)),
        ("offsets-missing", "R25", without(int4_asymmetric(), OFFSETS)),
        ("data-missing", "R25", without(state_f32(), DATA)),
        ("m-scales-missing", "R25", without(state_int4(), M_SCALES)),
        ("v-scales-missing", "R25", without(state_int4(), V_SCALES)),
        ("m-scales-of-nothing", "R25", without(state_int4(), M)),
        ("v-cols-without-rows", "R25", without(state_factored(), V_ROWS)),
        (
            "v-rows-and-v",
            "R25",
            from(state_factored(), |p| {
                let at = p.planes.iter().position(|p| p.kind == V_ROWS).unwrap();
                p.planes.insert(at, plane(0, V, F32, f32s(210, |_| 0.0)));
            }),
        ),
        ("optimizer-offset-0", "R26", header(48, &[0; 8])),
        ("optimizer-offset-late", "R26", header(48, &(1u64 << 20).to_le_bytes())),
        ("bytes-after-last-plane", "R26", {
            let mut file = header(24, &(state_int4().encode().len() as u64 + 1).to_le_bytes());
            file.push(0);
            file
        }),
    ]
}

/// Metadata and attachments.
fn text() -> Vec<Bad> {
    let deep = [&b"{\"a\":"[..], &[b'['; 10_000], &[b']'; 10_000], b"}"].concat();
    let attachments = |count: u32, bytes: Vec<u8>| {
        parts(|p| {
            p.attachment_count = count;
            p.attachments = bytes;
        })
    };
    let lying = [&prefixed(b"x")[..], &u64::MAX.to_le_bytes(), b"abc"].concat();
    vec![
        ("json-array", "R27", metadata(b"[]")),
        ("json-cut", "R27", metadata(b"{\"a\":1")),
        ("json-trailing", "R27", metadata(b"{} x")),
        ("json-two-objects", "R27", metadata(b"{}{}")),
        ("json-not-utf8", "R27", metadata(b"{\"a\":\"\xff\"}")),
        ("json-blank", "R27", metadata(b"  ")),
        ("json-overflow", "R27", metadata(b"{\"lr\":1e999}")),
        ("json-nan", "R27", metadata(b"{\"lr\":NaN}")),
        ("json-control", "R27", metadata(b"{\"a\":\"\x1b[2J\"}")),
        ("json-deep", "R28", metadata(&deep)),
        ("json-member-twice", "R29", metadata(b"{\"a\":1,\"a\":1}")),
        ("json-member-twice-inside", "R29", metadata(b"{\"a\":[{\"\\u001b\":1,\"\\u001b\":2}]}")),
        ("json-integer-too-large", "R30", metadata(b"{\"seed\":18446744073709551616}")),
        ("json-integer-too-small", "R30", metadata(b"{\"seed\":-9223372036854777856}")),
        ("step-max", "R31", metadata(b"{\"step\":18446744073709551615}")),
        ("step-negative", "R31", metadata(b"{\"step\":-1}")),
        ("step-fraction", "R31", metadata(b"{\"step\":1.5}")),
        ("step-text", "R31", metadata(b"{\"step\":\"\\u001b[31m\"}")),
        ("attachment-len-max", "R32", attachments(1, lying)),
        ("attachment-cut", "R32", attachments(1, vec![9, 0, b'a'])),
        ("attachment-without-len", "R32", attachments(1, prefixed(b"a"))),
        ("attachments-left-over", "R32", attachments(1, [attachment(b"a", b""), vec![0]].concat())),
        ("attachment-missing", "R32", attachments(2, attachment(b"a", b""))),
        ("attachment-path", "R16", attachments(1, attachment(b"a/b", b""))),
        ("attachment-twice", "R17", attachments(2, [attachment(b"a", b""), attachment(b"a", b"")].concat())),
    ]
}

/// State that the file names.
fn named() -> Vec<Bad> {
    let lists = |state: String| {
        from(state_named(), |p| {
            let metadata = String::from_utf8(p.metadata.clone()).unwrap();
            p.metadata = metadata.replace(NAMED, &state).into_bytes();
        })
    };
    let said = |from: &str, to: &str| {
        assert!(NAMED.contains(from), "{from}");
        lists(NAMED.replacen(from, to, 1))
    };
    let record = |kind: u8, change: fn(&mut super::Plane)| {
        from(state_named(), |p| change(p.planes.iter_mut().find(|p| p.tensor == 0 && p.kind == kind).unwrap()))
    };
    let entries = |count: usize| {
        let entry = |k| format!(r#"{{"codec":"f32","name":"s{k}","per":"row"}}"#);
        let list = (0..count).map(entry).collect::<Vec<_>>().join(",");
        lists(format!("{{\"norm\":[{list}]}}"))
    };
    let (planes, state) = (|kind| without(state_named(), kind), STATE);
    vec![
        ("state-name-empty", "R16", said("limiter", "")),
        ("state-name-escape", "R16", said("limiter", "\\u001b[2J")),
        ("state-not-optional", "R19", record(state, |p| p.flags = 0)),
        ("state-of-f16", "R22", record(state, |p| p.element = F16)),
        ("state-codes-as-roots", "R22", record(state + 2, |p| p.element = I8)),
        ("state-scales-f32", "R22", record(STATE_SCALES + 1, |p| p.element = F32)),
        ("state-scales-of-floats", "R22", record(STATE_SCALES + 1, |p| p.kind = STATE_SCALES)),
        ("state-len", "R23", said("[2,70]", "[2,71]")),
        ("state-group-other", "R23", said("\"group\":64", "\"group\":128")),
        ("state-missing", "R25", planes(state + 5)),
        ("state-scales-missing", "R25", planes(STATE_SCALES + 1)),
        ("state-no-object", "R42", lists("[]".into())),
        ("state-null", "R42", lists("null".into())),
        ("state-no-tensor", "R42", said("\"norm\"", "\"\\u001bnorm\"")),
        ("state-no-list", "R42", lists("{\"norm\":{}}".into())),
        ("state-list-empty", "R42", lists("{\"norm\":[]}".into())),
        ("state-list-17", "R42", entries(17)),
        ("state-entry-null", "R42", lists("{\"norm\":[null]}".into())),
        ("state-name-number", "R42", said("\"limiter\"", "7")),
        ("state-codec-unknown", "R42", said("int8-root", "int3")),
        ("state-per-unknown", "R42", said("\"row\"", "\"diagonal\"")),
        (
            "state-codes-per-row",
            "R42",
            said("\"name\":\"square\",\"per\":\"weight\"", "\"name\":\"square\",\"per\":\"row\""),
        ),
        ("state-dims-absent", "R42", said("\"dims\":[3],", "")),
        ("state-dims-surplus", "R42", said("\"name\":\"of-row\"", "\"dims\":[3],\"name\":\"of-row\"")),
        ("state-dims-one", "R42", said("[2,70]", "[140]")),
        ("state-dims-zero", "R42", said("[2,70]", "[0,70]")),
        ("state-dims-fraction", "R42", said("[2,70]", "[2,70.5]")),
        ("state-dims-negative", "R42", said("[2,70]", "[-2,70]")),
        ("state-dims-wrap", "R42", said("[2,70]", "[18446744073709551615,18446744073709551615]")),
        ("state-dims-over-cap", "R42", said("[3,40]", "[281474976710656,1]")),
        ("state-scalars-max", "R42", said("[3]", "[18446744073709551615]")),
        ("state-group-absent", "R42", said("\"group\":32,", "")),
        ("state-group-48", "R42", said("\"group\":64", "\"group\":48")),
        ("state-group-of-floats", "R42", said("\"name\":\"limiter\"", "\"group\":32,\"name\":\"limiter\"")),
        ("state-member-unknown", "R42", said("\"name\":\"limiter\"", "\"kind\":1,\"name\":\"limiter\"")),
        ("state-name-of-codes", "R43", said("limiter", "codes")),
        ("state-name-of-scales", "R43", said("limiter", "projected-scales")),
        ("state-name-twice", "R43", said("limiter", "projection")),
        (
            "state-not-described",
            "R44",
            said(",{\"codec\":\"f32\",\"dims\":[3],\"name\":\"limiter\",\"per\":\"tensor\"}", ""),
        ),
        ("state-without-lists", "R44", lists("{}".into())),
    ]
}

/// Contents: what only `verify` sees.
fn contents() -> Vec<Bad> {
    let int4 = |kind, change: fn(&mut Vec<u8>)| plane_bytes(state_int4(), 0, kind, change);
    let end = |parts: Parts, i: usize| parts.planes[i].offset as usize + parts.planes[i].len as usize;
    vec![
        ("plane-damaged", "R33", raw(|f| f[4096] ^= 0x10)),
        ("plane-checksum", "R33", lie(|p| p.planes[0].checksum = xxh3_64(b""))),
        (
            "optional-damaged",
            "R33",
            from(newer_minor(), |_| ()).split_last().map(|(l, f)| [f, &[l ^ 1]].concat()).unwrap(),
        ),
        ("padding-of-head", "R34", raw(|f| f[4095] = 1)),
        ("padding-of-plane", "R34", raw(|f| f[end(state_int4(), 0)] = 1)),
        ("padding-of-region", "R34", raw(|f| f[8191] = 255)),
        ("padding-codes", "R35", int4(CODES, |d| d[47] = 0x98)),
        ("padding-residue", "R35", int4(RESIDUE, |d| d[47] = 0x80)),
        ("padding-m", "R35", int4(M, |d| d[47] = 0x78)),
        ("padding-v", "R35", int4(V, |d| d[47] = 0x10)),
        ("padding-m-int8", "R35", plane_bytes(state_int8(), 0, M, set(95, &[1]))),
        ("padding-v-int8", "R35", plane_bytes(state_int8(), 0, V, set(95, &[1]))),
        ("padding-bytes", "R35", plane_bytes(int8(), 0, BYTES, set(287, &[0xff]))),
        ("code-m-0", "R36", int4(M, |d| d[0] &= 0xf0)),
        ("code-m-int8", "R36", plane_bytes(state_int8(), 0, M, set(3, &[0x80]))),
        ("code-bytes", "R36", plane_bytes(int8(), 0, BYTES, set(3, &[0x80]))),
        ("scale-nan", "R37", plane_bytes(int4_asymmetric(), 0, SCALES, set(2, &NAN16))),
        ("scale-nan-of-fp4", "R37", plane_bytes(fp4(), 0, SCALES, set(3, &[255]))),
        ("scale-infinite", "R37", int4(SCALES, |d| put(d, 2, &INFINITE16))),
        ("scale-negative", "R37", plane_bytes(int8(), 0, SCALES, set(2, &NEGATIVE16))),
        ("offset-nan", "R37", plane_bytes(int4_asymmetric(), 0, OFFSETS, set(4, &NAN16))),
        ("m-scale-nan", "R37", int4(M_SCALES, |d| put(d, 0, &BRAIN_NAN))),
        ("v-scale-negative", "R37", int4(V_SCALES, |d| put(d, 0, &BRAIN_NEGATIVE))),
        ("data-nan", "R37", plane_bytes(state_f32(), 0, DATA, set(8, &NAN))),
        ("data-infinite-f16", "R37", plane_bytes(float(2), 0, DATA, set(8, &INFINITE16))),
        ("data-nan-bf16", "R37", plane_bytes(float(3), 0, DATA, set(8, &BRAIN_NAN))),
        ("m-infinite", "R37", plane_bytes(state_f32(), 0, M, set(0, &INFINITE))),
        ("v-negative", "R37", plane_bytes(state_f32(), 0, V, set(0, &MINUS_ONE))),
        ("v-rows-negative", "R37", plane_bytes(state_factored(), 0, V_ROWS, set(0, &MINUS_ONE))),
        ("scalars-nan", "R37", plane_bytes(state_int4(), 1, SCALARS, set(0, &NAN))),
        ("state-padding", "R35", plane_bytes(state_named(), 0, STATE + 1, set(31, &[0x78]))),
        ("state-padding-of-roots", "R35", plane_bytes(state_named(), 1, STATE, set(15, &[0x80]))),
        ("state-code-0", "R36", plane_bytes(state_named(), 0, STATE + 1, |d| d[0] &= 0xf0)),
        ("state-code-int8", "R36", plane_bytes(state_named(), 1, STATE + 1, set(3, &[0x80]))),
        ("state-nan", "R37", plane_bytes(state_named(), 0, STATE, set(8, &NAN))),
        ("state-scale-negative", "R37", plane_bytes(state_named(), 0, STATE_SCALES + 2, set(0, &BRAIN_NEGATIVE))),
    ]
}

/// All of them.
pub fn all() -> Vec<Bad> {
    [head(), tensors(), planes(), layout(), text(), named(), contents()].concat()
}
