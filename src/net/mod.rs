//! L1: bytes to peers.
//!
//! For the layers that speak with other instances and with guards; they know only [`Link`]. What a body means is theirs: `net` carries
//! bytes, and says of each frame who sent it, in which incarnation and epoch. Protocol: `docs/protocols/interconnect.md`; bytes:
//! `docs/formats/frame.md`.
//!
//! Invariants:
//! - Nothing reaches [`Link::next`] but frames of peers that proved to be who they say: certificate and hello agree (rule 20).
//! - After [`Link::set_epoch`] returns, no frame of an older epoch is handed out or to the transport (rule 6).
//! - Once a peer was heard in one incarnation, nothing of an older one is accepted (rule 6).
//! - Whatever waits is bounded: by number and bytes, for each peer (rule 19).
//!
//! It deliberately doesn't decide who is alive: [`Arrival::Up`] and [`Arrival::Down`] are about connections. It doesn't resend: what was
//! on its way when a connection broke or an epoch was crossed is lost, and whoever needs an answer asks again.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::base::{BoxFuture, Epoch, Incarnation, ThreadId};

mod backoff;
pub mod certificate;
pub mod counters;
pub mod frame;
pub mod hello;
mod inbox;
pub mod memory;
pub mod quic;
pub mod sequence;

pub use counters::{Counters, Refusal};
pub use inbox::QuotaLimits;

/// What kind of process speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Role {
    /// The process that has the storage open.
    Instance = 1,
    /// Its parent, which kills it when it must.
    Guard = 2,
}

impl Role {
    /// The role with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Role> {
        match number {
            1 => Some(Role::Instance),
            2 => Some(Role::Guard),
            _ => None,
        }
    }
}

/// Whom one speaks with: an instance's process or its guard. Both use the instance's certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Peer {
    /// The instance's number, which is its redo thread's.
    pub instance: ThreadId,
    /// Which of its processes.
    pub role: Role,
}

impl Peer {
    /// The process that has the storage open.
    pub fn instance(instance: ThreadId) -> Peer {
        Peer { instance, role: Role::Instance }
    }

    /// The guard of that process.
    pub fn guard(instance: ThreadId) -> Peer {
        Peer { instance, role: Role::Guard }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Instance => write!(f, "instance {}", self.instance.0),
            Role::Guard => write!(f, "guard {}", self.instance.0),
        }
    }
}

/// What a connection is for. Each lane has a connection of its own, so that bulk doesn't hold up heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    /// Datagrams: may be lost, never arrive twice or late behind a newer one. Between instances only.
    Heartbeat = 1,
    /// Frames in order, none lost while the connection lives.
    Control = 2,
    /// Requests and their answers, in any order ([`Link::request`]). Between instances only.
    Block = 3,
}

impl Lane {
    /// All of them.
    pub const ALL: [Lane; 3] = [Lane::Heartbeat, Lane::Control, Lane::Block];

    /// The lane with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| *lane as u8 == number)
    }

    /// Longest body, in bytes.
    pub const fn body_max(self) -> usize {
        match self {
            // With header, QUIC and UDP it fits the 1200 bytes that every path must carry.
            Lane::Heartbeat => 1024,
            Lane::Control | Lane::Block => 256 << 10,
        }
    }

    /// Whether processes of these roles speak on it.
    pub const fn joins(self, one: Role, other: Role) -> bool {
        matches!(self, Lane::Control) || (matches!(one, Role::Instance) && matches!(other, Role::Instance))
    }
}

/// Who sent a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Identity {
    /// As its certificate says, and its hello.
    pub peer: Peer,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The epoch it was in when it sent this: the receiver's own or a newer one, from which the receiver learns that it is behind.
    pub epoch: Epoch,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.peer, self.incarnation, self.epoch)
    }
}

/// Why a peer can't be reached any more. A hint, no proof of death: only a fence is (rule 1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DownReason {
    /// It closed the connection in an orderly way: it stops.
    Closed,
    /// Its machine says that the process is gone.
    Reset,
    /// Nothing came from it for the idle time-out.
    Silent,
    /// One of the two sides ended the connection for this reason.
    Refused(Refusal),
    /// A newer incarnation has said hello, or [`Link::refuse_below`] was called.
    Superseded,
    /// [`Link::set_peer`] gave it another address, or none.
    Moved,
}

/// What [`Link::next`] gives.
#[derive(Debug)]
pub enum Arrival {
    /// The peer answered our hello on the control lane: frames can be sent to it from now on. Other lanes follow on their own.
    Up {
        /// As it said in its hello.
        identity: Identity,
    },
    /// The connection behind the last `Up` of this peer is gone. The link connects again by itself.
    Down {
        /// Which peer.
        peer: Peer,
        /// Its incarnation when it was up.
        incarnation: Incarnation,
        /// Why.
        reason: DownReason,
    },
    /// The peer refused our hello. Told again only when reason or epoch change; the link keeps trying.
    Refused {
        /// Which peer.
        peer: Peer,
        /// Why it refused: [`Refusal::StaleEpoch`] means that this process is behind, [`Refusal::OldIncarnation`] that another has its identity.
        reason: Refusal,
        /// The epoch that the peer is in.
        epoch: Epoch,
    },
    /// A frame.
    Frame {
        /// Who sent it, checked.
        from: Identity,
        /// On which lane.
        lane: Lane,
        /// What it is: for the layer above.
        kind: u16,
        /// Its body, at most [`Lane::body_max`] bytes. Not checked beyond its checksum.
        body: Bytes,
        /// To answer it, on [`Lane::Block`].
        reply: Option<Reply>,
    },
}

/// The one answer to a request. Dropping it tells the peer that there is none.
pub struct Reply(Box<dyn Answer>);

impl Reply {
    /// For implementations of [`Link`].
    pub fn new(answer: impl Answer) -> Reply {
        Reply(Box::new(answer))
    }

    /// Sends the answer; it doesn't wait for its arrival.
    ///
    /// # Errors
    /// [`SendError::Stale`] when the request's epoch is over, [`SendError::TooLong`].
    pub fn send(self, body: Bytes) -> Result<(), SendError> {
        self.0.send(body)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// How an implementation of [`Link`] answers a request; dropped without, it tells the peer that there is no answer.
pub trait Answer: Send + 'static {
    /// See [`Reply::send`].
    ///
    /// # Errors
    /// As [`Reply::send`].
    fn send(self: Box<Self>, body: Bytes) -> Result<(), SendError>;
}

/// A frame that wasn't sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// No connection on this lane to the peer at present.
    #[error("not connected to {0}")]
    NotConnected(Peer),
    /// The queue to the peer is full.
    #[error("the queue to {0} is full")]
    Full(Peer),
    /// The body is too long for the lane.
    #[error("a body of {bytes} bytes is too long: {max} at most")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The lane doesn't carry this: only requests on [`Lane::Block`], and guards speak on [`Lane::Control`] only.
    #[error("this can't be sent on that lane")]
    WrongLane,
    /// What it answers is of an epoch that is over.
    #[error("the epoch of the request is over")]
    Stale,
}

/// A request without an answer. Whether the peer acted on it is unknown, except with `Full`, `TooLong` and `NotConnected`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection on the block lane to the peer at present; nothing was sent.
    #[error("not connected to {0}")]
    NotConnected(Peer),
    /// As many requests to the peer as may be are in flight; nothing was sent.
    #[error("too many requests to {0} in flight")]
    Full(Peer),
    /// The body is too long; nothing was sent.
    #[error("a body of {bytes} bytes is too long: {max} at most")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The connection broke first.
    #[error("the connection to {0} broke before it answered")]
    Broken(Peer),
    /// The peer got the request and dropped it.
    #[error("{0} gave no answer")]
    NoAnswer(Peer),
    /// The answer was refused: not a frame, or of an old epoch.
    #[error("the answer of {0} was refused: {1}")]
    BadAnswer(Peer, Refusal),
    /// [`Link::set_epoch`] was called first.
    #[error("the epoch ended before {0} answered")]
    EpochOver(Peer),
}

/// One process's end of the interconnect.
///
/// None of these waits, but for the two futures. Calls may come from any task.
pub trait Link: Send + Sync + 'static {
    /// Where peers reach this process.
    fn address(&self) -> SocketAddr;

    /// Says where `peer` can be reached; the link connects, and again with back-off whenever a connection breaks. `None`: hang up.
    /// The address may be hostile: the certificate decides who answers there. The same address again does nothing.
    fn set_peer(&self, peer: Peer, address: Option<SocketAddr>);

    /// Enters `epoch`: when this returns, nothing older is handed out by [`Link::next`], nothing older is given to the transport, and requests
    /// in flight have failed (rule 6). What the transport already had carries its old epoch, and is refused by whoever is past it.
    /// An epoch not newer than the current one does nothing.
    fn set_epoch(&self, epoch: Epoch);

    /// The current epoch.
    fn epoch(&self) -> Epoch;

    /// From now on nothing of `peer` in an incarnation below `oldest` is accepted; its connections end. Doesn't go back.
    fn refuse_below(&self, peer: Peer, oldest: Incarnation);

    /// Queues a frame in the current epoch on [`Lane::Heartbeat`] or [`Lane::Control`].
    ///
    /// # Errors
    /// At once, when it isn't queued. Without an error it may still be lost: with the connection, or when the epoch ends before it left.
    fn send(&self, to: Peer, lane: Lane, kind: u16, body: Bytes) -> Result<(), SendError>;

    /// Sends a request on [`Lane::Block`] and gives the answer's body. Nothing is sent
    /// before the future is polled; it ends with the connection or the epoch at the latest, and dropping it gives the answer up.
    fn request(&self, to: Peer, kind: u16, body: Bytes) -> BoxFuture<Result<Bytes, RequestError>>;

    /// The next event. Each goes to one caller.
    fn next(&self) -> BoxFuture<Arrival>;

    /// What happened so far.
    fn counters(&self) -> Counters;

    /// Ends all connections, telling peers. Dropping the link does the same; a process that is killed doesn't.
    fn close(&self);

    /// After [`Link::close`]: waits until peers could hear of it, half a second at most. A process that exits without waiting may take the word with it.
    fn closed(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}
