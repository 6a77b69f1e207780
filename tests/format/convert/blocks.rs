//! Every type of block decodes to the values that the `gguf` package recorded.

use super::fixture;
use safetensors::SafeTensors;
use tetrad::convert::quants::{GroupBits, Kind, group_bits};
use tetrad::quant::fp4;

const KINDS: [Kind; 12] = [
    Kind::Mxfp4,
    Kind::F32,
    Kind::F16,
    Kind::Bf16,
    Kind::Q4_0,
    Kind::Q4_1,
    Kind::Q5_0,
    Kind::Q5_1,
    Kind::Q8_0,
    Kind::Q4K,
    Kind::Q5K,
    Kind::Q6K,
];

/// Bytes and values of three rows of 512.
fn recorded(kind: Kind) -> (Vec<u8>, Vec<f32>) {
    let name = if kind == Kind::Mxfp4 { "blocks_mxfp4.safetensors" } else { "blocks.safetensors" };
    let file = std::fs::read(fixture(name)).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let words = |part: &str| {
        let view = file.tensor(&format!("{}.{part}", kind.name())).unwrap();
        view.data().chunks_exact(4).map(|b| <[u8; 4]>::try_from(b).unwrap()).collect::<Vec<_>>()
    };
    let bytes = words("bytes").into_iter().map(|b| i32::from_le_bytes(b) as u8).collect();
    (bytes, words("values").into_iter().map(f32::from_le_bytes).collect())
}

#[test]
fn every_type_decodes_to_the_recorded_values() {
    for kind in KINDS {
        let (bytes, values) = recorded(kind);
        assert_eq!(bytes.len(), 3 * kind.row_bytes(512), "{}", kind.name());
        for (row, wanted) in bytes.chunks(kind.row_bytes(512)).zip(values.chunks(512)) {
            let mut found = [0.0; 512];
            kind.decode(row, &mut found);
            for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                // K types round products of two scales, which may be taken in another order.
                let near = (found - wanted).abs() <= 2e-7 * wanted.abs() + 1e-9;
                assert!(near, "{} element {i}: {found}, recorded {wanted}", kind.name());
            }
            assert!(found.iter().any(|x| *x != 0.0));
        }
    }
}

#[test]
fn groups_hold_the_values_of_their_blocks() {
    let half = |bits: u16| half::f16::from_bits(bits).to_f32();
    let exact = [Kind::Q4_0, Kind::Q4_1, Kind::Q8_0, Kind::Mxfp4].map(|kind| (kind, 0.0));
    for (kind, tolerance) in exact.into_iter().chain([(Kind::Q4K, 2e-3)]) {
        let (bytes, values) = recorded(kind);
        let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (row, wanted) in bytes.chunks(kind.row_bytes(512)).zip(values.chunks(512)) {
            for (i, wanted) in wanted.chunks(32).enumerate() {
                let bits = group_bits(kind, row, i).unwrap();
                assert!(bits.is_sound());
                for (j, wanted) in wanted.iter().enumerate() {
                    let nibble = |codes: [u8; 16]| f32::from(codes[j % 16] >> (j / 16 * 4) & 15);
                    for bits in [bits, bits.with_offset()] {
                        let found = match bits {
                            GroupBits::Symmetric { scale, codes } => half(scale) * (nibble(codes) - 8.0),
                            GroupBits::Asymmetric { scale, offset, codes } => {
                                half(scale) * nibble(codes) + half(offset)
                            }
                            GroupBits::Bytes { scale, codes } => half(scale) * f32::from(codes[j] as i8),
                            GroupBits::Floats { scale, codes } => {
                                fp4::power_of_two(scale) * fp4::code_value(codes[j % 16] >> (j / 16 * 4) & 15)
                            }
                        };
                        let near = (found - wanted).abs() <= tolerance * largest;
                        assert!(near, "{} group {i} element {j}: {found}, recorded {wanted}", kind.name());
                    }
                }
            }
        }
    }
}
