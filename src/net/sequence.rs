//! Sequence numbers of one connection's frames, on the receiving side: nothing counts twice.
//!
//! QUIC itself delivers no packet twice; this also holds against a peer, or a part of ourselves, that repeats frames.

use super::{Lane, Refusal};

/// How far behind the highest number a request may come, in frames: far more than may be in flight.
const WINDOW: u64 = 1024;

/// Which numbers have come.
#[derive(Debug)]
pub struct Sequences {
    lane: Lane,
    highest: u64,
    /// A bit for each of the last [`WINDOW`] numbers, at the number modulo [`WINDOW`]; for [`Lane::Block`] only.
    seen: [u64; (WINDOW / 64) as usize],
}

impl Sequences {
    /// Nothing has come yet: the first number is 1.
    pub fn new(lane: Lane) -> Sequences {
        Sequences { lane, highest: 0, seen: [0; (WINDOW / 64) as usize] }
    }

    /// Takes note of `number`.
    ///
    /// # Errors
    /// [`Refusal::Replay`] when it came before, or (a heartbeat) when a later one did, or (a request) when that can't be known any more;
    /// [`Refusal::Garbage`] when it leaves out numbers on [`Lane::Control`], or jumps farther ahead than requests can be in flight.
    pub fn accept(&mut self, number: u64) -> Result<(), Refusal> {
        match self.lane {
            Lane::Heartbeat if number <= self.highest => return Err(Refusal::Replay),
            Lane::Heartbeat => self.highest = number,
            Lane::Control if number <= self.highest => return Err(Refusal::Replay),
            Lane::Control if number != self.highest + 1 => return Err(Refusal::Garbage),
            Lane::Control => self.highest = number,
            Lane::Block => return self.accept_in_window(number),
        }
        Ok(())
    }

    fn accept_in_window(&mut self, number: u64) -> Result<(), Refusal> {
        if number == 0 || number + WINDOW <= self.highest {
            return Err(Refusal::Replay);
        }
        if number > self.highest + WINDOW {
            return Err(Refusal::Garbage);
        }
        for passed in self.highest + 1..=number {
            let (word, bit) = place(passed);
            self.seen[word] &= !bit;
        }
        self.highest = self.highest.max(number);
        let (word, bit) = place(number);
        if self.seen[word] & bit != 0 {
            return Err(Refusal::Replay);
        }
        self.seen[word] |= bit;
        Ok(())
    }
}

fn place(number: u64) -> (usize, u64) {
    ((number % WINDOW / 64) as usize, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heartbeats_only_go_forward() {
        let mut sequences = Sequences::new(Lane::Heartbeat);
        assert_eq!([1, 5, 5, 4, 6].map(|number| sequences.accept(number).is_ok()), [true, true, false, false, true]);
        assert_eq!(sequences.accept(6), Err(Refusal::Replay));
    }

    #[test]
    fn control_frames_leave_none_out() {
        let mut sequences = Sequences::new(Lane::Control);
        assert_eq!(sequences.accept(2), Err(Refusal::Garbage));
        assert_eq!(sequences.accept(1), Ok(()));
        assert_eq!(sequences.accept(1), Err(Refusal::Replay));
        assert_eq!(sequences.accept(2), Ok(()));
    }

    proptest! {
        #[test]
        fn requests_count_once_in_any_order(numbers in prop::collection::vec(0u64..3000, 1..400)) {
            let mut sequences = Sequences::new(Lane::Block);
            let (mut seen, mut highest) = (BTreeSet::new(), 0u64);
            for number in numbers {
                let expected = if number == 0 || number + WINDOW <= highest || seen.contains(&number) {
                    Err(Refusal::Replay)
                } else if number > highest + WINDOW {
                    Err(Refusal::Garbage)
                } else {
                    Ok(())
                };
                prop_assert_eq!(sequences.accept(number), expected);
                if expected.is_ok() {
                    seen.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
