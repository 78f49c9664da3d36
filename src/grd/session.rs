//! A session between two lives: what one says reaches the other once and in order, whatever happens to connections and epochs.
//!
//! Batches are numbered and kept until they are acknowledged; they are sent again (go back to the oldest, a window at a time) when the connection is new, when
//! an epoch was entered, and when nothing was acknowledged for a while. What is kept is bounded by what it is about: a page that is held has a few messages under
//! way at most. Sans-I/O: the link may lose, repeat or delay whatever it wants.

use std::collections::VecDeque;

use super::message::Message;
use super::wire::{Batch, weight};
use crate::base::{Epoch, Lsn, Scn};

/// Bytes of messages that one batch takes, about; one message may be more.
const BATCH_BYTES: usize = 128 << 10;
/// Batches sent again at once.
const WINDOW: usize = 32;
/// Looks ([`Session::look`]) without an acknowledgement after which batches are sent again.
const PATIENCE: u32 = 4;

/// What every batch says of its sender when it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Its clock.
    pub clock: Scn,
    /// Its redo is durable up to here.
    pub durable: Lsn,
}

struct Kept {
    number: u64,
    epoch: Epoch,
    messages: Vec<Message>,
}

/// One side of a session.
#[derive(Default)]
pub struct Session {
    /// The last number given.
    last: u64,
    kept: VecDeque<Kept>,
    /// All of the other side's up to here have been taken.
    taken: u64,
    /// The other side hasn't been told.
    owes: bool,
    /// Looks since something was acknowledged, with something kept.
    idle: u32,
}

impl Session {
    /// Queues `messages`, said in `epoch`; gives the batches to send now.
    pub fn say(&mut self, epoch: Epoch, messages: Vec<Message>, now: Now) -> Vec<Batch> {
        let first = self.last + 1;
        let (mut part, mut bytes) = (Vec::new(), 0);
        for message in messages {
            let more = weight(&message);
            if bytes + more > BATCH_BYTES && !part.is_empty() {
                self.keep(epoch, std::mem::take(&mut part));
                bytes = 0;
            }
            bytes += more;
            part.push(message);
        }
        if !part.is_empty() {
            self.keep(epoch, part);
        }
        self.batches(first, usize::MAX, now)
    }

    fn keep(&mut self, epoch: Epoch, messages: Vec<Message>) {
        self.last += 1;
        self.kept.push_back(Kept { number: self.last, epoch, messages });
    }

    fn batches(&mut self, from: u64, most: usize, now: Now) -> Vec<Batch> {
        let (acknowledged, Now { clock, durable }) = (self.taken, now);
        let batch =
            |kept: &Kept| Batch { number: kept.number, acknowledged, epoch: kept.epoch, clock, durable, messages: kept.messages.clone() };
        let batches: Vec<Batch> = self.kept.iter().filter(|kept| kept.number >= from).take(most).map(batch).collect();
        if !batches.is_empty() {
            self.owes = false;
        }
        batches
    }

    /// The oldest batches that nobody acknowledged: the connection or the epoch is new.
    pub fn again(&mut self, now: Now) -> Vec<Batch> {
        self.idle = 0;
        self.batches(0, WINDOW, now)
    }

    /// A batch has come: its messages, if it is the next one.
    pub fn heard(&mut self, batch: Batch) -> Vec<Message> {
        if self.kept.front().is_some_and(|oldest| oldest.number <= batch.acknowledged) {
            self.idle = 0;
            while self.kept.front().is_some_and(|oldest| oldest.number <= batch.acknowledged) {
                self.kept.pop_front();
            }
        }
        if batch.number == 0 {
            return Vec::new();
        }
        // Also for one taken before: the word of that may have been lost.
        self.owes = true;
        if batch.number != self.taken + 1 {
            return Vec::new();
        }
        self.taken = batch.number;
        batch.messages
    }

    /// Called now and then: what is to be sent again, or an acknowledgement that is still owed.
    pub fn look(&mut self, epoch: Epoch, now: Now) -> Vec<Batch> {
        if !self.kept.is_empty() {
            self.idle += 1;
            if self.idle >= PATIENCE {
                return self.again(now);
            }
        }
        if !std::mem::take(&mut self.owes) {
            return Vec::new();
        }
        let Now { clock, durable } = now;
        vec![Batch { number: 0, acknowledged: self.taken, epoch, clock, durable, messages: Vec::new() }]
    }

    /// Batches that nobody has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Mode, PageId, Random};
    use crate::grd::message::{Ask, Said};
    use crate::grd::resource::Resource;

    fn message(number: u64) -> Message {
        let said = Said::Request { mode: Mode::Shared, ask: Ask(number) };
        Message::Of { resource: Resource::Page(PageId(number)), since: Epoch(1), said }
    }

    #[test]
    fn everything_arrives_once_and_in_order_over_a_link_that_loses_repeats_and_reorders() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut sides = [Session::default(), Session::default()];
            let mut wires: [Vec<Batch>; 2] = [Vec::new(), Vec::new()];
            let (mut said, mut heard) = ([0u64; 2], [Vec::new(), Vec::new()]);
            let mut step = 0;
            while step < 1000 || sides.iter().any(|side| side.unacknowledged() > 0) {
                step += 1;
                assert!(step < 50_000, "seed {seed}: it doesn't end");
                let side = random.index(2);
                let now = Now { clock: Scn(step), durable: Lsn(step) };
                match random.below(8) {
                    0 if step < 700 => {
                        let count = 1 + random.below(3);
                        let messages = (0..count).map(|more| message(said[side] + more)).collect();
                        said[side] += count;
                        wires[side].extend(sides[side].say(Epoch(1), messages, now));
                    }
                    1 => wires[side].extend(sides[side].look(Epoch(1), now)),
                    2 if random.chance(0.2) => wires[side].extend(sides[side].again(now)),
                    3 if !wires[side].is_empty() && step < 900 => {
                        let at = random.index(wires[side].len());
                        wires[side].swap_remove(at);
                    }
                    _ if !wires[side].is_empty() => {
                        let at = if random.chance(0.3) { random.index(wires[side].len()) } else { 0 };
                        let batch = if random.chance(0.1) { wires[side][at].clone() } else { wires[side].remove(at) };
                        let batch = Batch::decode(&batch.encode()).expect("our own bytes");
                        heard[1 - side].extend(sides[1 - side].heard(batch));
                    }
                    _ => {}
                }
            }
            for side in [0, 1] {
                let expected: Vec<Message> = (0..said[side]).map(message).collect();
                assert_eq!(heard[1 - side], expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn batches_are_cut_and_acknowledged_ones_forgotten() {
        let (mut one, mut other) = (Session::default(), Session::default());
        let now = Now::default();
        let batches = one.say(Epoch(2), (0..5000).map(message).collect(), now);
        assert!(batches.len() > 1 && batches.iter().all(|batch| batch.encode().len() <= 256 << 10));
        assert_eq!(one.unacknowledged(), batches.len());
        for batch in batches {
            other.heard(batch);
        }
        let [word] = other.look(Epoch(2), now).try_into().expect("one acknowledgement");
        assert_eq!(one.heard(word), []);
        assert_eq!(one.unacknowledged(), 0);
        assert_eq!(other.look(Epoch(2), now), [], "nothing is owed any more");
        assert_eq!(one.say(Epoch(2), vec![], now), []);
    }
}
