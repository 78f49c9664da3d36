//! The hello: what either side of a new connection says of itself, and whether the other believes it.
//!
//! TLS has proven which cluster and instance the certificate names ([`Certified`]); the hello must agree with it, and adds what a
//! certificate can't know: role, incarnation, epoch. [`Admission`] holds what must be remembered for that. Sans-I/O: real and simulated
//! links use the same.

use std::collections::BTreeMap;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Identity, Lane, Peer, Refusal, Role};
use crate::base::limits::{NUMBER_MAX, THREADS_MAX};
use crate::base::{ClusterId, Epoch, Incarnation, ThreadId};

/// Length of a hello, in bytes: the body of a frame of [`super::frame::Class::Hello`].
pub const HELLO: usize = 48;
/// Version of the hello and of what is said behind it.
pub const PROTOCOL: u32 = 1;

/// What one side says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The cluster that it is of.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: Peer,
    /// Whom it believes to speak with.
    pub to: Peer,
    /// What the connection is for.
    pub lane: Lane,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its epoch at this moment.
    pub epoch: Epoch,
}

/// What a certificate proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Certified {
    /// The cluster that it names.
    pub cluster: ClusterId,
    /// The instance that it names.
    pub instance: ThreadId,
}

/// The hello, byte for byte.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    protocol: U32,
    lane: u8,
    from_role: u8,
    from_instance: U16,
    to_role: u8,
    reserved: u8,
    to_instance: U16,
    reserved_too: U32,
    cluster: [u8; 16],
    incarnation: U64,
    epoch: U64,
}

const _: () = assert!(size_of::<Layout>() == HELLO);

impl Hello {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HELLO] {
        let layout = Layout {
            protocol: PROTOCOL.into(),
            lane: self.lane as u8,
            from_role: self.from.role as u8,
            from_instance: self.from.instance.0.into(),
            to_role: self.to.role as u8,
            reserved: 0,
            to_instance: self.to.instance.0.into(),
            reserved_too: U32::ZERO,
            cluster: self.cluster.0,
            incarnation: self.incarnation.0.into(),
            epoch: self.epoch.0.into(),
        };
        let mut bytes = [0; HELLO];
        bytes.copy_from_slice(layout.as_bytes());
        bytes
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// [`Refusal::Version`] for another protocol, [`Refusal::Garbage`] for what no process would say.
    pub fn decode(bytes: &[u8]) -> Result<Hello, Refusal> {
        let (protocol, _) = bytes.split_first_chunk::<4>().ok_or(Refusal::Garbage)?;
        if u32::from_le_bytes(*protocol) != PROTOCOL {
            return Err(Refusal::Version);
        }
        let layout = Layout::ref_from_bytes(bytes).map_err(|_| Refusal::Garbage)?;
        let peer = |instance: U16, role: u8| {
            let instance = Some(instance.get()).filter(|number| (1..=THREADS_MAX).contains(number))?;
            Some(Peer { instance: ThreadId(instance), role: Role::from_number(role)? })
        };
        let (incarnation, epoch) = (layout.incarnation.get(), layout.epoch.get());
        let (Some(from), Some(to), Some(lane), (0, 0)) = (
            peer(layout.from_instance, layout.from_role),
            peer(layout.to_instance, layout.to_role),
            Lane::from_number(layout.lane),
            (layout.reserved, layout.reserved_too.get()),
        ) else {
            return Err(Refusal::Garbage);
        };
        if incarnation > NUMBER_MAX || epoch > NUMBER_MAX || !lane.joins(from.role, to.role) {
            return Err(Refusal::Garbage);
        }
        let (incarnation, epoch) = (Incarnation(incarnation), Epoch(epoch));
        Ok(Hello { cluster: ClusterId(layout.cluster), from, to, lane, incarnation, epoch })
    }

    /// Who said it.
    pub fn identity(&self) -> Identity {
        Identity { peer: self.from, incarnation: self.incarnation, epoch: self.epoch }
    }
}

/// Who this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its instance and role.
    pub peer: Peer,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

impl Local {
    /// What it says to `to` when it is in `epoch`.
    pub fn hello(&self, to: Peer, lane: Lane, epoch: Epoch) -> Hello {
        Hello { cluster: self.cluster, from: self.peer, to, lane, incarnation: self.incarnation, epoch }
    }
}

/// What a process has heard of its peers' incarnations, and what it therefore believes.
#[derive(Debug)]
pub struct Admission {
    local: Local,
    /// The newest incarnation heard of each peer, or given by [`Admission::refuse_below`]: nothing older is believed any more.
    newest: BTreeMap<Peer, Incarnation>,
}

impl Admission {
    /// Has heard nothing yet.
    pub fn new(local: Local) -> Admission {
        Admission { local, newest: BTreeMap::new() }
    }

    /// Judges the hello of one who connected to this process, which is in `epoch`. Accepted, it is remembered; true when it is of a newer
    /// incarnation than any before, so that what belongs to older ones must end.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn admit(&mut self, hello: &Hello, certified: Certified, epoch: Epoch) -> Result<bool, Refusal> {
        self.believe(hello, certified)?;
        if hello.epoch < epoch {
            return Err(Refusal::StaleEpoch);
        }
        Ok(self.remember(hello))
    }

    /// Judges the hello with which `expected` answered ours on `lane`; true as in [`Admission::admit`]. It may be behind in epoch: a guard has to be
    /// reachable for those who are ahead of it. What it then sends is judged by itself.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn confirm(&mut self, hello: &Hello, certified: Certified, expected: Peer, lane: Lane) -> Result<bool, Refusal> {
        self.believe(hello, certified)?;
        if hello.from != expected {
            return Err(Refusal::Misdirected);
        }
        if hello.lane != lane {
            return Err(Refusal::Garbage);
        }
        Ok(self.remember(hello))
    }

    fn believe(&self, hello: &Hello, certified: Certified) -> Result<(), Refusal> {
        if hello.cluster != self.local.cluster || certified.cluster != self.local.cluster {
            return Err(Refusal::Cluster);
        }
        if hello.from.instance != certified.instance || hello.from == self.local.peer {
            return Err(Refusal::Instance);
        }
        if hello.to != self.local.peer {
            return Err(Refusal::Misdirected);
        }
        if self.newest.get(&hello.from).is_some_and(|newest| hello.incarnation < *newest) {
            return Err(Refusal::OldIncarnation);
        }
        Ok(())
    }

    fn remember(&mut self, hello: &Hello) -> bool {
        self.refuse_below(hello.from, hello.incarnation)
    }

    /// Whether what `peer` sent in `incarnation` still counts.
    pub fn is_current(&self, peer: Peer, incarnation: Incarnation) -> bool {
        self.newest.get(&peer).is_none_or(|newest| incarnation >= *newest)
    }

    /// Nothing of `peer` below `oldest` is believed any more. True when that is news.
    pub fn refuse_below(&mut self, peer: Peer, oldest: Incarnation) -> bool {
        let newest = self.newest.entry(peer).or_insert(Incarnation(0));
        let news = *newest < oldest;
        *newest = (*newest).max(oldest);
        news
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(*b"a cluster of two");
    const ONE: Peer = Peer { instance: ThreadId(1), role: Role::Instance };
    const TWO: Peer = Peer { instance: ThreadId(2), role: Role::Instance };

    fn hello() -> Hello {
        Hello { cluster: CLUSTER, from: TWO, to: ONE, lane: Lane::Control, incarnation: Incarnation(4), epoch: Epoch(7) }
    }

    fn admission() -> Admission {
        Admission::new(Local { cluster: CLUSTER, peer: ONE, incarnation: Incarnation(1) })
    }

    const CERTIFIED: Certified = Certified { cluster: CLUSTER, instance: ThreadId(2) };

    #[test]
    fn the_bytes_stay_as_they_are() {
        let hex: String = hello().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "010000000201020001000100000000006120636c7573746572206f662074776f04000000000000000700000000000000";
        assert_eq!(hex, expected);
    }

    #[test]
    fn a_hello_must_agree_with_its_certificate_and_its_address() {
        let judge = |hello: Hello, certified: Certified| admission().admit(&hello, certified, Epoch(7));
        let other = ClusterId(*b"another cluster.");
        assert_eq!(judge(hello(), CERTIFIED), Ok(true));
        assert_eq!(judge(Hello { cluster: other, ..hello() }, CERTIFIED), Err(Refusal::Cluster));
        assert_eq!(judge(hello(), Certified { cluster: other, ..CERTIFIED }), Err(Refusal::Cluster));
        assert_eq!(judge(hello(), Certified { instance: ThreadId(3), ..CERTIFIED }), Err(Refusal::Instance));
        assert_eq!(judge(Hello { from: ONE, ..hello() }, Certified { instance: ThreadId(1), ..CERTIFIED }), Err(Refusal::Instance));
        assert_eq!(judge(Hello { to: Peer::guard(ThreadId(1)), ..hello() }, CERTIFIED), Err(Refusal::Misdirected));
        assert_eq!(judge(Hello { epoch: Epoch(6), ..hello() }, CERTIFIED), Err(Refusal::StaleEpoch));
        assert_eq!(
            judge(Hello { epoch: Epoch(8), ..hello() }, CERTIFIED),
            Ok(true),
            "a newer epoch is for the layers above to catch up with"
        );
    }

    #[test]
    fn incarnations_only_go_forward() {
        let mut admission = admission();
        let of = |incarnation| Hello { incarnation: Incarnation(incarnation), ..hello() };
        assert_eq!(admission.admit(&of(4), CERTIFIED, Epoch(7)), Ok(true));
        assert_eq!(admission.admit(&of(4), CERTIFIED, Epoch(7)), Ok(false), "another lane of the same");
        assert_eq!(admission.admit(&of(5), CERTIFIED, Epoch(7)), Ok(true));
        assert_eq!(admission.admit(&of(4), CERTIFIED, Epoch(7)), Err(Refusal::OldIncarnation));
        assert!(!admission.is_current(TWO, Incarnation(4)) && admission.is_current(TWO, Incarnation(5)));
        assert!(admission.refuse_below(TWO, Incarnation(9)) && !admission.refuse_below(TWO, Incarnation(8)));
        assert_eq!(admission.admit(&of(8), CERTIFIED, Epoch(7)), Err(Refusal::OldIncarnation));
        // A refused hello leaves no trace.
        assert_eq!(admission.admit(&Hello { epoch: Epoch(1), ..of(12) }, CERTIFIED, Epoch(7)), Err(Refusal::StaleEpoch));
        assert_eq!(admission.admit(&of(9), CERTIFIED, Epoch(7)), Ok(false));
    }

    #[test]
    fn an_answer_must_come_from_whom_we_called_and_may_be_behind() {
        let behind = Hello { epoch: Epoch(1), ..hello() };
        assert_eq!(admission().confirm(&behind, CERTIFIED, TWO, Lane::Control), Ok(true));
        assert_eq!(admission().confirm(&behind, CERTIFIED, Peer::guard(ThreadId(2)), Lane::Control), Err(Refusal::Misdirected));
        assert_eq!(admission().confirm(&behind, CERTIFIED, TWO, Lane::Block), Err(Refusal::Garbage));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_what_is_read_reads_back(mut bytes in prop::collection::vec(any::<u8>(), 0..60), repair: bool) {
            if repair {
                let good = hello().encode();
                bytes.resize(HELLO, 0);
                bytes[..16].copy_from_slice(&good[..16]);
                bytes[39] = 0;
                bytes[47] = 0;
            }
            if let Ok(hello) = Hello::decode(&bytes) {
                prop_assert_eq!(&hello.encode()[..], &bytes[..]);
            } else {
                prop_assert!(!repair);
            }
        }
    }
}
