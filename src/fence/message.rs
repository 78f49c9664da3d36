//! What fencers and guards say to each other, on the control lane.
//!
//! | kind | from | to | body |
//! |---|---|---|---|
//! | [`DEMAND`] | an instance that fences | the victim's guard | [`Demand`]: kill it, and say when it is dead and drained |
//! | [`REPORT`] | a guard | instances | [`Report`]: how far the death of its own instance is proven |
//!
//! Kinds 0x0f00 to 0x0fff of the control lane belong to this module. Who sent a frame, `net` has proven; that a guard reports of its own
//! instance only, the receiver checks ([`super::desk::Desk::heard`]). Bodies are hostile (rule 20): rkyv, validated before use.

use bytes::Bytes;
use rkyv::rancor;
use rkyv::util::AlignedVec;

use super::Victim;
use crate::base::limits::NUMBER_MAX;
use crate::base::{Epoch, Incarnation, ThreadId};

/// Kind of a frame with a [`Demand`].
pub const DEMAND: u16 = 0x0f00;
/// Kind of a frame with a [`Report`].
pub const REPORT: u16 = 0x0f01;
/// Longest body, in bytes: far above any that we make.
const BODY_MAX: usize = 256;

/// Whether a frame of this kind is ours.
pub fn is_ours(kind: u16) -> bool {
    kind & 0xff00 == 0x0f00
}

/// A body that isn't what its kind says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a frame of kind {kind:#06x} with a body of {bytes} bytes can't be read: {why}")]
pub struct MessageError {
    /// Its kind.
    pub kind: u16,
    /// Its length.
    pub bytes: usize,
    /// What is wrong.
    pub why: String,
}

/// "Kill your instance, if it is in this incarnation or an earlier one."
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Demand {
    instance: u16,
    incarnation: u64,
    epoch: u64,
}

/// "Every incarnation of my instance up to this one is dead."
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Report {
    instance: u16,
    incarnation: u64,
    drained: bool,
}

impl Demand {
    /// For the guard of `victim`.
    pub fn of(victim: Victim) -> Demand {
        Demand { instance: victim.id.0, incarnation: victim.incarnation.0, epoch: victim.epoch.0 }
    }

    /// Who is to be killed.
    pub fn victim(&self) -> Victim {
        Victim { id: ThreadId(self.instance), incarnation: Incarnation(self.incarnation), epoch: Epoch(self.epoch) }
    }

    /// As a frame's body.
    pub fn encode(&self) -> Bytes {
        encoded(self)
    }

    /// From a frame's body.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(body: &[u8]) -> Result<Demand, MessageError> {
        let demand: Demand = decoded(DEMAND, body)?;
        in_range(DEMAND, body, &[demand.incarnation, demand.epoch])?;
        Ok(demand)
    }
}

impl Report {
    /// Every incarnation of `id` up to `dead` is dead; `drained`: and its I/O has drained, by its locks.
    pub fn new(id: ThreadId, dead: Incarnation, drained: bool) -> Report {
        Report { instance: id.0, incarnation: dead.0, drained }
    }

    /// Which instance.
    pub fn id(&self) -> ThreadId {
        ThreadId(self.instance)
    }

    /// The last dead incarnation.
    pub fn dead(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// Whether its I/O has drained. Only then is it fenced.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// As a frame's body.
    pub fn encode(&self) -> Bytes {
        encoded(self)
    }

    /// From a frame's body.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(body: &[u8]) -> Result<Report, MessageError> {
        let report: Report = decoded(REPORT, body)?;
        in_range(REPORT, body, &[report.incarnation])?;
        Ok(report)
    }
}

type Serializer<'a> = rkyv::api::high::HighSerializer<AlignedVec, rkyv::ser::allocator::ArenaHandle<'a>, rancor::Error>;

fn encoded(message: &impl for<'a> rkyv::Serialize<Serializer<'a>>) -> Bytes {
    // A few numbers: nothing in them can fail to be written to memory.
    Bytes::from(rkyv::to_bytes::<rancor::Error>(message).expect("numbers can be serialized").into_vec())
}

fn decoded<T>(kind: u16, body: &[u8]) -> Result<T, MessageError>
where
    T: rkyv::Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, rancor::Error>>
        + rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<rancor::Error>>,
{
    let wrong = |why: String| MessageError { kind, bytes: body.len(), why };
    if body.len() > BODY_MAX {
        return Err(wrong(format!("{BODY_MAX} bytes are allowed")));
    }
    let mut aligned: AlignedVec = AlignedVec::with_capacity(body.len());
    aligned.extend_from_slice(body);
    rkyv::from_bytes::<T, rancor::Error>(&aligned).map_err(|error| wrong(error.to_string()))
}

fn in_range(kind: u16, body: &[u8], numbers: &[u64]) -> Result<(), MessageError> {
    match numbers.iter().find(|number| **number > NUMBER_MAX) {
        Some(number) => Err(MessageError { kind, bytes: body.len(), why: format!("{number} is beyond any real number") }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_read_back(id: u16, incarnation in 0..=NUMBER_MAX, epoch in 0..=NUMBER_MAX, drained: bool) {
            let victim = Victim { id: ThreadId(id), incarnation: Incarnation(incarnation), epoch: Epoch(epoch) };
            prop_assert_eq!(Demand::decode(&Demand::of(victim).encode()).unwrap().victim(), victim);
            let report = Report::new(ThreadId(id), Incarnation(incarnation), drained);
            prop_assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        }

        #[test]
        fn hostile_bodies_are_refused_or_possible(body in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..32, byte: u8) {
            let near = |good: Bytes| { let mut bad = good.to_vec(); let at = at % bad.len(); bad[at] = byte; bad };
            let victim = Victim { id: ThreadId(2), incarnation: Incarnation(7), epoch: Epoch(9) };
            for body in [body, near(Demand::of(victim).encode()), near(Report::new(ThreadId(2), Incarnation(7), true).encode())] {
                if let Ok(demand) = Demand::decode(&body) {
                    prop_assert!(demand.victim().incarnation.0 <= NUMBER_MAX);
                }
                if let Ok(report) = Report::decode(&body) {
                    prop_assert!(report.dead().0 <= NUMBER_MAX);
                }
            }
        }
    }
}
