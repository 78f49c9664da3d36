//! Incidents that the seeds found, by hand: what was wrong stands at each test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{Epoch, Mode, PageId, Scn, ThreadId};
use crate::grd::message::{Block, Message, Said, Source};
use crate::grd::resource::{Resource, SLOTS};
use crate::grd::{Grd, Input, Membership, Output, Verdict, Yielded};

const PAGE: Resource = Resource::Page(PageId(0));
/// Masters everything; holds and asks for nothing.
const MASTER: ThreadId = ThreadId(1);
const CLEAN: Option<Yielded> = Some(Yielded { version: Scn(5), dirty: false, image: false });
const DIRTY: Option<Yielded> = Some(Yielded { version: Scn(5), dirty: true, image: true });

fn id(number: u16) -> ThreadId {
    ThreadId(number)
}

fn view(epoch: u64, members: &[u16], master: ThreadId) -> Membership {
    let members: BTreeSet<ThreadId> = members.iter().copied().map(ThreadId).collect();
    Membership { epoch: Epoch(epoch), members, masters: Arc::new([master; SLOTS]), put_out: BTreeSet::new() }
}

/// Instances whose messages are carried by hand.
struct Table {
    grds: BTreeMap<ThreadId, Grd>,
    /// Sent and not delivered, in order.
    wire: Vec<(ThreadId, ThreadId, Epoch, Message)>,
}

impl Table {
    fn new(members: &[u16]) -> Table {
        let mut table = Table { grds: members.iter().map(|number| (id(*number), Grd::new(id(*number)))).collect(), wire: Vec::new() };
        for number in members {
            table.step(id(*number), Input::View(view(1, members, MASTER)));
        }
        table.deliver_all();
        table
    }

    /// What `who` does to its cache.
    fn step(&mut self, who: ThreadId, input: Input) -> Vec<Output> {
        let (mut out, grd) = (Vec::new(), self.grds.get_mut(&who).unwrap());
        grd.step(input, &mut out);
        let epoch = grd.epoch();
        let mut left = Vec::new();
        for output in out {
            match output {
                Output::Send(to, message) => self.wire.push((who, to, epoch, message)),
                other => left.push(other),
            }
        }
        left
    }

    /// Delivers the oldest message from `from` to `to`.
    fn deliver(&mut self, from: u16, to: u16) -> Vec<Output> {
        let at = self.wire.iter().position(|(f, t, ..)| (*f, *t) == (id(from), id(to))).expect("a message is on its way");
        let (from, to, epoch, message) = self.wire.remove(at);
        self.step(to, Input::Heard(from, epoch, message))
    }

    fn deliver_all(&mut self) -> Vec<(ThreadId, Output)> {
        let mut all = Vec::new();
        while let Some((from, to, ..)) = self.wire.first().cloned() {
            all.extend(self.deliver(from.0, to.0).into_iter().map(|output| (to, output)));
        }
        all
    }

    fn ask(&mut self, who: u16, mode: Mode) {
        let have = self.grds[&id(who)].mode(PAGE) > Mode::None;
        assert_eq!(self.step(id(who), Input::Acquire { resource: PAGE, mode, have }), []);
    }

    /// `who` gets the page from disk.
    fn cold(&mut self, who: u16, mode: Mode) {
        self.ask(who, mode);
        let granted = Output::Granted { resource: PAGE, mode, source: Source::Disk, unwritten: false };
        assert_eq!(self.deliver_all(), [(id(who), granted)]);
    }

    fn send_block(&mut self, from: u16, to: u16, block: Block) -> Vec<Output> {
        self.step(id(to), Input::Arrived(id(from), block))
    }
}

fn block(outputs: &[Output]) -> Block {
    match outputs {
        [Output::Block(_, block)] => *block,
        other => panic!("{other:?} isn't one copy"),
    }
}

fn granted(mode: Mode, source: Source, unwritten: bool) -> Output {
    Output::Granted { resource: PAGE, mode, source, unwritten }
}

/// A holder in S sent its copy and evicted its own; the word of that came before the requester's. The master took the transfer for failed, asked the next
/// holder, and then refused the confirmation of the first copy: the requester's grant was never known, and everybody behind it waited for ever.
#[test]
fn a_source_that_evicts_after_sending_has_sent() {
    let mut table = Table::new(&[1, 2, 3, 4]);
    table.cold(2, Mode::Shared);
    table.ask(3, Mode::Shared);
    table.deliver(3, 1);
    assert_eq!(table.deliver(1, 2), [Output::Yield { resource: PAGE, to: Mode::Shared, copy: true }]);
    let copy = block(&table.step(id(2), Input::Yielded(PAGE, CLEAN)));
    assert_eq!(table.step(id(2), Input::Released(PAGE)), []);
    table.ask(4, Mode::Shared);
    assert_eq!(table.send_block(2, 3, copy), [Output::Verdict(Verdict::Taken), granted(Mode::Shared, Source::Copy, false)]);
    table.deliver(2, 1);
    table.deliver(3, 1);
    let rest = table.deliver_all();
    assert!(
        rest.iter().any(|(who, output)| (who, output) == (&id(3), &Output::Yield { resource: PAGE, to: Mode::Shared, copy: true })),
        "{rest:?}"
    );
}

/// Copies don't come by the master's session. One came from another holder before an old notification did, and what it granted was taken down by that.
#[test]
fn an_old_notification_does_not_take_a_newer_grant() {
    let mut table = Table::new(&[1, 2, 3]);
    table.cold(2, Mode::Exclusive);
    table.ask(3, Mode::Exclusive);
    table.deliver(3, 1);
    // The notification to 2 is on its way when 2 evicts and asks again.
    assert_eq!(table.step(id(2), Input::Released(PAGE)), []);
    table.ask(2, Mode::Exclusive);
    table.deliver(2, 1);
    table.deliver(2, 1);
    let late =
        table.wire.iter().position(|(_, to, _, message)| *to == id(2) && matches!(message, Message::Of { said: Said::Yield { .. }, .. }));
    let late = table.wire.remove(late.expect("the old notification"));
    // 3 has it from disk, and gives it to 2.
    assert_eq!(table.deliver(1, 3), [granted(Mode::Exclusive, Source::Disk, false)]);
    assert_eq!(table.deliver(1, 3), [Output::Yield { resource: PAGE, to: Mode::None, copy: true }]);
    let copy = block(&table.step(id(3), Input::Yielded(PAGE, DIRTY)));
    assert_eq!(table.send_block(3, 2, copy), [Output::Verdict(Verdict::Taken), granted(Mode::Exclusive, Source::Copy, true)]);
    assert_eq!(table.step(id(2), Input::Heard(late.0, late.2, late.3)), []);
    assert_eq!(table.grds[&id(2)].mode(PAGE), Mode::Exclusive);
}

/// An instance that was in the next view already answered a master that wasn't: without the slots that the next view gives to somebody else. The master took
/// them for empty, and told the holder of the only copy that it was written.
#[test]
fn what_is_said_in_a_later_epoch_is_heard_in_it() {
    let mut table = Table::new(&[1, 2, 3]);
    table.cold(3, Mode::Exclusive);
    // 2 becomes master, then 1 again; 3 is in the last view before it hears 2's question.
    for who in [2, 3, 1] {
        table.step(id(who), Input::View(view(2, &[1, 2, 3], id(2))));
    }
    table.step(id(3), Input::View(view(3, &[1, 2, 3], MASTER)));
    table.deliver_all();
    let status = table.grds[&id(2)].status();
    assert_eq!((status.entries, status.slots), (0, SLOTS), "nothing is built of what 3 said");
    table.ask(2, Mode::Shared);
    table.step(id(1), Input::View(view(3, &[1, 2, 3], MASTER)));
    table.step(id(2), Input::View(view(3, &[1, 2, 3], MASTER)));
    let done = table.deliver_all();
    assert_eq!(done, [(id(3), Output::Yield { resource: PAGE, to: Mode::Shared, copy: true })], "the holder is known");
}

/// A copy was refused because its slot had a new master, and that one lost the slot in turn before it reinstated the image. The next one was told of the image
/// only, and took it for written.
#[test]
fn a_refused_copy_is_told_to_every_master_until_it_is_reinstated() {
    let mut table = Table::new(&[1, 2, 3]);
    table.cold(3, Mode::Exclusive);
    table.ask(2, Mode::Exclusive);
    table.deliver(2, 1);
    table.deliver(1, 3);
    let copy = block(&table.step(id(3), Input::Yielded(PAGE, DIRTY)));
    for who in [1, 2, 3] {
        table.step(id(who), Input::View(view(2, &[1, 2, 3], id(2))));
    }
    assert_eq!(table.send_block(3, 2, copy), [Output::Verdict(Verdict::Void)]);
    table.deliver(2, 3);
    table.step(id(3), Input::Judged(PAGE, copy.ask, Verdict::Void));
    // 3 has declared to 2, who doesn't hear it any more.
    for who in [1, 2, 3] {
        table.step(id(who), Input::View(view(3, &[1, 2, 3], MASTER)));
    }
    let done = table.deliver_all();
    assert!(done.contains(&(id(3), Output::Reinstate(PAGE))), "{done:?}");
    assert!(!done.iter().any(|(_, output)| matches!(output, Output::Notice(..))), "{done:?}");
}

/// An instance evicted a page while it was obeying a notification for it, said so at once, and asked anew; the notification's end was taken for that of the next one.
#[test]
fn one_notification_ends_before_the_page_is_granted_again() {
    let mut table = Table::new(&[1, 2, 3]);
    table.cold(2, Mode::Exclusive);
    table.ask(3, Mode::Exclusive);
    table.deliver(3, 1);
    table.deliver(1, 2);
    assert_eq!(table.step(id(2), Input::Released(PAGE)), []);
    table.ask(2, Mode::Shared);
    assert_eq!(table.deliver_all(), [], "3 waits for 2's answer");
    assert_eq!(table.step(id(2), Input::Yielded(PAGE, None)), []);
    let done = table.deliver_all();
    assert_eq!(
        done,
        [(id(3), granted(Mode::Exclusive, Source::Disk, false)), (id(3), Output::Yield { resource: PAGE, to: Mode::Shared, copy: true }),]
    );
}
