//! Damage to a file, the same in every run.

/// A generator of the mutations' own, so that they are the same everywhere and always.
pub struct Random(pub u64);

impl Random {
    /// A number below `below`.
    pub fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

/// Numbers at which sums wrap, allocations explode, or offsets leave the file.
pub const EDGES: [u64; 10] =
    [0, 1, 31, u32::MAX as u64, 1 << 32, 1 << 48, 1 << 63, u64::MAX, u64::MAX - 7, 0x7fff_ffff_ffff_ffff];

/// Changes a few bytes below `head`, sets numbers to edges, or cuts the file.
pub fn mutate(bytes: &mut Vec<u8>, head: usize, random: &mut Random) {
    for _ in 0..=random.next(3) {
        let at = random.next(head.min(bytes.len()));
        match random.next(6) {
            0 => bytes[at] ^= 1 << random.next(8),
            1 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.next(4)],
            2 if at + 8 <= bytes.len() => {
                bytes[at..at + 8].copy_from_slice(&EDGES[random.next(EDGES.len())].to_le_bytes());
            }
            3 if at + 4 <= bytes.len() => {
                bytes[at..at + 4].copy_from_slice(&(EDGES[random.next(EDGES.len())] as u32).to_le_bytes());
            }
            4 => bytes.truncate(at.max(1)),
            _ => {
                let count = random.next(16).min(bytes.len() - at);
                bytes.drain(at..at + count);
                bytes.resize(bytes.len().max(1), 0);
            }
        }
    }
}
