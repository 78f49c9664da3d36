//! What the server says: messages put behind each other into one buffer, which goes out in as few writes as possible.

use pgwire::messages::{copy, data, extendedquery, response, startup};

use crate::sql::error::{Notice, Severity, SqlError};
use crate::sql::session::{ColumnDesc, Format, RowSink, TransactionStatus};

/// Output that waits for the client beyond which a statement waits too.
const FULL: usize = 64 << 10;

/// Capacity that an empty buffer keeps.
const KEEP: usize = FULL / 2;

/// How bad an error is for the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gravity {
    /// The statement has failed.
    Error,
    /// The session is over.
    Fatal,
}

/// Output on its way to the client.
#[derive(Default)]
pub(super) struct Out {
    bytes: Vec<u8>,
    /// How many of them have been written.
    written: usize,
    /// A `COPY .. TO STDOUT` is under way.
    copying: bool,
    /// Rows since this was last taken.
    rows: usize,
}

impl Out {
    /// What has not been written yet.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// `count` more bytes have been written.
    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written >= self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEEP);
            self.written = 0;
        }
    }

    /// Whether a statement has to wait until the client has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.written >= FULL
    }

    /// Rows given since this was last asked.
    pub(super) fn take_rows(&mut self) -> usize {
        std::mem::take(&mut self.rows)
    }

    /// A message without a body.
    fn bare(&mut self, kind: u8) {
        self.bytes.extend_from_slice(&[kind, 0, 0, 0, 4]);
    }

    /// A message whose body `fill` puts there.
    fn message(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[kind, 0, 0, 0, 0]);
        fill(&mut self.bytes);
        let length = (self.bytes.len() - start - 1) as u32;
        self.bytes[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }

    /// One byte outside of any message: the answer to a request for encryption.
    pub(super) fn refuse_encryption(&mut self) {
        self.bytes.push(response::SslResponse::BYTE_REFUSE);
    }

    pub(super) fn authentication_ok(&mut self) {
        self.message(startup::MESSAGE_TYPE_BYTE_AUTHENTICATION, |body| body.extend_from_slice(&[0; 4]));
    }

    pub(super) fn negotiate(&mut self, newest: u32, unknown: &[&str]) {
        self.message(startup::MESSAGE_TYPE_BYTE_NEGOTIATE_PROTOCOL_VERSION, |body| {
            body.extend_from_slice(&newest.to_be_bytes());
            body.extend_from_slice(&(unknown.len() as u32).to_be_bytes());
            unknown.iter().for_each(|name| text(body, name));
        });
    }

    pub(super) fn parameter(&mut self, name: &str, value: &str) {
        self.message(startup::MESSAGE_TYPE_BYTE_PARAMETER_STATUS, |body| {
            text(body, name);
            text(body, value);
        });
    }

    pub(super) fn key(&mut self, pid: i32, secret: i32) {
        self.message(startup::MESSAGE_TYPE_BYTE_BACKEND_KEY_DATA, |body| {
            body.extend_from_slice(&pid.to_be_bytes());
            body.extend_from_slice(&secret.to_be_bytes());
        });
    }

    pub(super) fn ready(&mut self, status: TransactionStatus) {
        self.bytes.extend_from_slice(&[response::MESSAGE_TYPE_BYTE_READY_FOR_QUERY, 0, 0, 0, 5, status.byte()]);
    }

    pub(super) fn parse_complete(&mut self) {
        self.bare(extendedquery::MESSAGE_TYPE_BYTE_PARSE_COMPLETE);
    }

    pub(super) fn bind_complete(&mut self) {
        self.bare(extendedquery::MESSAGE_TYPE_BYTE_BIND_COMPLETE);
    }

    pub(super) fn close_complete(&mut self) {
        self.bare(extendedquery::MESSAGE_TYPE_BYTE_CLOSE_COMPLETE);
    }

    pub(super) fn portal_suspended(&mut self) {
        self.bare(extendedquery::MESSAGE_TYPE_BYTE_PORTAL_SUSPENDED);
    }

    pub(super) fn empty_query(&mut self) {
        self.bare(response::MESSAGE_TYPE_BYTE_EMPTY_QUERY_RESPONSE);
    }

    /// The statement is done; closes a `COPY .. TO STDOUT` first.
    pub(super) fn complete(&mut self, tag: &str) {
        if std::mem::take(&mut self.copying) {
            self.bare(copy::MESSAGE_TYPE_BYTE_COPY_DONE);
        }
        self.message(response::MESSAGE_TYPE_BYTE_COMMAND_COMPLETE, |body| text(body, tag));
    }

    pub(super) fn parameter_types(&mut self, types: &[u32]) {
        self.message(data::MESSAGE_TYPE_BYTE_PARAMETER_DESCRITION, |body| {
            body.extend_from_slice(&(types.len() as u16).to_be_bytes());
            types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
        });
    }

    /// What rows look like, or that there are none. `formats` may be shorter than `columns`: the others are text.
    pub(super) fn columns(&mut self, columns: Option<&[ColumnDesc]>, formats: &[Format]) {
        let Some(columns) = columns else { return self.bare(data::MESSAGE_TYPE_BYTE_NO_DATA) };
        self.message(data::MESSAGE_TYPE_BYTE_ROW_DESCRITION, |body| {
            body.extend_from_slice(&(columns.len() as u16).to_be_bytes());
            for (number, column) in columns.iter().enumerate() {
                text(body, &column.name);
                body.extend_from_slice(&column.table_oid.to_be_bytes());
                body.extend_from_slice(&column.column.to_be_bytes());
                body.extend_from_slice(&column.type_oid.to_be_bytes());
                body.extend_from_slice(&column.type_len.to_be_bytes());
                body.extend_from_slice(&column.typmod.to_be_bytes());
                let format = formats.get(number).copied().unwrap_or_default();
                body.extend_from_slice(&(format as i16).to_be_bytes());
            }
        });
    }

    pub(super) fn copy_in(&mut self, columns: usize) {
        self.copy_response(copy::MESSAGE_TYPE_BYTE_COPY_IN_RESPONSE, columns);
    }

    fn copy_response(&mut self, kind: u8, columns: usize) {
        self.message(kind, |body| {
            body.push(0);
            body.extend_from_slice(&(columns as u16).to_be_bytes());
            body.resize(body.len() + 2 * columns, 0);
        });
    }

    pub(super) fn error(&mut self, gravity: Gravity, error: &SqlError) {
        // An error ends a COPY by itself.
        self.copying = false;
        let severity = match gravity {
            Gravity::Error => "ERROR",
            Gravity::Fatal => "FATAL",
        };
        self.report(response::MESSAGE_TYPE_BYTE_ERROR_RESPONSE, severity, error);
    }

    pub(super) fn notice(&mut self, notice: &Notice) {
        let severity = match notice.severity {
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
        };
        self.report(response::MESSAGE_TYPE_BYTE_NOTICE_RESPONSE, severity, &notice.what);
    }

    fn report(&mut self, kind: u8, severity: &str, what: &SqlError) {
        let position = what.position.map(|position| position.to_string());
        let fields = [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(what.code)),
            (b'M', Some(what.message.as_str())),
            (b'D', what.detail.as_deref()),
            (b'H', what.hint.as_deref()),
            (b'P', position.as_deref()),
            (b't', what.table.as_deref()),
            (b'c', what.column.as_deref()),
            (b'n', what.constraint.as_deref()),
        ];
        self.message(kind, |body| {
            for (field, value) in fields {
                let Some(value) = value else { continue };
                body.push(field);
                text(body, value);
            }
            body.push(0);
        });
    }
}

/// A text and its end. A zero byte inside, which could only come from a bug of ours, would shift all that follows: it is left out.
fn text(body: &mut Vec<u8>, text: &str) {
    if text.as_bytes().contains(&0) {
        body.extend(text.bytes().filter(|byte| *byte != 0));
    } else {
        body.extend_from_slice(text.as_bytes());
    }
    body.push(0);
}

impl RowSink for Out {
    fn row(&mut self, body: &[u8]) {
        self.rows += 1;
        self.message(data::MESSAGE_TYPE_BYTE_DATA_ROW, |message| message.extend_from_slice(body));
    }

    fn copy_out(&mut self, columns: usize) {
        self.copying = true;
        self.copy_response(copy::MESSAGE_TYPE_BYTE_COPY_OUT_RESPONSE, columns);
    }

    fn copy_data(&mut self, body: &[u8]) {
        self.message(copy::MESSAGE_TYPE_BYTE_COPY_DATA, |message| message.extend_from_slice(body));
    }

    fn full(&self) -> bool {
        self.is_full()
    }
}
