//! The protobuf wire format: field numbers and four kinds of payload, borrowed from the body.
//!
//! It knows no message, allocates nothing, and refuses what Kubernetes never sends (groups).

use super::super::DecodeError;

/// One payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Walks the fields of a message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field number and payload, `None` at the end of the message.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| (1..1 << 29).contains(tag));
        let tag = tag.ok_or_else(|| refuse("illegal tag"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| refuse("length out of range"))?;
                let (bytes, rest) =
                    self.rest.split_at_checked(length).ok_or_else(|| refuse("unexpected EOF"))?;
                self.rest = rest;
                Wire::Bytes(bytes)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(refuse("illegal wire type")),
        };
        Ok(Some((tag, wire)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or_else(|| refuse("unexpected EOF"))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(refuse("integer overflow"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) =
            self.rest.split_first_chunk().ok_or_else(|| refuse("unexpected EOF"))?;
        self.rest = rest;
        Ok(*bytes)
    }
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], DecodeError> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Varint(_) | Wire::Fixed64(_) | Wire::Fixed32(_) => Err(refuse("wrong wireType")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| refuse("string field contains invalid UTF-8"))
    }

    pub(super) fn number(self) -> Result<u64, DecodeError> {
        match self {
            Wire::Varint(number) => Ok(number),
            Wire::Bytes(_) | Wire::Fixed64(_) | Wire::Fixed32(_) => Err(refuse("wrong wireType")),
        }
    }
}

fn refuse(text: &str) -> DecodeError {
    DecodeError::Protobuf(text.into())
}
