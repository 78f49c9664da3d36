//! What clients say: frames cut out of the bytes received, messages read from frames.
//!
//! A frame is a type byte, a length (i32, counting itself) and a body. Messages borrow from their frame. Nothing here believes a count or
//! length before it has compared it with the bytes that are there.

use std::ffi::CStr;

use pgwire::messages::{copy, extendedquery, simplequery, startup, terminate};

use crate::sql::session::Format;

/// Longest message that PostgreSQL takes, without its type byte: one byte less than 1 GiB - 1.
pub(super) const MESSAGE_MAX: usize = 0x3fff_fffe;

/// Longest message of the types that carry no text or values.
const SMALL_MESSAGE_MAX: usize = 10_000;

/// Type byte of a function call, which pgwire doesn't know.
const FUNCTION_CALL: u8 = b'F';

/// What a client sent doesn't follow the protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// There is no such message.
    #[error("invalid frontend message type {0}")]
    Type(u8),
    /// A message can't be that long or short.
    #[error("invalid length {length} of a message of type {kind:?} (at most {most})", kind = char::from(*kind))]
    Length {
        /// Type byte.
        kind: u8,
        /// As sent.
        length: i32,
        /// Allowed.
        most: usize,
    },
    /// The body ends before what it says it holds.
    #[error("insufficient data left in message")]
    Short,
    /// A text has no end.
    #[error("invalid string in message")]
    Unterminated,
    /// The body goes on behind its last field.
    #[error("invalid message format")]
    Trailing,
    /// Describe or Close of something that is neither statement nor portal.
    #[error("invalid message subtype {0}")]
    Subtype(u8),
    /// The first packet can't be that long or short, or asks for encryption again.
    #[error("invalid length of startup packet: {0}")]
    Opening(i32),
    /// Something else than the data of a COPY under way.
    #[error("unexpected message type 0x{0:02X} during COPY from stdin")]
    DuringCopy(u8),
    /// Text isn't UTF-8. Not a breach of the protocol: the session goes on after an error (22021).
    #[error("invalid byte sequence for encoding \"UTF8\": {0}")]
    Encoding(String),
    /// A format is neither text nor binary: the session goes on after an error (22023).
    #[error("unsupported format code: {0}")]
    Format(i16),
}

/// Statement or portal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Statement,
    Portal,
}

/// A message of a client that has been let in.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Message<'a> {
    Query { sql: &'a str },
    Parse { name: &'a str, sql: &'a str, types: Vec<u32> },
    Bind(Bind<'a>),
    Describe { target: Target, name: &'a str },
    Execute { portal: &'a str, max_rows: i32 },
    Close { target: Target, name: &'a str },
    Flush,
    Sync,
    CopyData(&'a [u8]),
    CopyDone,
    CopyFail { reason: &'a str },
    FunctionCall,
    Password,
    Terminate,
}

/// Gives a statement its parameters.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Bind<'a> {
    pub(super) portal: &'a str,
    pub(super) statement: &'a str,
    pub(super) param_formats: Vec<Format>,
    pub(super) params: Vec<Option<&'a [u8]>>,
    pub(super) result_formats: Vec<Format>,
}

/// Where a whole frame lies: its type, and the number of bytes of its body behind [`FRAME_HEADER`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) body: usize,
}

/// Type byte and length.
pub(super) const FRAME_HEADER: usize = 5;

/// What is known of the frame at the start of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// It is all there.
    Whole(Frame),
    /// This many bytes in all are needed for it, as far as is known.
    Needs(usize),
}

/// The frame at the start of `bytes`; `most` is the longest message allowed.
pub(super) fn cut(bytes: &[u8], most: usize) -> Result<Cut, Malformed> {
    let Some(&kind) = bytes.first() else { return Ok(Cut::Needs(FRAME_HEADER)) };
    let most = match kind {
        simplequery::MESSAGE_TYPE_BYTE_QUERY
        | extendedquery::MESSAGE_TYPE_BYTE_PARSE
        | extendedquery::MESSAGE_TYPE_BYTE_BIND
        | copy::MESSAGE_TYPE_BYTE_COPY_DATA
        | FUNCTION_CALL => most,
        extendedquery::MESSAGE_TYPE_BYTE_DESCRIBE
        | extendedquery::MESSAGE_TYPE_BYTE_EXECUTE
        | extendedquery::MESSAGE_TYPE_BYTE_CLOSE
        | extendedquery::MESSAGE_TYPE_BYTE_FLUSH
        | extendedquery::MESSAGE_TYPE_BYTE_SYNC
        | copy::MESSAGE_TYPE_BYTE_COPY_DONE
        | copy::MESSAGE_TYPE_BYTE_COPY_FAIL
        | startup::MESSAGE_TYPE_BYTE_PASSWORD_MESSAGE_FAMILY
        | terminate::MESSAGE_TYPE_BYTE_TERMINATE => SMALL_MESSAGE_MAX,
        other => return Err(Malformed::Type(other)),
    };
    let Some(&[_, a, b, c, d]) = bytes.first_chunk::<FRAME_HEADER>() else { return Ok(Cut::Needs(FRAME_HEADER)) };
    let length = i32::from_be_bytes([a, b, c, d]);
    let size = usize::try_from(length).ok().filter(|size| (4..=most).contains(size)).ok_or(Malformed::Length { kind, length, most })?;
    Ok(if bytes.len() > size { Cut::Whole(Frame { kind, body: size - 4 }) } else { Cut::Needs(1 + size) })
}

/// The body of a frame, field by field.
struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let text = CStr::from_bytes_until_nul(self.rest).map_err(|_| Malformed::Unterminated)?;
        self.rest = &self.rest[text.count_bytes() + 1..];
        text.to_str().map_err(|error| encoding(text.to_bytes(), error.valid_up_to()))
    }

    fn formats(&mut self) -> Result<Vec<Format>, Malformed> {
        let count = self.count()?;
        let codes = self.bytes(2 * count)?;
        let format = |code: &[u8]| match i16::from_be_bytes([code[0], code[1]]) {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => Err(Malformed::Format(other)),
        };
        codes.chunks_exact(2).map(format).collect()
    }

    fn target(&mut self) -> Result<Target, Malformed> {
        match self.array::<1>()? {
            [extendedquery::TARGET_TYPE_BYTE_STATEMENT] => Ok(Target::Statement),
            [extendedquery::TARGET_TYPE_BYTE_PORTAL] => Ok(Target::Portal),
            [other] => Err(Malformed::Subtype(other)),
        }
    }

    fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.rest.is_empty() { Ok(value) } else { Err(Malformed::Trailing) }
    }
}

/// The bytes at `at`, as PostgreSQL shows them.
pub(super) fn encoding(text: &[u8], at: usize) -> Malformed {
    let wide = match text.get(at) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    let shown: Vec<String> = text.iter().skip(at).take(wide).map(|byte| format!("0x{byte:02x}")).collect();
    Malformed::Encoding(shown.join(" "))
}

/// Reads the message of a frame of that type.
pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut body = Body { rest: body };
    let message = match kind {
        simplequery::MESSAGE_TYPE_BYTE_QUERY => Message::Query { sql: body.text()? },
        extendedquery::MESSAGE_TYPE_BYTE_PARSE => {
            let (name, sql) = (body.text()?, body.text()?);
            let count = body.count()?;
            let types = body.bytes(4 * count)?.chunks_exact(4).map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]));
            Message::Parse { name, sql, types: types.collect() }
        }
        extendedquery::MESSAGE_TYPE_BYTE_BIND => Message::Bind(bind(&mut body)?),
        extendedquery::MESSAGE_TYPE_BYTE_DESCRIBE => Message::Describe { target: body.target()?, name: body.text()? },
        extendedquery::MESSAGE_TYPE_BYTE_EXECUTE => Message::Execute { portal: body.text()?, max_rows: body.i32()? },
        extendedquery::MESSAGE_TYPE_BYTE_CLOSE => Message::Close { target: body.target()?, name: body.text()? },
        extendedquery::MESSAGE_TYPE_BYTE_FLUSH => Message::Flush,
        extendedquery::MESSAGE_TYPE_BYTE_SYNC => Message::Sync,
        copy::MESSAGE_TYPE_BYTE_COPY_DATA => return Ok(Message::CopyData(body.rest)),
        copy::MESSAGE_TYPE_BYTE_COPY_DONE => Message::CopyDone,
        copy::MESSAGE_TYPE_BYTE_COPY_FAIL => Message::CopyFail { reason: body.text()? },
        terminate::MESSAGE_TYPE_BYTE_TERMINATE => Message::Terminate,
        // Answered by name only.
        FUNCTION_CALL => return Ok(Message::FunctionCall),
        startup::MESSAGE_TYPE_BYTE_PASSWORD_MESSAGE_FAMILY => return Ok(Message::Password),
        other => return Err(Malformed::Type(other)),
    };
    body.end(message)
}

fn bind<'a>(body: &mut Body<'a>) -> Result<Bind<'a>, Malformed> {
    let (portal, statement) = (body.text()?, body.text()?);
    let param_formats = body.formats()?;
    let count = body.count()?;
    // Each has at least its length.
    if body.rest.len() < 4 * count {
        return Err(Malformed::Short);
    }
    let mut params = Vec::with_capacity(count);
    for _ in 0..count {
        params.push(match body.i32()? {
            -1 => None,
            length => Some(body.bytes(usize::try_from(length).map_err(|_| Malformed::Short)?)?),
        });
    }
    let result_formats = body.formats()?;
    Ok(Bind { portal, statement, param_formats, params, result_formats })
}

/// What a client opens a connection with.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Opening<'a> {
    /// It would like TLS or GSSAPI encryption.
    Encryption {
        /// GSSAPI, not TLS.
        gss: bool,
    },
    /// It wants a session's statement stopped.
    Cancel { pid: i32, secret: i32 },
    /// It wants a session.
    Session {
        /// Minor version of the protocol asked for.
        minor: u16,
        /// Names and values.
        parameters: Vec<(&'a str, &'a str)>,
    },
    /// It speaks another protocol.
    Version { major: u16, minor: u16 },
}

/// Shortest and longest packets that open a connection, including their length.
pub(super) const OPENING: std::ops::RangeInclusive<usize> = 8..=10_000;

const CANCEL_REQUEST: i32 = 80_877_102;

/// Reads the packet that opens a connection, behind its length.
pub(super) fn decode_opening(packet: &[u8]) -> Result<Opening<'_>, Malformed> {
    let mut body = Body { rest: packet };
    let code = body.i32()?;
    match code {
        startup::SslRequest::BODY_MAGIC_NUMBER => return body.end(Opening::Encryption { gss: false }),
        startup::GssEncRequest::BODY_MAGIC_NUMBER => return body.end(Opening::Encryption { gss: true }),
        CANCEL_REQUEST => {
            let (pid, secret) = (body.i32()?, body.i32()?);
            return body.end(Opening::Cancel { pid, secret });
        }
        _ => {}
    }
    let (major, minor) = ((code as u32 >> 16) as u16, code as u16);
    if major != 3 {
        return Ok(Opening::Version { major, minor });
    }
    let mut parameters = Vec::new();
    loop {
        let name = body.text()?;
        if name.is_empty() {
            return body.end(Opening::Session { minor, parameters });
        }
        parameters.push((name, body.text()?));
    }
}
