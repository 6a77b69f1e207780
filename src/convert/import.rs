//! A source into a file, tensor by tensor.

use super::Progress;
use super::quants::{GroupBits, Kind, group_bits};
use super::source::{Source, Stored, configuration};
use crate::backend::{Scheme, WeightKind};
use crate::checkpoint::{GENERATION_CONFIG, Meta, TOKENIZER, TOKENIZER_CONFIG, spec};
use crate::config::Config;
use crate::error::{ConvertError, ReplaceError, WriteError};
use crate::format::{Attachment, Element, Layout, PlaneKind, TensorPlan};
use crate::model::{ParamKind, ParamSpec, TableStorage, param_specs};
use crate::quant::{GroupedShape, PAD_NIBBLE, QuantGrid, Rounding, pack};
use crate::store::replace;
use crate::train::Counters;
use half::{bf16, f16};
use rayon::prelude::*;
use std::io;
use std::path::Path;
use zerocopy::IntoBytes;

/// How a model is stored here; what is not said follows from the source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Symmetric, or with offsets.
    pub scheme: Option<Scheme>,
    /// Elements per group.
    pub group: Option<usize>,
    /// The embedding (and the head, if tied).
    pub embedding: Option<TableStorage>,
    /// The untied head.
    pub head: Option<TableStorage>,
    /// Leave out the four bits below the codes.
    pub codes_only: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The configuration of the file.
    pub config: Config,
    /// Bytes of the file.
    pub bytes: u64,
    /// Tensors whose bits were kept.
    pub kept: usize,
    /// Tensors that were rounded to four or eight bits.
    pub rounded: usize,
    /// Tensors of floats.
    pub floats: usize,
}

/// Writes a source's model to `path`, atomically. The same source gives the same bytes.
///
/// # Errors
/// Weights that are not finite, options that make no sense, the file system.
pub fn import(
    source: &Source,
    options: &Options,
    path: &Path,
    progress: &mut Progress,
) -> Result<Summary, ConvertError> {
    refuse_itself(source, path)?;
    let config = storage(source, options)?;
    let entries = param_specs(&config.settings());
    let ways: Vec<Way> = entries.iter().map(|entry| Way::of(source, entry, &config)).collect();
    let plans: Vec<TensorPlan> = entries
        .iter()
        .zip(&ways)
        .map(|(entry, way)| {
            let plan = TensorPlan::weight(spec(entry, config.storage.scheme));
            let fine = *way == Way::Rounded && entry.residue;
            if fine { plan.with(PlaneKind::Residue, Element::Nibble) } else { plan }
        })
        .collect();
    let beside = [
        (TOKENIZER, &source.tokenizer),
        (TOKENIZER_CONFIG, &source.tokenizer_config),
        (GENERATION_CONFIG, &source.generation_config),
    ];
    let attachments: Vec<Attachment> = beside
        .into_iter()
        .filter_map(|(name, bytes)| bytes.as_deref().map(|bytes| Attachment { name, bytes }))
        .collect();
    let meta = Meta::new(&config, Counters::default(), source.tokenizer.is_some(), "");
    let layout = Layout::new(&plans, &meta.to_map(), &attachments)
        .map_err(|e| ConvertError::Format { path: path.into(), source: Box::new(e) })?;
    let mut reader = Reader { source, entries: &entries, ways: &ways, scheme: config.storage.scheme, latest: None };
    // Every plane is drawn twice: for its checksum, then to be written.
    let (mut done, total) = (0, 2 * layout.file_len());
    let mut fault = None;
    let mut draw = |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        let mut counted = |bytes: &[u8]| {
            done += bytes.len() as u64;
            progress(done.min(total), total);
            sink(bytes)
        };
        reader.send(tensor, kind, &mut counted).map_err(|error| match error {
            Stop::Io(error) => error,
            Stop::Fault(error) => {
                fault = Some(error);
                io::Error::other("the source's weights are not sound")
            }
        })
    };
    let written = replace(path, layout.file_len(), |out| layout.write(out, &mut draw));
    progress(total, total);
    if let Some(fault) = fault {
        return Err(fault);
    }
    written.map_err(|error| match error {
        ReplaceError::Store(source) => ConvertError::Store(source),
        ReplaceError::Write(WriteError::Io(e)) => ConvertError::Write { path: path.into(), reason: e.to_string() },
        ReplaceError::Write(e) => ConvertError::Write { path: path.into(), reason: e.to_string() },
    })?;
    let count = |way| ways.iter().filter(|found| **found == way).count();
    let (kept, rounded, floats) = (count(Way::Kept), count(Way::Rounded), count(Way::Floats));
    Ok(Summary { config, bytes: layout.file_len(), kept, rounded, floats })
}

/// The file that is written must be none of those that are read: often they are the only copy.
fn refuse_itself(source: &Source, path: &Path) -> Result<(), ConvertError> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let same = |other: &Path| real(path).is_some_and(|path| real(other) == Some(path));
    match source.files.iter().find(|(other, _)| same(other)) {
        Some(_) => {
            let what = "is the file that is read; name another one to write".into();
            Err(ConvertError::Source { path: path.into(), what })
        }
        None => Ok(()),
    }
}

/// The configuration of the file: scheme, group and tables that keep most of the source's bits, unless told otherwise.
fn storage(source: &Source, options: &Options) -> Result<Config, ConvertError> {
    let mut config = configuration(&source.path, &source.model)?;
    let kinds: Vec<Kind> = source
        .tensors
        .iter()
        .filter(|(role, _)| !role.is_vector())
        .filter(|(role, _)| match role {
            ParamKind::Embedding => options.embedding.is_none_or(|table| table == TableStorage::Int4),
            ParamKind::Head => options.head.is_none_or(|table| table == TableStorage::Int4),
            _ => true,
        })
        .map(|(_, stored)| stored.info.kind)
        .collect();
    let any = |which: &[Kind]| kinds.iter().any(|kind| which.contains(kind));
    let storage = &mut config.storage;
    storage.scheme = options.scheme.unwrap_or(match any(&[Kind::Q4_1, Kind::Q4K, Kind::Q5_1, Kind::Q5K]) {
        true => Scheme::Asymmetric,
        false => Scheme::Symmetric,
    });
    let blocks = any(&[Kind::Q4_0, Kind::Q4_1, Kind::Q4K, Kind::Q8_0, Kind::Q5_0, Kind::Q5_1, Kind::Q5K, Kind::Q6K]);
    storage.group = options.group.unwrap_or(if blocks { 32 } else { storage.group });
    storage.embedding = options.embedding.unwrap_or_else(|| table_storage(source.kind(ParamKind::Embedding)));
    storage.head = options.head.unwrap_or_else(|| table_storage(source.kind(ParamKind::Head)));
    storage.residue = !options.codes_only;
    config.train.sequence = source.model.context.min(512);
    config.train.warmup = config.train.warmup.min(config.train.steps);
    if source.tokenizer.is_none() {
        config.tokenizer.file = None;
    }
    config.validate().map_err(|e| ConvertError::Source { path: source.path.clone(), what: e.to_string() })?;
    Ok(config)
}

fn table_storage(kind: Option<Kind>) -> TableStorage {
    match kind {
        None | Some(Kind::F32 | Kind::F16 | Kind::Bf16) => TableStorage::Bf16,
        Some(Kind::Q4_0 | Kind::Q4_1 | Kind::Q4K) => TableStorage::Int4,
        Some(Kind::Q8_0 | Kind::Q5_0 | Kind::Q5_1 | Kind::Q5K | Kind::Q6K) => TableStorage::Int8,
    }
}

/// How a tensor comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Its groups are groups of ours.
    Kept,
    /// Rounded to a grid.
    Rounded,
    /// As floats.
    Floats,
}

impl Way {
    fn of(source: &Source, entry: &ParamSpec, config: &Config) -> Self {
        let kind = source.tensors[&entry.kind].info.kind;
        let same_groups = entry.shape.group == 32;
        let asymmetric = config.storage.scheme == Scheme::Asymmetric;
        match (entry.storage, kind) {
            (WeightKind::Int4, Kind::Q4_0) if same_groups => Self::Kept,
            (WeightKind::Int4, Kind::Q4_1 | Kind::Q4K) if same_groups && asymmetric => Self::Kept,
            (WeightKind::Int8, Kind::Q8_0) if same_groups => Self::Kept,
            (WeightKind::Int4 | WeightKind::Int8, _) => Self::Rounded,
            _ => Self::Floats,
        }
    }
}

/// Why drawing a plane ended.
enum Stop {
    Io(io::Error),
    Fault(ConvertError),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The planes of one tensor.
#[derive(Default)]
struct Planes {
    /// Codes or bytes.
    data: Vec<u8>,
    residue: Vec<u8>,
    scales: Vec<u8>,
    offsets: Vec<u8>,
}

struct Reader<'a> {
    source: &'a Source,
    entries: &'a [ParamSpec],
    ways: &'a [Way],
    scheme: Scheme,
    /// The tensor whose planes were drawn last: they are drawn one after the other.
    latest: Option<(usize, Planes)>,
}

/// Where a group's largest magnitude lands, in scales. A fit in training leaves more room below the limit of 7.4, so
/// that fits stay rare; what is brought in is first of all to be as near as sixteen values come to what it was.
const FIT: f32 = 7.2;

/// Bytes of floats that are sent at once.
const PIECE: usize = 1 << 20;

impl Reader<'_> {
    fn send(
        &mut self,
        tensor: usize,
        kind: PlaneKind,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Stop> {
        let entry = &self.entries[tensor];
        let stored = &self.source.tensors[&entry.kind];
        if self.ways[tensor] == Way::Floats {
            return self.send_floats(entry, stored, sink);
        }
        if self.latest.as_ref().is_none_or(|(latest, _)| *latest != tensor) {
            // The old planes go before the new ones come.
            self.latest = None;
            let planes = self.planes(entry, stored, self.ways[tensor]).map_err(|row| self.fault(stored, row))?;
            self.latest = Some((tensor, planes));
        }
        let planes = &self.latest.as_ref().expect("filled above").1;
        sink(match kind {
            PlaneKind::Codes | PlaneKind::Bytes => &planes.data,
            PlaneKind::Scales => &planes.scales,
            PlaneKind::Offsets => &planes.offsets,
            _ => &planes.residue,
        })?;
        Ok(())
    }

    fn fault(&self, stored: &Stored, row: usize) -> Stop {
        let path = self.source.files[stored.file].0.clone();
        let row = stored.order.theirs(row);
        Stop::Fault(ConvertError::NotFinite { path, tensor: stored.info.name.clone(), row })
    }

    fn send_floats(
        &self,
        entry: &ParamSpec,
        stored: &Stored,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Stop> {
        let g = entry.shape;
        let mut values = vec![0.0f32; g.cols];
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE + 4 * g.cols);
        for row in 0..g.rows {
            stored.info.kind.decode(self.source.row(stored, row), &mut values);
            if !values.iter().all(|x| x.is_finite()) {
                return Err(self.fault(stored, row));
            }
            if entry.storage == WeightKind::Bf16 {
                piece.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()));
            } else {
                piece.extend_from_slice(values.as_bytes());
            }
            if piece.len() >= PIECE || row + 1 == g.rows {
                sink(&piece)?;
                piece.clear();
            }
        }
        Ok(())
    }

    /// All planes of a tensor, or the first row that cannot be.
    fn planes(&self, entry: &ParamSpec, stored: &Stored, way: Way) -> Result<Planes, usize> {
        let g = entry.shape;
        let int8 = entry.storage == WeightKind::Int8;
        let fine = way == Way::Rounded && entry.residue;
        let asymmetric = !int8 && self.scheme == Scheme::Asymmetric;
        let row_bytes = if int8 { g.padded_cols() } else { g.padded_cols() / 2 };
        let group_bytes = 2 * g.groups_per_row();
        let mut planes = Planes {
            data: vec![0; g.rows * row_bytes],
            residue: vec![0; if fine { g.rows * row_bytes } else { 0 }],
            scales: vec![0; g.rows * group_bytes],
            offsets: vec![0; if asymmetric { g.rows * group_bytes } else { 0 }],
        };
        // Planes that are not there become empty rows.
        let rows = planes
            .data
            .par_chunks_mut(row_bytes)
            .zip(planes.scales.par_chunks_mut(group_bytes))
            .zip(rows_or_none(&mut planes.residue, row_bytes, g.rows))
            .zip(rows_or_none(&mut planes.offsets, group_bytes, g.rows));
        let grid = if int8 {
            QuantGrid::INT8
        } else {
            QuantGrid { target: FIT, ..if entry.residue { QuantGrid::INT4 } else { QuantGrid::CODES } }
        };
        let job = Job { g, grid, asymmetric, kind: stored.info.kind };
        rows.enumerate()
            .with_min_len(16)
            .map_init(
                || Scratch::new(g),
                |scratch, (row, (((data, scales), residue), offsets))| {
                    let bytes = self.source.row(stored, row);
                    let mut out = RowPlanes { data, scales, residue, offsets };
                    let sound = match way {
                        Way::Kept => job.keep(bytes, &mut out),
                        _ => job.round(bytes, scratch, &mut out),
                    };
                    if sound { Ok(()) } else { Err(row) }
                },
            )
            .collect::<Result<(), usize>>()?;
        Ok(planes)
    }
}

/// Rows of a plane, or as many empty ones if there is no plane.
fn rows_or_none(plane: &mut [u8], row: usize, rows: usize) -> impl IndexedParallelIterator<Item = &mut [u8]> {
    let there = !plane.is_empty();
    let mut parts: Vec<&mut [u8]> = if there { plane.chunks_mut(row).collect() } else { Vec::new() };
    parts.resize_with(rows, Default::default);
    parts.into_par_iter()
}

/// One row of each plane.
struct RowPlanes<'a> {
    data: &'a mut [u8],
    scales: &'a mut [u8],
    residue: &'a mut [u8],
    offsets: &'a mut [u8],
}

struct Scratch {
    values: Vec<f32>,
    b: Vec<f32>,
    codes: Vec<u8>,
}

impl Scratch {
    fn new(g: GroupedShape) -> Self {
        Self { values: vec![0.0; g.cols], b: vec![0.0; g.padded_cols()], codes: vec![0; g.padded_cols()] }
    }
}

/// What happens to every row of a tensor.
#[derive(Clone, Copy)]
struct Job {
    g: GroupedShape,
    grid: QuantGrid,
    asymmetric: bool,
    kind: Kind,
}

impl Job {
    /// Takes the groups over; false if one holds what no group can.
    fn keep(&self, row: &[u8], out: &mut RowPlanes) -> bool {
        (0..self.g.groups_per_row()).all(|i| {
            let bits = group_bits(self.kind, row, i).expect("only such kinds are kept");
            let bits = if self.asymmetric { bits.with_offset() } else { bits };
            let bits = match bits {
                GroupBits::Bytes { .. } if !bits.is_sound() => self.bytes_again(row, i),
                bits => bits,
            };
            self.put(i, bits, out);
            bits.is_sound()
        })
    }

    fn put(&self, i: usize, bits: GroupBits, out: &mut RowPlanes) {
        let mut set = |scale: u16, codes: &[u8]| {
            out.data[i * codes.len()..][..codes.len()].copy_from_slice(codes);
            out.scales[2 * i..][..2].copy_from_slice(&scale.to_le_bytes());
        };
        match bits {
            GroupBits::Symmetric { scale, codes } => set(scale, &codes),
            GroupBits::Bytes { scale, codes } => set(scale, &codes),
            GroupBits::Asymmetric { scale, offset, codes } => {
                set(scale, &codes);
                out.offsets[2 * i..][..2].copy_from_slice(&offset.to_le_bytes());
            }
        }
    }

    /// A Q8_0 group that our format has no bits for (code -128, negative scale), rounded; still unsound if its scale
    /// is not finite.
    fn bytes_again(&self, row: &[u8], i: usize) -> GroupBits {
        let (mut values, mut b) = ([0.0; 32], [0.0; 32]);
        let size = self.kind.block_bytes();
        self.kind.decode(&row[i * size..][..size], &mut values);
        let sound = values.iter().all(|x| x.is_finite());
        let group_scale = QuantGrid::INT8.quantize(&values, false, Rounding::Nearest, &mut b);
        let scale = if sound { f16::from_f32(group_scale.scale) } else { f16::NAN };
        GroupBits::Bytes { scale: scale.to_bits(), codes: b.map(|b| b as i32 as u8) }
    }

    /// Rounds to nearest; false if a value is not finite.
    fn round(&self, row: &[u8], scratch: &mut Scratch, out: &mut RowPlanes) -> bool {
        let g = self.g;
        self.kind.decode(row, &mut scratch.values);
        // Beyond 16 bits' range no scale reaches.
        if !scratch.values.iter().all(|x| x.abs() <= f16::MAX.to_f32()) {
            return false;
        }
        for (i, values) in scratch.values.chunks(g.group).enumerate() {
            let b = &mut scratch.b[i * g.group..][..values.len()];
            let group_scale = self.grid.quantize(values, self.asymmetric, Rounding::Nearest, b);
            out.scales[2 * i..][..2].copy_from_slice(&f16::from_f32(group_scale.scale).to_le_bytes());
            if let Some(offset) = group_scale.offset {
                out.offsets[2 * i..][..2].copy_from_slice(&f16::from_f32(offset).to_le_bytes());
            }
        }
        if out.data.len() == g.padded_cols() {
            let bytes = out.data.iter_mut().zip(&scratch.b).take(g.cols);
            bytes.for_each(|(byte, &b)| *byte = b as i32 as u8);
        } else if out.residue.is_empty() {
            scratch.pack(g, |b| if self.grid.steps_per_scale == 1.0 { b } else { b >> 4 }, out.data);
        } else {
            scratch.pack(g, |b| b >> 4, out.data);
            scratch.pack(g, |b| b & 15, out.residue);
        }
        true
    }
}

impl Scratch {
    fn pack(&mut self, g: GroupedShape, part: impl Fn(u8) -> u8, plane: &mut [u8]) {
        for (code, &b) in self.codes.iter_mut().zip(&self.b[..g.cols]) {
            *code = part(b as i32 as u8);
        }
        self.codes[g.cols..].fill(PAD_NIBBLE);
        pack(&self.codes, plane);
    }
}
