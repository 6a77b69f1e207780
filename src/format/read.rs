//! The reader: opening a file checks everything but the planes' contents, which it does not read.

use super::attachment;
use super::directory::{self, Plane};
use super::header::{self, HEADER, Header};
use super::metadata;
use super::plane::PlaneKind;
use super::record::{PLANE_RECORD, TENSOR_RECORD};
use super::spec::TensorSpec;
use super::state::{self, NamedState};
use crate::error::{ContentsError, FormatError};
use crate::quant::Element;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::ops::Range;
use zerocopy::FromBytes;
use zerocopy::little_endian::{F32, U16};

/// A tensor and its planes, those of the weight region first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name, shape, storage.
    pub spec: TensorSpec,
    /// The state tensors that the file names, in the order of their [`PlaneKind::State`].
    pub state: Vec<NamedState>,
    /// Its planes in file order, including unknown optional ones as [`PlaneKind::Other`].
    pub planes: Vec<Plane>,
}

impl Tensor {
    /// Its plane of this kind.
    pub fn plane(&self, kind: PlaneKind) -> Option<&Plane> {
        self.planes.iter().find(|p| p.kind == kind)
    }

    /// The name of one of its planes: that of SPEC.md, or the one that the file gives its state.
    pub fn plane_name(&self, kind: PlaneKind) -> String {
        state::plane_name(&self.state, kind)
    }

    /// Its plane of this name.
    pub fn plane_named(&self, name: &str) -> Option<&Plane> {
        self.planes.iter().find(|plane| self.plane_name(plane.kind) == name)
    }
}

/// The ranges of a file's sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    /// The fixed header.
    pub header: Range<u64>,
    /// Tensor records.
    pub tensors: Range<u64>,
    /// Plane records.
    pub planes: Range<u64>,
    /// Names of the tensors.
    pub names: Range<u64>,
    /// The JSON object.
    pub metadata: Range<u64>,
    /// Attachments with their names and lengths; the head ends here.
    pub attachments: Range<u64>,
    /// From the first plane of the weight region to the end of its last.
    pub weights: Range<u64>,
    /// The same for the optimizer region; empty at the file's end if there is none.
    pub optimizer: Range<u64>,
}

/// A file without its planes: owned, so that it can outlive the map.
#[derive(Clone, Debug)]
pub struct Head {
    /// The file's minor version.
    pub minor: u16,
    /// The tensors, in file order.
    pub tensors: Vec<Tensor>,
    /// All planes, in file order.
    pub planes: Vec<Plane>,
    /// The JSON object, without the lists of named state, which are in the tensors.
    pub metadata: Map<String, Value>,
    /// Names and places of the attachments.
    pub attachments: Vec<(String, Range<u64>)>,
    /// The ranges of its sections.
    pub sections: Sections,
    index: HashMap<String, usize>,
}

impl Head {
    /// Checks the head of a file of `file_len` bytes, of which `bytes` are the first: the whole head or more.
    ///
    /// Takes time and memory in proportion to the head's length, which is bounded by `bytes` and by the caps.
    ///
    /// # Errors
    /// R1 to R32, R42 to R44.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self, FormatError> {
        let header = header::parse(bytes, file_len)?;
        let sections = sections(&header);
        let at = |range: &Range<u64>| &bytes[range.start as usize..range.end as usize];
        let (specs, index) = directory::tensors(at(&sections.tensors), at(&sections.names), &header)?;
        let mut metadata = metadata::parse(at(&sections.metadata))?;
        let state = match header.minor.get() {
            0 => vec![Vec::new(); specs.len()],
            _ => state::take(&mut metadata, &specs, &index)?,
        };
        let tensors = specs.into_iter().zip(state).map(|(spec, state)| Tensor { spec, state, planes: Vec::new() });
        let mut tensors: Vec<_> = tensors.collect();
        let planes = directory::planes(at(&sections.planes), sections.planes.start, &mut tensors, &header)?;
        let count = header.attachment_count.get();
        let attachments = attachment::parse(at(&sections.attachments), count, sections.attachments.start)?;
        let sections = with_regions(sections, &planes, file_len);
        Ok(Self { minor: header.minor.get(), tensors, planes, metadata, attachments, sections, index })
    }

    /// The index of the tensor of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Whether the file holds more than weights: residue, moments, scalars of the optimizer.
    pub fn has_optimizer(&self) -> bool {
        !self.sections.optimizer.is_empty()
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.sections.optimizer.end
    }
}

/// The sections that follow from the header; the regions are still empty.
fn sections(header: &Header) -> Sections {
    let mut end = 0;
    let mut next = |len: u64| {
        let start = end;
        end += len;
        start..end
    };
    Sections {
        header: next(HEADER as u64),
        tensors: next(u64::from(header.tensor_count.get()) * TENSOR_RECORD as u64),
        planes: next(u64::from(header.plane_count.get()) * PLANE_RECORD as u64),
        names: next(header.names_len.get().into()),
        metadata: next(header.metadata_len.get()),
        attachments: next(header.attachments_len.get()),
        weights: 0..0,
        optimizer: 0..0,
    }
}

fn with_regions(sections: Sections, planes: &[Plane], file_len: u64) -> Sections {
    let split = planes.partition_point(|p| !p.kind.is_optimizer());
    let range = |planes: &[Plane]| match (planes.first(), planes.last()) {
        (Some(first), Some(last)) => first.offset..last.range().end,
        _ => file_len..file_len,
    };
    Sections { weights: range(&planes[..split]), optimizer: range(&planes[split..]), ..sections }
}

/// A whole file.
#[derive(Clone, Debug)]
pub struct File<'a> {
    head: Head,
    bytes: &'a [u8],
}

impl<'a> File<'a> {
    /// Opens a file, usually a memory map. Checks header, directory, names, metadata, attachments and the layout, and
    /// reads no plane, so it takes no longer for large files.
    ///
    /// # Errors
    /// R1 to R32, R42 to R44, and R34 for the padding behind the head.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let head = Head::parse(bytes, bytes.len() as u64)?;
        let file = Self { head, bytes };
        file.check_padding(file.head.sections.attachments.end..file.head.sections.weights.start)?;
        Ok(file)
    }

    /// Everything but the planes' contents.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The head, which does not borrow the bytes.
    pub fn into_head(self) -> Head {
        self.head
    }

    /// The bytes it was opened over.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.head.tensors
    }

    /// The tensor of this name, and its index.
    pub fn tensor(&self, name: &str) -> Option<(usize, &Tensor)> {
        self.head.find(name).map(|i| (i, &self.head.tensors[i]))
    }

    /// The metadata.
    pub fn metadata(&self) -> &Map<String, Value> {
        &self.head.metadata
    }

    /// The content of the attachment of this name.
    pub fn attachment(&self, name: &str) -> Option<&'a [u8]> {
        let found = self.head.attachments.iter().find(|a| a.0 == name);
        found.map(|(_, range)| self.slice(range))
    }

    /// A tensor's plane, borrowed from the file.
    ///
    /// # Panics
    /// If there is no tensor of this index.
    pub fn plane(&self, tensor: usize, kind: PlaneKind) -> Option<PlaneView<'a>> {
        self.head.tensors[tensor].plane(kind).map(|plane| self.view(plane))
    }

    /// A plane of this file, borrowed from it.
    pub(crate) fn view(&self, plane: &Plane) -> PlaneView<'a> {
        PlaneView { plane: *plane, bytes: self.slice(&plane.range()) }
    }

    /// Bytes in a range that the layout rules have found inside the file.
    pub(crate) fn slice(&self, range: &Range<u64>) -> &'a [u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// R34 for one range.
    pub(crate) fn check_padding(&self, range: Range<u64>) -> Result<(), ContentsError> {
        match self.slice(&range).iter().position(|&b| b != 0) {
            None => Ok(()),
            Some(i) => {
                let at = range.start + i as u64;
                Err(ContentsError::Padding { at, found: self.bytes[at as usize] })
            }
        }
    }
}

/// A plane's bytes, borrowed from the file.
#[derive(Clone, Copy, Debug)]
pub struct PlaneView<'a> {
    /// Its record.
    pub plane: Plane,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> PlaneView<'a> {
    /// Its elements, if they are f32; they need no alignment.
    pub fn f32s(&self) -> Option<&'a [F32]> {
        (self.plane.element() == Some(Element::F32)).then(|| <[F32]>::ref_from_bytes(self.bytes).ok()).flatten()
    }

    /// The bits of its elements, if they are f16 or bf16; they need no alignment.
    pub fn u16s(&self) -> Option<&'a [U16]> {
        let short = matches!(self.plane.element(), Some(Element::F16 | Element::Bf16));
        short.then(|| <[U16]>::ref_from_bytes(self.bytes).ok()).flatten()
    }

    /// Its elements, if they are i8.
    pub fn i8s(&self) -> Option<&'a [i8]> {
        (self.plane.element() == Some(Element::I8)).then(|| <[i8]>::ref_from_bytes(self.bytes).ok()).flatten()
    }
}
