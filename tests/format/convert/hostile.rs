//! Files that lie: a typed error, never a panic, nor memory or time beyond what the bytes that are there explain.

use super::{bring_in, fixture, refusal};
use crate::harness;
use crate::support::mutate::{EDGES, Random, mutate};
use tetrad::checkpoint::Checkpoint;
use tetrad::convert::gguf::{Array, Gguf, Value};
use tetrad::convert::{FloatType, Options, export_hugging_face, safetensors};
use tetrad::error::{GgufError, SafetensorsError};

/// Walks over everything that a reader hands out.
fn walk(gguf: &Gguf<'_>, bytes: &[u8]) -> usize {
    let array = |array: Array<'_>| array.iter().count();
    let values = gguf.metadata.iter().map(|(_, value)| if let Value::Array(a) = value { array(*a) } else { 1 });
    let tensors = gguf.tensors.iter().map(|tensor| bytes[tensor.range.clone()].len());
    values.sum::<usize>() + tensors.sum::<usize>()
}

#[test]
fn mutated_gguf_files_end_in_an_error_or_a_model() {
    let whole = std::fs::read(fixture("q4_0.gguf")).unwrap();
    let head = Gguf::parse(&whole).unwrap().tensors.iter().map(|t| t.range.start).min().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("x.gguf"), dir.path().join("x.tetrad"));
    let (mut refused, mut read, mut imported) = (0, 0, 0);
    for seed in 0..3000 {
        let mut bytes = whole.clone();
        mutate(&mut bytes, head, &mut Random(seed));
        match Gguf::parse(&bytes) {
            Err(error) => {
                assert!(!error.to_string().chars().any(char::is_control), "{error}");
                refused += 1;
            }
            Ok(gguf) => {
                assert!(walk(&gguf, &bytes) <= 2 * bytes.len());
                read += 1;
                // The whole way, for a part of them: it costs a file each.
                if seed % 8 == 0 {
                    std::fs::write(&path, &bytes).unwrap();
                    imported += usize::from(bring_in(&path, &Options::default(), &out).is_ok());
                }
            }
        }
    }
    assert!(refused > 500 && read > 100 && imported > 0, "{refused} refused, {read} read, {imported} imported");
}

/// Values that sums and products of sizes wrap with, and values that are no sizes.
fn edges() -> Vec<serde_json::Value> {
    let numbers = EDGES.iter().map(|&n| n.into());
    let others = ["-1", "0.5", "1e300", "-1e-300", "null", "true", "\"8\"", "[]", "[7]", "{}"];
    numbers.chain(others.map(|text| serde_json::from_str(text).unwrap())).collect()
}

#[test]
fn a_configuration_of_edges_ends_in_an_error_or_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("x.tetrad"));
    bring_in(&fixture("q4_0.gguf"), &Options::default(), &out).unwrap();
    let checkpoint = Checkpoint::open(&out).unwrap();
    export_hugging_face(&checkpoint, FloatType::F16, u64::MAX, &model, &mut |_, _| {}).unwrap();
    let path = model.join("config.json");
    let whole: serde_json::Map<_, _> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (mut refused, mut imported) = (0, 0);
    for key in whole.keys().chain([&"sliding_window".to_owned(), &"rope_parameters".to_owned()]) {
        for value in edges().into_iter().map(Some).chain([None]) {
            let mut changed = whole.clone();
            match value {
                Some(value) => changed.insert(key.clone(), value),
                None => changed.remove(key),
            };
            std::fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
            match bring_in(&model, &Options::default(), &out) {
                Ok(_) => imported += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 150 && imported > 100, "{refused} refused, {imported} imported");
}

#[test]
fn gguf_keys_of_edges_end_in_an_error_or_a_model() {
    let whole = std::fs::read(fixture("q4_0.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("x.gguf"), dir.path().join("x.tetrad"));
    let (mut refused, mut imported) = (0, 0);
    for (key, value) in &Gguf::parse(&whole).unwrap().metadata {
        if !matches!(value, Value::Whole(_) | Value::Float(_)) {
            continue;
        }
        let at = whole.windows(key.len()).position(|part| part == key.as_bytes()).unwrap() + key.len() + 4;
        for edge in EDGES.map(|edge| edge as u32).into_iter().chain([2, 3, 0x7f80_0000, 0xbf80_0000]) {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&edge.to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            match bring_in(&path, &Options::default(), &out) {
                Ok(_) => imported += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50 && imported > 20, "{refused} refused, {imported} imported");
}

#[test]
fn every_length_of_a_cut_gguf_file_is_refused() {
    let whole = std::fs::read(fixture("q4_0.gguf")).unwrap();
    let head = Gguf::parse(&whole).unwrap().tensors.iter().map(|t| t.range.start).min().unwrap();
    for len in (0..head).step_by(7).chain([head, whole.len() - 1]) {
        assert!(Gguf::parse(&whole[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn mutated_safetensors_files_end_in_an_error_or_a_list() {
    let specs = [
        ("a".to_owned(), vec![2, 3], tetrad::convert::quants::Kind::F32),
        ("b.c".into(), vec![5], tetrad::convert::quants::Kind::Bf16),
    ];
    let mut whole = Vec::new();
    safetensors::write(&mut whole, &specs, &mut |i, sink| sink(&vec![0; [24, 10][i]])).unwrap();
    let (mut refused, mut read) = (0, 0);
    for seed in 0..20_000 {
        let mut bytes = whole.clone();
        let head = bytes.len() - 34;
        mutate(&mut bytes, head, &mut Random(seed));
        match safetensors::parse(&bytes) {
            Err(error) => {
                assert!(!error.to_string().chars().any(char::is_control), "{error}");
                refused += 1;
            }
            Ok(tensors) => {
                assert!(tensors.iter().all(|tensor| tensor.range.end <= bytes.len()));
                read += 1;
            }
        }
    }
    assert!(refused > 1000 && read > 100, "{refused} refused, {read} read");
    for len in 0..whole.len() {
        assert!(safetensors::parse(&whole[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn mutated_tetrad_files_end_in_an_error_or_a_file() {
    let whole = std::fs::read(harness::fixture("format/good/state-int4.tetrad")).unwrap();
    for seed in 0..20_000 {
        let mut bytes = whole.clone();
        let head = bytes.len();
        mutate(&mut bytes, head, &mut Random(seed));
        if let Ok(file) = tetrad::format::File::parse(&bytes) {
            file.verify();
        }
    }
}

/// A GGUF file of these keys (already encoded) and tensor records.
fn gguf(keys: &[(&str, u32, &[u8])], records: &[&[u8]], data: usize) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend_from_slice(&(records.len() as u64).to_le_bytes());
    out.extend_from_slice(&(keys.len() as u64).to_le_bytes());
    for (key, kind, value) in keys {
        text(&mut out, key);
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(value);
    }
    records.iter().for_each(|record| out.extend_from_slice(record));
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

fn record(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = (name.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&(dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend_from_slice(&dim.to_le_bytes()));
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out
}

#[test]
fn each_lie_of_a_gguf_file_has_its_error() {
    let one = record("a", &[32, 2], 0, 0);
    let two = |b: Vec<u8>| gguf(&[], &[&one, &b], 1024);
    let said = |bytes: Vec<u8>| Gguf::parse(&bytes).unwrap_err();
    assert!(Gguf::parse(&gguf(&[], &[&one], 256)).is_ok());
    assert!(matches!(said(b"GGML".to_vec()), GgufError::Magic { .. }));
    assert_eq!(said(b"GGUF\x01\0\0\0".to_vec()), GgufError::Version { found: 1 });
    assert_eq!(said(b"GGUF\0\0\0\x03".to_vec()), GgufError::Version { found: 3 << 24 });
    for count in [1 << 32, 1 << 63, u64::MAX] {
        let mut bytes = gguf(&[], &[&one], 256);
        bytes[8..16].copy_from_slice(&u64::to_le_bytes(count));
        assert!(matches!(said(bytes.clone()), GgufError::Count { what: "tensors", found, .. } if found == count));
        bytes[16..24].copy_from_slice(&count.to_le_bytes());
        assert!(matches!(said(bytes), GgufError::Count { what: "keys", found, .. } if found == count));
    }
    assert!(matches!(said(two(record("a", &[32], 0, 256))), GgufError::TensorTwice { .. }));
    assert!(matches!(said(two(record("b", &[], 0, 256))), GgufError::DimCount { found: 0, .. }));
    assert!(matches!(said(two(record("b", &[1; 5], 0, 256))), GgufError::DimCount { found: 5, .. }));
    assert!(matches!(said(two(record("b", &[32, 0], 0, 256))), GgufError::Dims { .. }));
    assert!(matches!(said(two(record("b", &[1 << 32, 1 << 32], 0, 256))), GgufError::Dims { .. }));
    assert!(matches!(said(two(record("b", &[33], 2, 256))), GgufError::Block { cols: 33, block: 32, .. }));
    assert!(matches!(said(two(record("b", &[256], 10, 256))), GgufError::TensorType { found, .. } if found == "Q2_K"));
    assert!(matches!(said(two(record("b", &[32], 0, 257))), GgufError::Unaligned { .. }));
    assert!(matches!(said(two(record("b", &[32], 0, 1024))), GgufError::Outside { .. }));
    assert!(matches!(said(two(record("b", &[32], 0, u64::MAX - 31))), GgufError::Outside { .. }));
    assert!(matches!(said(two(record("b", &[32], 0, 224))), GgufError::Overlap { .. }));
    let twice = gguf(&[("k", 7, &[1]), ("k", 7, &[1])], &[&one], 256);
    assert_eq!(said(twice), GgufError::KeyTwice { key: "k".into() });
    assert!(matches!(said(gguf(&[("k", 13, &[1])], &[&one], 256)), GgufError::ValueType { found: 13, .. }));
    assert!(matches!(
        said(gguf(&[("general.alignment", 4, &[3, 0, 0, 0])], &[&one], 256)),
        GgufError::Alignment { .. }
    ));
    // An array of 2^61 eight-byte numbers; arrays in arrays in arrays.
    let many = [&10u32.to_le_bytes()[..], &(1u64 << 61).to_le_bytes()].concat();
    assert!(matches!(said(gguf(&[("k", 9, &many)], &[&one], 256)), GgufError::Truncated { .. }));
    let nested: Vec<u8> = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(10_000);
    assert!(matches!(said(gguf(&[("k", 9, &nested)], &[&one], 256)), GgufError::ValueType { found: 9, .. }));
}

#[test]
fn a_part_of_a_model_is_named_as_such() {
    let llama = [&5u64.to_le_bytes()[..], b"llama"].concat();
    let keys: [(&str, u32, &[u8]); 2] = [("general.architecture", 8, &llama), ("split.count", 2, &[3, 0])];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model-00001-of-00003.gguf");
    std::fs::write(&path, gguf(&keys, &[&record("token_embd.weight", &[32, 2], 0, 0)], 256)).unwrap();
    let said = refusal(&path, dir.path());
    assert!(said.contains("is one of 3 files of a model; join them with"), "{said}");
}

/// A model with one more key of metadata.
fn with_key(whole: &[u8], key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut out = whole[..16].to_vec();
    let count = u64::from_le_bytes(whole[16..24].try_into().unwrap());
    out.extend((count + 1).to_le_bytes());
    out.extend((key.len() as u64).to_le_bytes());
    out.extend(key.bytes());
    out.extend(kind.to_le_bytes());
    out.extend(value);
    let gguf = Gguf::parse(whole).unwrap();
    let data = gguf.tensors.iter().map(|tensor| tensor.range.start).min().unwrap();
    // Behind the last name: the count of dimensions, the dimensions, the type and the offset. Padding follows.
    let last = gguf.tensors.last().unwrap();
    let name = whole[..data].windows(last.name.len()).rposition(|window| window == last.name.as_bytes()).unwrap();
    let directory = name + last.name.len() + 4 + 8 * last.dims.len() + 4 + 8;
    out.extend(&whole[24..directory]);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(&whole[data..]);
    out
}

#[test]
fn keys_that_change_what_is_computed_are_refused_and_neutral_ones_read() {
    let whole = std::fs::read(fixture("q4_0.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let float = |x: f32| x.to_le_bytes().to_vec();
    for (key, kind, value, refused) in [
        ("attention.scale", 6, float(0.5), true),
        ("attention.scale", 6, float(0.0), false),
        ("attention.clamp_kqv", 6, float(8.0), true),
        ("final_logit_softcapping", 6, float(30.0), true),
        ("final_logit_softcapping", 6, float(0.0), false),
        ("logit_scale", 6, float(0.0625), true),
        ("logit_scale", 6, float(1.0), false),
        ("residual_scale", 6, float(0.22), true),
        ("attention.causal", 7, vec![0], true),
        ("attention.causal", 7, vec![1], false),
        ("use_parallel_residual", 7, vec![1], true),
    ] {
        let key = format!("llama.{key}");
        std::fs::write(&path, with_key(&whole, &key, kind, &value)).unwrap();
        match refused {
            true => assert!(refusal(&path, dir.path()).contains(&key), "{key}: {}", refusal(&path, dir.path())),
            false => drop(bring_in(&path, &Options::default(), &dir.path().join("x.tetrad")).expect(&key)),
        }
    }
}

#[test]
fn each_lie_of_a_safetensors_file_has_its_error() {
    let file = |header: &str, data: usize| {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend_from_slice(header.as_bytes());
        out.resize(out.len() + data, 0);
        out
    };
    let said = |header: &str, data: usize| safetensors::parse(&file(header, data)).unwrap_err();
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(safetensors::parse(&file(&entry("F32", "[2,2]", "[0,16]"), 16)).is_ok());
    assert_eq!(safetensors::parse(&[0; 7]).unwrap_err(), SafetensorsError::Short { found: 7 });
    for len in [u64::MAX, 1 << 63, 100, 0] {
        let bytes = [&len.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(safetensors::parse(&bytes).unwrap_err(), SafetensorsError::HeaderLen { found: len, max: 2 });
    }
    let deep = "[".repeat(100_000);
    for bad in
        ["[]", "{\"a\":1}", "{ ", "{}x", &deep, &entry("F32", "[-1]", "[0,4]"), &entry("F32", "[1e999]", "[0,4]")]
    {
        assert!(matches!(said(bad, 4), SafetensorsError::Json { .. }), "{bad:.40}");
    }
    assert!(matches!(said(&entry("I64", "[1]", "[0,8]"), 8), SafetensorsError::TensorType { .. }));
    for shape in ["[]", "[0]", "[1,1,1,1,1]", "[4294967296,4294967296]", "[18446744073709551615,2]"] {
        assert!(matches!(said(&entry("F32", shape, "[0,4]"), 4), SafetensorsError::Dims { .. }), "{shape}");
    }
    for offsets in ["[4,0]", "[0,20]", "[18446744073709551612,18446744073709551615]"] {
        assert!(matches!(said(&entry("F32", "[1]", offsets), 16), SafetensorsError::Outside { .. }), "{offsets}");
    }
    assert!(matches!(said(&entry("F32", "[2]", "[0,4]"), 4), SafetensorsError::Len { found: 4, needed: 8, .. }));
    assert!(matches!(said(&entry("F32", "[1]", "[4,8]"), 8), SafetensorsError::Hole { expected: 0, begin: 4, .. }));
    assert!(matches!(said(&entry("F32", "[1]", "[0,4]"), 9), SafetensorsError::Left { left: 5 }));
    let two = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"NAME":{"dtype":"F32","shape":[1],"data_offsets":[AT]}}"#;
    assert!(matches!(said(&two.replace("NAME", "a").replace("AT", "4,8"), 8), SafetensorsError::TensorTwice { .. }));
    assert!(matches!(said(&two.replace("NAME", "b").replace("AT", "2,6"), 8), SafetensorsError::Hole { .. }));
}
