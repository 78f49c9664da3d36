//! What both codecs of values share: their errors and a checked reader.

use super::Type;

/// Bytes that should be a row or a key aren't, or a value isn't of its column's type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early.
    #[error("{what} ends at byte {length}, within a value of type {ty:?} at byte {at}")]
    Short {
        /// A row or a key.
        what: &'static str,
        /// Which type was expected.
        ty: Type,
        /// Where the value begins.
        at: usize,
        /// How many bytes there are.
        length: usize,
    },
    /// A row in a format of another version.
    #[error("a row has format {found}; this program reads format {expected}")]
    Format {
        /// What it can read.
        expected: u8,
        /// What is there; nothing in an empty row.
        found: u8,
    },
    /// The bytes say something that the type can't hold.
    #[error("{what} has no value of type {ty:?} at byte {at}")]
    Value {
        /// A row or a key.
        what: &'static str,
        /// Which type was expected.
        ty: Type,
        /// Where the value begins.
        at: usize,
    },
    /// More bytes than values.
    #[error("{what} goes on for {bytes} bytes behind its last value")]
    Long {
        /// A row or a key.
        what: &'static str,
        /// How many too many.
        bytes: usize,
    },
    /// A row of other columns than the table has.
    #[error("a row of {found} columns where the table has {expected}")]
    Columns {
        /// The table's.
        expected: usize,
        /// The row's.
        found: usize,
    },
    /// Not a value of the column's type: the caller's mistake.
    #[error("{found} can't be stored as {ty:?}")]
    Mismatch {
        /// The column's.
        ty: Type,
        /// The value, shortened.
        found: String,
    },
    /// A numeric with more digits than can be stored.
    #[error("a numeric with {scale} digits behind the point: -{SCALE_MAX} to {SCALE_MAX} can be stored")]
    Scale {
        /// Its scale.
        scale: i64,
    },
}

/// Largest scale, and smallest negated, of a stored numeric: beyond anything that SQL makes, small enough to compute with.
pub const SCALE_MAX: i64 = 1 << 18;

/// Reads values from bytes of which nothing is known.
pub(super) struct Reader<'a> {
    pub(super) what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next `length` bytes, for a value of type `ty`.
    pub(super) fn take(&mut self, length: usize, ty: Type) -> Result<&'a [u8], CodecError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(CodecError::Short { what: self.what, ty, at: self.at, length: self.bytes.len() });
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, ty: Type) -> Result<[u8; N], CodecError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, ty)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self, ty: Type) -> Result<u8, CodecError> {
        Ok(self.array::<1>(ty)?[0])
    }

    /// A length of 7 bits a byte, lowest first; at most 32 bits.
    pub(super) fn length(&mut self, ty: Type) -> Result<usize, CodecError> {
        let start = self.at;
        let mut length = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.byte(ty)?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0xf {
                break;
            }
            length |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(length as usize);
            }
        }
        Err(CodecError::Value { what: self.what, ty, at: start })
    }

    pub(super) fn value_error(&self, ty: Type, at: usize) -> CodecError {
        CodecError::Value { what: self.what, ty, at }
    }
}

/// Appends what [`Reader::length`] reads.
pub(super) fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// A value for a message, not longer than a line.
pub(super) fn shorten(datum: &super::Datum) -> String {
    let text = format!("{datum:?}");
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
