//! What is written is what is read: by this reader, by an independent writer, by an independent reader.

use crate::support::{Parts, fixture, good};
use serde_json::{Map, Value, json};
use std::io;
use std::process::Command;
use tetrad::error::WriteError;
use tetrad::format::{
    Attachment, Decoder, File, Layout, PlaneKind, PlaneSource, Role, TensorPlan, TensorSpec, codec_from_tag,
    element_from_tag,
};
use tetrad::quant::{Element, WeightCodec};

/// Planes out of memory, in pieces of a prime number of bytes.
struct Memory<'a>(&'a Parts);

impl PlaneSource for Memory<'_> {
    fn send(
        &mut self,
        tensor: usize,
        kind: PlaneKind,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let plane = self.0.planes.iter().find(|p| p.tensor as usize == tensor && p.kind == kind.tag()).unwrap();
        plane.data.chunks(37).try_for_each(sink)
    }
}

/// What the project's own writer makes of the parts.
fn write(parts: &Parts) -> Result<Vec<u8>, WriteError> {
    let names = ["blocks.0.q", "norm"];
    let mut tensors: Vec<_> = (parts.tensors.iter().zip(names))
        .map(|(t, name)| {
            let dims = t.dims[..t.dim_count as usize].to_vec();
            let storage = codec_from_tag(t.storage).unwrap();
            let spec = TensorSpec { name: name.into(), dims, storage, group: t.group };
            TensorPlan { spec, planes: vec![], state: vec![] }
        })
        .collect();
    // What the metadata says of state, which the writer must say in the same words.
    for (plan, read) in tensors.iter_mut().zip(File::parse(&parts.encode()).unwrap().tensors()) {
        plan.state = read.state.clone();
    }
    // In reverse: the writer must find the order itself.
    for plane in parts.planes.iter().rev() {
        let (kind, element) = (PlaneKind::from_tag(plane.kind), element_from_tag(plane.element).unwrap());
        if kind.named_state().is_none() {
            tensors[plane.tensor as usize].planes.push((kind, element));
        }
    }
    let mut metadata: Map<String, Value> = serde_json::from_slice(&parts.metadata).unwrap();
    metadata.remove("state");
    let attachments = [Attachment { name: "config.toml", bytes: b"[model]\nhidden = 70\n" }];
    let layout = Layout::new(&tensors, &metadata, &attachments).unwrap();
    let mut out = Vec::new();
    layout.write(&mut out, &mut Memory(parts))?;
    assert_eq!(out.len() as u64, layout.file_len());
    Ok(out)
}

#[test]
fn two_independent_writers_make_the_same_bytes() {
    for (name, parts) in good::all() {
        if name == "newer-minor" {
            continue; // only a newer program writes unknown planes
        }
        assert!(write(&parts).unwrap() == parts.encode(), "{name}");
        assert!(write(&parts).unwrap() == write(&parts).unwrap(), "{name}: the same state, other bytes");
    }
}

/// Everything a file says, in the shape in which `reader.py` prints it.
fn contents(bytes: &[u8]) -> Value {
    let file = File::parse(bytes).unwrap();
    let latin = |bytes: &[u8]| bytes.iter().map(|&b| b as char).collect::<String>();
    let tensors = file.tensors().iter().enumerate().map(|(i, tensor)| {
        let known = || tensor.planes.iter().filter(|p| !matches!(p.kind, PlaneKind::Other(_)));
        let elements: Map<_, _> = known().map(|p| (tensor.plane_name(p.kind), p.element_name().into())).collect();
        let planes: Map<_, _> = known().map(|p| (tensor.plane_name(p.kind), stored(&file, i, p.kind))).collect();
        let values: Map<_, _> =
            Role::of(tensor).filter_map(|r| Some((r.name(tensor).into(), decoded(&file, i, r)?))).collect();
        let spec = &tensor.spec;
        json!({
            "name": spec.name, "shape": spec.dims, "storage": spec.storage.name(), "group": spec.group,
            "planes": planes, "elements": elements, "values": values,
        })
    });
    let attachments = file.head().attachments.iter();
    let attachments: Map<_, _> =
        attachments.map(|(name, _)| (name.clone(), latin(file.attachment(name).unwrap()).into())).collect();
    json!({
        "minor": file.head().minor, "metadata": file.metadata(), "attachments": attachments,
        "tensors": tensors.collect::<Vec<_>>(),
    })
}

/// A plane's elements as they are stored, padding included.
fn stored(file: &File<'_>, tensor: usize, kind: PlaneKind) -> Value {
    let view = file.plane(tensor, kind).unwrap();
    match view.plane.element().unwrap() {
        Element::F32 => view.f32s().unwrap().iter().map(|x| f64::from(x.get())).collect(),
        Element::F16 => view.u16s().unwrap().iter().map(|x| half::f16::from_bits(x.get()).to_f64()).collect(),
        Element::Bf16 => view.u16s().unwrap().iter().map(|x| half::bf16::from_bits(x.get()).to_f64()).collect(),
        Element::I8 => view.i8s().unwrap().to_vec().into(),
        Element::PowerOfTwo => view.bytes.iter().map(|&b| 2f64.powi(i32::from(b) - 127)).collect(),
        Element::Nibble => (0..view.bytes.len() * 2).map(|i| tetrad::quant::nibble(view.bytes, i)).collect(),
        _ => view.bytes.to_vec().into(),
    }
}

fn decoded(file: &File<'_>, tensor: usize, role: Role) -> Option<Value> {
    let decoder = Decoder::new(file, tensor, role)?;
    let mut all = Vec::new();
    let mut row = vec![0.0; decoder.cols()];
    for r in 0..decoder.rows() {
        decoder.row(r, &mut row);
        all.extend(row.iter().map(|&x| f64::from(x)));
    }
    Some(all.into())
}

/// Numbers equal as numbers: Python prints 1.0 for a float where JSON of Rust may hold an integer.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same(x, y)))
        }
        _ => a == b,
    }
}

#[test]
fn a_reader_of_150_lines_made_from_the_spec_alone_reads_the_same_values() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py");
    assert!(std::fs::read_to_string(script).unwrap().lines().count() <= 150);
    let (names, paths): (Vec<_>, Vec<_>) =
        good::all().into_iter().map(|(name, _)| (name, fixture(&format!("good/{name}.tetrad")))).unzip();
    let Ok(output) = Command::new("python3").arg(script).args(&paths).output() else {
        eprintln!("SKIPPED: no python3 here, the independent reader was not run");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Vec<Value> = output
        .stdout
        .split(|&b| b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(read.len(), paths.len());
    for ((name, path), read) in names.iter().zip(&paths).zip(&read) {
        let expected = contents(&std::fs::read(path).unwrap());
        assert!(same(&expected, read), "{name}: {expected}\n!= {read}");
    }
}

#[test]
fn round_trips_of_every_storage() {
    for (name, parts) in good::all() {
        let bytes = if name == "newer-minor" { parts.encode() } else { write(&parts).unwrap() };
        let mut contents = contents(&bytes);
        // The planes follow from the values; the first few of these show what is meant.
        for tensor in contents["tensors"].as_array_mut().unwrap() {
            tensor.as_object_mut().unwrap().remove("planes");
            for values in tensor["values"].as_object_mut().unwrap().values_mut() {
                let all = values.as_array().unwrap();
                let first = all.iter().take(8).map(Value::to_string).collect::<Vec<_>>().join(" ");
                *values = format!("{first} ... of {}", all.len()).into();
            }
        }
        insta::assert_json_snapshot!(format!("roundtrip_{name}"), contents);
    }
}

#[test]
fn planes_lie_where_they_can_be_used_in_place() {
    for (name, parts) in good::all() {
        let bytes = parts.encode();
        let file = File::parse(&bytes).unwrap();
        for (i, tensor) in file.tensors().iter().enumerate() {
            for plane in &tensor.planes {
                assert_eq!(plane.offset % 64, 0, "{name}");
                let view = file.plane(i, plane.kind).unwrap();
                assert!(std::ptr::eq(view.bytes, &bytes[plane.offset as usize..][..plane.len as usize]));
            }
        }
    }
}

#[test]
fn a_deployable_file_has_the_weight_region_of_the_full_state() {
    let (full, deployable) = (good::state_int4(), good::int4());
    let (full, deployable) = (full.encode(), deployable.encode());
    let (a, b) = (File::parse(&full).unwrap(), File::parse(&deployable).unwrap());
    let region = |file: &File<'_>, bytes: &[u8]| {
        let range = &file.head().sections.weights;
        bytes[range.start as usize..range.end as usize].to_vec()
    };
    assert!(region(&a, &full) == region(&b, &deployable));
    assert_eq!(b.head().sections.weights.end, b.head().file_len());
}

#[test]
fn a_source_that_misbehaves_is_found_out() {
    let spec = TensorSpec::plain("x", &[4], WeightCodec::F32);
    let layout = Layout::new(&[TensorPlan::weight(spec)], &Map::new(), &[]).unwrap();
    let write = |chunk: &[&[u8]]| {
        let mut calls = chunk.iter();
        let mut source =
            |_: usize, _: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| sink(calls.next().unwrap());
        layout.write(&mut Vec::new(), &mut source).unwrap_err().to_string()
    };
    assert_eq!(write(&[&[0; 15]]), "the data plane of x was given with 15 bytes, 16 were planned");
    assert_eq!(write(&[&[0; 17]]), "the data plane of x was given with 17 bytes, 16 were planned");
    assert_eq!(write(&[&[0; 16], &[1; 16]]), "the data plane of x changed while it was written");
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let plan = |name: &str, dims: &[u64]| TensorPlan::weight(TensorSpec::plain(name, dims, WeightCodec::F32));
    let error = |tensors: &[TensorPlan]| Layout::new(tensors, &Map::new(), &[]).unwrap_err().to_string();
    assert_eq!(error(&[]), "the header counts 0 tensors, allowed are 1 to 65536 (R7)");
    assert_eq!(error(&[plan("a", &[1]), plan("a", &[1])]), "tensors 0 and 1 are both named a (R17)");
    assert!(error(&[plan("../a", &[1])]).ends_with("(R16)"));
    assert!(error(&[plan("a", &[])]).ends_with("(R12)"));
    assert!(error(&[plan("a", &[1 << 40, 1 << 40])]).ends_with("(R13)"));
    let twice = plan("a", &[1]).with(PlaneKind::Data, Element::F32);
    assert!(error(&[twice]).ends_with("(R21)"));
    let residue = plan("a", &[1]).with(PlaneKind::Residue, Element::Nibble);
    assert!(error(&[residue]).ends_with("(R22)"));
    let long = "n".repeat(70_000);
    let attachment = [Attachment { name: &long, bytes: b"" }];
    assert!(Layout::new(&[plan("a", &[1])], &Map::new(), &attachment).unwrap_err().to_string().ends_with("(R16)"));
}
