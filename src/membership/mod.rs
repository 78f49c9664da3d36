//! L7: who belongs to the cluster. Heartbeats, suspicion, voting files, views (`docs/protocols/membership.md`, `docs/formats/voting.md`).
//!
//! Sans-I/O: [`Member::step`] takes what happened and says what to do; it reads no clock, socket or disk. The driver in `node/` turns
//! [`Output`]s into I/O and completions into [`Input`]s. The guard process uses the formats ([`sector`], [`guard`], [`view`],
//! [`survey`]) without the state machine.
//!
//! What it deliberately does not do: fence (it says whom), recover (it says who is dead and confirmed), carry messages.

pub mod ballot;
pub mod connectivity;
pub mod guard;
pub mod heartbeat;
pub mod io;
pub mod member;
pub mod messages;
pub mod options;
pub mod paxos;
pub mod phi;
pub mod sector;
pub mod slots;
pub mod survey;
pub mod view;

pub use io::{Event, FenceOutcome, FileTrouble, Input, Output, ParkReason, StopReason};
pub use member::{Member, Start};
pub use options::Options;
pub use sector::{SECTOR, SectorKind, VotingId};
pub use view::View;
