//! The fields of a protobuf message: what SentencePiece keeps its models in. Strict: a length that leads out of the
//! message, a number of more than ten bytes or a group is an error.
//!
//! Source: the encoding at <https://protobuf.dev/programming-guides/encoding/>.

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    Number(u64),
    /// Four bytes, as floats are kept.
    Four([u8; 4]),
    Eight([u8; 8]),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub fn number(self) -> Option<u64> {
        if let Field::Number(number) = self { Some(number) } else { None }
    }

    pub fn float(self) -> Option<f32> {
        if let Field::Four(bytes) = self { Some(f32::from_le_bytes(bytes)) } else { None }
    }

    pub fn bytes(self) -> Option<&'a [u8]> {
        if let Field::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

/// Calls `take` with the number and value of every field.
///
/// # Errors
/// What is wrong with the message, and those of `take`.
pub(super) fn fields<'a>(
    mut message: &'a [u8],
    mut take: impl FnMut(u64, Field<'a>) -> Result<(), String>,
) -> Result<(), String> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 => Field::Eight(array(&mut message)?),
            2 => {
                let len = usize::try_from(varint(&mut message)?).map_err(|_| cut())?;
                Field::Bytes(split(&mut message, len)?)
            }
            5 => Field::Four(array(&mut message)?),
            kind => return Err(format!("has a field of wire type {kind}; 0, 1, 2 and 5 exist")),
        };
        if key >> 3 == 0 {
            return Err("has a field with the number 0".into());
        }
        take(key >> 3, value)?;
    }
    Ok(())
}

fn cut() -> String {
    "is cut off or damaged: a field leads out of it".into()
}

fn split<'a>(message: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (head, rest) = message.split_at_checked(len).ok_or_else(cut)?;
    *message = rest;
    Ok(head)
}

fn array<const N: usize>(message: &mut &[u8]) -> Result<[u8; N], String> {
    split(message, N)?.try_into().map_err(|_| cut())
}

fn varint(message: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = array(message)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("has a number of more than 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Result<Vec<(u64, Field<'_>)>, String> {
        let mut found = Vec::new();
        fields(message, |number, field| {
            found.push((number, field));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn fields_of_every_type_are_read() {
        // 1: 150, 2: "hi", 3: 0.5f32, 4: eight bytes.
        let message = [
            &[0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d][..],
            &0.5f32.to_le_bytes(),
            &[0x21, 1, 2, 3, 4, 5, 6, 7, 8],
        ]
        .concat();
        let found = all(&message).unwrap();
        assert_eq!(found[0].1.number(), Some(150));
        assert_eq!(found[1], (2, Field::Bytes(b"hi")));
        assert_eq!(found[2].1.float(), Some(0.5));
        assert_eq!(found[3], (4, Field::Eight([1, 2, 3, 4, 5, 6, 7, 8])));
    }

    #[test]
    fn every_cut_is_noticed_or_ends_at_a_field() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i'];
        let whole: Vec<usize> = (0..=message.len()).filter(|&len| all(&message[..len]).is_ok()).collect();
        assert_eq!(whole, [0, 3, 7]);
    }

    #[test]
    fn what_protobuf_does_not_have_is_refused() {
        for message in
            [&[0x0b][..], &[0x00, 0x00], &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], &[0x0a, 255]]
        {
            assert!(all(message).is_err(), "{message:?}");
        }
        let largest = [0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(all(&largest).unwrap()[0].1.number(), Some(u64::MAX));
    }
}
