//! One instance's part of the directory at work: `grd` joined to the interconnect and the cache.
//!
//! Callers: whoever opens a member's storage gives its cache [`Directory::grants`], then [`Directory::attach`]es the cache, and tells of each view
//! ([`Directory::install`]).
//!
//! ```text
//! cache --acquire, released, written, want_written--> Shared::step --> sessions --> link: batches (control), copies (block)
//!   ^---- yield_page, written_elsewhere, write_soon, reinstate <-- effects <---^        |
//!                                                                             +-- heard <-+
//! ```
//! One lock around the core and the sessions: what the core says leaves in that order. What it wants of the cache is queued in the same order and done with
//! nothing locked ([`Shared::act`]), as the cache's latches come before this lock: [`Grants::released`] is called under one.
//!
//! Not here: what is decided (`grd`), who is a member (`membership`).

mod carry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot};

use crate::base::{BoxFuture, Epoch, Incarnation, Lsn, Mode, PageId, Scn, Seams, ThreadId};
use crate::cache::grants::{Contents, Grant, Grants};
use crate::cache::{Cache, CacheError};
use crate::disk::Buffer;
use crate::grd::message::{Block, Message, Source};
use crate::grd::resource::Resource;
use crate::grd::session::{Now, Session};
use crate::grd::wire::{BATCH, Batch};
use crate::grd::{Grd, GrdStatus, Input, Membership, Output, Verdict};
use crate::net::{Lane, Link, Peer};
use crate::redo::LogError;

/// Time between two looks at the sessions: an acknowledgement is owed no longer than this.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the directory needs.
pub struct Setup {
    /// Clock and tasks.
    pub seams: Seams,
    /// The endpoint, which nobody else listens to.
    pub link: Arc<dyn Link>,
    /// This instance.
    pub me: ThreadId,
    /// Its Lamport clock, the cache's.
    pub clock: Arc<AtomicU64>,
    /// The cluster's tag, as every page carries it.
    pub tag: u64,
}

/// A view, as the directory takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryView {
    /// Members and masters.
    pub membership: Membership,
    /// Which life of each member belongs.
    pub lives: BTreeMap<ThreadId, Incarnation>,
}

/// The session with a member.
struct Side {
    incarnation: Incarnation,
    session: Session,
}

/// What is to be done to the cache.
enum Effect {
    Yield {
        page: PageId,
        to: Mode,
        copy: bool,
    },
    Notice(PageId, Scn),
    Write(PageId),
    Reinstate(PageId),
    /// A grant that comes behind one of the others for the same page.
    Grant(PageId, oneshot::Sender<Grant>, Grant),
}

impl Effect {
    fn page(&self) -> PageId {
        match self {
            Effect::Yield { page, .. }
            | Effect::Notice(page, _)
            | Effect::Write(page)
            | Effect::Reinstate(page)
            | Effect::Grant(page, ..) => *page,
        }
    }
}

struct State {
    grd: Grd,
    sides: BTreeMap<ThreadId, Side>,
    /// Loads that wait for a grant.
    waiting: FxHashMap<PageId, oneshot::Sender<Grant>>,
    effects: VecDeque<Effect>,
    /// The page whose effect somebody is doing.
    acting: Option<PageId>,
}

struct Shared {
    seams: Seams,
    link: Arc<dyn Link>,
    clock: Arc<AtomicU64>,
    tag: u64,
    state: Mutex<State>,
    cache: Mutex<Option<Cache>>,
    /// Effects were queued by somebody who may not do them.
    queued: Notify,
    closing: AtomicBool,
    /// Transfers that could not be used, and batches that could not be read.
    refused: AtomicU64,
    /// Copies given away.
    given: AtomicU64,
}

/// What a step leaves to its caller.
#[derive(Default)]
struct Left {
    verdict: Option<Verdict>,
    copies: Vec<(ThreadId, Block)>,
}

/// An instance's part of the directory. Clones are the same one.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

impl Directory {
    /// Begins to listen. Nothing is granted before the first view.
    pub fn start(setup: Setup) -> Directory {
        let Setup { seams, link, me, clock, tag } = setup;
        let (sides, waiting) = (BTreeMap::new(), FxHashMap::default());
        let state = State { grd: Grd::new(me), sides, waiting, effects: VecDeque::new(), acting: None };
        let shared = Arc::new(Shared {
            seams: seams.clone(),
            link,
            clock,
            tag,
            state: Mutex::new(state),
            cache: Mutex::new(None),
            queued: Notify::new(),
            closing: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            given: AtomicU64::new(0),
        });
        carry::start(&shared);
        Directory { shared }
    }

    /// What the cache asks.
    pub fn grants(&self) -> Arc<dyn Grants> {
        self.shared.clone()
    }

    /// The cache that [`Directory::grants`] was given to.
    pub fn attach(&self, cache: &Cache) {
        *self.shared.cache.lock() = Some(cache.clone());
    }

    /// Enters a view. Views come in the order of their epochs, each once.
    pub fn install(&self, view: DirectoryView) {
        let DirectoryView { membership, lives } = view;
        let shared = &self.shared;
        {
            let mut state = shared.state.lock();
            // Nothing older is sent or taken from here on (rule 6).
            shared.link.set_epoch(membership.epoch);
            let own = lives.iter().filter(|(id, _)| membership.members.contains(id));
            let lives: BTreeMap<ThreadId, Incarnation> = own.map(|(id, life)| (*id, *life)).collect();
            state.sides.retain(|id, side| lives.get(id) == Some(&side.incarnation));
            for (id, incarnation) in lives {
                shared.link.refuse_below(Peer::instance(id), incarnation);
                state.sides.entry(id).or_insert_with(|| Side { incarnation, session: Session::default() });
            }
            let now = shared.now();
            for (id, side) in &mut state.sides {
                send(&*shared.link, *id, side.session.again(now));
            }
        }
        shared.take(Input::View(membership), None);
        shared.act();
    }

    /// How things stand.
    pub fn status(&self) -> GrdStatus {
        self.shared.state.lock().grd.status()
    }

    /// How `page` is held here.
    pub fn mode(&self, page: PageId) -> Mode {
        self.shared.state.lock().grd.mode(Resource::Page(page))
    }

    /// Batches that no member has acknowledged, and notifications and requests under way: none when this instance is quiet.
    pub fn unfinished(&self) -> usize {
        let state = self.shared.state.lock();
        state.sides.values().map(|side| side.session.unacknowledged()).sum::<usize>() + state.waiting.len() + state.effects.len()
    }

    /// Frames of members that could not be read or used.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Copies of pages that this instance has given to others.
    pub fn given(&self) -> u64 {
        self.shared.given.load(Ordering::Relaxed)
    }

    /// Stops listening and lets go of the cache.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.queued.notify_one();
        self.shared.link.close();
        *self.shared.cache.lock() = None;
        self.shared.state.lock().waiting.clear();
    }
}

fn send(link: &dyn Link, to: ThreadId, batches: Vec<Batch>) {
    for batch in batches {
        // What isn't sent now is sent again: when the connection is there, or at one of the next looks.
        let _ = link.send(Peer::instance(to), Lane::Control, BATCH, batch.encode());
    }
}

impl Shared {
    fn now(&self) -> Now {
        let durable = self.cache.lock().as_ref().and_then(|cache| cache.log().ok().map(crate::redo::LogWriter::durable));
        Now { clock: Scn(self.clock.load(Ordering::Acquire)), durable: durable.unwrap_or(Lsn(0)) }
    }

    /// Steps the core; `copy` is the copy that has just arrived. Sends what it says, queues what it wants of the cache.
    fn step(&self, input: Input, copy: Option<Buffer>) -> Left {
        let now = self.now();
        let mut state = self.state.lock();
        let state = &mut *state;
        let (mut out, mut copy, mut left) = (Vec::new(), copy, Left::default());
        state.grd.step(input, &mut out);
        let epoch = state.grd.epoch();
        let mut said: BTreeMap<ThreadId, Vec<Message>> = BTreeMap::new();
        for output in out {
            match output {
                Output::Send(to, message) => said.entry(to).or_default().push(message),
                Output::Block(to, block) => left.copies.push((to, block)),
                Output::Verdict(verdict) => left.verdict = Some(verdict),
                Output::Granted { resource: Resource::Page(page), mode, source, unwritten } => {
                    let contents = match (source, copy.take()) {
                        (Source::Own, _) => Contents::Own,
                        (Source::Copy, Some(bytes)) => Contents::Copy(bytes),
                        (Source::Disk | Source::Copy, _) => Contents::Disk,
                    };
                    let grant = Grant { mode, contents, unwritten };
                    let behind = state.acting == Some(page) || state.effects.iter().any(|effect| effect.page() == page);
                    match state.waiting.remove(&page) {
                        Some(load) if behind => state.effects.push_back(Effect::Grant(page, load, grant)),
                        // A load goes on to its end, unless everything ends.
                        Some(load) => drop(load.send(grant)),
                        None => {}
                    }
                }
                Output::Yield { resource: Resource::Page(page), to, copy } => state.effects.push_back(Effect::Yield { page, to, copy }),
                Output::Notice(Resource::Page(page), version) => state.effects.push_back(Effect::Notice(page, version)),
                Output::Write(Resource::Page(page)) => state.effects.push_back(Effect::Write(page)),
                Output::Reinstate(Resource::Page(page)) => state.effects.push_back(Effect::Reinstate(page)),
                // Nobody here asks for enqueues.
                Output::Granted { .. } | Output::Yield { .. } | Output::Notice(..) | Output::Write(_) | Output::Reinstate(_) => {}
            }
        }
        for (to, messages) in said {
            if let Some(side) = state.sides.get_mut(&to) {
                send(&*self.link, to, side.session.say(epoch, messages, now));
            }
        }
        left
    }

    /// Steps the core and sends the copies that it wants sent, which are `given`.
    fn take(self: &Arc<Self>, input: Input, given: Option<&Buffer>) -> Option<Verdict> {
        let left = self.step(input, None);
        for (to, block) in left.copies {
            if let Some(page) = given {
                carry::send_copy(self, to, block, page);
            }
        }
        left.verdict
    }

    /// Does what is wanted of the cache, in order. Nothing may be latched or locked.
    fn act(self: &Arc<Self>) {
        let Some(cache) = self.cache.lock().clone() else { return };
        loop {
            let effect = {
                let mut state = self.state.lock();
                if state.acting.is_some() {
                    return;
                }
                let Some(effect) = state.effects.pop_front() else { return };
                state.acting = Some(effect.page());
                effect
            };
            match effect {
                Effect::Yield { page, to, copy } => carry::start_yield(self, &cache, page, to, copy),
                Effect::Notice(page, version) => cache.written_elsewhere(page, version),
                Effect::Write(page) => {
                    cache.write_soon(page);
                    if let Some(version) = cache.written_version(page) {
                        // It was written before; the word of that may have been lost with a master.
                        self.take(Input::Written(Resource::Page(page), version), None);
                    }
                }
                Effect::Grant(_, load, grant) => drop(load.send(grant)),
                Effect::Reinstate(page) => {
                    if !cache.reinstate(page) {
                        tracing::error!(%page, "the directory wants a past image back that isn't here");
                    }
                }
            }
            self.state.lock().acting = None;
        }
    }
}

impl Grants for Shared {
    fn acquire(&self, page: PageId, mode: Mode, have: bool) -> BoxFuture<Result<Grant, CacheError>> {
        let (tell, granted) = oneshot::channel();
        self.state.lock().waiting.insert(page, tell);
        self.step(Input::Acquire { resource: Resource::Page(page), mode, have }, None);
        self.queued.notify_one();
        Box::pin(async move { granted.await.map_err(|_| CacheError::Log(LogError::Closed)) })
    }

    fn released(&self, page: PageId) {
        self.step(Input::Released(Resource::Page(page)), None);
        self.queued.notify_one();
    }

    fn written(&self, pages: &[(PageId, Scn)]) {
        for (page, version) in pages {
            self.step(Input::Written(Resource::Page(*page), *version), None);
        }
        self.queued.notify_one();
    }

    fn want_written(&self, page: PageId) {
        self.step(Input::WriteWanted(Resource::Page(page)), None);
        self.queued.notify_one();
    }
}

/// The epoch that `shared` is in.
fn epoch(shared: &Shared) -> Epoch {
    shared.state.lock().grd.epoch()
}
