//! The codes of a quantized plane: how often each occurs, and how many lie at the end of the range.

use bitvec::prelude::{BitVec, bitvec};
use tetrad::format::{File, PlaneKind, Role};
use tetrad::quant::{Element, StateCodec, WeightPlane, nibble};

/// Counts over a plane's elements without padding.
pub(super) struct Codes {
    /// Of each nibble; absent for planes of whole bytes.
    pub counts: Option<[u64; 16]>,
    /// Elements at either end of the code range.
    pub saturated: u64,
    /// Groups with at least one of those.
    pub saturated_groups: u64,
    /// Groups in all.
    pub groups: u64,
}

/// The codes behind a tensor's values in a role; `None` if they are floats.
pub(super) fn of(file: &File<'_>, tensor: usize, role: Role) -> Option<Codes> {
    let spec = &file.tensors()[tensor].spec;
    let kind = match role {
        Role::Weight => PlaneKind::of_weight(spec.storage, WeightPlane::Data),
        Role::Trained => PlaneKind::Residue,
        Role::M => PlaneKind::M,
        Role::V => PlaneKind::V,
        Role::State(entry) => PlaneKind::State(entry),
    };
    let named = kind.named_state().map(|(entry, _)| &file.tensors()[tensor].state[entry]);
    let shape = named.map_or_else(|| spec.grouped_shape(), |state| Some(state.grouped_shape(spec)));
    let (view, g) = (file.plane(tensor, kind)?, shape?);
    let codec = named.map(|state| state.format.codec);
    let element = view.plane.element()?;
    let nibbles = element == Element::Nibble;
    let ends: [u8; 2] = match (role, element) {
        (Role::Weight, Element::Nibble) => spec.storage.end_codes(),
        (Role::M, Element::Nibble) => [1, 15],
        (_, Element::Nibble) if codec == Some(StateCodec::Int4 { signed: true }) => [1, 15],
        (Role::V | Role::State(_), Element::Nibble) => [15, 15],
        (_, Element::I8) => [127, 127u8.wrapping_neg()],
        (Role::V | Role::State(_), Element::U8) => [255, 255],
        // A residue has no end of its own: the byte saturates, which the codes show.
        (Role::Trained, Element::Nibble) => [16, 16],
        _ => return None,
    };
    let mut counts = [0; 16];
    let mut saturated = 0;
    let mut groups: BitVec = bitvec![0; g.groups()];
    for row in 0..g.rows {
        let first = row * g.padded_cols();
        for i in first..first + g.cols {
            let code = if nibbles { nibble(view.bytes, i) } else { view.bytes[i] };
            if nibbles {
                counts[usize::from(code)] += 1;
            }
            if ends.contains(&code) {
                saturated += 1;
                groups.set(i / g.group, true);
            }
        }
    }
    let (counts, saturated_groups) = (nibbles.then_some(counts), groups.count_ones() as u64);
    Some(Codes { counts, saturated, saturated_groups, groups: g.groups() as u64 })
}

/// A row of bars, one character per code; a code that does not occur is a dot.
pub(super) fn bars(counts: &[u64; 16]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let bar =
        |&n: &u64| if n == 0 { '.' } else { BARS[((n as f64 / most as f64 * 8.0).ceil() as usize).clamp(1, 8) - 1] };
    counts.iter().map(bar).collect()
}
