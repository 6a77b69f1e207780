//! `dump --hex TENSOR:PLANE`: offsets, bytes and what they mean, sixteen bytes a line.

use crate::cli::number::{self, short};
use crate::cli::output::{escape, json_line};
use half::{bf16, f16};
use serde_json::{Value, json};
use std::io::{self, Write};
use tetrad::format::{File, PlaneKind, PlaneView, Tensor};
use tetrad::quant::{Element, StateCodec, fp4, nibble};

/// Bytes on a line: one run of 32 nibbles, so that a line never straddles two groups.
const LINE: usize = 16;

/// A plane to be shown.
pub(super) struct Shown<'a> {
    tensor: usize,
    view: PlaneView<'a>,
}

/// The plane of `TENSOR:PLANE`.
pub(super) fn find<'a>(file: &File<'a>, which: &str) -> Result<Shown<'a>, String> {
    let shown = escape(which);
    let Some((name, plane)) = which.rsplit_once(':') else {
        return Err(format!("{shown} is not TENSOR:PLANE, as in {}", example(file, which)));
    };
    let Some((tensor, found)) = file.tensor(name) else {
        return Err(format!("there is no tensor {}; `tetrad dump FILE` lists them", escape(name)));
    };
    let view = found.plane_named(plane).and_then(|plane| file.plane(tensor, plane.kind));
    let view = view.ok_or_else(|| {
        let has = found.planes.iter().map(|p| found.plane_name(p.kind)).collect::<Vec<_>>().join(", ");
        format!("{name} has no plane {}, it has {has}", escape(plane))
    })?;
    Ok(Shown { tensor, view })
}

/// A plane of this file by its name: of the tensor that was named, or else of the first one with codes, which are most looked at.
fn example(file: &File<'_>, named: &str) -> String {
    let has_codes = |tensor: &&Tensor| tensor.planes.iter().any(|plane| plane.kind == PlaneKind::Codes);
    let named = file.tensor(named).map(|(_, tensor)| tensor);
    let found = named.or_else(|| file.tensors().iter().find(has_codes)).or_else(|| file.tensors().first());
    let first = found.and_then(|tensor| Some((tensor, tensor.planes.first()?)));
    first.map_or_else(
        || "NAME:codes".into(),
        |(tensor, plane)| format!("{}:{}", escape(&tensor.spec.name), escape(&tensor.plane_name(plane.kind))),
    )
}

/// One line: the index of its first element, and its values as numbers or as levels under a scale.
struct Line {
    first: usize,
    values: Vec<f64>,
    scale: Option<f32>,
    offset: Option<f32>,
}

fn line(file: &File<'_>, shown: &Shown<'_>, at: usize, bytes: &[u8]) -> Line {
    let floats = |values: Vec<f64>, size: usize| Line { first: at / size, values, scale: None, offset: None };
    match shown.view.plane.element() {
        Some(Element::F32) => {
            floats(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect(), 4)
        }
        Some(Element::F16) => {
            floats(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).into()).collect(), 2)
        }
        Some(Element::Bf16) => {
            floats(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).into()).collect(), 2)
        }
        Some(Element::I8) => levels(file, shown, at, bytes.iter().map(|&b| (b as i8).into()).collect()),
        Some(Element::Nibble) => {
            let zero = zero(file, shown);
            let storage = file.tensors()[shown.tensor].spec.storage;
            let value = |code: u8| match shown.view.plane.kind {
                PlaneKind::Codes => storage.level(code).into(),
                _ => f64::from(code) - zero,
            };
            let values = (0..bytes.len() * 2).map(|i| value(nibble(bytes, i))).collect();
            levels(file, shown, at * 2, values)
        }
        Some(Element::U8) => levels(file, shown, at, bytes.iter().map(|&b| b.into()).collect()),
        Some(Element::PowerOfTwo) => floats(bytes.iter().map(|&b| fp4::power_of_two(b).into()).collect(), 1),
        None => floats(Vec::new(), 1),
    }
}

/// The code that means zero.
fn zero(file: &File<'_>, shown: &Shown<'_>) -> f64 {
    let tensor = &file.tensors()[shown.tensor];
    match shown.view.plane.kind {
        PlaneKind::V => 0.0,
        PlaneKind::State(entry) => match tensor.state[usize::from(entry)].format.codec {
            StateCodec::Int4 { signed: true } => 8.0,
            _ => 0.0,
        },
        _ => 8.0,
    }
}

/// Levels with the scale and offset of their group; a residue has sixteenths of a level and stays without.
fn levels(file: &File<'_>, shown: &Shown<'_>, first: usize, values: Vec<f64>) -> Line {
    let tensor = &file.tensors()[shown.tensor];
    let group = match shown.view.plane.kind {
        PlaneKind::State(entry) => tensor.state[usize::from(entry)].group,
        _ => tensor.spec.group,
    };
    let group = group.max(1) as usize;
    let get = |kind, brain: bool| {
        let plane = file.plane(shown.tensor, kind)?;
        if plane.plane.element() == Some(Element::PowerOfTwo) {
            return plane.bytes.get(first / group).map(|&byte| fp4::power_of_two(byte));
        }
        let bits = file.plane(shown.tensor, kind)?.u16s()?.get(first / group)?.get();
        Some(if brain { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() })
    };
    let (scale, offset) = match shown.view.plane.kind {
        PlaneKind::Codes | PlaneKind::Bytes => (get(PlaneKind::Scales, false), get(PlaneKind::Offsets, false)),
        PlaneKind::M => (get(PlaneKind::MScales, true), None),
        PlaneKind::V => (get(PlaneKind::VScales, true), None),
        PlaneKind::State(entry) => (get(PlaneKind::StateScales(entry), true), None),
        _ => (None, None),
    };
    Line { first, values, scale, offset }
}

fn lines<'a>(shown: &Shown<'a>) -> impl Iterator<Item = (usize, &'a [u8])> {
    shown.view.bytes.chunks(LINE).enumerate().map(|(i, bytes)| (i * LINE, bytes))
}

fn bytes_of(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// `offset  bytes  [first] values`, levels as `scale x (levels)` or `scale x (levels) + offset`.
pub(super) fn text(out: &mut dyn Write, file: &File<'_>, shown: &Shown<'_>) -> io::Result<()> {
    for (at, bytes) in lines(shown) {
        let line = line(file, shown, at, bytes);
        let offset = shown.view.plane.offset + at as u64;
        write!(out, "{offset:010x}  {:<47}  [{}]", bytes_of(bytes), line.first)?;
        let values = line.values.iter().map(|&x| short(x)).collect::<Vec<_>>().join(" ");
        match (line.scale, line.offset) {
            (Some(s), Some(o)) => writeln!(out, " {} x ({values}) + {}", short(s.into()), short(o.into()))?,
            (Some(s), None) => writeln!(out, " {} x ({values})", short(s.into()))?,
            _ => writeln!(out, " {values}")?,
        }
    }
    Ok(())
}

/// The same as one JSON object, written line by line: planes may be large.
pub(super) fn json(out: &mut dyn Write, file: &File<'_>, shown: &Shown<'_>) -> io::Result<()> {
    let plane = &shown.view.plane;
    let tensor = &file.tensors()[shown.tensor];
    let (name, kind) = (Value::from(tensor.spec.name.as_str()), tensor.plane_name(plane.kind));
    write!(out, "{{\"tensor\":{name},\"plane\":\"{kind}\",\"element\":\"{}\",", plane.element_name())?;
    write!(out, "\"offset\":{},\"bytes\":{},\"lines\":[", plane.offset, plane.len)?;
    for (at, bytes) in lines(shown) {
        let line = line(file, shown, at, bytes);
        let values = line.values.iter().map(|&x| number::json(x)).collect::<Vec<_>>();
        let float = |x: Option<f32>| x.map(|x| number::json(x.into()));
        let value = json!({
            "offset": plane.offset + at as u64, "bytes": bytes_of(bytes), "first": line.first, "values": values,
            "scale": float(line.scale), "group_offset": float(line.offset),
        });
        write!(out, "{}\n{}", if at == 0 { "" } else { "," }, json_line(&value))?;
    }
    writeln!(out, "\n]}}")
}
