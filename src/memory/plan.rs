//! Every buffer of a run with its bytes and lifetime, and the offsets that follow from them.

use super::{ALIGN, Place, Span};

/// What a buffer is for: the rows of the table that `plan` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Weights that forward, backward and sampling read.
    Weights,
    /// The four bits below each packed weight.
    Residue,
    /// Optimizer moments and scalars.
    State,
    /// The gradient buffer for matrices, and those of vectors.
    Gradient,
    /// Activations kept for the backward pass.
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
    /// Its bytes.
    pub span: Span,
}

/// The buffers of a run in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    items: Vec<Item>,
    /// Indices of the items in ascending order of their offsets.
    order: Vec<usize>,
    /// Bytes at the start of the arena that buffers of the whole run fill without a gap.
    solid: usize,
    total: usize,
    host: usize,
    outside: Vec<(&'static str, usize)>,
}

impl Plan {
    /// Adds a buffer at the lowest offset where it overlaps no buffer that is live at the same time.
    /// Zero bytes give [`Span::NONE`] and no item.
    pub fn add(&mut self, name: impl Into<String>, category: Category, bytes: usize, lifetime: Lifetime) -> Span {
        if bytes == 0 {
            return Span::NONE;
        }
        let span = Span { place: Place::Arena, offset: self.lowest_gap(bytes, lifetime), bytes };
        self.total = self.total.max(span.offset + bytes.next_multiple_of(ALIGN));
        if lifetime == Lifetime::ALWAYS && span.offset == self.solid {
            self.solid = (span.offset + bytes).next_multiple_of(ALIGN);
        }
        let at = self.order.partition_point(|&i| self.items[i].span.offset < span.offset);
        self.order.insert(at, self.items.len());
        self.items.push(Item { name: name.into(), category, lifetime, span });
        span
    }

    /// Appends a buffer for the whole run to host memory.
    pub fn add_host(&mut self, name: impl Into<String>, category: Category, bytes: usize) -> Span {
        if bytes == 0 {
            return Span::NONE;
        }
        let span = Span { place: Place::Host, offset: self.host, bytes };
        self.host += bytes.next_multiple_of(ALIGN);
        self.items.push(Item { name: name.into(), category, lifetime: Lifetime::ALWAYS, span });
        span
    }

    /// Counts memory of the host that is none of these buffers.
    pub fn add_outside(&mut self, name: &'static str, bytes: usize) {
        if bytes > 0 {
            self.outside.push((name, bytes));
        }
    }

    fn lowest_gap(&self, bytes: usize, lifetime: Lifetime) -> usize {
        let mut offset = self.solid;
        let first = self.order.partition_point(|&i| self.items[i].span.offset < self.solid);
        let above = self.order[first..].iter().map(|&i| &self.items[i]);
        for item in above.filter(|item| item.lifetime.meets(lifetime)) {
            if offset + bytes <= item.span.offset {
                break;
            }
            offset = offset.max((item.span.offset + item.span.bytes).next_multiple_of(ALIGN));
        }
        offset
    }

    /// Bytes of the longest buffer that could be added for a lifetime without a larger arena.
    pub fn longest_gap(&self, lifetime: Lifetime) -> usize {
        let (mut end, mut longest) = (self.solid, 0);
        let live = self.order.iter().map(|&i| &self.items[i]).filter(|item| item.lifetime.meets(lifetime));
        for item in live {
            longest = longest.max(item.span.offset.saturating_sub(end));
            end = end.max(item.span.end().next_multiple_of(ALIGN));
        }
        longest.max(self.total.saturating_sub(end))
    }

    /// All buffers.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Bytes of the arena that holds them all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes of host memory.
    pub fn host_total(&self) -> usize {
        self.host
    }

    /// Memory of the host that is none of the buffers: what for, and its bytes.
    pub fn outside(&self) -> &[(&'static str, usize)] {
        &self.outside
    }

    /// Bytes of it.
    pub fn outside_total(&self) -> usize {
        self.outside.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that a limit of the device's memory counts: its buffers and what is outside of all buffers, which on a CPU is
    /// the same memory.
    pub fn limited_total(&self) -> usize {
        self.total() + self.outside_total()
    }

    /// The most bytes of a category that are live at once, in any memory.
    pub fn category(&self, category: Category) -> usize {
        self.peak(|item| item.category == category)
    }

    /// The same in one memory.
    pub fn category_at(&self, category: Category, place: Place) -> usize {
        self.peak(|item| item.category == category && item.span.place == place)
    }

    fn peak(&self, counts: impl Fn(&Item) -> bool) -> usize {
        let items: Vec<_> = self.items.iter().filter(|item| counts(item)).collect();
        // Whatever is alive at once is alive when the last of it begins.
        let mut ticks: Vec<u32> = items.iter().map(|item| item.lifetime.from).collect();
        ticks.sort_unstable();
        ticks.dedup();
        let alive = |tick: u32| -> usize {
            let alive = items.iter().filter(|item| item.lifetime.from <= tick && tick <= item.lifetime.to);
            alive.map(|item| item.span.bytes).sum()
        };
        ticks.into_iter().map(alive).max().unwrap_or(0)
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
        assert_eq!([(0, 0), (1, 1), (4, 4)].map(|(from, to)| plan.longest_gap(Lifetime { from, to })), [128, 0, 256]);
        // At ticks 1 and 2 two of the three.
        assert_eq!(plan.category(Category::Scratch), 200);
        assert_eq!(plan.category_at(Category::Scratch, Place::Host), 0);
    }
}
