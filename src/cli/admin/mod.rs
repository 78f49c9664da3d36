//! The admin socket of an instance: how commands ask its process what it is doing, and have it do things.
//!
//! A Unix socket in the instance's directory, for the same user alone (directory and socket have no rights for others). One request a
//! connection: a line of JSON, answered by lines of JSON, the last of which is `done` or `error`. Requests are bounded in size and time, and
//! connections in number ([`server`]); the client bounds the answer's lines ([`client`]).
//!
//! ```text
//! {"ask":"status"}      -> {"done":{"state":"open", ...}}                          [Status]
//! {"ask":"checkpoint"}  -> {"done":{"written": ...}}
//! {"ask":"verify"}      -> {"progress":{...}}* {"finding":{...}}* ... {"done":{...}}
//! {"ask":"confirm-fence","id":2,"incarnation":7,"reason":"..."}      -> {"done":{"epoch": ...}}   an operator's word (cli::fence)
//! {"ask":"replace-voting","position":1,"path":"..."}                 -> {"done":{"epoch": ...}}   a view change (cli::voting)
//! ```

pub mod client;
pub mod server;

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request, in bytes.
const REQUEST_MAX: usize = 4096;
/// Longest line of an answer, in bytes.
const ANSWER_MAX: usize = 4 << 20;

/// What an instance is doing. In this order, but for crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its process is opening the storage.
    Starting,
    /// Its process brings pages up to date from the log.
    Recovering,
    /// Serving.
    Open,
    /// Writing what it has, to be closed.
    Stopping,
    /// No process, nothing to recover.
    Stopped,
    /// No process, but the storage wasn't closed: the next start recovers it.
    Dead,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Starting => "starting",
            State::Recovering => "recovering",
            State::Open => "open",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Dead => "dead",
        })
    }
}

/// What a command wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// What are you doing?
    Status {},
    /// Take a checkpoint now.
    Checkpoint {},
    /// Check all pages, trees and indexes.
    Verify {},
    /// An operator says that this life, and all before it, is dead and its I/O has drained.
    #[serde(rename = "confirm-fence")]
    ConfirmFence {
        /// Which instance.
        id: u16,
        /// Which life of it.
        incarnation: u64,
        /// How the operator knows.
        reason: String,
    },
    /// Put another voting file in the place of one.
    #[serde(rename = "replace-voting")]
    ReplaceVoting {
        /// Position in the configuration, from 0.
        position: u8,
        /// The new file; it was made for this.
        path: PathBuf,
    },
}

/// One line of an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// How far it is.
    Progress(Value),
    /// Something wrong was found; more may follow.
    Finding(Value),
    /// The result; nothing follows.
    Done(Value),
    /// It could not be done; nothing follows.
    Error(String),
}

/// What an instance says of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Its incarnation, once it has one.
    pub incarnation: Option<u64>,
    /// The epoch that it writes in, once it does.
    pub epoch: Option<u64>,
    /// Where it serves clients, once it does.
    pub postgres: Option<SocketAddr>,
    /// Recovery under way, or the last one of this process.
    pub recovery: Option<Value>,
    /// How it stands in the cluster; nothing for one instance alone, and before it takes part.
    #[serde(default)]
    pub member: Option<Value>,
}

/// A name for the socket `path` that is short enough for any folder: `sun_path` holds 108 bytes. Valid while the descriptor lives.
fn short_name(path: &Path) -> std::io::Result<(OwnedFd, PathBuf)> {
    use std::os::unix::fs::OpenOptionsExt;
    let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let (folder, name) = (path.parent().ok_or_else(wrong)?, path.file_name().ok_or_else(wrong)?);
    let folder = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder.into(), short))
}
