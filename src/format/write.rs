//! The writer: a layout is computed and checked first, then the planes are requested twice, once for their checksums,
//! which precede them in the file, and once to be written. The same state gives the same bytes.

use super::align_up;
use super::attachment::{self, Attachment};
use super::directory::{Plane, length};
use super::header::{self, HEADER, Header, MAGIC, MAJOR, MINOR, PLANE_ALIGN, REGION_ALIGN, cap};
use super::metadata;
use super::name;
use super::plane::{PlaneKind, element_tag};
use super::read::Head;
use super::record::{OPTIONAL, PLANE_RECORD, PlaneRecord, TENSOR_RECORD};
use super::spec::{TensorSpec, codec_features};
use super::state::{self, NamedState};
use crate::error::{FormatError, WriteError};
use crate::quant::Element;
use serde_json::{Map, Value};
use std::io::{self, Write};
use xxhash_rust::xxh3::Xxh3;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name, shape, storage.
    pub spec: TensorSpec,
    /// Its planes, in any order, without those of `state`.
    pub planes: Vec<(PlaneKind, Element)>,
    /// State that is to be found by its name: entry k makes [`PlaneKind::State`] k, and its scales if it has any.
    pub state: Vec<NamedState>,
}

impl TensorPlan {
    /// A tensor with the planes of its weight and no others: what a deployable file holds.
    pub fn weight(spec: TensorSpec) -> Self {
        Self { planes: spec.weight_planes().collect(), spec, state: Vec::new() }
    }

    /// The same with one more plane.
    pub fn with(mut self, kind: PlaneKind, element: Element) -> Self {
        self.planes.push((kind, element));
        self
    }

    /// The same with one more state tensor of a name of its own.
    pub fn with_state(mut self, state: NamedState) -> Self {
        self.state.push(state);
        self
    }

    /// All planes, those of the state included.
    fn all_planes(&self) -> impl Iterator<Item = (PlaneKind, Element)> {
        let state = self.state.iter().take(cap::STATE).enumerate().flat_map(|(entry, state)| state.kinds(entry));
        self.planes.iter().copied().chain(state)
    }
}

/// Where the planes' bytes come from.
pub trait PlaneSource {
    /// Sends the bytes of a plane of tensor `tensor` (its index in the layout) to `sink`, in any number of pieces.
    /// Called twice for every plane; it must send the same bytes both times.
    ///
    /// # Errors
    /// Those of `sink`, and its own.
    fn send(&mut self, tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>)
    -> io::Result<()>;
}

impl<F> PlaneSource for F
where
    F: FnMut(usize, PlaneKind, &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
{
    fn send(
        &mut self,
        tensor: usize,
        kind: PlaneKind,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self(tensor, kind, sink)
    }
}

/// A file before it is written: everything but the planes' contents.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The encoded head, without the planes' checksums and its own.
    encoded: Vec<u8>,
    /// The head as a reader will parse it.
    head: Head,
}

impl Layout {
    /// Lays out a file of these tensors, metadata and attachments, and checks it by the rules of the reader. Where a
    /// tensor has named state, the metadata's member `state` says so, whatever was there.
    ///
    /// # Errors
    /// The rule that the file would break.
    pub fn new(
        tensors: &[TensorPlan],
        metadata: &Map<String, Value>,
        attachments: &[Attachment<'_>],
    ) -> Result<Self, FormatError> {
        for (i, tensor) in tensors.iter().enumerate() {
            name::check(tensor.spec.name.as_bytes(), "tensor", i)?;
            tensor.spec.check(i)?;
        }
        let mut names = Vec::new();
        tensors.iter().for_each(|t| name::put(&mut names, &t.spec.name));
        // The oldest version that can say what the file holds, which most programs can read.
        let named = tensors.iter().any(|t| !t.state.is_empty());
        let minor = if named { MINOR } else { 0 };
        let metadata = match named {
            true => {
                let state = tensors.iter().map(|t| (t.spec.name.as_str(), t.state.as_slice()));
                metadata::encode(&state::put(metadata, state))
            }
            false => metadata::encode(metadata),
        };
        let mut attached = Vec::new();
        attachments.iter().for_each(|a| attachment::put(&mut attached, a));

        let records = tensors.len() * TENSOR_RECORD
            + tensors.iter().map(|t| t.all_planes().count()).sum::<usize>() * PLANE_RECORD;
        let head_len = (HEADER + records + names.len() + metadata.len() + attached.len()) as u64;
        let (planes, optimizer_offset) = place(tensors, head_len)?;
        let mut header = Header::new_zeroed();
        header.magic = MAGIC;
        header.major = U16::new(MAJOR);
        header.minor = U16::new(minor);
        header.required = U32::new(tensors.iter().fold(0, |bits, t| bits | codec_features(t.spec.storage)));
        header.file_len = U64::new(planes.last().map_or(head_len, |p| p.range().end));
        header.head_len = U64::new(head_len);
        header.weights_offset = U64::new(align(head_len, REGION_ALIGN)?);
        header.optimizer_offset = U64::new(optimizer_offset);
        // A count that does not fit becomes the largest one, which its cap refuses.
        let count = |n: usize| U32::new(u32::try_from(n).unwrap_or(u32::MAX));
        header.tensor_count = count(tensors.len());
        header.plane_count = count(planes.len());
        header.attachment_count = count(attachments.len());
        header.names_len = count(names.len());
        header.metadata_len = U64::new(metadata.len() as u64);
        header.attachments_len = U64::new(attached.len() as u64);

        let mut encoded = Vec::with_capacity(head_len as usize);
        encoded.extend_from_slice(header.as_bytes());
        tensors.iter().for_each(|t| encoded.extend_from_slice(t.spec.to_record().as_bytes()));
        planes.iter().for_each(|p| encoded.extend_from_slice(record(p).as_bytes()));
        for section in [names, metadata, attached] {
            encoded.extend_from_slice(&section);
        }
        seal(&mut encoded);
        let head = Head::parse(&encoded, header.file_len.get())?;
        Ok(Self { encoded, head })
    }

    /// Bytes of the whole file, to be reserved before writing.
    pub fn file_len(&self) -> u64 {
        self.head.file_len()
    }

    /// The head as a reader will parse it, except for the planes' checksums.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of `out` and `source`, and a source that sends another number of bytes than a plane has, or other
    /// bytes the second time.
    pub fn write(&self, out: &mut impl Write, source: &mut dyn PlaneSource) -> Result<(), WriteError> {
        let planes = &self.head.planes;
        let checksums = planes.iter().map(|plane| self.write_plane(plane, source, &mut io::sink()));
        let checksums = checksums.collect::<Result<Vec<_>, _>>()?;
        let encoded = self.encode(&checksums);
        out.write_all(&encoded)?;
        let mut end = encoded.len() as u64;
        for (plane, checksum) in planes.iter().zip(checksums) {
            pad(out, plane.offset - end)?;
            if self.write_plane(plane, source, out)? != checksum {
                return Err(WriteError::SourceChanged { tensor: self.name(plane), kind: self.plane_name(plane) });
            }
            end = plane.range().end;
        }
        Ok(())
    }

    /// The file's first bytes, up to its planes, whose checksums are given in their order.
    ///
    /// # Panics
    /// If there are more or fewer of them than planes.
    pub fn encode(&self, checksums: &[u64]) -> Vec<u8> {
        let planes = &self.head.planes;
        assert_eq!(checksums.len(), planes.len(), "one checksum for each plane");
        let mut encoded = self.encoded.clone();
        let at = self.head.sections.planes.start as usize;
        let records = encoded[at..].chunks_exact_mut(PLANE_RECORD);
        for ((to, &plane), &checksum) in records.zip(planes).zip(checksums) {
            to.copy_from_slice(record(&Plane { checksum, ..plane }).as_bytes());
        }
        seal(&mut encoded);
        encoded
    }

    /// Writes the bytes of a plane of this layout to `out`; their checksum.
    ///
    /// # Errors
    /// Those of `out` and `source`, and a source that sends another number of bytes than the plane has.
    pub fn write_plane(
        &self,
        plane: &Plane,
        source: &mut dyn PlaneSource,
        out: &mut impl Write,
    ) -> Result<u64, WriteError> {
        let (mut hash, mut found) = (Xxh3::new(), 0u64);
        let short = |found| WriteError::SourceLen {
            tensor: self.name(plane),
            kind: self.plane_name(plane),
            found,
            expected: plane.len,
        };
        source.send(plane.tensor, plane.kind, &mut |bytes| {
            found += bytes.len() as u64;
            // Surplus bytes would shift all planes after this one; they are counted, and refused below.
            if found <= plane.len {
                hash.update(bytes);
                out.write_all(bytes)?;
            }
            Ok(())
        })?;
        if found == plane.len { Ok(hash.digest()) } else { Err(short(found)) }
    }

    fn name(&self, plane: &Plane) -> String {
        self.head.tensors[plane.tensor].spec.name.clone()
    }

    fn plane_name(&self, plane: &Plane) -> String {
        self.head.tensors[plane.tensor].plane_name(plane.kind)
    }
}

/// All planes in file order, each at its offset, and the offset of the optimizer region (0: none).
fn place(tensors: &[TensorPlan], head_len: u64) -> Result<(Vec<Plane>, u64), FormatError> {
    let mut planes = Vec::new();
    for (tensor, plan) in tensors.iter().enumerate() {
        for (kind, element) in plan.all_planes() {
            let element_tag = element_tag(element);
            let len = length(&plan.spec, &plan.state, kind, element_tag)?;
            planes.push(Plane { tensor, kind, element_tag, offset: 0, len, checksum: 0 });
        }
    }
    planes.sort_by_key(Plane::key);
    let (mut end, mut optimizer) = (align(head_len, REGION_ALIGN)?, 0);
    for plane in &mut planes {
        let first = plane.kind.is_optimizer() && optimizer == 0;
        plane.offset = align(end, if first { REGION_ALIGN } else { PLANE_ALIGN })?;
        if first {
            optimizer = plane.offset;
        }
        end = plane.offset.checked_add(plane.len).ok_or(FormatError::FileLen)?;
    }
    Ok((planes, optimizer))
}

fn align(at: u64, align: u64) -> Result<u64, FormatError> {
    align_up(at, align).ok_or(FormatError::FileLen)
}

fn record(plane: &Plane) -> PlaneRecord {
    PlaneRecord {
        tensor: U32::new(plane.tensor as u32),
        kind: plane.kind.tag(),
        element: plane.element_tag,
        flags: if plane.kind.named_state().is_some() { OPTIONAL } else { 0 },
        reserved: 0,
        offset: U64::new(plane.offset),
        len: U64::new(plane.len),
        checksum: U64::new(plane.checksum),
    }
}

/// Sets the head's checksum.
fn seal(head: &mut [u8]) {
    let field = header::FIELDS[4];
    let sum = header::checksum(head);
    head[field.at..field.end()].copy_from_slice(&sum.to_le_bytes());
}

fn pad(out: &mut impl Write, len: u64) -> io::Result<()> {
    const ZEROS: [u8; REGION_ALIGN as usize] = [0; REGION_ALIGN as usize];
    // Never more than a region's alignment lies between two planes.
    out.write_all(&ZEROS[..len as usize])
}
