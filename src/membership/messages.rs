//! Bodies of messages between instances: rkyv, validated at the receiver. Frame, length, checksum and identity are the link's: who sent a message is
//! what the link proved. What guards say is `fence::message`'s.

use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

use super::heartbeat::Standing;
use crate::base::limits::NUMBER_MAX;
use crate::base::{Epoch, Incarnation};

/// Frame kind of a [`Beat`], on the heartbeat lane.
pub const BEAT: u16 = 0x0100;

/// A network heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beat {
    /// The sender's life.
    pub incarnation: Incarnation,
    /// The newest view that the sender knows decided.
    pub epoch: Epoch,
    /// Counts up; one that isn't higher than the last is ignored.
    pub sequence: u64,
    /// Whom the sender hears: bit `id - 1`.
    pub hears: u64,
    /// How the sender stands.
    pub standing: Standing,
}

/// A body that isn't what it claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageFault {
    /// Not an archived body.
    #[error("not a body of its kind ({length} bytes)")]
    Archive {
        /// Bytes received.
        length: usize,
    },
    /// A field is beyond what can be.
    #[error("{field} is {found}")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

#[derive(Archive, Serialize, Deserialize)]
struct BeatBody {
    incarnation: u64,
    epoch: u64,
    sequence: u64,
    hears: u64,
    standing: u8,
}

/// Aligned as archives must be; frames aren't.
fn aligned(bytes: &[u8]) -> rkyv::util::AlignedVec {
    let mut aligned = rkyv::util::AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    aligned
}

fn number(field: &'static str, found: u64) -> Result<u64, MessageFault> {
    if found <= NUMBER_MAX { Ok(found) } else { Err(MessageFault::Field { field, found }) }
}

impl Beat {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let body = BeatBody {
            incarnation: self.incarnation.0,
            epoch: self.epoch.0,
            sequence: self.sequence,
            hears: self.hears,
            standing: self.standing as u8,
        };
        rkyv::to_bytes::<Error>(&body).expect("numbers archive").to_vec()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`MessageFault`].
    pub fn decode(bytes: &[u8]) -> Result<Beat, MessageFault> {
        let fault = |_| MessageFault::Archive { length: bytes.len() };
        if bytes.len() != size_of::<ArchivedBeatBody>() {
            return Err(MessageFault::Archive { length: bytes.len() });
        }
        let body: BeatBody = rkyv::from_bytes::<_, Error>(&aligned(bytes)).map_err(fault)?;
        let standing = Standing::from_number(body.standing).filter(|standing| *standing != Standing::Unused);
        Ok(Beat {
            incarnation: Incarnation(number("incarnation", body.incarnation)?),
            epoch: Epoch(number("epoch", body.epoch)?),
            sequence: number("sequence", body.sequence)?,
            hears: body.hears,
            standing: standing.ok_or(MessageFault::Field { field: "standing", found: body.standing.into() })?,
        })
    }
}
