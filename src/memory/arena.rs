//! One allocation made before step 0, and the checks that let an operation hold several slices of it at once.

use super::{ALIGN, HostRegion};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The memory that a [`Span`] is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The arena.
    Arena,
    /// The read-only mapped file.
    Mapped,
    /// Host memory outside of the arena: allocated, or mapped from a scratch file.
    Host,
    /// The memory of another rank: nothing here can read or write it.
    Away,
}

/// A range of bytes: plans assign them, operations take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Arena, mapped file or host memory.
    pub place: Place,
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

impl Default for Span {
    fn default() -> Self {
        Self::NONE
    }
}

impl Span {
    /// The empty span, for planes a parameter does not have.
    pub const NONE: Self = Self { place: Place::Arena, offset: 0, bytes: 0 };

    /// So many bytes that another rank holds.
    pub fn away(bytes: usize) -> Self {
        Self { place: Place::Away, offset: 0, bytes }
    }

    /// Whether another rank holds it.
    pub fn is_away(&self) -> bool {
        self.place == Place::Away
    }

    /// Whether nothing is stored here.
    pub fn is_none(&self) -> bool {
        self.bytes == 0
    }

    /// The byte after the last, relative to the same memory.
    ///
    /// # Panics
    /// If that exceeds `usize::MAX`.
    pub fn end(&self) -> usize {
        self.offset.checked_add(self.bytes).expect("a span below usize::MAX")
    }

    /// Whether the two have a byte in common.
    ///
    /// # Panics
    /// As [`Span::end`].
    pub fn overlaps(&self, other: Self) -> bool {
        self.place == other.place && self.offset < other.end() && other.offset < self.end()
    }

    /// `bytes` bytes from `offset` on, relative to this span.
    ///
    /// # Panics
    /// If the part is not inside.
    pub fn part(&self, offset: usize, bytes: usize) -> Self {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "part {offset}+{bytes} of a span of {} bytes", self.bytes);
        let offset = self.offset.checked_add(offset).expect("a span below usize::MAX");
        Self { place: self.place, offset, bytes }
    }

    /// The first `bytes` bytes.
    pub fn head(&self, bytes: usize) -> Self {
        self.part(0, bytes)
    }
}

/// Types that an arena can hold: any bytes are a valid value, and every value is plain bytes.
pub trait Element: FromBytes + IntoBytes + Immutable + Copy + Send + Sync + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + Copy + Send + Sync + 'static> Element for T {}

/// A read-only file in memory.
pub type MappedFile = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Memory of a whole run: one zeroed, [`ALIGN`]ed allocation, and optionally a mapped file.
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    mapped: Option<MappedFile>,
    host: Option<Box<dyn HostRegion>>,
}

// SAFETY: the allocation and the host memory are owned and reached only through `&self` or `&mut self`; the mapped file is
// `Send + Sync`.
unsafe impl Send for Arena {}
// SAFETY: as above; `&Arena` gives out no mutable access, and the hints of host memory touch none of its bytes.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena of `bytes` zero bytes. All of them are written here, so that a machine without that much memory says so before
    /// step 0: pages that are only reserved would be missing at the first evaluation, hours later.
    ///
    /// Huge pages are asked for, which a processor finds sooner: products read and write megabytes in panels, a few lines of
    /// each page. As the arena is touched whole, they take no byte more.
    pub fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: the layout's size is at least ALIGN, so it is not zero.
        let base = unsafe { alloc(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        if layout.align() == HUGE_PAGE {
            ask_for_huge_pages(base, layout.size());
        }
        // SAFETY: as many bytes were allocated.
        unsafe { base.write_bytes(0, layout.size()) };
        Self { base, bytes, mapped: None, host: None }
    }

    /// The same with a read-only mapped file for [`Place::Mapped`] spans.
    pub fn with_mapped(bytes: usize, mapped: MappedFile) -> Self {
        // Not `..Self::new(bytes)`: that copies the address and drops, and so frees, the arena it came from.
        let mut arena = Self::new(bytes);
        arena.mapped = Some(mapped);
        arena
    }

    /// Gives [`Place::Host`] spans their memory.
    pub fn attach(&mut self, host: Box<dyn HostRegion>) {
        self.host = Some(host);
    }

    /// The memory of [`Place::Host`] spans.
    pub fn host(&self) -> Option<&dyn HostRegion> {
        self.host.as_deref()
    }

    fn layout(bytes: usize) -> Layout {
        let align = if bytes < HUGE_PAGE { ALIGN } else { HUGE_PAGE };
        Layout::from_size_align(bytes.max(ALIGN), align).expect("an arena below isize::MAX bytes")
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Borrows slices; see [`ArenaBorrow`].
    pub fn borrow_slices(&mut self) -> ArenaBorrow<'_> {
        ArenaBorrow { arena: self, taken: [(Span::NONE, false); MAX_SLICES], count: 0, life: PhantomData }
    }

    /// One span, read only.
    ///
    /// # Panics
    /// If the span is out of range or not aligned for `T`.
    pub fn read<T: Element>(&self, span: Span) -> &[T] {
        let bytes = match span.place {
            Place::Mapped => {
                let mapped = self.mapped.as_ref().expect("a mapped span in an arena without a file");
                &(**mapped).as_ref()[span.offset..span.end()]
            }
            Place::Arena | Place::Host | Place::Away => {
                let first = self.first(span);
                // SAFETY: `first` proved the range to lie inside memory of ours, which is initialised; `&self`
                // excludes every `ArenaBorrow`, the only source of mutable slices.
                unsafe { std::slice::from_raw_parts(first, span.bytes) }
            }
        };
        <[T]>::ref_from_bytes(bytes).expect("a span aligned and sized for its element")
    }

    /// Address of the first byte of a span, which lies in the arena or in host memory.
    fn first(&self, span: Span) -> *mut u8 {
        let (base, bytes) = match span.place {
            Place::Host => self.host.as_ref().expect("a host span in an arena without host memory").memory(),
            Place::Away => panic!("{} bytes that another rank holds", span.bytes),
            Place::Arena | Place::Mapped => (self.base, self.bytes),
        };
        assert!(span.end() <= bytes, "span {}+{} outside an arena of {bytes} bytes", span.offset, span.bytes);
        // SAFETY: the span ends inside the memory, so its start is inside too.
        unsafe { base.as_ptr().add(span.offset) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.bytes)) }
    }
}

/// Bytes of a huge page on x86-64, and on ARM with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// A hint about memory of ours; a system without huge pages refuses it, which changes nothing else.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(base: NonNull<u8>, bytes: usize) {
    use rustix::mm::{Advice, madvise};
    // SAFETY: the range was allocated by the caller, and this advice changes nothing that is in it.
    let _ = unsafe { madvise(base.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
}

/// Elsewhere nobody is asked.
#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: NonNull<u8>, _: usize) {}

const MAX_SLICES: usize = 24;

/// The slices one operation holds. Slices that are written never overlap any other: each claim is checked against
/// all before it, so that operations need neither `unsafe` nor copies.
pub struct ArenaBorrow<'a> {
    arena: &'a Arena,
    /// What was claimed, and whether to write.
    taken: [(Span, bool); MAX_SLICES],
    count: usize,
    /// The exclusive borrow of the arena that this value stands for.
    life: PhantomData<&'a mut Arena>,
}

impl<'a> ArenaBorrow<'a> {
    /// A slice to read.
    ///
    /// # Panics
    /// If it overlaps a slice claimed for writing, is out of range, or not aligned for `T`.
    pub fn read<T: Element>(&mut self, span: Span) -> &'a [T] {
        if span.place != Place::Mapped {
            self.claim(span, false);
        }
        let arena: &'a Arena = self.arena;
        arena.read(span)
    }

    /// A slice to write.
    ///
    /// # Panics
    /// If it overlaps any slice claimed before, is mapped, out of range, or not aligned for `T`.
    pub fn write<T: Element>(&mut self, span: Span) -> &'a mut [T] {
        assert!(span.place != Place::Mapped, "a mapped span is read only");
        self.claim(span, true);
        let first = self.arena.first(span);
        // SAFETY: inside memory of ours (`first`) and initialised; `claim` proved that no other slice of this
        // `ArenaBorrow` overlaps it, and 'a is an exclusive borrow of the arena, so no other `ArenaBorrow` exists.
        let bytes = unsafe { std::slice::from_raw_parts_mut(first, span.bytes) };
        <[T]>::mut_from_bytes(bytes).expect("a span aligned and sized for its element")
    }

    fn claim(&mut self, span: Span, write: bool) {
        if span.bytes == 0 {
            return;
        }
        for &(other, written) in &self.taken[..self.count] {
            let [(start, end), (from, to)] = [span, other].map(|span| (span.offset, span.end()));
            let apart = !span.overlaps(other) || !(write || written);
            assert!(apart, "{start}..{end} overlaps {from}..{to}, and one of them is written");
        }
        assert!(self.count < MAX_SLICES, "an operation holds at most {MAX_SLICES} slices");
        self.taken[self.count] = (span, write);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(offset: usize, bytes: usize) -> Span {
        Span { place: Place::Arena, offset, bytes }
    }

    #[test]
    fn disjoint_writes_and_shared_reads() {
        let mut arena = Arena::new(256);
        {
            let mut slices = arena.borrow_slices();
            let a = slices.write::<f32>(span(0, 64));
            let b = slices.write::<f32>(span(64, 64));
            a.fill(1.0);
            b.fill(2.0);
            let (c, d) = (slices.read::<u8>(span(128, 64)), slices.read::<u8>(span(160, 64)));
            assert_eq!(c[32..], d[..32]);
        }
        assert_eq!(arena.read::<f32>(span(60, 8)), [1.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn a_write_over_a_read_is_refused() {
        let mut arena = Arena::new(256);
        let mut slices = arena.borrow_slices();
        slices.read::<u8>(span(0, 65));
        slices.write::<u8>(span(64, 64));
    }

    #[test]
    #[should_panic(expected = "another rank")]
    fn what_another_rank_holds_is_not_read() {
        Arena::new(256).read::<u8>(Span::away(64).part(16, 16));
    }

    #[test]
    #[should_panic(expected = "outside an arena")]
    fn a_span_past_the_end_is_refused() {
        Arena::new(256).borrow_slices().write::<u8>(span(200, 57));
    }

    /// Large enough that the allocator would give freed memory back to the system at once: touching it is a fault.
    #[test]
    fn an_arena_with_a_mapped_file_owns_its_memory() {
        let mut arena = Arena::with_mapped(64 << 20, Arc::new(vec![1u8; 4]));
        let other = Arena::new(64 << 20);
        arena.borrow_slices().write::<u8>(span((64 << 20) - 64, 64)).fill(7);
        assert!(other.read::<u8>(span(0, 64 << 20)).iter().all(|&byte| byte == 0), "two arenas share memory");
        assert_eq!(arena.read::<u8>(span((64 << 20) - 1, 1)), [7]);
    }

    #[test]
    #[should_panic(expected = "read only")]
    fn a_mapped_span_is_never_written() {
        let mut arena = Arena::with_mapped(64, Arc::new(vec![1u8, 2, 3, 4]));
        let mapped = Span { place: Place::Mapped, offset: 1, bytes: 2 };
        assert_eq!(arena.read::<u8>(mapped), [2, 3]);
        arena.borrow_slices().write::<u8>(mapped);
    }
}
