//! What masters, holders and requesters say to each other. The table of messages stands in `docs/protocols/cache.md`; their bytes are `wire`'s.

use super::resource::{Resource, SlotSet};
use crate::base::{Epoch, Mode, Scn, ThreadId};

/// Names a request among those of its requester: the answer to an earlier one isn't taken for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ask(pub u64);

impl Ask {
    /// No request: they count from 1.
    pub const NONE: Ask = Ask(0);
}

/// Where the contents of something granted are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// At home.
    Disk,
    /// The requester has them already.
    Own,
    /// In the copy that comes with the grant.
    Copy,
}

/// Whom a copy goes to, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receiver {
    /// The requester.
    pub id: ThreadId,
    /// Its request.
    pub ask: Ask,
    /// The mode that comes with the copy.
    pub mode: Mode,
}

/// One thing said of one resource, or of slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Of a resource.
    Of {
        /// Which.
        resource: Resource,
        /// Since when its slot has the master that says this, or that this is said to.
        since: Epoch,
        /// What.
        said: Said,
    },
    /// A master to everybody: from `since` on these slots are mine. `rebuild`: say what you have there; else it is for one who is new.
    Declare {
        /// The epoch in which that began.
        since: Epoch,
        /// The slots.
        slots: SlotSet,
        /// Whether entries are built from the answers.
        rebuild: bool,
    },
    /// A part of the answer.
    Declaration {
        /// As it was asked.
        since: Epoch,
        /// What the instance has.
        items: Vec<Declared>,
        /// Nothing comes after this part.
        last: bool,
    },
}

/// What is said of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// Requester to master: grant me this mode.
    Request {
        /// S or X.
        mode: Mode,
        /// Which request this is.
        ask: Ask,
    },
    /// Master to requester: granted.
    Grant {
        /// As asked.
        mode: Mode,
        /// Which request.
        ask: Ask,
        /// [`Source::Disk`] or [`Source::Own`].
        source: Source,
        /// Nobody else owes the write any more, and the home is older.
        unwritten: bool,
    },
    /// Master to holder, the blocking notification: go down to this mode, and send the copy.
    Yield {
        /// The request that the grant answered: a later one isn't meant. Copies come from others than the master, and may overtake this.
        of: Ask,
        /// At most this is kept.
        to: Mode,
        /// Whom to send the copy to.
        receiver: Option<Receiver>,
    },
    /// Requester to master: the copy has come.
    Received {
        /// Which request.
        ask: Ask,
        /// Who sent it.
        sender: ThreadId,
        /// The copy's version.
        version: Scn,
        /// The home is older, as far as the sender knew.
        unwritten: bool,
        /// The sender keeps a past image.
        image: bool,
    },
    /// Holder to master: a notification without receiver was obeyed.
    Yielded {
        /// What is left.
        mode: Mode,
        /// The version of what was held.
        version: Scn,
        /// The write of what is left is owed here.
        owner: bool,
        /// A past image is kept.
        image: bool,
    },
    /// Holder to master: nothing is left, and the home is current.
    Release,
    /// Whoever wrote to master: durable at home.
    Written {
        /// The version.
        version: Scn,
    },
    /// Master to holders of images and unwritten copies: durable at home.
    Notice {
        /// The version.
        version: Scn,
    },
    /// Holder to master: somebody here can't go on before this is written.
    WriteWanted,
    /// Master to whoever owes it: write this soon.
    Write,
    /// Master to a holder: you owe the write of your copy; a past image is the current copy again, held exclusively, as if [`Ask::NONE`] had
    /// been answered.
    Reinstate,
}

/// What an instance has of a resource of a slot whose master is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Declared {
    /// Which.
    pub resource: Resource,
    /// How it is held.
    pub mode: Mode,
    /// The request that was answered so.
    pub ask: Ask,
    /// Whether the write is owed.
    pub owner: bool,
    /// Whether the copy may be newer than the home, the write being owed by somebody else.
    pub unwritten: bool,
    /// The version of a copy held in S, where it was told; else 0.
    pub version: Scn,
    /// Version of the past image.
    pub image: Option<Scn>,
    /// A notification of an earlier master is being obeyed: its end is told.
    pub yielding: bool,
    /// The image went to a requester who didn't take it any more: it is the current copy.
    pub refused: bool,
    /// A copy went to an instance that isn't a member any more; whether it took it, nobody knows.
    pub lost: bool,
}

/// What goes with a copy from holder to requester.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Which page.
    pub resource: Resource,
    /// Since when its slot has the master that ordered this.
    pub since: Epoch,
    /// The request that it answers.
    pub ask: Ask,
    /// What is granted.
    pub mode: Mode,
    /// The copy's version.
    pub version: Scn,
    /// The home is older.
    pub unwritten: bool,
    /// The sender keeps a past image.
    pub image: bool,
}
