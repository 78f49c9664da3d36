//! Guard sector: what a guard says about its child when the network may not carry it. Written by the guard process alone, which also
//! must have one write in flight at most, and reads its own sector from a majority of voting files before its first.

use std::net::SocketAddr;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::heartbeat::{AddressLayout, Host, number, zero};
use super::sector::{BODY, Head, Place, SECTOR, Sector, SectorFault, encode, equal};
use crate::base::{Epoch, Incarnation};

/// How the guard's child stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Child {
    /// The sector was never used, or no child was started yet.
    #[default]
    None = 0,
    /// Runs, as far as the guard knows.
    Runs = 1,
    /// Ended; whether its I/O has drained isn't known.
    Dead = 2,
    /// Ended, and the guard holds its locks on all storage files: dead and drained. A confirmed fence.
    Drained = 3,
}

/// Contents of a guard sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GuardRecord {
    /// How the child stands.
    pub child: Child,
    /// Which life of the instance [`GuardRecord::child`] speaks of.
    pub incarnation: Incarnation,
    /// The epoch of the evicting view at which the guard killed it; 0 when it ended otherwise.
    pub killed: Epoch,
    /// Where the guard runs.
    pub host: Host,
    /// Where it can be reached.
    pub address: Option<SocketAddr>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    child: u8,
    zero: [u8; 7],
    incarnation: U64,
    killed: U64,
    machine: [u8; 16],
    boot: [u8; 16],
    address: AddressLayout,
    rest: [u8; BODY - 76],
}

const _: () = assert!(size_of::<Layout>() == BODY);

impl GuardRecord {
    /// The sector of `place`. `head.incarnation` is the guard's life: one more than the highest that it read from a majority.
    pub fn encode(&self, place: &Place, head: &Head) -> Box<[u8; SECTOR]> {
        let mut body = [0; BODY];
        let layout = Layout::mut_from_bytes(&mut body).expect("a body has the layout's size");
        layout.child = self.child as u8;
        layout.incarnation.set(self.incarnation.0);
        layout.killed.set(self.killed.0);
        layout.machine = self.host.machine;
        layout.boot = self.host.boot;
        layout.address.set(self.address);
        encode(place, head, &body)
    }

    /// Reads a guard sector's body.
    ///
    /// # Errors
    /// The first [`SectorFault`].
    pub fn decode(sector: &Sector<'_>) -> Result<GuardRecord, SectorFault> {
        let layout = Layout::ref_from_bytes(sector.body).expect("a body has the layout's size");
        zero("reserved bytes set", &layout.zero)?;
        zero("reserved bytes set", &layout.rest)?;
        let child = [Child::None, Child::Runs, Child::Dead, Child::Drained]
            .into_iter()
            .find(|child| *child as u8 == layout.child)
            .ok_or(SectorFault::Field { field: "child", expected: Child::Drained as u64, found: layout.child.into() })?;
        let incarnation = Incarnation(number("child's incarnation", layout.incarnation.get())?);
        if child == Child::None {
            equal("incarnation of no child", 0, incarnation.0)?;
        }
        Ok(GuardRecord {
            child,
            incarnation,
            killed: Epoch(number("killed at epoch", layout.killed.get())?),
            host: Host { machine: layout.machine, boot: layout.boot },
            address: layout.address.get()?,
        })
    }

    /// Whether this record proves that the life `incarnation` of its instance is dead and drained.
    pub fn proves(&self, incarnation: Incarnation) -> bool {
        self.child == Child::Drained && self.incarnation >= incarnation || self.incarnation > incarnation && self.child != Child::None
    }
}
