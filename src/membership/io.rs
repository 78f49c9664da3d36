//! What goes into the state machine and what comes out.
//!
//! The driver's duties are written at each variant. Two hold throughout: inputs are given in the order in which things happened on this
//! instance, with the `now` of the moment they are given; and outputs are acted on in order.

use std::net::SocketAddr;
use std::sync::Arc;

use super::messages::Beat;
use super::sector::{SECTOR, SectorKind, VotingId};
use super::view::{Confirmation, Method, View};
use crate::base::{Epoch, Incarnation, Instant, ThreadId};

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed. Given every [`super::Options::tick_ms`], and at once after anything that may have taken longer.
    Tick,
    /// Where peers reach this instance and its guard: written into the heartbeat sector.
    Address {
        /// This instance's endpoint.
        instance: SocketAddr,
    },
    /// A heartbeat came over the network from an authenticated peer. `from` is what TLS and the hello proved, never what the body says.
    Beat {
        /// Who sent it.
        from: ThreadId,
        /// Its body.
        beat: Beat,
    },
    /// A guard reports that its child ended.
    PeerDied {
        /// The instance.
        id: ThreadId,
        /// The life that ended.
        incarnation: Incarnation,
        /// The guard has proof that all I/O of that life has drained (it holds the locks): its fence counts as confirmed.
        drained: bool,
    },
    /// A [`Output::Read`] completed, or failed.
    Read {
        /// The voting file.
        file: VotingId,
        /// The ticket of the request.
        ticket: u64,
        /// The bytes from [`super::sector::SECTORS_AT`] on, [`super::sector::region_bytes`] long.
        result: Result<Vec<u8>, FileTrouble>,
    },
    /// A [`Output::Write`] is durable, or failed. Never given while the write may still change the sector: a write that is stuck is
    /// stuck here too (rule 3: one write in flight per sector).
    Written {
        /// The voting file.
        file: VotingId,
        /// The sector.
        kind: SectorKind,
        /// Its sequence number.
        sequence: u64,
        /// How it went.
        result: Result<(), FileTrouble>,
    },
    /// A fence method has an outcome, or an operator gave one.
    Fenced {
        /// The evicted instance.
        id: ThreadId,
        /// The evicted life.
        incarnation: Incarnation,
        /// What is known.
        outcome: FenceOutcome,
    },
    /// Leave the cluster: everything else of this instance is quiet already. Ends with [`StopReason::Left`].
    Leave,
    /// Put the voting file `file` in place of the one at `position` by a view change. The file is formatted
    /// ([`super::sector::format_region`]) and open; I/O on it may be asked for from now on.
    Replace {
        /// Position in the view's list, from 0.
        position: u8,
        /// The new file.
        file: VotingId,
    },
    /// A voting file that a view names has become reachable (opened after a change of the configuration).
    Opened {
        /// The file.
        file: VotingId,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a heartbeat, at once or never.
    Beat {
        /// To whom.
        to: ThreadId,
        /// Its body.
        beat: Beat,
    },
    /// Read the sector region of a voting file, in one read from the device (no cache). Answered by [`Input::Read`].
    Read {
        /// The file.
        file: VotingId,
        /// For the answer.
        ticket: u64,
    },
    /// Write one sector durably. Answered by [`Input::Written`].
    Write {
        /// The file.
        file: VotingId,
        /// Offset in the file, in bytes.
        at: u64,
        /// Which sector of this instance.
        kind: SectorKind,
        /// For the answer.
        sequence: u64,
        /// The sector.
        bytes: Box<[u8; SECTOR]>,
    },
    /// Fence an evicted instance; the view without it is durable in a majority of voting files. Said again for every epoch in which it
    /// is unconfirmed, and after a failure. Answered by [`Input::Fenced`].
    Fence {
        /// Whom.
        id: ThreadId,
        /// Which life.
        incarnation: Incarnation,
        /// The epoch of the view.
        epoch: Epoch,
    },
    /// Where a peer can be reached, from its sectors; said when it changes.
    Peer {
        /// Whose.
        id: ThreadId,
        /// The life that wrote it.
        incarnation: Incarnation,
        /// Its instance's endpoint.
        instance: Option<SocketAddr>,
        /// Its guard's endpoint.
        guard: Option<SocketAddr>,
    },
    /// This instance may serve until then, by its own clock; later moments follow while the voting files answer. Every gate compares
    /// with it itself: after SIGSTOP no event comes in time.
    Lease {
        /// Until when.
        until: Instant,
    },
    /// Something to act on, or to show.
    Event(Event),
}

/// What others need to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// This life is announced in a majority of voting files: it has an identity, may open its link, and asks to join.
    Announced {
        /// This life.
        incarnation: Incarnation,
        /// The newest view known.
        epoch: Epoch,
    },
    /// A newer view is decided and this instance belongs to it. The one atomic point at which the epoch is crossed (rule 6).
    Installed(Arc<View>),
    /// Stop serving, at once. Nothing is lost; [`Event::Unparked`] follows, or [`Event::Stop`].
    Parked(ParkReason),
    /// Serve again.
    Unparked,
    /// A peer is silent, by network and voting files. No decision yet.
    Suspected {
        /// Who.
        id: ThreadId,
        /// Since when nothing was heard of it, in milliseconds.
        silent_ms: u64,
    },
    /// A suspected peer is heard again.
    Cleared {
        /// Who.
        id: ThreadId,
    },
    /// A voting file doesn't answer, or isn't believed.
    FileFailed {
        /// Which.
        file: VotingId,
        /// Why.
        why: FileTrouble,
    },
    /// It answers again.
    FileBack {
        /// Which.
        file: VotingId,
    },
    /// This life ends: write nothing more, exit with the reason.
    Stop(StopReason),
}

/// Why an instance doesn't serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParkReason {
    /// Not a member yet.
    Starting,
    /// No majority of voting files was written and read within the lease.
    NoMajority,
    /// This process didn't run for a while (SIGSTOP, VM pause, swap): it must look first whether it is still a member.
    Stalled,
    /// Another side is better connected, and will decide.
    LosingSide,
}

/// Why a life ends.
#[derive(Clone, PartialEq, Debug)]
pub enum StopReason {
    /// A view without this instance was decided.
    Evicted {
        /// That view, or a later one.
        by: Arc<View>,
    },
    /// It left by [`Input::Leave`].
    Left {
        /// The newest view known: without it.
        by: Option<Arc<View>>,
    },
    /// A newer life has this identity.
    Displaced {
        /// The newer life.
        by: Incarnation,
    },
    /// A live process has this identity: its heartbeat changes.
    LiveIdentity {
        /// That life.
        incarnation: Incarnation,
    },
    /// The death of the identity's last life isn't proven: it ran on another host, and no view says that its fence is confirmed.
    Unproven {
        /// The last life.
        incarnation: Incarnation,
        /// Where it ran.
        host: super::heartbeat::Host,
    },
    /// A majority of voting files failed a write of ballots or views (rule 14).
    FilesFailed,
}

/// Why a voting file isn't used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FileTrouble {
    /// The operating system says so.
    #[error("I/O failed: {what}")]
    Io {
        /// Its words.
        what: String,
    },
    /// A sector isn't whole, or of another place.
    #[error("{kind} sector of instance {instance}: {fault}")]
    Sector {
        /// Which kind.
        kind: SectorKind,
        /// Whose.
        instance: ThreadId,
        /// What is wrong.
        fault: super::sector::SectorFault,
    },
    /// An acknowledged write isn't there: an old copy was put in its place. It must be replaced.
    #[error("{kind} sector of instance {instance} went back from ({}, {}) to ({}, {})", had.0, had.1, found.0, found.1)]
    WentBack {
        /// Which kind.
        kind: SectorKind,
        /// Whose.
        instance: ThreadId,
        /// Incarnation and sequence known to be there.
        had: (Incarnation, u64),
        /// Incarnation and sequence found.
        found: (Incarnation, u64),
    },
    /// No answer for longer than the lease.
    #[error("no answer for {ms} ms")]
    Slow {
        /// How long.
        ms: u64,
    },
    /// A write of a ballot or view failed: what the sector holds is unclear, this life doesn't write there again (rule 14).
    #[error("a write failed, what is there is unclear: {what}")]
    Unclear {
        /// The operating system's words.
        what: String,
    },
}

/// What is known about a fence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceOutcome {
    /// It can't write or answer any more, and its I/O has drained.
    Confirmed(Method),
    /// It didn't work; another try may.
    Failed,
    /// Nobody knows. Blocks until somebody does.
    Unknown,
}

impl FenceOutcome {
    /// The confirmation that a view records.
    pub fn confirmation(&self, id: ThreadId, incarnation: Incarnation) -> Option<Confirmation> {
        match self {
            FenceOutcome::Confirmed(method) => Some(Confirmation { id, incarnation, method: *method }),
            FenceOutcome::Failed | FenceOutcome::Unknown => None,
        }
    }
}
