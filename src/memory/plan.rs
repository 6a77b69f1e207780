//! Every buffer of a run with its bytes and lifetime, and the offsets that follow from them.

use super::{ALIGN, Place, Span};

/// What a buffer is for; the rows of the table that `plan` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// What forward, backward and sampling read.
    Weights,
    /// The four bits below each packed weight.
    Residue,
    /// Optimizer moments and scalars.
    State,
    /// The one gradient buffer, and the vectors'.
    Gradient,
    /// What forward keeps for backward.
    Activations,
    /// Panels, partial sums, logits of one chunk, tokens.
    Scratch,
}

impl Category {
    /// All, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::Weights, Self::Residue, Self::State, Self::Gradient, Self::Activations, Self::Scratch];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Residue => "residue",
            Self::State => "state",
            Self::Gradient => "gradient",
            Self::Activations => "activations",
            Self::Scratch => "scratch",
        }
    }
}

/// The ticks of a step's clock in which a buffer holds something; buffers that never live together share bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// First tick.
    pub from: u32,
    /// Last tick.
    pub to: u32,
}

impl Lifetime {
    /// The whole run.
    pub const ALWAYS: Self = Self { from: 0, to: u32::MAX };

    fn meets(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// One buffer.
#[derive(Clone, Debug)]
pub struct Item {
    /// For the table: what it holds.
    pub name: String,
    /// For the table: its row.
    pub category: Category,
    /// When it is in use.
    pub lifetime: Lifetime,
    /// Where it lies.
    pub span: Span,
}

/// The buffers of a run in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    items: Vec<Item>,
    /// Indices of the items in ascending order of their offsets.
    order: Vec<usize>,
    total: usize,
}

impl Plan {
    /// Adds a buffer at the lowest offset where it meets no buffer that lives at the same time.
    /// Zero bytes give [`Span::NONE`] and no item.
    pub fn add(&mut self, name: impl Into<String>, category: Category, bytes: usize, lifetime: Lifetime) -> Span {
        if bytes == 0 {
            return Span::NONE;
        }
        let span = Span { place: Place::Arena, offset: self.lowest_gap(bytes, lifetime), bytes };
        self.total = self.total.max(span.offset + bytes.next_multiple_of(ALIGN));
        let at = self.order.partition_point(|&i| self.items[i].span.offset < span.offset);
        self.order.insert(at, self.items.len());
        self.items.push(Item { name: name.into(), category, lifetime, span });
        span
    }

    fn lowest_gap(&self, bytes: usize, lifetime: Lifetime) -> usize {
        let mut offset = 0;
        for item in self.order.iter().map(|&i| &self.items[i]).filter(|item| item.lifetime.meets(lifetime)) {
            if offset + bytes <= item.span.offset {
                break;
            }
            offset = offset.max((item.span.offset + item.span.bytes).next_multiple_of(ALIGN));
        }
        offset
    }

    /// All buffers.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Bytes of the arena that holds them all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes of a category, shared bytes counted for each buffer that uses them.
    pub fn category(&self, category: Category) -> usize {
        self.items.iter().filter(|item| item.category == category).map(|item| item.span.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_share_bytes_only_if_they_never_meet() {
        let mut plan = Plan::default();
        let a = plan.add("a", Category::Scratch, 100, Lifetime { from: 0, to: 1 });
        let b = plan.add("b", Category::Scratch, 100, Lifetime { from: 1, to: 2 });
        let c = plan.add("c", Category::Scratch, 100, Lifetime { from: 2, to: 3 });
        let d = plan.add("d", Category::Weights, 1, Lifetime::ALWAYS);
        assert_eq!((a.offset, b.offset, c.offset, d.offset), (0, 128, 0, 256));
        assert_eq!(plan.total(), 320);
        assert_eq!(plan.category(Category::Scratch), 300);
    }
}
