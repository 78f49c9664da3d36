//! Heartbeat sector: that an instance lives, where, whom it hears, and how it stands. The sequence number is the counter that observers
//! watch; no time stands in it (rule 5).

use std::net::{IpAddr, SocketAddr};

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::sector::{BODY, Head, Place, SECTOR, Sector, SectorFault, VotingId, at_most, encode, equal};
use crate::base::{Epoch, Incarnation};

/// Where a process runs: which machine, and which boot of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Host {
    /// The machine's id (`/etc/machine-id`); zeroes when it has none, which equals no other.
    pub machine: [u8; 16],
    /// The kernel's boot id.
    pub boot: [u8; 16],
}

/// How an instance stands, by its own word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Standing {
    /// Nothing was ever written here.
    #[default]
    Unused = 0,
    /// Announces its life; not a member and not asking yet.
    Starting = 1,
    /// Wants to be a member. What it proves by writing this at all: every earlier life of its identity is dead and drained (rule 6).
    Joining = 2,
    /// A member that serves.
    Member = 3,
    /// A member that doesn't serve.
    Parked = 4,
    /// A member that wants to leave and is quiet.
    Leaving = 5,
    /// Left, or evicted; the last write of its life.
    Gone = 6,
}

impl Standing {
    /// The standing of this number.
    pub fn from_number(number: u8) -> Option<Standing> {
        use Standing::{Gone, Joining, Leaving, Member, Parked, Starting, Unused};
        [Unused, Starting, Joining, Member, Parked, Leaving, Gone].into_iter().find(|standing| *standing as u8 == number)
    }
}

/// Contents of a heartbeat sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heartbeat {
    /// How it stands.
    pub standing: Standing,
    /// Whom it hears over the network: bit `id - 1`; its own bit is set.
    pub hears: u64,
    /// Where it runs.
    pub host: Host,
    /// Where it can be reached.
    pub address: Option<SocketAddr>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct AddressLayout {
    family: u8,
    zero: u8,
    port: U16,
    ip: [u8; 16],
}

impl AddressLayout {
    pub(super) fn set(&mut self, address: Option<SocketAddr>) {
        let Some(address) = address else { return };
        self.port.set(address.port());
        match address.ip() {
            IpAddr::V4(ip) => {
                self.family = 4;
                self.ip[..4].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.family = 6;
                self.ip = ip.octets();
            }
        }
    }

    pub(super) fn get(&self) -> Result<Option<SocketAddr>, SectorFault> {
        equal("address, reserved", 0, self.zero.into())?;
        let v4 = [self.ip[0], self.ip[1], self.ip[2], self.ip[3]];
        let used = |length: usize| equal("address, unused bytes", 0, self.ip[length..].iter().filter(|byte| **byte != 0).count() as u64);
        Ok(match self.family {
            0 => {
                used(0)?;
                equal("address, unused port", 0, self.port.get().into())?;
                None
            }
            4 => {
                used(4)?;
                Some(SocketAddr::from((v4, self.port.get())))
            }
            6 => Some(SocketAddr::from((self.ip, self.port.get()))),
            other => return Err(SectorFault::Field { field: "address family", expected: 6, found: other.into() }),
        })
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    standing: u8,
    zero: [u8; 7],
    hears: U64,
    machine: [u8; 16],
    boot: [u8; 16],
    address: AddressLayout,
    rest: [u8; BODY - 68],
}

const _: () = assert!(size_of::<Layout>() == BODY);

/// Bytes that must be zero.
pub(super) fn zero(field: &'static str, bytes: &[u8]) -> Result<(), SectorFault> {
    equal(field, 0, bytes.iter().filter(|byte| **byte != 0).count() as u64)
}

impl Heartbeat {
    /// The sector of `place`.
    pub fn encode(&self, place: &Place, head: &Head) -> Box<[u8; SECTOR]> {
        let mut body = [0; BODY];
        let layout = Layout::mut_from_bytes(&mut body).expect("a body has the layout's size");
        layout.standing = self.standing as u8;
        layout.hears.set(self.hears);
        layout.machine = self.host.machine;
        layout.boot = self.host.boot;
        layout.address.set(self.address);
        encode(place, head, &body)
    }

    /// Reads a heartbeat sector's body.
    ///
    /// # Errors
    /// The first [`SectorFault`].
    pub fn decode(sector: &Sector<'_>) -> Result<Heartbeat, SectorFault> {
        let layout = Layout::ref_from_bytes(sector.body).expect("a body has the layout's size");
        zero("reserved bytes set", &layout.zero)?;
        zero("reserved bytes set", &layout.rest)?;
        let standing = Standing::from_number(layout.standing).ok_or(SectorFault::Field {
            field: "standing",
            expected: Standing::Gone as u64,
            found: layout.standing.into(),
        })?;
        equal("standing of a sector never used", u64::from(sector.head.sequence > 0), u64::from(standing != Standing::Unused))?;
        Ok(Heartbeat {
            standing,
            hears: layout.hears.get(),
            host: Host { machine: layout.machine, boot: layout.boot },
            address: layout.address.get()?,
        })
    }
}

/// The head of a sector that this life is about to write.
pub fn head(incarnation: Incarnation, sequence: u64, epoch: Epoch, acked: &[(VotingId, u64)]) -> Head {
    let mut head = Head { incarnation, sequence, epoch, ..Head::default() };
    for (slot, known) in head.acked.iter_mut().zip(acked) {
        *slot = *known;
    }
    head
}

/// Checks that a decoded number is one that counting on from can't overflow.
pub(super) fn number(field: &'static str, found: u64) -> Result<u64, SectorFault> {
    at_most(field, crate::base::limits::NUMBER_MAX, found)
}
