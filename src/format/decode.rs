//! Planes as numbers, row by row: what `dump` shows, `diff` compares and exports are made of.

use super::plane::PlaneKind;
use super::read::{File, PlaneView, Tensor};
use super::spec::TensorSpec;
use crate::quant::{Element, GROUPS, GroupedShape, MomentCodec, RowDecoder, StateCodec, WeightFormat, nibble};
use half::{bf16, f16};
use zerocopy::little_endian::{F32, U16};

/// Which of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The deployed weight: for INT4 the code's value.
    Weight,
    /// The trained weight: code and residue.
    Trained,
    /// First moment.
    M,
    /// Second moment (the square of what is stored, if quantized).
    V,
    /// The state tensor of this number among those that the file names; unsigned codes as the squares of what is stored.
    State(u8),
}

impl Role {
    /// All that every file may have, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Weight, Self::Trained, Self::M, Self::V];

    /// All that a tensor may have.
    pub fn of(tensor: &Tensor) -> impl Iterator<Item = Self> + use<> {
        Self::ALL.into_iter().chain((0..tensor.state.len()).map(|entry| Self::State(entry as u8)))
    }

    /// Its name in `dump`.
    pub fn name(self, tensor: &Tensor) -> &str {
        match self {
            Self::Weight => "weight",
            Self::Trained => "trained",
            Self::M => "m",
            Self::V => "v",
            Self::State(entry) => tensor.state.get(usize::from(entry)).map_or("state", |state| &state.name),
        }
    }
}

/// Decodes the rows of one tensor in one role.
pub struct Decoder<'a> {
    shape: GroupedShape,
    source: Source<'a>,
}

enum Source<'a> {
    Weight(RowDecoder<'a>),
    Trained(RowDecoder<'a>),
    /// Moments as they are.
    Floats(&'a [F32]),
    /// Moments under scales.
    Codes {
        codec: MomentCodec,
        nibbles: bool,
        codes: &'a [u8],
        scales: &'a [U16],
    },
}

impl<'a> Decoder<'a> {
    /// The decoder of a tensor's values in a role; `None` if it has none.
    ///
    /// # Panics
    /// If there is no tensor of this index.
    pub fn new(file: &File<'a>, tensor: usize, role: Role) -> Option<Self> {
        let spec = &file.head().tensors[tensor].spec;
        // Without groups every plane is one of floats, which no group size pads.
        let ungrouped = || GroupedShape::new(spec.rows() as usize, spec.cols() as usize, GROUPS[0]);
        let shape = spec.grouped_shape().unwrap_or_else(ungrouped);
        let source = match role {
            Role::Weight => Source::Weight(weight(file, tensor, spec, shape, false)?),
            Role::Trained => Source::Trained(weight(file, tensor, spec, shape, true)?),
            Role::M => moment(file.plane(tensor, PlaneKind::M)?, file.plane(tensor, PlaneKind::MScales), true)?,
            Role::V => moment(file.plane(tensor, PlaneKind::V)?, file.plane(tensor, PlaneKind::VScales), false)?,
            Role::State(entry) => return named(file, tensor, entry),
        };
        Some(Self { shape, source })
    }

    /// Rows: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Elements of a row, padding not counted.
    pub fn cols(&self) -> usize {
        self.shape.cols
    }

    /// Decodes row `row` into `out`.
    ///
    /// # Panics
    /// If there is no such row, or `out` has not [`cols`](Self::cols) elements.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows() && out.len() == self.cols(), "row {row} into {} elements", out.len());
        match &self.source {
            Source::Weight(decoder) => {
                decoder.read(row, 0, out);
                if decoder.is_quantized() {
                    // A code for zero is a positive zero, whatever the sign of its scale.
                    out.iter_mut().for_each(|x| *x += 0.0);
                }
            }
            Source::Trained(decoder) => {
                decoder.read_trained(row, out);
                out.iter_mut().for_each(|x| *x += 0.0);
            }
            Source::Floats(data) => {
                let plain = row * self.cols()..(row + 1) * self.cols();
                out.iter_mut().zip(&data[plain]).for_each(|(o, x)| *o = x.get());
            }
            Source::Codes { codec, nibbles, codes, scales } => {
                let (group, first) = (self.shape.group, row * self.shape.padded_cols());
                for (g, out) in out.chunks_mut(group).enumerate() {
                    let from = first + g * group;
                    let mut codes: Vec<u8> = match nibbles {
                        true => (from..from + out.len()).map(|i| nibble(codes, i)).collect(),
                        false => codes[from..from + out.len()].to_vec(),
                    };
                    if *nibbles {
                        codec.from_nibbles(&mut codes);
                    }
                    codec.decode(&codes, scales[from / group].get(), out);
                    out.iter_mut().for_each(|x| *x += 0.0);
                }
            }
        }
    }
}

fn weight<'a>(
    file: &File<'a>,
    tensor: usize,
    spec: &TensorSpec,
    shape: GroupedShape,
    trained: bool,
) -> Option<RowDecoder<'a>> {
    let format = WeightFormat::of(spec.storage).with_residue(trained);
    if format.has_residue() != trained {
        return None;
    }
    let plane = |plane| file.plane(tensor, PlaneKind::of_weight(spec.storage, plane)).map(|view| view.bytes);
    let found = format.planes().all(|(kind, _)| plane(kind).is_some());
    found.then(|| RowDecoder::new(format, shape, |kind| plane(kind).unwrap_or_default()))
}

/// The rows of a state tensor that the file names.
fn named<'a>(file: &File<'a>, tensor: usize, entry: u8) -> Option<Decoder<'a>> {
    let found = &file.tensors()[tensor];
    let state = found.state.get(usize::from(entry))?;
    let shape = state.grouped_shape(&found.spec);
    let signed = !matches!(state.format.codec, StateCodec::Int8 { signed: false } | StateCodec::Int4 { signed: false });
    let values = file.plane(tensor, PlaneKind::State(entry))?;
    let source = moment(values, file.plane(tensor, PlaneKind::StateScales(entry)), signed)?;
    Some(Decoder { shape, source })
}

fn moment<'a>(values: PlaneView<'a>, scales: Option<PlaneView<'a>>, signed: bool) -> Option<Source<'a>> {
    let element = values.plane.element()?;
    let codec = match element {
        Element::F32 => return Some(Source::Floats(values.f32s()?)),
        Element::Nibble => StateCodec::Int4 { signed },
        Element::I8 | Element::U8 => StateCodec::Int8 { signed },
        _ => return None,
    };
    let nibbles = element == Element::Nibble;
    Some(Source::Codes { codec: codec.moment()?, nibbles, codes: values.bytes, scales: scales?.u16s()? })
}

/// The value of an f16.
pub(crate) fn half_value(bits: U16) -> f32 {
    f16::from_bits(bits.get()).to_f32()
}

/// The value of a bf16.
pub(crate) fn brain_value(bits: U16) -> f32 {
    bf16::from_bits(bits.get()).to_f32()
}
