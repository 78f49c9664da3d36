//! The guard's state machine: exact outputs for each of its duties.

use std::path::PathBuf;

use super::core::{Ending, Guard, Input, Output, Verdict, exit};
use super::options::GuardOptions;
use crate::base::{Epoch, Incarnation, Instant, ThreadId};
use crate::fence::Victim;
use crate::fence::locks::Look;
use crate::fence::message::Report;
use crate::net::Peer;

const ID: ThreadId = ThreadId(2);

struct Rig {
    guard: Guard,
    now: Instant,
}

impl Rig {
    fn new(options: GuardOptions) -> Rig {
        let mut out = Vec::new();
        let rig = Rig { guard: Guard::new(ID, options, Instant(0), &mut out), now: Instant(0) };
        assert_eq!(out, [Output::Look], "nothing is started before the locks were looked at");
        rig
    }

    /// Whose child runs as incarnation 7 since epoch 3.
    fn serving() -> Rig {
        let mut rig = Rig::new(GuardOptions::default());
        assert_eq!(rig.drained(None), [Output::Start { above: Incarnation(0) }]);
        rig.runs(7, 3);
        rig
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.guard.step(self.now, input, &mut out);
        out.retain(|output| !matches!(output, Output::Say(_)));
        out
    }

    fn drained(&mut self, highest: Option<u64>) -> Vec<Output> {
        self.give(Input::Looked { look: Look::Drained, highest: highest.map(Incarnation) })
    }

    fn held(&mut self) -> Vec<Output> {
        self.give(Input::Looked { look: Look::Held(PathBuf::from("redo.2")), highest: None })
    }

    fn runs(&mut self, incarnation: u64, epoch: u64) {
        for input in [Input::Started, Input::Announced(Incarnation(incarnation)), Input::Joined(Epoch(epoch))] {
            assert_eq!(self.give(input), []);
        }
    }

    fn view(&mut self, epoch: u64, member: Option<u64>, unfenced: Option<u64>) -> Vec<Output> {
        let (member, unfenced) = (member.map(Incarnation), unfenced.map(Incarnation));
        self.give(Input::View(Verdict { epoch: Epoch(epoch), member, unfenced }))
    }

    fn demand(&mut self, id: ThreadId, incarnation: u64) -> Vec<Output> {
        self.give(Input::Demand {
            from: Peer::instance(ThreadId(1)),
            victim: Victim { id, incarnation: Incarnation(incarnation), epoch: Epoch(4) },
        })
    }
}

fn report(to: Option<Peer>, dead: u64, drained: bool) -> Output {
    Output::Report { to, report: Report::new(ID, Incarnation(dead), drained) }
}

fn record(dead: u64, killed: u64) -> Output {
    Output::Record { dead: Incarnation(dead), killed: Epoch(killed) }
}

fn start(above: u64) -> Output {
    Output::Start { above: Incarnation(above) }
}

fn code(out: &[Output]) -> Option<i32> {
    out.iter().find_map(|output| if let Output::Exit { code, .. } = output { Some(*code) } else { None })
}

#[test]
fn a_death_is_reported_at_once_and_as_drained_only_after_the_locks_were_free() {
    let mut rig = Rig::serving();
    assert_eq!(rig.give(Input::Ended(Ending::Signal(9))), [report(None, 7, false), Output::Look]);
    let asker = Peer::instance(ThreadId(1));
    for _ in 0..3 {
        assert_eq!(rig.held(), [Output::Look], "still in use: neither recorded nor started again");
        assert_eq!(rig.demand(ID, 7), [report(Some(asker), 7, false)]);
        let known = [report(Some(asker), 6, true), report(Some(asker), 7, false)];
        assert_eq!(rig.give(Input::Up(asker)), known, "the lives before it had drained");
    }
    assert_eq!(rig.give(Input::Looked { look: Look::Unclear("EIO".into()), highest: None }), [Output::Look]);
    assert_eq!(rig.drained(None), [record(7, 0), report(None, 7, true), start(7)]);
    rig.runs(8, 5);
    assert_eq!(rig.demand(ID, 7), [report(Some(asker), 7, true)], "the old one is dead, and the new one isn't touched");
}

/// A guard learned of views only by its reads of the voting files. Its report of a death soon after a view change was refused as one of the epoch
/// before, and the others heard of the death from the voting files, up to 200 ms later.
#[test]
fn what_is_known_is_said_again_in_each_epoch_until_a_new_life_is_a_member() {
    let mut rig = Rig::serving();
    assert_eq!(rig.view(3, Some(7), None), [], "it is a member: nothing is news");
    rig.give(Input::Ended(Ending::Signal(9)));
    let both = [report(None, 6, true), report(None, 7, false)];
    assert_eq!(rig.view(4, Some(7), None), both);
    assert_eq!(rig.view(4, Some(7), None), [], "once in each epoch");
    assert_eq!(rig.view(3, Some(7), None), []);
    rig.drained(None);
    assert_eq!(rig.view(5, None, Some(7)), [report(None, 7, true)]);
    rig.runs(8, 6);
    assert_eq!(rig.view(6, Some(8), None), []);
}

#[test]
fn a_guard_that_finds_remains_of_its_identity_records_their_death_before_it_starts_anything() {
    let mut rig = Rig::new(GuardOptions::default());
    assert_eq!(rig.held(), [Output::Look]);
    assert_eq!(rig.drained(Some(41)), [record(41, 0), report(None, 41, true), start(41)]);
    let mut rig = Rig::new(GuardOptions::default());
    assert_eq!(code(&rig.give(Input::Looked { look: Look::Unclear("no such file".into()), highest: None })), Some(2));
}

#[test]
fn a_child_that_had_not_said_its_life_is_known_by_the_voting_files() {
    let mut rig = Rig::new(GuardOptions::default());
    rig.drained(Some(3));
    assert_eq!(rig.give(Input::Started), []);
    assert_eq!(rig.give(Input::Ended(Ending::Code(134))), [Output::Look], "which life it was isn't known yet");
    assert_eq!(rig.drained(Some(4)), [record(4, 0), report(None, 4, true), start(4)]);
}

#[test]
fn an_announced_life_says_nothing_of_earlier_ones_before_it_is_a_member() {
    let mut rig = Rig::new(GuardOptions::default());
    rig.drained(None);
    rig.give(Input::Started);
    rig.give(Input::Announced(Incarnation(9)));
    assert_eq!(rig.demand(ID, 8), [], "8 may live on another host");
    rig.give(Input::Joined(Epoch(5)));
    assert_eq!(rig.demand(ID, 8), [report(Some(Peer::instance(ThreadId(1))), 8, true)]);
}

#[test]
fn it_kills_on_demand_the_life_that_is_meant() {
    let mut rig = Rig::serving();
    assert_eq!(rig.demand(ThreadId(3), 7), [], "another instance");
    assert_eq!(rig.demand(ID, 7), [Output::Kill]);
    assert_eq!(rig.demand(ID, 7), [], "once is enough");
    rig.give(Input::Ended(Ending::Signal(9)));
    assert_eq!(rig.drained(None)[0], record(7, 4));
    let mut young = Rig::new(GuardOptions::default());
    young.drained(None);
    young.give(Input::Started);
    assert_eq!(young.demand(ID, 7), [Output::Kill], "it may be that life: it hasn't said");
}

#[test]
fn it_kills_on_an_evicting_view() {
    // Evicted and not fenced; evicted and already confirmed by others; another life is a member.
    for (epoch, member, unfenced) in [(4, None, Some(7)), (4, None, None), (9, Some(8), None)] {
        let mut rig = Rig::serving();
        assert_eq!(rig.view(epoch, member, unfenced), [Output::Kill], "{epoch} {member:?} {unfenced:?}");
        assert_eq!(rig.view(epoch, member, unfenced), []);
        rig.give(Input::Ended(Ending::Signal(9)));
        assert_eq!(rig.drained(None), [record(7, epoch), report(None, 7, true), start(7)]);
    }
    // A view that has it; older ones; of an earlier life; none of these evicts.
    for (epoch, member, unfenced) in [(4, Some(7), None), (3, Some(7), None), (2, None, None), (3, None, None), (4, Some(7), Some(6))] {
        assert_eq!(Rig::serving().view(epoch, member, unfenced), [], "{epoch} {member:?} {unfenced:?}");
    }
    let mut leaving = Rig::serving();
    leaving.give(Input::Leaving);
    assert_eq!(leaving.view(4, None, None), [], "it leaves by itself");
    assert_eq!(leaving.view(4, None, Some(7)), [Output::Kill], "but not when others wait for its fence");
    let mut starting = Rig::new(GuardOptions::default());
    starting.drained(None);
    starting.give(Input::Started);
    starting.give(Input::Announced(Incarnation(7)));
    assert_eq!(starting.view(3, None, None), [], "it isn't a member yet");
    assert_eq!(starting.view(4, Some(7), None), []);
    assert_eq!(starting.view(5, None, None), [Output::Kill], "it was one, by the view itself");
}

#[test]
fn restarts_back_off_and_end() {
    let mut rig = Rig::new(GuardOptions { restarts_max: 3, ..GuardOptions::default() });
    rig.drained(None);
    let mut pauses = Vec::new();
    for life in 1.. {
        rig.runs(life, life);
        rig.give(Input::Ended(Ending::Signal(6)));
        let out = rig.drained(None);
        if let Some(code) = code(&out) {
            assert_eq!(code, 1);
            assert!(matches!(out.last(), Some(Output::Exit { why: Some(why), .. }) if why.contains("restarts_max")), "{out:?}");
            break;
        }
        let waits = rig.guard.wakes().map_or(0, |until| until.since(rig.now).as_millis() as u64);
        pauses.push(waits);
        if waits > 0 {
            assert_eq!(rig.give(Input::Tick), [], "too early");
            rig.now = rig.guard.wakes().unwrap();
            assert_eq!(rig.give(Input::Tick), [start(life)]);
        }
    }
    assert_eq!(pauses, [0, 200, 400]);
    let mut rig = Rig::new(GuardOptions { restarts_max: 1, ..GuardOptions::default() });
    rig.drained(None);
    for life in 1..10 {
        rig.runs(life, life);
        rig.now = rig.now + std::time::Duration::from_secs(60);
        rig.give(Input::Ended(Ending::Code(exit::EVICTED)));
        assert_eq!(rig.drained(None).last(), Some(&start(life)), "it had lived long enough");
    }
}

#[test]
fn what_would_not_help_is_not_tried_again() {
    for (ending, expected) in [(exit::CLEAN, 0), (exit::UNUSABLE, 2)] {
        let mut rig = Rig::serving();
        rig.give(Input::Ended(Ending::Code(ending)));
        assert_eq!(code(&rig.drained(None)), Some(expected));
    }
    let mut rig = Rig::new(GuardOptions::default());
    rig.drained(None);
    rig.give(Input::Started);
    rig.give(Input::Ended(Ending::Code(exit::NOT_OPENED)));
    assert_eq!(code(&rig.drained(None)), Some(2), "who started it is told");
    let mut rig = Rig::serving();
    rig.give(Input::Ended(Ending::Signal(9)));
    rig.drained(None);
    rig.give(Input::Started);
    rig.give(Input::Ended(Ending::Code(exit::NOT_OPENED)));
    assert_eq!(code(&rig.drained(None)), None, "it had served: the storage may come back");
}

#[test]
fn told_to_stop_it_closes_the_child_and_ends() {
    let mut rig = Rig::serving();
    assert_eq!(rig.give(Input::Stop), [Output::Terminate]);
    rig.give(Input::Leaving);
    assert_eq!(rig.give(Input::Ended(Ending::Code(0))), [report(None, 7, false), Output::Look]);
    assert_eq!(code(&rig.drained(None)), Some(0));
    let mut crashing = Rig::serving();
    crashing.give(Input::Stop);
    crashing.give(Input::Ended(Ending::Signal(11)));
    assert_eq!(code(&crashing.drained(None)), Some(1));
    let mut early = Rig::new(GuardOptions::default());
    assert_eq!(early.give(Input::Stop), []);
    assert_eq!(code(&early.drained(None)), Some(0), "nothing was started");
    let mut starting = Rig::new(GuardOptions::default());
    starting.drained(None);
    assert_eq!(starting.give(Input::Stop), []);
    assert_eq!(starting.give(Input::Started), [Output::Terminate]);
    let mut pausing = Rig::serving();
    for _ in 0..2 {
        pausing.give(Input::Ended(Ending::Signal(9)));
        pausing.drained(None);
        pausing.give(Input::Started);
    }
    pausing.give(Input::Ended(Ending::Signal(9)));
    pausing.drained(None);
    assert_eq!(code(&pausing.give(Input::Stop)), Some(0));
}
