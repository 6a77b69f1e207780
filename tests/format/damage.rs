//! Whatever happens to a file, the reader answers with an error or with the identical content.

use crate::support::{good, put, seal};
use proptest::prelude::*;
use tetrad::error::FormatError;
use tetrad::format::{File, Head, Layout, PlaneKind, TensorPlan, TensorSpec};
use tetrad::quant::{Element, WeightCodec};
use tetrad::store::Map;

/// Opens and, if that goes well, verifies.
fn check(bytes: &[u8]) -> Result<(), FormatError> {
    match File::parse(bytes)?.verify().into_iter().next() {
        None => Ok(()),
        Some(e) => Err(e.into()),
    }
}

#[test]
fn every_truncation_is_refused_on_opening() {
    for (name, parts) in good::all() {
        let bytes = parts.encode();
        for len in 0..bytes.len() {
            assert!(File::parse(&bytes[..len]).is_err(), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn every_flipped_bit_of_the_head_is_found_on_opening() {
    let parts = good::state_int4();
    let mut bytes = parts.encode();
    // The padding behind the head belongs to what opening checks.
    for at in 0..4096 {
        for flip in (0..8).map(|bit| 1 << bit).chain([0xff]) {
            bytes[at] ^= flip;
            assert!(File::parse(&bytes).is_err(), "byte {at} ^ {flip:#x}");
            bytes[at] ^= flip;
        }
    }
    assert!(File::parse(&bytes).is_ok());
}

#[test]
fn every_flipped_byte_of_a_plane_or_its_padding_is_found_by_verify() {
    for (name, parts) in good::all() {
        let mut bytes = parts.encode();
        for at in 4096..bytes.len() {
            bytes[at] ^= 0x40;
            assert_eq!(File::parse(&bytes).unwrap().verify().len(), 1, "{name} byte {at}");
            bytes[at] ^= 0x40;
        }
    }
}

/// A damaged head with a checksum that is right again: what a hostile writer can make. There is no content to be
/// identical with, but no panic, and no allocation out of proportion, may follow.
#[test]
fn no_forged_byte_of_the_head_makes_the_reader_panic() {
    for (_, parts) in good::all() {
        let (good, head) = (parts.encode(), parts.head_len() as usize);
        for at in 0..head {
            for value in [0, 1, 0x7f, 0x80, 0xff, good[at].wrapping_add(1), good[at] ^ 0x20] {
                let mut bytes = good.clone();
                bytes[at] = value;
                seal(&mut bytes, head);
                let _ = check(&bytes);
            }
        }
    }
}

#[test]
fn a_count_that_lies_allocates_nothing() {
    let parts = good::int4();
    for field in [24, 32, 40, 48, 56, 60, 64, 68, 72, 80] {
        for value in [0, 1, u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX] {
            let mut bytes = parts.encode();
            let size = if (56..72).contains(&field) { 4 } else { 8 };
            if bytes[field..field + size] == value.to_le_bytes()[..size] {
                continue;
            }
            put(&mut bytes, field, &value.to_le_bytes()[..size]);
            seal(&mut bytes, parts.head_len() as usize);
            // Refused before any table is read: the counts are held against the file's real length first.
            assert!(File::parse(&bytes).is_err(), "field {field} = {value}");
        }
    }
}

#[test]
fn a_head_alone_is_enough_to_be_read_and_too_little_is_refused() {
    let parts = good::state_int8();
    let (bytes, len) = (parts.encode(), parts.head_len() as usize);
    let head = Head::parse(&bytes[..len], bytes.len() as u64).unwrap();
    assert_eq!(head.tensors, File::parse(&bytes).unwrap().tensors());
    assert!(Head::parse(&bytes[..len - 1], bytes.len() as u64).unwrap_err().to_string().ends_with("(R8)"));
}

/// A tensor of 2^38 floats in a file that is one great hole: nothing of it is read on opening.
#[test]
fn a_sparse_file_of_a_tebibyte_opens_at_once_and_one_byte_less_is_refused() {
    let parts = good::float(1);
    let (mut bytes, head) = (parts.encode(), parts.head_len() as usize);
    let (len, record) = (1u64 << 40, 128 + 2 * 40 + 32);
    put(&mut bytes, 128 + 40 + 8, &(1u64 << 38).to_le_bytes());
    put(&mut bytes, record + 16, &len.to_le_bytes());
    let file_len = parts.planes[1].offset + len;
    put(&mut bytes, 24, &file_len.to_le_bytes());
    seal(&mut bytes, head);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.tetrad");
    std::fs::write(&path, &bytes[..4096]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    if let Err(e) = file.set_len(file_len) {
        eprintln!("SKIPPED: this file system holds no sparse file of a tebibyte: {e}");
        return;
    }
    let map = Map::open(&path).unwrap();
    let sparse = File::parse(&map).unwrap();
    assert_eq!(sparse.plane(1, PlaneKind::Data).unwrap().bytes.len() as u64, len);
    file.set_len(file_len - 1).unwrap();
    let map = Map::open(&path).unwrap();
    assert!(File::parse(&map).unwrap_err().to_string().ends_with("cut short, copy it again (R6)"));
}

fn storage() -> impl Strategy<Value = WeightCodec> {
    prop::sample::select(WeightCodec::ALL.to_vec())
}

/// A tensor of any storage and shape with any optimizer state it can have.
fn tensor() -> impl Strategy<Value = TensorPlan> {
    let group = prop::sample::select(vec![0u32, 32, 64, 128, 256]);
    let state = (0..3u8, 0..5u8, any::<[bool; 2]>());
    ("[a-zA-Z0-9_-]{1,8}(\\.[a-z0-9]{1,4}){0,3}", storage(), group, prop::collection::vec(1u64..70, 1..5), state)
        .prop_map(|(name, storage, group, mut dims, (m, v, [residue, scalars]))| {
            let group = if storage.is_grouped() { group.max(32) } else { group };
            let group = storage.block().map_or(group, |block| block as u32);
            if group != 0 {
                dims.resize(2, 33);
            }
            let mut plan = TensorPlan::weight(TensorSpec { name, dims: dims.clone(), storage, group });
            let quantized = group != 0;
            if residue && storage.takes_residue() {
                plan = plan.with(PlaneKind::Residue, Element::Nibble);
            }
            plan = match m {
                1 => plan.with(PlaneKind::M, Element::F32),
                2 if quantized => plan.with(PlaneKind::M, Element::Nibble).with(PlaneKind::MScales, Element::Bf16),
                _ => plan,
            };
            plan = match v {
                1 => plan.with(PlaneKind::V, Element::F32),
                2 if quantized => plan.with(PlaneKind::V, Element::U8).with(PlaneKind::VScales, Element::Bf16),
                3 if dims.len() == 2 => plan.with(PlaneKind::VRows, Element::F32),
                4 if dims.len() == 2 => plan.with(PlaneKind::VRows, Element::F32).with(PlaneKind::VCols, Element::F32),
                _ => plan,
            };
            if scalars { plan.with(PlaneKind::Scalars, Element::F32) } else { plan }
        })
}

proptest! {
    #[test]
    fn any_layout_reads_back_as_it_was_planned(
        tensors in prop::collection::vec(tensor(), 1..6),
        step in 0u64..1 << 53,
        seed in any::<u64>(),
        lr in -1e15f64..1e15,
    ) {
        let mut tensors = tensors;
        tensors.iter_mut().enumerate().for_each(|(i, t)| t.spec.name += &format!(".{i}"));
        let metadata = serde_json::json!({ "step": step, "b": { "seed": seed, "a": [lr, null] } });
        let metadata = metadata.as_object().unwrap();
        let layout = Layout::new(&tensors, metadata, &[]).unwrap();
        let mut bytes = Vec::new();
        let mut byte = 0u8;
        let planned: Vec<Vec<u8>> = layout.head().planes.iter().map(|p| {
            (0..p.len).map(|_| { byte = byte.wrapping_mul(5).wrapping_add(113); byte }).collect()
        }).collect();
        let find = |tensor, kind| {
            layout.head().planes.iter().position(|p| p.tensor == tensor && p.kind == kind).unwrap()
        };
        let mut source = |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
            sink(&planned[find(tensor, kind)])
        };
        layout.write(&mut bytes, &mut source).unwrap();
        let file = File::parse(&bytes).unwrap();
        prop_assert_eq!(file.metadata(), metadata);
        for (i, plan) in tensors.iter().enumerate() {
            prop_assert_eq!(&file.tensors()[i].spec, &plan.spec);
            prop_assert_eq!(file.tensor(&plan.spec.name).unwrap().0, i);
            prop_assert_eq!(file.tensors()[i].planes.len(), plan.planes.len());
            for &(kind, _) in &plan.planes {
                prop_assert_eq!(file.plane(i, kind).unwrap().bytes, &planned[find(i, kind)][..]);
            }
        }
        // Random contents break rules of contents, never those of checksums or padding between planes.
        for finding in file.verify() {
            let text = finding.to_string();
            prop_assert!(["(R35)", "(R36)", "(R37)"].iter().any(|rule| text.ends_with(rule)), "{}", text);
        }
    }

    #[test]
    fn no_forged_head_makes_the_reader_panic(changes in prop::collection::vec((0usize..700, any::<u8>()), 1..8)) {
        let parts = good::state_int4();
        let (mut bytes, head) = (parts.encode(), parts.head_len() as usize);
        for (at, value) in changes {
            bytes[at % head] = value;
        }
        seal(&mut bytes, head);
        let _ = check(&bytes);
    }

    #[test]
    fn no_bytes_at_all_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(File::parse(&bytes).is_err());
        if bytes.len() >= 128 {
            put(&mut bytes, 0, b"\x89TETRAD\n\x01\0\0\0\0\0\0\0");
            prop_assert!(File::parse(&bytes).is_err());
        }
    }
}

/// In files of version 1.0 the kinds of named state are unknown ones, whatever the metadata says; their contents are
/// anything, also where their type is one that is known.
#[test]
fn version_1_0_knows_no_named_state() {
    let mut parts = good::int4();
    for (kind, element, bytes) in [(0x20, 6, 3), (0x90, 6, 3), (0x91, 1, 5), (0xa0, 5, 1)] {
        let data = vec![0xff; bytes];
        let plane = crate::support::Plane { flags: 1, ..good::plane(0, kind, element, data) };
        parts.planes.push(plane);
    }
    parts.planes.sort_by_key(|p| (p.kind >= 0x80, p.tensor, p.kind));
    parts.metadata = br#"{"state":{"blocks.0.q":7},"step":7}"#.to_vec();
    let bytes = parts.place().encode();
    let file = File::parse(&bytes).unwrap();
    assert!(file.verify().is_empty());
    assert_eq!(file.metadata()["state"]["blocks.0.q"], 7);
    assert!(file.tensors()[0].state.is_empty());
    assert!(file.plane(0, PlaneKind::Other(0x90)).is_some());
}
