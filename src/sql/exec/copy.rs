//! COPY's text and CSV formats: lines to values, values to lines.

use std::borrow::Cow;
use std::ops::Range;

use crate::sql::error::SqlError;
use crate::sql::parse::Copy;
use crate::sql::session::RowSink;
use crate::sql::types::{Datum, Formats, SqlType, output_text};

/// How COPY writes and reads.
#[derive(Clone, Debug)]
pub struct Style {
    csv: bool,
    delimiter: u8,
    null: Vec<u8>,
    header: bool,
    quote: u8,
    escape: u8,
}

impl Style {
    /// As a statement says.
    ///
    /// # Errors
    /// 0A000, 22023: choices that don't go together.
    pub fn of(copy: &Copy) -> Result<Style, SqlError> {
        if !copy.csv && (copy.quote.is_some() || copy.escape.is_some()) {
            return Err(SqlError::new("0A000", "COPY quote and escape available only in CSV mode"));
        }
        let byte = |given: Option<char>, default: u8| given.map_or(default, |given| given as u8);
        let delimiter = byte(copy.delimiter, if copy.csv { b',' } else { b'\t' });
        let quote = byte(copy.quote, b'"');
        let null = copy.null.clone().unwrap_or_else(|| if copy.csv { String::new() } else { "\\N".into() }).into_bytes();
        if !copy.csv && (delimiter.is_ascii_alphanumeric() || delimiter == b'\\' || delimiter == b'.') {
            return Err(SqlError::new("22023", format!("COPY delimiter cannot be \"{}\"", delimiter as char)));
        }
        if null.contains(&b'\n') || null.contains(&b'\r') {
            return Err(SqlError::new("22023", "COPY null representation cannot use newline or carriage return"));
        }
        Ok(Style { csv: copy.csv, delimiter, null, header: copy.header, quote, escape: byte(copy.escape, quote) })
    }

    /// Whether the first line has names.
    pub fn has_header(&self) -> bool {
        self.header
    }
}

/// Cuts bytes into lines, which may come in pieces.
pub struct Lines {
    style: Style,
    kept: Vec<u8>,
    ended: bool,
}

/// Whole lines, in one piece of memory.
#[derive(Default)]
pub struct WholeLines {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

impl WholeLines {
    /// The lines, without their ends.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| &self.bytes[place.clone()])
    }
}

impl Lines {
    /// Of that style.
    pub fn new(style: Style) -> Lines {
        Lines { style, kept: Vec::new(), ended: false }
    }

    /// Takes more bytes.
    pub fn push(&mut self, data: &[u8]) {
        if !self.ended {
            self.kept.extend_from_slice(data);
        }
    }

    /// Puts each whole line into `lines`, instead of what that held; with `all` also what is left at the end. Lines after `\.` don't count.
    pub fn whole(&mut self, all: bool, lines: &mut WholeLines) {
        lines.places.clear();
        let mut start = 0;
        while !self.ended {
            let Some(end) = self.end_of_line(start) else { break };
            lines.places.extend(self.line(start, end));
            start = end + 1;
        }
        if all && !self.ended && start < self.kept.len() {
            lines.places.extend(self.line(start, self.kept.len()));
            start = self.kept.len();
        }
        // What isn't whole yet stays; the rest changes hands.
        lines.bytes.clear();
        lines.bytes.extend_from_slice(&self.kept[start.min(self.kept.len())..]);
        std::mem::swap(&mut self.kept, &mut lines.bytes);
    }

    fn line(&mut self, start: usize, end: usize) -> Option<Range<usize>> {
        let line = &self.kept[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"\\." {
            self.ended = true;
            return None;
        }
        Some(start..start + line.len())
    }

    /// The newline that ends the line beginning at `start`: in CSV none within quotes.
    fn end_of_line(&self, start: usize) -> Option<usize> {
        let rest = &self.kept[start..];
        if !self.style.csv {
            return rest.iter().position(|byte| *byte == b'\n').map(|at| start + at);
        }
        let (mut quoted, mut at) = (false, 0);
        while at < rest.len() {
            let byte = rest[at];
            if quoted && byte == self.style.escape && self.style.escape != self.style.quote {
                at += 2;
                continue;
            }
            if byte == self.style.quote {
                quoted = !quoted;
            } else if byte == b'\n' && !quoted {
                return Some(start + at);
            }
            at += 1;
        }
        None
    }
}

impl Style {
    /// The fields of a line; null where the null string stands.
    ///
    /// # Errors
    /// 22P04.
    pub fn fields<'l>(&self, line: &'l [u8], out: &mut Vec<Option<Cow<'l, [u8]>>>) -> Result<(), SqlError> {
        out.clear();
        if self.csv { self.csv_fields(line, out) } else { self.text_fields(line, out) }
    }

    fn text_fields<'l>(&self, line: &'l [u8], out: &mut Vec<Option<Cow<'l, [u8]>>>) -> Result<(), SqlError> {
        let mut start = 0;
        loop {
            let mut end = start;
            let mut escaped = false;
            while end < line.len() && line[end] != self.delimiter {
                if line[end] == b'\\' {
                    escaped = true;
                    end += 1;
                }
                end += 1;
            }
            let end = end.min(line.len());
            let raw = &line[start..end];
            out.push(if raw == self.null.as_slice() {
                None
            } else if escaped {
                Some(Cow::Owned(unescape(raw)))
            } else {
                Some(Cow::Borrowed(raw))
            });
            if end >= line.len() {
                return Ok(());
            }
            start = end + 1;
        }
    }

    fn csv_fields<'l>(&self, line: &'l [u8], out: &mut Vec<Option<Cow<'l, [u8]>>>) -> Result<(), SqlError> {
        let mut at = 0;
        loop {
            let (mut field, mut was_quoted, mut quoted) = (Vec::new(), false, false);
            while at < line.len() {
                let byte = line[at];
                if quoted {
                    if byte == self.escape && line.get(at + 1).is_some_and(|next| *next == self.quote || *next == self.escape) {
                        field.push(line[at + 1]);
                        at += 1;
                    } else if byte == self.quote {
                        quoted = false;
                    } else {
                        field.push(byte);
                    }
                } else if byte == self.delimiter {
                    break;
                } else if byte == self.quote {
                    (quoted, was_quoted) = (true, true);
                } else {
                    field.push(byte);
                }
                at += 1;
            }
            if quoted {
                return Err(SqlError::new("22P04", "unterminated CSV quoted field"));
            }
            out.push(if !was_quoted && field == self.null { None } else { Some(Cow::Owned(field)) });
            if at >= line.len() {
                return Ok(());
            }
            at += 1;
        }
    }
}

/// What backslashes stand for.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some(next) = bytes.next() else { break };
        match next {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(11),
            b'0'..=b'7' => {
                let mut value = u32::from(next - b'0');
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(|digit| (b'0'..=b'7').contains(digit)) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                }
                out.push(value as u8);
            }
            b'x' if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
                let mut value = 0;
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(u8::is_ascii_hexdigit) else { break };
                    value = value * 16 + (digit as char).to_digit(16).unwrap_or(0);
                }
                out.push(value as u8);
            }
            other => out.push(other),
        }
    }
    out
}

/// Writes rows as lines.
pub struct Writer {
    style: Style,
    line: Vec<u8>,
    field: Vec<u8>,
    begun: bool,
}

impl Writer {
    /// Of that style.
    pub fn new(style: Style) -> Writer {
        Writer { style, line: Vec::new(), field: Vec::new(), begun: false }
    }

    /// Whether it has begun.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// The line of names, if it is wanted.
    pub fn begin(&mut self, names: &[&str], sink: &mut dyn RowSink) {
        self.begun = true;
        if self.style.header {
            let row: Vec<Datum> = names.iter().map(|name| Datum::Text((*name).to_string())).collect();
            self.row(&row, &vec![SqlType::TEXT; row.len()], &Formats::default(), sink);
        }
    }

    /// One row.
    pub fn row(&mut self, row: &[Datum], types: &[SqlType], settings: &Formats, sink: &mut dyn RowSink) {
        self.line.clear();
        for (at, (value, ty)) in row.iter().zip(types).enumerate() {
            if at > 0 {
                self.line.push(self.style.delimiter);
            }
            if *value == Datum::Null {
                self.line.extend_from_slice(&self.style.null);
                continue;
            }
            self.field.clear();
            output_text(*ty, value, settings, &mut self.field);
            if self.style.csv { self.csv_field(row.len() == 1) } else { self.text_field() }
        }
        self.line.push(b'\n');
        sink.copy_data(&self.line);
    }

    fn text_field(&mut self) {
        for byte in &self.field {
            let letter = match byte {
                8 => b'b',
                12 => b'f',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                11 => b'v',
                b'\\' => b'\\',
                other if *other == self.style.delimiter => *other,
                other => {
                    self.line.push(*other);
                    continue;
                }
            };
            self.line.extend([b'\\', letter]);
        }
    }

    fn csv_field(&mut self, alone: bool) {
        let Style { delimiter, quote, escape, null, .. } = &self.style;
        let special = |byte: &u8| *byte == *delimiter || *byte == *quote || matches!(byte, b'\n' | b'\r');
        let needed = self.field == *null || self.field.iter().any(special) || (alone && self.field == b"\\.");
        if !needed {
            self.line.extend_from_slice(&self.field);
            return;
        }
        self.line.push(*quote);
        for byte in &self.field {
            if byte == quote || byte == escape {
                self.line.push(*escape);
            }
            self.line.push(*byte);
        }
        self.line.push(*quote);
    }
}
