//! Blocks of 256 elements whose sub-blocks have scales of their own: Q4_K, Q5_K, Q6_K.

use super::half;

/// Scale and minimum (six bits each) of sub-block `j` of 8, from the 12 bytes that hold all of them.
pub fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let scale = packed[j + 4] & 15 | (packed[j - 4] >> 6) << 4;
        let min = packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
        (scale, min)
    }
}

/// `d`, `dmin`, 12 bytes of scales and minima, 128 bytes of nibbles. Of each 32 bytes the low nibbles are one
/// sub-block of 32 elements, the high ones the next: `d sc q - dmin m`.
pub fn q4(block: &[u8], out: &mut [f32]) {
    let (d, dmin, scales, nibbles) = (half(block), half(&block[2..]), &block[4..16], &block[16..144]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (sc, m) = scale_and_min(scales, j);
        let (scale, min) = (d * f32::from(sc), dmin * f32::from(m));
        let (bytes, shift) = (&nibbles[j / 2 * 32..][..32], j % 2 * 4);
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = scale * f32::from(byte >> shift & 15) - min;
        }
    }
}

/// Q4_K with a fifth bit: bit `j` of byte `i` of the 32 bytes before the nibbles belongs to element `i` of sub-block
/// `j`.
pub fn q5(block: &[u8], out: &mut [f32]) {
    let (d, dmin, scales) = (half(block), half(&block[2..]), &block[4..16]);
    let (high, nibbles) = (&block[16..48], &block[48..176]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (sc, m) = scale_and_min(scales, j);
        let (scale, min) = (d * f32::from(sc), dmin * f32::from(m));
        let (bytes, shift) = (&nibbles[j / 2 * 32..][..32], j % 2 * 4);
        for ((out, byte), high) in out.iter_mut().zip(bytes).zip(high) {
            let q = byte >> shift & 15 | (high >> j & 1) << 4;
            *out = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of the two bits above, 16 signed scales of 16 elements each, `d`:
/// `d sc (q - 32)`.
pub fn q6(block: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&low[half * 64..][..64], &high[half * 32..][..32]);
        for (i, out) in out.iter_mut().enumerate() {
            let (quarter, l) = (i / 32, i % 32);
            // Quarters 0 and 1 have their low bits in the low nibbles of both halves of `low`, 2 and 3 in the high.
            let four = low[quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
            let q = four | (high[l] >> (2 * quarter) & 3) << 4;
            let scale = d * f32::from(scales[half * 8 + i / 16] as i8);
            *out = scale * (f32::from(q) - 32.0);
        }
    }
}
