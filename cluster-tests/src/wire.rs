//! A PostgreSQL client that hides nothing: every message of an answer, in order, as it came.
//!
//! Used by the differential test, which compares what drivers don't show (command tags, exact bytes, ReadyForQuery's status), and by
//! tests that want a plain blocking client. Protocol 3.0, no encryption, no password. It does no pooling, no type conversion.
//!
//! Answers come from a server under test: lengths are checked, and silence is an error after the connection's patience.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::endpoint::{Endpoint, Listener};

/// Longest message that is accepted, in bytes.
const MESSAGE_MAX: usize = 64 << 20;

/// A column of a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Object id of its type.
    pub type_oid: u32,
    /// The type's size, -1 when it varies.
    pub type_len: i16,
    /// The type's modifier, -1 for none.
    pub typmod: i32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// An error or notice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// ERROR, FATAL, PANIC; WARNING, NOTICE ...
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// What it says.
    pub message: String,
    /// Field `C` of constraints: the constraint's name, if given.
    pub constraint: Option<String>,
}

/// A row: values as they came, None for null.
pub type Row = Vec<Option<Vec<u8>>>;

/// A message of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// ParseComplete.
    Parsed,
    /// BindComplete.
    Bound,
    /// CloseComplete.
    Closed,
    /// ParameterDescription.
    Parameters(Vec<u32>),
    /// RowDescription.
    Columns(Vec<Field>),
    /// NoData.
    NoColumns,
    /// DataRow.
    Row(Row),
    /// PortalSuspended.
    Suspended,
    /// CommandComplete's tag.
    Complete(String),
    /// EmptyQueryResponse.
    Empty,
    /// CopyInResponse.
    CopyIn,
    /// ErrorResponse.
    Failure(Report),
    /// NoticeResponse.
    Notice(Report),
    /// ReadyForQuery's status: I, T or E.
    Ready(u8),
}

/// A parameter's value and format (0 text, 1 binary).
pub type Parameter = (i16, Option<Vec<u8>>);

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn open(endpoint: &Endpoint, patience: Duration) -> io::Result<Stream> {
        match &endpoint.listener {
            Listener::Unix(folder, port) => {
                let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}")))?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Ok(Stream::Unix(stream))
            }
            Listener::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(into),
            Stream::Tcp(stream) => stream.read(into),
        }
    }
}

impl Stream {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }
}

/// A connection.
pub struct Client {
    stream: io::BufReader<Stream>,
    out: Vec<u8>,
    /// BackendKeyData: process id and secret.
    pub key: Option<(i32, i32)>,
}

fn bad(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// A message's body, read from the front.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        if count > self.0.len() {
            return Err(bad(format!("a message ends {} bytes too early", count - self.0.len())));
        }
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    fn i16(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes([self.take(1)?[0], self.take(1)?[0]]))
    }

    fn i32(&mut self) -> io::Result<i32> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> io::Result<String> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or_else(|| bad("a string doesn't end"))?;
        let text = String::from_utf8(self.take(end)?.to_vec()).map_err(bad)?;
        self.take(1)?;
        Ok(text)
    }

    fn columns(&mut self) -> io::Result<Vec<Field>> {
        let mut fields = Vec::new();
        for _ in 0..self.i16()? {
            let name = self.text()?;
            let (_table, _column) = (self.i32()?, self.i16()?);
            let (type_oid, type_len, typmod, format) = (self.i32()? as u32, self.i16()?, self.i32()?, self.i16()?);
            fields.push(Field { name, type_oid, type_len, typmod, format });
        }
        Ok(fields)
    }

    fn row(&mut self) -> io::Result<Row> {
        let mut row = Row::new();
        for _ in 0..self.i16()? {
            row.push(match self.i32()? {
                -1 => None,
                length => Some(self.take(usize::try_from(length).map_err(bad)?)?.to_vec()),
            });
        }
        Ok(row)
    }

    fn report(&mut self) -> io::Result<Report> {
        let mut report = Report { severity: String::new(), code: String::new(), message: String::new(), constraint: None };
        loop {
            match self.take(1)?[0] {
                0 => return Ok(report),
                b'V' => report.severity = self.text()?,
                b'C' => report.code = self.text()?,
                b'M' => report.message = self.text()?,
                b'n' => report.constraint = Some(self.text()?),
                _ => drop(self.text()?),
            }
        }
    }
}

fn event(kind: u8, body: &[u8]) -> io::Result<Option<Event>> {
    let mut body = Body(body);
    let event = match kind {
        b'1' => Event::Parsed,
        b'2' => Event::Bound,
        b'3' => Event::Closed,
        b't' => {
            let count = body.i16()?;
            Event::Parameters((0..count).map(|_| body.i32().map(|oid| oid as u32)).collect::<io::Result<_>>()?)
        }
        b'T' => Event::Columns(body.columns()?),
        b'n' => Event::NoColumns,
        b'D' => Event::Row(body.row()?),
        b's' => Event::Suspended,
        b'C' => Event::Complete(body.text()?),
        b'I' => Event::Empty,
        b'G' => {
            body.take(body.0.len())?;
            Event::CopyIn
        }
        b'E' => Event::Failure(body.report()?),
        b'N' => Event::Notice(body.report()?),
        b'Z' => Event::Ready(body.take(1)?[0]),
        // ParameterStatus, notifications.
        b'S' | b'A' => return Ok(None),
        other => return Err(bad(format!("a message of unknown kind {:?}", other as char))),
    };
    match body.0.len() {
        0 => Ok(Some(event)),
        rest => Err(bad(format!("{event:?} has {rest} bytes too many"))),
    }
}

impl Client {
    pub(crate) fn connect(endpoint: &Endpoint, patience: Duration) -> io::Result<Client> {
        let mut client = Client { stream: io::BufReader::new(Stream::open(endpoint, patience)?), out: Vec::new(), key: None };
        let mut startup = 196_608i32.to_be_bytes().to_vec();
        for word in ["user", &endpoint.user, "database", &endpoint.database, "client_encoding", "UTF8", ""] {
            startup.extend(word.bytes().chain([0]));
        }
        client.out.extend((startup.len() as i32 + 4).to_be_bytes());
        client.out.extend(startup);
        client.flush()?;
        loop {
            let (kind, body) = client.read()?;
            match kind {
                b'R' if body == [0; 4] => {}
                b'R' => return Err(bad("the server wants a password")),
                b'K' => {
                    let mut body = Body(&body);
                    client.key = Some((body.i32()?, body.i32()?));
                }
                b'E' => {
                    let report = Body(&body).report()?;
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{}: {}", report.code, report.message)));
                }
                b'Z' => return Ok(client),
                _ => {}
            }
        }
    }

    fn message(&mut self, kind: u8, body: &[u8]) {
        self.out.push(kind);
        self.out.extend((body.len() as i32 + 4).to_be_bytes());
        self.out.extend(body);
    }

    fn flush(&mut self) -> io::Result<()> {
        let out = std::mem::take(&mut self.out);
        self.stream.get_mut().write_all(&out)
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..=MESSAGE_MAX).contains(&length) {
            return Err(bad(format!("a message says it has {length} bytes")));
        }
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// Everything up to and with ReadyForQuery. When the server asks for COPY data, it gets `copy`.
    fn answer(&mut self, copy: &[u8]) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            let (kind, body) = self.read()?;
            let Some(event) = event(kind, &body)? else { continue };
            let end = matches!(event, Event::Ready(_));
            if event == Event::CopyIn {
                for piece in copy.chunks(1000) {
                    self.message(b'd', piece);
                }
                self.message(b'c', &[]);
                self.flush()?;
            }
            events.push(event);
            if end {
                return Ok(events);
            }
        }
    }

    /// The simple protocol. `copy` is given to a COPY FROM STDIN.
    ///
    /// # Errors
    /// The connection broke, was silent for too long, or said something that isn't the protocol. Errors of SQL are events.
    pub fn simple(&mut self, sql: &str, copy: &[u8]) -> io::Result<Vec<Event>> {
        self.message(b'Q', &[sql.as_bytes(), &[0]].concat());
        self.flush()?;
        self.answer(copy)
    }

    /// The extended protocol with unnamed statement and portal: parse, describe the statement, bind, describe the portal, execute until
    /// done (`rows` at a time; 0 is all), sync. `types` are the parameters' declared types, 0 where the server is to find out.
    ///
    /// # Errors
    /// As [`Client::simple`].
    pub fn extended(&mut self, sql: &str, types: &[u32], parameters: &[Parameter], format: i16, rows: i32) -> io::Result<Vec<Event>> {
        let mut parse = vec![0];
        parse.extend(sql.bytes().chain([0]));
        parse.extend((types.len() as i16).to_be_bytes());
        parse.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
        self.message(b'P', &parse);
        self.message(b'D', b"S\0");
        let mut bind = vec![0, 0];
        bind.extend((parameters.len() as i16).to_be_bytes());
        bind.extend(parameters.iter().flat_map(|(format, _)| format.to_be_bytes()));
        bind.extend((parameters.len() as i16).to_be_bytes());
        for (_, value) in parameters {
            let Some(value) = value else {
                bind.extend((-1i32).to_be_bytes());
                continue;
            };
            bind.extend((value.len() as i32).to_be_bytes());
            bind.extend(value);
        }
        bind.extend(1i16.to_be_bytes());
        bind.extend(format.to_be_bytes());
        self.message(b'B', &bind);
        self.message(b'D', b"P\0");
        let execute = [&[0][..], &rows.to_be_bytes()].concat();
        // A portal of n rows at a time is asked three times; a fourth finds what is left.
        for _ in 0..if rows == 0 { 1 } else { 3 } {
            self.message(b'E', &execute);
        }
        self.message(b'S', &[]);
        self.flush()?;
        self.answer(&[])
    }

    /// Rows of a statement as text; for tests that just want to know.
    ///
    /// # Errors
    /// Also an error of SQL, as text.
    pub fn rows(&mut self, sql: &str) -> io::Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        let mut failure = None;
        for event in self.simple(sql, &[])? {
            match event {
                Event::Row(row) => {
                    let text = |value: Option<Vec<u8>>| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    rows.push(row.into_iter().map(text).collect());
                }
                Event::Failure(report) => failure = Some(report),
                _ => {}
            }
        }
        match failure {
            None => Ok(rows),
            Some(report) => Err(io::Error::other(format!("{}: {} ({sql})", report.code, report.message))),
        }
    }

    /// The first column of the first row, as text.
    ///
    /// # Errors
    /// As [`Client::rows`]; also when there is none.
    pub fn value(&mut self, sql: &str) -> io::Result<String> {
        let rows = self.rows(sql)?;
        rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).ok_or_else(|| bad(format!("no value from {sql}")))
    }

    /// The SQLSTATE that a statement ends with; none when it succeeds.
    ///
    /// # Errors
    /// As [`Client::simple`].
    pub fn sqlstate(&mut self, sql: &str) -> io::Result<Option<String>> {
        let events = self.simple(sql, &[])?;
        Ok(events.into_iter().find_map(|event| match event {
            Event::Failure(report) => Some(report.code),
            _ => None,
        }))
    }
}
