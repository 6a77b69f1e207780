//! How a rule divides its workspace.

use crate::memory::Span;

/// Parts of a workspace, each aligned as kernels want it.
pub(super) struct Parts(Span);

impl Parts {
    /// Float32 numbers to a line, which is where parts begin.
    const LINE: usize = 16;

    /// What parts of `counts` float32 numbers take together.
    pub fn total<const N: usize>(counts: [usize; N]) -> usize {
        counts.iter().map(|count| count.next_multiple_of(Self::LINE)).sum()
    }

    /// The next part.
    fn take(&mut self, count: usize) -> Span {
        let part = self.0.head(4 * count);
        let taken = 4 * count.next_multiple_of(Self::LINE);
        self.0 = self.0.part(taken, self.0.bytes - taken);
        part
    }

    /// One part for each count.
    pub fn split<const N: usize>(workspace: Span, counts: [usize; N]) -> [Span; N] {
        let mut parts = Self(workspace);
        counts.map(|count| parts.take(count))
    }
}
