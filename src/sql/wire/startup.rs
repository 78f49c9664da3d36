//! How a connection begins: requests for encryption, cancel requests, who the client is.

use tokio::io::{AsyncRead, AsyncWrite};

use super::frontend::{Malformed, OPENING, Opening, decode_opening};
use super::stream::{End, Guard, Patience, Stream};
use crate::sql::error::SqlError;

/// The protocol version that is spoken: 3.0.
const VERSION: u32 = 3 << 16;

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// A session.
    Session(Identity),
    /// A session's statement stopped. No answer.
    Cancel { pid: i32, secret: i32 },
    /// Something that can't be.
    Impossible(SqlError),
}

/// Who a client says it is, and what it sets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) database: String,
    /// Settings, those from `options` included, in the order given.
    pub(super) settings: Vec<(String, String)>,
}

/// Hears what the client wants. Encryption is declined: the client goes on without, or leaves.
pub(super) async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    guard: &mut Guard,
    patience: Patience,
) -> Result<Wish, End> {
    let mut asked = [false; 2];
    loop {
        stream.fill(4, guard, patience).await?;
        let length = stream.line.input.unread().first_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes));
        let Some(size) = usize::try_from(length).ok().filter(|size| OPENING.contains(size)) else {
            return Err(End::Malformed(Malformed::Opening(length)));
        };
        stream.fill(size, guard, patience).await?;
        let wish = match decode_opening(&stream.line.input.unread()[4..size]) {
            Ok(Opening::Encryption { gss }) => {
                // Once for each kind, as clients do.
                if std::mem::replace(&mut asked[usize::from(gss)], true) {
                    return Err(End::Malformed(Malformed::Opening(length)));
                }
                stream.out.refuse_encryption();
                None
            }
            Ok(Opening::Cancel { pid, secret }) => Some(Wish::Cancel { pid, secret }),
            Ok(Opening::Version { major, minor }) => Some(Wish::Impossible(SqlError::new(
                "0A000",
                format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0"),
            ))),
            Ok(Opening::Session { minor, parameters }) => {
                let unknown: Vec<&str> = parameters.iter().map(|(name, _)| *name).filter(|name| name.starts_with("_pq_.")).collect();
                if minor > 0 || !unknown.is_empty() {
                    stream.out.negotiate(VERSION, &unknown);
                }
                Some(identity(&parameters).map_or_else(Wish::Impossible, Wish::Session))
            }
            Err(Malformed::Encoding(bytes)) => Some(Wish::Impossible(SqlError::new("22021", Malformed::Encoding(bytes).to_string()))),
            Err(malformed) => return Err(malformed.into()),
        };
        stream.line.input.skip(size);
        match wish {
            Some(wish) => return Ok(wish),
            None => stream.flush(guard).await?,
        }
    }
}

fn identity(parameters: &[(&str, &str)]) -> Result<Identity, SqlError> {
    let mut identity = Identity::default();
    for &(name, value) in parameters {
        match name {
            "user" => identity.user = value.to_string(),
            "database" => identity.database = value.to_string(),
            "replication" if matches!(value, "false" | "off" | "no" | "0") => {}
            "replication" => {
                return Err(SqlError::unsupported("a replication connection", "connect without the parameter \"replication\""));
            }
            "options" => identity.settings.append(&mut options(value)?),
            _ if name.starts_with("_pq_.") => {}
            _ => identity.settings.push((name.to_string(), value.to_string())),
        }
    }
    if identity.user.is_empty() {
        return Err(SqlError::new("28000", "no PostgreSQL user name specified in startup packet"));
    }
    if identity.database.is_empty() {
        identity.database.clone_from(&identity.user);
    }
    Ok(identity)
}

/// The settings in a server command line as clients give it (`-c name=value --name=value`), a backslash before a space that belongs to a
/// value.
fn options(text: &str) -> Result<Vec<(String, String)>, SqlError> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => Some(setting.to_string()),
            (None, Some("")) => words.next(),
            (None, Some(setting)) => Some(setting.to_string()),
            (None, None) => None,
        };
        let Some((name, value)) = setting.as_deref().and_then(|setting| setting.split_once('=')) else {
            return Err(SqlError::new("42601", format!("invalid command-line argument for server process: {word}"))
                .hint("options that are understood: -c NAME=VALUE and --NAME=VALUE"));
        };
        settings.push((name.replace('-', "_"), value.to_string()));
    }
    Ok(settings)
}
