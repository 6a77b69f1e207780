//! What tells the weights of a file from those of another.

use super::read::Head;
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::Xxh3;

/// XXH3-64 over the checksums of the planes that products read, in file order: read off the directory at once, however
/// large the file, and the same for a training state and for its weights alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl Head {
    /// The fingerprint of the weights.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut digest = Xxh3::new();
        for plane in self.planes.iter().filter(|plane| !plane.kind.is_optimizer()) {
            digest.update(&plane.checksum.to_le_bytes());
        }
        Fingerprint(digest.digest())
    }
}

/// Sixteen hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = ();

    /// The inverse; of lower-case digits only, so that one fingerprint has one spelling.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| digits).map(Self).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_has_one_spelling() {
        let known = Fingerprint(0xab);
        assert_eq!(known.to_string(), "00000000000000ab");
        assert_eq!(known.to_string().parse(), Ok(known));
        for wrong in ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000abc"] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(()), "{wrong}");
        }
    }
}
