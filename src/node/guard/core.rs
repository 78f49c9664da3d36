//! What a guard does, as a state machine: it reads no clock, starts no process, touches no file. `super::run` turns [`Output`]s into system
//! calls and what comes of them into [`Input`]s.
//!
//! ```text
//!            +----------------------------------------------------------------+
//!            v                                                                |
//! start -> Looking --- the locks are free: dead and drained ---> Pausing -> Running --- the child ended: reported at once
//!            |            recorded, reported                        |          |
//!            +-- can't look, and no child ever ran: Over            |          +-- demand, evicting view: killed
//!                                                                   +-- it should not start again: Over
//! ```
//! Invariants:
//! - There is no child outside Running, and Running begins only after the locks of the one before were seen free (rule 6).
//! - `drained` is reported and recorded only of lives whose locks were seen free after they ended, on the host that they ran on.
//! - What is known to be dead only grows.

use std::time::Duration;

use super::options::GuardOptions;
use crate::base::{Epoch, Incarnation, Instant, ThreadId};
use crate::fence::Victim;
use crate::fence::locks::Look;
use crate::fence::message::Report;
use crate::net::Peer;

/// How often an operator is told that the locks of a dead child are still held.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Exit codes of an instance's process that its guard understands. Any other, and death by a signal, is a crash: it is started again.
pub mod exit {
    /// It was told to stop, and closed everything.
    pub const CLEAN: i32 = 0;
    /// The configuration can't be used, or another process has its identity: starting it again would not help.
    pub const UNUSABLE: i32 = 2;
    /// It could not open the storage, or not join. The first time that is told to who started it; later it is tried again.
    pub const NOT_OPENED: i32 = 71;
    /// It was open, and could not go on or not close: it is recovered.
    pub const BROKEN: i32 = 70;
    /// A view without it was chosen: it starts again and joins anew.
    pub const EVICTED: i32 = 75;
}

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Code(exit::CLEAN) => f.write_str("closed and ended"),
            Ending::Code(exit::EVICTED) => f.write_str("was evicted"),
            Ending::Code(code) => write!(f, "ended with code {code}"),
            Ending::Signal(libc::SIGKILL) => f.write_str("was killed"),
            Ending::Signal(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

/// What the newest view says of the guard's instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The view's epoch.
    pub epoch: Epoch,
    /// Which life of it is a member.
    pub member: Option<Incarnation>,
    /// Which life of it is evicted without its fence being confirmed.
    pub unfenced: Option<Incarnation>,
}

/// Something happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Time passed; given at [`Guard::wakes`] at the latest.
    Tick,
    /// The child runs.
    Started,
    /// It can't be started.
    NotStarted(String),
    /// The child has drawn this incarnation. It isn't a member yet, and an earlier life may live on another host.
    Announced(Incarnation),
    /// The child has become a member by the view of this epoch: all its earlier lives are dead and drained.
    Joined(Epoch),
    /// The child is about to leave by itself: a view without it is no eviction.
    Leaving,
    /// The child is gone: it was waited for.
    Ended(Ending),
    /// The answer to [`Output::Look`].
    Looked {
        /// What the locks say.
        look: Look,
        /// With [`Look::Drained`]: the highest incarnation that ran *on this host* by the voting files, read after that.
        highest: Option<Incarnation>,
    },
    /// The newest view that a majority of the voting files tells of.
    View(Verdict),
    /// A peer wants the instance dead.
    Demand {
        /// Who; it gets the answer.
        from: Peer,
        /// Which life.
        victim: Victim,
    },
    /// A peer can be spoken with (again).
    Up(Peer),
    /// SIGTERM or SIGINT.
    Stop,
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Start the child. Answered by [`Input::Started`] or [`Input::NotStarted`].
    Start {
        /// Its incarnation must be above this one.
        above: Incarnation,
    },
    /// Tell the child to close and end.
    Terminate,
    /// Kill the child. Answered by [`Input::Ended`] at last.
    Kill,
    /// Wait a while for the child's locks, and then read which lives the voting files know. Answered by [`Input::Looked`].
    Look,
    /// Write to the guard sector that every life up to this one is dead and drained.
    Record {
        /// The last of them.
        dead: Incarnation,
        /// The epoch of the view for which it was killed; 0 when it ended otherwise.
        killed: Epoch,
    },
    /// Say so to a peer, or to all.
    Report {
        /// To whom; to all instances when left out.
        to: Option<Peer>,
        /// What.
        report: Report,
    },
    /// Tell the operator.
    Say(String),
    /// End the guard.
    Exit {
        /// Its exit code.
        code: i32,
        /// Why, unless that goes without saying.
        why: Option<String>,
    },
}

/// A child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Child {
    since: Instant,
    incarnation: Option<Incarnation>,
    /// The epoch at which it became a member.
    joined: Option<Epoch>,
    leaving: bool,
    /// The epoch for which it was killed.
    killed: Option<Epoch>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No child; its locks are looked at. `after`: how the last one ended, none before the first.
    Looking {
        after: Option<Ending>,
        killed: Epoch,
        told: Instant,
    },
    /// No child, none of its I/O; one is started then.
    Pausing {
        until: Instant,
    },
    /// Was asked to start one.
    Starting,
    Running(Child),
    Over,
}

/// The state machine.
pub struct Guard {
    id: ThreadId,
    options: GuardOptions,
    state: State,
    /// Every life up to it is dead.
    dead: Incarnation,
    /// Every life up to it is dead, and its I/O has drained.
    drained: Incarnation,
    /// Restarts in a row.
    restarts: u32,
    /// Whether any child came so far that it was a member.
    served: bool,
    stopping: bool,
    /// Epoch of the newest view heard of.
    epoch: Epoch,
}

impl Guard {
    /// Of instance `id`; `out` says what to do first.
    pub fn new(id: ThreadId, options: GuardOptions, now: Instant, out: &mut Vec<Output>) -> Guard {
        let state = State::Looking { after: None, killed: Epoch(0), told: now };
        out.push(Output::Look);
        let none = Incarnation(0);
        Guard { id, options, state, dead: none, drained: none, restarts: 0, served: false, stopping: false, epoch: Epoch(0) }
    }

    /// When a [`Input::Tick`] is due, if ever.
    pub fn wakes(&self) -> Option<Instant> {
        match self.state {
            State::Pausing { until } => Some(until),
            _ => None,
        }
    }

    /// Takes in `input` at `now`.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => self.tick(now, out),
            Input::Started => self.started(now, out),
            Input::NotStarted(why) => self.over(out, exit::UNUSABLE, Some(why)),
            Input::Announced(incarnation) => self.announced(incarnation),
            Input::Joined(epoch) => self.joined(epoch),
            Input::Leaving => {
                if let State::Running(child) = &mut self.state {
                    child.leaving = true;
                }
            }
            Input::Ended(ending) => self.ended(now, ending, out),
            Input::Looked { look, highest } => self.looked(now, look, highest, out),
            Input::View(verdict) => self.view(verdict, out),
            Input::Demand { from, victim } => self.demand(from, victim, out),
            Input::Up(peer) => self.tell(Some(peer), out),
            Input::Stop => self.stop(out),
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        if matches!(self.state, State::Pausing { until } if until <= now) {
            self.state = State::Starting;
            out.push(Output::Start { above: self.dead });
        }
    }

    fn started(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.state == State::Starting {
            self.state = State::Running(Child { since: now, incarnation: None, joined: None, leaving: false, killed: None });
            if self.stopping {
                out.push(Output::Terminate);
            }
        }
    }

    fn announced(&mut self, incarnation: Incarnation) {
        if let State::Running(child) = &mut self.state {
            child.incarnation = Some(incarnation);
        }
    }

    fn joined(&mut self, epoch: Epoch) {
        if let State::Running(child) = &mut self.state {
            self.served = true;
            child.joined = child.joined.max(Some(epoch));
            // It became a member, so the arbiter holds that every earlier life is dead and drained.
            if let Some(before) = child.incarnation.and_then(|incarnation| incarnation.0.checked_sub(1)) {
                self.dead = self.dead.max(Incarnation(before));
                self.drained = self.drained.max(Incarnation(before));
            }
        }
    }

    fn ended(&mut self, now: Instant, ending: Ending, out: &mut Vec<Output>) {
        let State::Running(child) = self.state else { return };
        if let Some(incarnation) = child.incarnation {
            self.dead = self.dead.max(incarnation);
            out.push(Output::Report { to: None, report: Report::new(self.id, incarnation, false) });
        }
        if now.since(child.since) >= Duration::from_millis(self.options.restart_forget_ms) {
            self.restarts = 0;
        }
        self.state = State::Looking { after: Some(ending), killed: child.killed.unwrap_or_default(), told: now };
        out.push(Output::Look);
    }

    fn looked(&mut self, now: Instant, look: Look, highest: Option<Incarnation>, out: &mut Vec<Output>) {
        let State::Looking { after, killed, told } = self.state else { return };
        let waits_for = match look {
            Look::Drained => {
                self.dead = self.dead.max(highest.unwrap_or_default());
                self.drained = self.dead;
                if self.drained > Incarnation(0) {
                    out.push(Output::Record { dead: self.drained, killed });
                    out.push(Output::Report { to: None, report: Report::new(self.id, self.drained, true) });
                }
                return self.go_on(now, after, out);
            }
            Look::Unclear(why) if after.is_none() => return self.over(out, exit::UNUSABLE, Some(why)),
            Look::Unclear(why) => why,
            Look::Held(path) => format!("{} is still in use by it, or by I/O that it left behind", path.display()),
        };
        if self.stopping {
            return self.over(
                out,
                exit::UNUSABLE,
                Some(format!("told to stop before it was certain that the instance's I/O has drained: {waits_for}")),
            );
        }
        if now.since(told) >= TELL_EVERY {
            self.state = State::Looking { after, killed, told: now };
            out.push(Output::Say(format!("the instance is gone, but it isn't certain that its I/O has drained: {waits_for}; waiting")));
        }
        out.push(Output::Look);
    }

    /// The last child is dead and drained: what now?
    fn go_on(&mut self, now: Instant, after: Option<Ending>, out: &mut Vec<Output>) {
        let ending = match after {
            None if self.stopping => return self.over(out, exit::CLEAN, None),
            None => {
                self.state = State::Starting;
                return out.push(Output::Start { above: self.dead });
            }
            Some(ending) => ending,
        };
        match ending {
            Ending::Code(exit::CLEAN) => return self.over(out, exit::CLEAN, None),
            Ending::Code(exit::UNUSABLE) => return self.over(out, exit::UNUSABLE, None),
            Ending::Code(exit::NOT_OPENED) if !self.served => return self.over(out, exit::UNUSABLE, None),
            _ if self.stopping => return self.over(out, 1, Some(format!("the instance {ending} while it was being stopped"))),
            _ if self.restarts >= self.options.restarts_max => {
                let why = format!(
                    "the instance {ending}; it was started again {} times in a row already (guard.restarts_max), so this guard gives up. Mend the \
                     cause, then start it: clusterctl start {}",
                    self.restarts, self.id.0
                );
                return self.over(out, 1, Some(why));
            }
            _ => {}
        }
        self.restarts += 1;
        let pause = self.options.pause(self.restarts);
        out.push(Output::Say(format!("the instance {ending}: it is dead and drained, and is started again in {} ms", pause.as_millis())));
        self.state = State::Pausing { until: now + pause };
        self.tick(now, out);
    }

    /// Says all that is known of deaths.
    fn tell(&self, to: Option<Peer>, out: &mut Vec<Output>) {
        if self.drained > Incarnation(0) {
            out.push(Output::Report { to, report: Report::new(self.id, self.drained, true) });
        }
        if self.dead > self.drained {
            out.push(Output::Report { to, report: Report::new(self.id, self.dead, false) });
        }
    }

    /// A newer epoch was heard of. What was said in an older one was refused by whoever had crossed over before (rule 6): it is said again,
    /// until a new life is a member.
    fn cross(&mut self, epoch: Epoch, out: &mut Vec<Output>) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        if !matches!(self.state, State::Running(Child { joined: Some(_), .. })) {
            self.tell(None, out);
        }
    }

    fn view(&mut self, verdict: Verdict, out: &mut Vec<Output>) {
        self.cross(verdict.epoch, out);
        let State::Running(child) = &mut self.state else { return };
        let Some(incarnation) = child.incarnation else { return };
        if verdict.member == Some(incarnation) {
            child.joined = child.joined.max(Some(verdict.epoch));
            return;
        }
        let unfenced = verdict.unfenced.is_some_and(|life| life >= incarnation);
        let replaced = verdict.member.is_some_and(|life| life > incarnation);
        let left_out = child.joined.is_some_and(|joined| joined < verdict.epoch) && !child.leaving;
        if (unfenced || replaced || left_out) && child.killed.is_none() {
            child.killed = Some(verdict.epoch);
            out.push(Output::Say(format!("the view of epoch {} has evicted incarnation {}: killing it", verdict.epoch.0, incarnation.0)));
            out.push(Output::Kill);
        }
    }

    fn demand(&mut self, from: Peer, victim: Victim, out: &mut Vec<Output>) {
        if victim.id != self.id {
            return;
        }
        if self.drained >= victim.incarnation {
            return out.push(Output::Report { to: Some(from), report: Report::new(self.id, self.drained, true) });
        }
        if self.dead >= victim.incarnation {
            out.push(Output::Report { to: Some(from), report: Report::new(self.id, self.dead, false) });
        }
        let State::Running(child) = &mut self.state else { return };
        // A child that hasn't said which life it is may be the one that is meant.
        if child.incarnation.is_none_or(|incarnation| incarnation <= victim.incarnation) && child.killed.is_none() {
            child.killed = Some(victim.epoch);
            out.push(Output::Say(format!("{from} demands the death of {victim}: killing it")));
            out.push(Output::Kill);
        }
    }

    fn stop(&mut self, out: &mut Vec<Output>) {
        self.stopping = true;
        match self.state {
            State::Running(_) => out.push(Output::Terminate),
            State::Pausing { .. } => self.over(out, exit::CLEAN, None),
            // These end soon, and then see that it is to stop.
            State::Looking { .. } | State::Starting | State::Over => {}
        }
    }

    fn over(&mut self, out: &mut Vec<Output>, code: i32, why: Option<String>) {
        self.state = State::Over;
        out.push(Output::Exit { code, why });
    }
}
