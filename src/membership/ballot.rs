//! Ballot sector: an instance's Disk Paxos block for the epoch that is being decided.

use std::fmt;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::heartbeat::{number, zero};
use super::paxos::{Ballot, Block};
use super::sector::{BODY, Head, Place, SECTOR, Sector, SectorFault, at_most, encode, equal};
use super::view::{VIEW_BYTES, View, ViewLayout};
use crate::base::limits::THREADS_MAX;
use crate::base::{Epoch, ThreadId};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    epoch: U64,
    tried_round: U64,
    accepted_round: U64,
    tried_by: U16,
    accepted_by: U16,
    present: u8,
    zero: [u8; 3],
    view: ViewLayout,
    rest: [u8; BODY - 32 - VIEW_BYTES],
}

const _: () = assert!(size_of::<Layout>() == BODY);

/// The ballot sector of `place`.
pub fn encode_sector(block: &Block<View>, place: &Place, head: &Head) -> Box<[u8; SECTOR]> {
    let mut body = [0; BODY];
    let layout = Layout::mut_from_bytes(&mut body).expect("a body has the layout's size");
    layout.epoch.set(block.epoch.0);
    layout.tried_round.set(block.tried.round);
    layout.tried_by.set(block.tried.by.0);
    layout.accepted_round.set(block.accepted.round);
    layout.accepted_by.set(block.accepted.by.0);
    if let Some(view) = &block.value {
        layout.present = 1;
        layout.view.set(view);
    }
    encode(place, head, &body)
}

/// Reads a ballot sector's body.
///
/// # Errors
/// The first [`SectorFault`].
pub fn decode_body(sector: &Sector<'_>) -> Result<Block<View>, SectorFault> {
    let layout = Layout::ref_from_bytes(sector.body).expect("a body has the layout's size");
    zero("reserved bytes set", &layout.zero)?;
    zero("reserved bytes set", &layout.rest)?;
    let ballot = |round: u64, by: u16| -> Result<Ballot, SectorFault> {
        at_most("instance of a ballot", THREADS_MAX.into(), by.into())?;
        equal("round without an instance", u64::from(round > 0), u64::from(by > 0))?;
        Ok(Ballot { round: number("round", round)?, by: ThreadId(by) })
    };
    let epoch = Epoch(number("epoch being decided", layout.epoch.get())?);
    let tried = ballot(layout.tried_round.get(), layout.tried_by.get())?;
    let accepted = ballot(layout.accepted_round.get(), layout.accepted_by.get())?;
    equal("accepted above tried", 0, u64::from(accepted > tried))?;
    let value = match layout.present {
        0 => {
            zero("bytes of no view", layout.view.as_bytes())?;
            None
        }
        1 => Some(layout.view.get()?),
        other => return Err(SectorFault::Field { field: "view present", expected: 1, found: other.into() }),
    };
    equal("value of an accepted ballot", u64::from(accepted.round > 0), u64::from(value.is_some()))?;
    if let Some(view) = &value {
        equal("epoch of the proposed view", epoch.0, view.epoch.0)?;
    }
    Ok(Block { epoch, tried, accepted, value })
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.by.0)
    }
}
