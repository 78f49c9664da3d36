//! A client for the tests: pgwire's encoder and decoder, and what was received told in short words.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Flush, Parse, Sync};
use pgwire::messages::simplequery::Query;
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::fake::{Fake, Witness};
use crate::base::{Gate, Seams};
use crate::sql::wire::conversation::Conversation;
use crate::sql::wire::stream::{Guard, Stream};

/// Longest message that the server takes in these tests.
pub(super) const MESSAGE_MAX: usize = 1 << 20;

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) struct Client {
    pub(super) io: DuplexStream,
    received: BytesMut,
    context: DecodeContext,
}

/// What the session under test is like.
pub(super) struct Setting {
    pub(super) idle: Option<Duration>,
    pub(super) stall: Option<Duration>,
    /// Nothing: always open.
    pub(super) gate: Option<Gate>,
    /// What the pipe holds in each direction.
    pub(super) pipe: usize,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting { idle: None, stall: None, gate: None, pipe: 1 << 16 }
    }
}

/// Starts a conversation of a [`Fake`] as a task, and greets.
pub(super) async fn connect(seams: &Seams, setting: Setting) -> (Client, Arc<Witness>) {
    let (near, far) = tokio::io::duplex(setting.pipe);
    let witness = Arc::new(Witness::default());
    let gate = setting.gate.unwrap_or_else(|| Gate::always_open(seams.clone()));
    let guard = Guard::new(seams.clone(), Box::pin(std::future::pending()), setting.stall, gate);
    let session = Fake::new(&witness, setting.idle);
    let conversation = Conversation::new(seams.clone(), Stream::new(far, MESSAGE_MAX), guard, session);
    seams.spawn("conversation", Box::pin(conversation.run(LOOPBACK)));
    let mut client = Client::new(near);
    assert_eq!(client.round().await, ["authentication ok", "server_version=15.0", "key 7", "ready I"]);
    (client, witness)
}

impl Client {
    pub(super) fn new(io: DuplexStream) -> Client {
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        (context.awaiting_frontend_ssl, context.awaiting_frontend_startup) = (false, false);
        Client { io, received: BytesMut::new(), context }
    }

    pub(super) async fn send(&mut self, messages: Vec<PgWireFrontendMessage>) {
        let mut bytes = BytesMut::new();
        messages.iter().for_each(|message| message.encode(&mut bytes).expect("the tests' messages are possible"));
        self.send_bytes(&bytes).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("the server reads");
    }

    /// The next message in short, or `end` when the server has closed the connection.
    pub(super) async fn next(&mut self) -> String {
        loop {
            if let Some(message) = PgWireBackendMessage::decode(&mut self.received, &self.context).expect("the server speaks the protocol")
            {
                return short(&message);
            }
            if self.io.read_buf(&mut self.received).await.expect("a pipe can be read") == 0 {
                assert!(self.received.is_empty(), "the server ended in the middle of a message");
                return "end".into();
            }
        }
    }

    /// All up to ReadyForQuery or the end.
    pub(super) async fn round(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let next = self.next().await;
            let last = next.starts_with("ready") || next == "end";
            all.push(next);
            if last {
                return all;
            }
        }
    }

    pub(super) async fn query(&mut self, sql: &str) -> Vec<String> {
        self.send(vec![query(sql)]).await;
        self.round().await
    }
}

fn short(message: &PgWireBackendMessage) -> String {
    use PgWireBackendMessage as M;
    let field = |fields: &[(u8, String)], kind: u8| fields.iter().find(|(found, _)| *found == kind).map(|(_, text)| text.clone());
    match message {
        M::Authentication(_) => "authentication ok".into(),
        M::ParameterStatus(status) => format!("{}={}", status.name, status.value),
        M::BackendKeyData(key) => format!("key {}", key.pid),
        M::NegotiateProtocolVersion(version) => format!("negotiate {} {:?}", version.newest_minor_protocol, version.unsupported_options),
        M::ReadyForQuery(ready) => format!("ready {}", char::from(ready.status as u8)),
        M::ParseComplete(_) => "parsed".into(),
        M::BindComplete(_) => "bound".into(),
        M::CloseComplete(_) => "closed".into(),
        M::PortalSuspended(_) => "suspended".into(),
        M::CommandComplete(complete) => complete.tag.clone(),
        M::EmptyQueryResponse(_) => "empty".into(),
        M::ErrorResponse(error) => {
            let part = |kind| field(&error.fields, kind).unwrap_or_default();
            format!("{} {}: {}", part(b'S'), part(b'C'), part(b'M'))
        }
        M::NoticeResponse(notice) => field(&notice.fields, b'S').unwrap_or_default().to_string(),
        M::ParameterDescription(types) => format!("parameters {:?}", types.types),
        M::RowDescription(row) => {
            let columns: Vec<String> = row.fields.iter().map(|column| format!("{}:{}", column.name, column.format_code)).collect();
            format!("columns {}", columns.join(","))
        }
        M::DataRow(row) if row.data.len() <= 40 => format!("row {}", String::from_utf8_lossy(&row.data[4..])),
        M::DataRow(row) => format!("row of {}", row.data.len() - 4),
        M::NoData(_) => "no data".into(),
        M::CopyData(data) => format!("data {}", String::from_utf8_lossy(&data.data).trim_end()),
        M::CopyDone(_) => "copy done".into(),
        M::CopyInResponse(response) => format!("copy in {}", response.columns),
        M::CopyOutResponse(response) => format!("copy out {}", response.columns),
        other => format!("{other:?}"),
    }
}

fn name(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_string())
}

pub(super) fn query(sql: &str) -> PgWireFrontendMessage {
    PgWireFrontendMessage::Query(Query::new(sql.to_string()))
}

pub(super) fn parse(statement: &str, sql: &str) -> PgWireFrontendMessage {
    PgWireFrontendMessage::Parse(Parse::new(name(statement), sql.to_string(), vec![]))
}

pub(super) fn bind(portal: &str, statement: &str, value: Option<&'static [u8]>, formats: Vec<i16>) -> PgWireFrontendMessage {
    let values = value.map(|value| Some(Bytes::from_static(value))).into_iter().collect();
    PgWireFrontendMessage::Bind(Bind::new(name(portal), name(statement), vec![], values, formats))
}

pub(super) fn describe(kind: u8, what: &str) -> PgWireFrontendMessage {
    PgWireFrontendMessage::Describe(Describe::new(kind, name(what)))
}

pub(super) fn execute(portal: &str, max_rows: i32) -> PgWireFrontendMessage {
    PgWireFrontendMessage::Execute(Execute::new(name(portal), max_rows))
}

pub(super) fn close(kind: u8, what: &str) -> PgWireFrontendMessage {
    PgWireFrontendMessage::Close(Close::new(kind, name(what)))
}

pub(super) fn sync() -> PgWireFrontendMessage {
    PgWireFrontendMessage::Sync(Sync::new())
}

pub(super) fn flush() -> PgWireFrontendMessage {
    PgWireFrontendMessage::Flush(Flush::new())
}
