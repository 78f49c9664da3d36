//! Disk Paxos (E. Gafni, L. Lamport, "Disk Paxos", Distributed Computing 16, 2003): one consensus per epoch, over N voting files.
//!
//! Every instance has a block on every file. To have a value chosen it writes its block with a higher ballot to a majority and reads
//! all others' blocks from there (phase 1); it takes the accepted value of the highest ballot that it saw, its own if none; writes that as
//! accepted and reads again (phase 2). Whoever sees a higher ballot gives up. As long as files that answered keep what they said, one
//! value at most is chosen per epoch, with any number of proposers, deaths and restarts.
//!
//! Beyond the paper:
//! - *Epochs.* Only who knows that epoch `e` is decided writes a block of `e + 1`. So a block of a later epoch tells a slow proposer that
//!   its own epoch is decided ([`Step::Superseded`]); what was decided stands in the view sector, written before on the same file.
//! - *Lives.* A restarted instance reads its own blocks from a majority before its first ballot of an epoch and goes on from the highest
//!   ([`Paxos::begin`]); and it writes its block on no file where it hasn't read what it left there, nor over a block of a later epoch.
//!   Else: an accepted ballot of an older life is erased, and one epoch gets two values.
//!
//! The caller gives only what whole files said (an unreadable block means that the file did not answer), has one write in flight per
//! file at most, never writes again after an unclear write, and says when reads and writes begin. Values are generic so that a model
//! checker can drive this very code (`cluster-tests/tests/membership_models.rs`).

use std::collections::BTreeMap;

use super::sector::VotingId;
use crate::base::{Epoch, ThreadId};

/// A ballot number: no two instances share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ballot {
    /// Counts up; 0 is no ballot.
    pub round: u64,
    /// Whose it is.
    pub by: ThreadId,
}

/// What an instance writes: the paper's `dblock`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Block<V> {
    /// The epoch that is being decided.
    pub epoch: Epoch,
    /// Highest ballot that it tried (`mbal`).
    pub tried: Ballot,
    /// Highest ballot in which it reached phase 2 (`bal`); `accepted <= tried`.
    pub accepted: Ballot,
    /// The value of that ballot (`inp`).
    pub value: Option<V>,
}

impl<V> Default for Block<V> {
    fn default() -> Block<V> {
        Block { epoch: Epoch(0), tried: Ballot::default(), accepted: Ballot::default(), value: None }
    }
}

impl<V> Block<V> {
    /// Orders the blocks that one instance writes: later ones are higher.
    pub fn rank(&self) -> (Epoch, Ballot, Ballot) {
        (self.epoch, self.tried, self.accepted)
    }

    /// The epoch that this block shows may be decided beyond `known`: its own, when a value is accepted; or the one before its own, which
    /// must be decided, for else nobody would be there.
    pub fn may_follow(&self, known: Epoch) -> Option<Epoch> {
        let decided = if self.value.is_some() { self.epoch } else { Epoch(self.epoch.0.saturating_sub(1)) };
        (decided > known).then_some(decided)
    }
}

/// Why a proposal can't begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Own blocks weren't read from a majority yet.
    Unread,
    /// Own block on some file is of a later epoch: this one is decided.
    Superseded(Epoch),
}

/// What a read led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<V> {
    /// Nothing yet.
    Waiting,
    /// A majority was written and read in phase 1: the block of phase 2 is to be written.
    Phase2,
    /// This value is decided.
    Chosen(V),
    /// Somebody else tries a higher ballot. Given up; may begin again, later.
    Preempted(Ballot),
    /// Somebody is at this later epoch: ours is decided. Given up; read what was decided.
    Superseded(Epoch),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    One,
    Two,
}

/// A proposal under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Run<V> {
    phase: Phase,
    voters: Vec<VotingId>,
    proposal: V,
    /// Accepted by anybody, highest ballot, as far as seen in phase 1.
    adopted: Option<(Ballot, V)>,
}

/// What is known of one file. `done <= acked <= issued <= stamp`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct File<V> {
    /// Own block as this life last read it there.
    own: Option<Block<V>>,
    /// Newest state of the own block that was given to a write, that is durable, and behind which everybody was read.
    issued: u64,
    acked: u64,
    done: u64,
    /// State of the own block that was durable when the read in flight began.
    reading: u64,
}

/// One instance's part.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Paxos<V> {
    me: ThreadId,
    block: Block<V>,
    /// Counts the states of `block`.
    stamp: u64,
    run: Option<Run<V>>,
    files: BTreeMap<VotingId, File<V>>,
    /// Highest round seen, and in which epoch.
    highest: (Epoch, u64),
}

impl<V: Clone + PartialEq> Paxos<V> {
    /// A life that has read nothing yet.
    pub fn new(me: ThreadId) -> Paxos<V> {
        Paxos { me, block: Block::default(), stamp: 0, run: None, files: BTreeMap::new(), highest: (Epoch(0), 0) }
    }

    /// Begins to propose `value` for `epoch`, decided by `voters`. The caller knows that `epoch - 1` is decided and names `voters`.
    /// Phase 1 follows by [`Paxos::to_write`] and [`Paxos::to_read`]. A proposal under way is given up.
    ///
    /// # Errors
    /// [`Refusal`]; nothing changed.
    pub fn begin(&mut self, epoch: Epoch, voters: &[VotingId], value: V) -> Result<(), Refusal> {
        let own: Vec<&Block<V>> = voters.iter().filter_map(|file| self.files.get(file)?.own.as_ref()).collect();
        if let Some(later) = own.iter().map(|block| block.epoch).chain([self.block.epoch]).filter(|later| *later > epoch).max() {
            return Err(Refusal::Superseded(later));
        }
        let mut block = self.block.clone();
        if block.epoch < epoch {
            if own.len() <= voters.len() / 2 {
                return Err(Refusal::Unread);
            }
            let left = own.into_iter().filter(|block| block.epoch == epoch).max_by_key(|block| block.rank());
            block = left.cloned().unwrap_or(Block { epoch, ..Block::default() });
        }
        let seen = if self.highest.0 == epoch { self.highest.1 } else { 0 };
        block.tried = Ballot { round: seen.max(block.tried.round) + 1, by: self.me };
        let adopted = block.value.clone().map(|value| (block.accepted, value));
        self.run = Some(Run { phase: Phase::One, voters: voters.to_vec(), proposal: value, adopted });
        self.replace(block);
        Ok(())
    }

    /// Gives up what is under way. What was written stays, and may still be chosen by others.
    pub fn abandon(&mut self) {
        self.run = None;
    }

    /// The epoch that is being proposed for, if any.
    pub fn proposing(&self) -> Option<Epoch> {
        self.run.as_ref().map(|_| self.block.epoch)
    }

    /// The own block that `file` needs, if there is one and no write of it was begun. The caller has no write of it in flight there.
    pub fn to_write(&self, file: VotingId) -> Option<&Block<V>> {
        let run = self.run.as_ref()?;
        let state = self.files.get(&file)?;
        // What an older life left on this file was read, and isn't of a later epoch.
        let left = state.own.as_ref()?;
        (run.voters.contains(&file) && state.issued < self.stamp && left.epoch <= self.block.epoch).then_some(&self.block)
    }

    /// A write of what [`Paxos::to_write`] gave begins. The number is for [`Paxos::written`].
    pub fn write_begins(&mut self, file: VotingId) -> u64 {
        if let Some(state) = self.files.get_mut(&file) {
            state.issued = self.stamp;
        }
        self.stamp
    }

    /// That write is durable.
    pub fn written(&mut self, file: VotingId, stamp: u64) {
        if let Some(state) = self.files.get_mut(&file) {
            state.acked = state.acked.max(stamp);
        }
    }

    /// Whether all blocks are to be read from `file` now: a read that began earlier doesn't count.
    pub fn to_read(&self, file: VotingId) -> bool {
        let Some(run) = &self.run else { return false };
        run.voters.contains(&file) && self.files.get(&file).is_some_and(|state| state.acked == self.stamp && state.done < self.stamp)
    }

    /// Any read of `file`, for whatever reason, begins. One at a time.
    pub fn read_begins(&mut self, file: VotingId) {
        if let Some(state) = self.files.get_mut(&file) {
            state.reading = state.acked;
        }
    }

    /// The read ended and everybody's block was whole. `blocks` are of all instances, this one included.
    pub fn read(&mut self, file: VotingId, blocks: &[(ThreadId, Block<V>)]) -> Step<V> {
        for (_, block) in blocks {
            let round = block.tried.round;
            if block.epoch > self.highest.0 {
                self.highest = (block.epoch, round);
            } else if block.epoch == self.highest.0 {
                self.highest.1 = self.highest.1.max(round);
            }
        }
        let own = blocks.iter().find(|(id, _)| *id == self.me).map(|(_, block)| block.clone());
        let state = self.files.entry(file).or_insert_with(|| File { own: None, issued: 0, acked: 0, done: 0, reading: 0 });
        let counts = state.reading == self.stamp && state.done < self.stamp;
        // A file that doesn't show what it acknowledged has lost it: it did not answer.
        let kept = own.as_ref() == Some(&self.block);
        state.own = own;
        let Some(run) = &mut self.run else { return Step::Waiting };
        if !run.voters.contains(&file) {
            return Step::Waiting;
        }
        if let Some(later) = blocks.iter().map(|(_, block)| block.epoch).filter(|epoch| *epoch > self.block.epoch).max() {
            self.run = None;
            return Step::Superseded(later);
        }
        let others = || blocks.iter().filter(|(id, block)| *id != self.me && block.epoch == self.block.epoch).map(|(_, block)| block);
        if let Some(higher) = others().map(|block| block.tried).filter(|tried| *tried > self.block.tried).max() {
            self.run = None;
            return Step::Preempted(higher);
        }
        if !counts || !kept {
            return Step::Waiting;
        }
        if run.phase == Phase::One {
            for block in others() {
                if let Some(value) = &block.value
                    && run.adopted.as_ref().is_none_or(|(ballot, _)| block.accepted > *ballot)
                {
                    run.adopted = Some((block.accepted, value.clone()));
                }
            }
        }
        state.done = self.stamp;
        self.advance()
    }

    /// Goes on when a majority is written and read.
    fn advance(&mut self) -> Step<V> {
        let Some(run) = &mut self.run else { return Step::Waiting };
        let done = run.voters.iter().filter(|file| self.files.get(file).is_some_and(|state| state.done == self.stamp)).count();
        if done <= run.voters.len() / 2 {
            return Step::Waiting;
        }
        match run.phase {
            Phase::One => {
                run.phase = Phase::Two;
                let value = run.adopted.clone().map_or_else(|| run.proposal.clone(), |(_, value)| value);
                let block = Block { accepted: self.block.tried, value: Some(value), ..self.block.clone() };
                self.replace(block);
                Step::Phase2
            }
            Phase::Two => {
                self.run = None;
                match self.block.value.clone() {
                    Some(value) => Step::Chosen(value),
                    None => Step::Waiting,
                }
            }
        }
    }

    fn replace(&mut self, block: Block<V>) {
        self.block = block;
        self.stamp += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ThreadId = ThreadId(1);
    const OTHER: ThreadId = ThreadId(2);
    const FILES: [VotingId; 3] = [VotingId(1), VotingId(2), VotingId(3)];

    fn empty() -> [(ThreadId, Block<u8>); 2] {
        [(ME, Block::default()), (OTHER, Block::default())]
    }

    /// Has read that nobody wrote anything.
    fn ready() -> Paxos<u8> {
        let mut paxos = Paxos::new(ME);
        for file in FILES {
            paxos.read_begins(file);
            assert_eq!(paxos.read(file, &empty()), Step::Waiting);
        }
        paxos
    }

    fn write(paxos: &mut Paxos<u8>, file: VotingId) -> Block<u8> {
        let block = paxos.to_write(file).cloned().expect("something to write");
        let stamp = paxos.write_begins(file);
        assert_eq!(paxos.to_write(file), None, "once");
        assert!(!paxos.to_read(file), "not before it is durable");
        paxos.written(file, stamp);
        block
    }

    fn round(paxos: &mut Paxos<u8>, file: VotingId, other: Block<u8>) -> Step<u8> {
        let own = write(paxos, file);
        assert!(paxos.to_read(file));
        paxos.read_begins(file);
        paxos.read(file, &[(ME, own), (OTHER, other)])
    }

    #[test]
    fn alone_it_takes_two_phases_on_a_majority() {
        let mut paxos = ready();
        paxos.begin(Epoch(1), &FILES, 7).expect("own blocks were read");
        assert_eq!(round(&mut paxos, FILES[0], Block::default()), Step::Waiting);
        assert_eq!(round(&mut paxos, FILES[2], Block::default()), Step::Phase2);
        assert_eq!(round(&mut paxos, FILES[1], Block::default()), Step::Waiting);
        assert_eq!(round(&mut paxos, FILES[0], Block::default()), Step::Chosen(7));
        assert_eq!(paxos.proposing(), None);
    }

    #[test]
    fn an_accepted_value_is_taken_and_a_higher_ballot_ends_it() {
        let mut paxos = ready();
        paxos.begin(Epoch(1), &FILES, 7).expect("own blocks were read");
        let by = |round| Ballot { round, by: OTHER };
        let accepted = Block { epoch: Epoch(1), tried: by(0), accepted: by(0), value: Some(8) };
        assert_eq!(round(&mut paxos, FILES[0], accepted), Step::Waiting);
        assert_eq!(round(&mut paxos, FILES[1], Block::default()), Step::Phase2);
        let higher = Block { epoch: Epoch(1), tried: by(5), ..Block::default() };
        assert_eq!(round(&mut paxos, FILES[2], higher), Step::Preempted(by(5)));
        paxos.begin(Epoch(1), &FILES, 9).expect("again");
        let block = write(&mut paxos, FILES[0]);
        assert_eq!((block.tried.round, block.value), (6, Some(8)), "above what it saw, and true to what it accepted");
    }

    #[test]
    fn a_later_epoch_means_that_this_one_is_decided() {
        let mut paxos = ready();
        paxos.begin(Epoch(1), &FILES, 7).expect("own blocks were read");
        assert_eq!(round(&mut paxos, FILES[0], Block { epoch: Epoch(4), ..Block::default() }), Step::Superseded(Epoch(4)));
    }

    #[test]
    fn nothing_is_written_before_own_blocks_were_read_nor_over_a_later_one() {
        let mut paxos = Paxos::new(ME);
        assert_eq!(paxos.begin(Epoch(1), &FILES, 7), Err(Refusal::Unread));
        for file in &FILES[..2] {
            paxos.read_begins(*file);
            paxos.read(*file, &empty());
        }
        paxos.begin(Epoch(1), &FILES, 7).expect("a majority was read");
        assert_eq!(paxos.to_write(FILES[2]), None, "what an older life left there isn't known");
        let left = Block { epoch: Epoch(2), ..Block::default() };
        paxos.read_begins(FILES[2]);
        assert_eq!(paxos.read(FILES[2], &[(ME, left), (OTHER, Block::default())]), Step::Superseded(Epoch(2)));
        assert_eq!(paxos.begin(Epoch(1), &FILES, 7), Err(Refusal::Superseded(Epoch(2))));
    }

    #[test]
    fn a_read_that_began_before_the_write_was_durable_doesnt_count() {
        let mut paxos = ready();
        paxos.begin(Epoch(1), &FILES[..1], 7).expect("own blocks were read");
        paxos.read_begins(FILES[0]);
        let own = write(&mut paxos, FILES[0]);
        assert_eq!(paxos.read(FILES[0], &[(ME, own.clone()), (OTHER, Block::default())]), Step::Waiting);
        assert!(paxos.to_read(FILES[0]));
        paxos.read_begins(FILES[0]);
        assert_eq!(paxos.read(FILES[0], &empty()), Step::Waiting, "a file that lost the write did not answer");
        paxos.read_begins(FILES[0]);
        assert_eq!(paxos.read(FILES[0], &[(ME, own), (OTHER, Block::default())]), Step::Phase2);
    }
}
