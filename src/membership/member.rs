//! One instance's membership state machine.

use super::heartbeat::Host;
use super::io::{Input, Output};
use super::options::Options;
use super::sector::VotingId;
use crate::base::{ClusterId, Incarnation, Instant, ThreadId};

/// What a life starts from. The driver holds this identity's locks on every storage file, voting files included, before it makes a
/// [`Member`]: on the same host that proves that older lives are dead and drained.
#[derive(Clone, Debug)]
pub struct Start {
    /// The cluster.
    pub cluster: ClusterId,
    /// This instance.
    pub id: ThreadId,
    /// Instances that the cluster has room for (the shape's redo threads).
    pub threads: u16,
    /// Where this process runs.
    pub host: Host,
    /// The voting files that are open, by the numbers in their superblocks.
    pub files: Vec<VotingId>,
    /// No lower than any incarnation found elsewhere (redo control block).
    pub incarnation_floor: Incarnation,
    /// An operator's word that lives of this identity up to this one are dead and drained, wherever they ran.
    pub confirmed: Option<Incarnation>,
    /// Random bits, for back-off.
    pub random: u64,
    /// Options, validated.
    pub options: Options,
}

/// One instance's membership.
pub struct Member {
    start: Start,
}

impl Member {
    /// A life that begins now.
    pub fn new(start: Start, _now: Instant) -> Member {
        Member { start }
    }

    /// Something happened; what is to be done is appended to `out`.
    pub fn step(&mut self, _now: Instant, _input: Input, _out: &mut Vec<Output>) {
        let _ = &self.start;
    }
}
