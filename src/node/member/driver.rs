//! The task that steps the core, and the tasks that tell it what happened.
//!
//! Order: what the core puts out is acted on before the next input is taken. Inputs of a closed lane or a stale ticket are the core's to
//! ignore. The driver decides nothing: it carries.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::files::{Files, OpenTrouble, Opened};
use super::status::{FenceStatus, FileState, Life, PeerStatus, lives, park_text, stop_text};
use super::{Board, Member, MemberError, OpenLink, Order, Setup, Standing, outcome_of};
use crate::base::{BoxFuture, Gate, Incarnation, Instant, Seams, ThreadId};
use crate::fence::desk::Desk;
use crate::fence::guard::Demands;
use crate::fence::message::{DEMAND, Demand, is_ours};
use crate::fence::{Fencer, HostId, Victim};
use crate::membership::guard::Child;
use crate::membership::heartbeat::Host;
use crate::membership::member::{Member as Core, Start};
use crate::membership::messages::{BEAT, Beat};
use crate::membership::sector::VotingId;
use crate::membership::survey::Snapshot;
use crate::membership::view::{Method, View};
use crate::membership::{Event, FenceOutcome, Input, Options, Output, StopReason};
use crate::net::{Arrival, Lane, Link, Peer};

/// The way to guards, once there is a link.
#[derive(Default)]
struct Errands {
    link: OnceLock<Arc<dyn Link>>,
}

impl Demands for Errands {
    fn demand(&self, victim: Victim) -> Result<(), String> {
        let link = self.link.get().ok_or("the interconnect isn't open yet")?;
        link.send(Peer::guard(victim.id), Lane::Control, DEMAND, Demand::of(victim).encode()).map_err(|error| error.to_string())
    }
}

/// What tasks tell the driver.
pub(super) enum News {
    Order(Order),
    Input(Input),
    Opened(Opened),
    Linked(Result<Arc<dyn Link>, String>),
    Arrived(Arrival),
    Attempted { victim: Victim, outcome: crate::fence::Outcome },
}

/// A file that is to take a place once it is open.
struct Replacing {
    /// Among the files.
    index: usize,
    position: u8,
    done: oneshot::Sender<Result<(), String>>,
}

/// Signs of life of a peer, for people. The core has its own record of them.
#[derive(Clone, Copy, Default)]
struct Signs {
    network: Option<Instant>,
    disk: Option<((Incarnation, u64), Instant)>,
    suspected: bool,
}

/// The driver's state.
pub(super) struct Driver {
    seams: Seams,
    instance: ThreadId,
    options: Options,
    files: Files,
    core: Core,
    out: Vec<Output>,
    news: mpsc::UnboundedSender<News>,
    board: Arc<Board>,
    gate: Gate,
    desk: Arc<Desk>,
    errands: Arc<Errands>,
    fencer: Arc<Fencer>,
    /// Taken when this life is announced.
    open_link: Option<OpenLink>,
    incarnation: Incarnation,
    view: Option<Arc<View>>,
    /// What the last attempt at each unconfirmed fence came to.
    attempts: BTreeMap<ThreadId, (Incarnation, Option<String>)>,
    failed_files: BTreeMap<VotingId, String>,
    signs: BTreeMap<ThreadId, Signs>,
    /// Where peers are, for a link that opens later.
    addresses: BTreeMap<Peer, Option<SocketAddr>>,
    replacing: Vec<Replacing>,
    /// When it was last shown how things stand.
    shown: Instant,
    over: bool,
}

/// Opens the voting files until a majority of them can be used and the others have had their chance.
async fn open_files(files: &mut Files, seams: &Seams, instance: ThreadId, patience: Duration) -> Result<(), MemberError> {
    let (send, mut receive) = mpsc::unbounded_channel();
    for attempt in files.tries() {
        let send = send.clone();
        seams.spawn("open a voting file", Box::pin(async move { drop(send.send(attempt.await)) }));
    }
    let mut late = seams.sleep(patience);
    loop {
        let (count, open, trying) = files.count();
        if !trying && open > count / 2 {
            return Ok(());
        }
        let opened = tokio::select! {
            biased;
            opened = receive.recv(), if trying => opened,
            () = &mut late => None,
        };
        let Some(opened) = opened else {
            let (count, usable, _) = files.count();
            let needed = count / 2 + 1;
            return if usable >= needed {
                Ok(())
            } else {
                Err(MemberError::NoMajority { usable, count, needed, troubles: files.troubles() })
            };
        };
        if let Err(OpenTrouble::InUse(why)) = files.opened(opened) {
            return Err(MemberError::LiveIdentity { instance, why });
        }
    }
}

/// Starts the driver; see [`Member::start`].
pub(super) async fn start(setup: Setup, board: Arc<Board>) -> Result<Member, MemberError> {
    let Setup { seams, disk, voting, cluster, instance, instances, options, host, above, confirmed, link, fencer } = setup;
    let mut files = Files::new(&seams, &disk, cluster, instance, instances, &voting);
    let patience = Duration::from_millis(options.storage_timeout_ms);
    open_files(&mut files, &seams, instance, patience).await?;
    let gate = Gate::closed(seams.clone());
    let desk = Arc::new(Desk::default());
    let errands = Arc::new(Errands::default());
    let fencer = Arc::new(fencer(desk.clone(), errands.clone()));
    let start = Start {
        cluster,
        id: instance,
        threads: instances,
        host,
        files: files.ids(),
        incarnation_floor: above,
        confirmed,
        random: seams.random(),
        options: options.clone(),
    };
    let core = Core::new(start, seams.now());
    let (news, inbox) = mpsc::unbounded_channel();
    let member = Member { instance, orders: news.clone(), board: board.clone(), gate: gate.clone(), desk: desk.clone() };
    let driver = Driver {
        seams: seams.clone(),
        instance,
        options,
        files,
        core,
        out: Vec::new(),
        news,
        board,
        gate,
        desk,
        errands,
        fencer,
        open_link: Some(link),
        incarnation: Incarnation(0),
        view: None,
        attempts: BTreeMap::new(),
        failed_files: BTreeMap::new(),
        signs: BTreeMap::new(),
        addresses: BTreeMap::new(),
        replacing: Vec::new(),
        shown: Instant::default(),
        over: false,
    };
    seams.spawn("membership", Box::pin(driver.run(inbox)));
    Ok(member)
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<News>) {
        let every = Duration::from_millis(self.options.tick_ms);
        let mut tick = self.seams.sleep(every);
        self.step(Input::Tick);
        while !self.over {
            let news = tokio::select! {
                biased;
                () = &mut tick => None,
                news = inbox.recv() => news,
            };
            match news {
                None => {
                    tick = self.seams.sleep(every);
                    self.try_files();
                    self.step(Input::Tick);
                    // Events are shown at once; what else changes are heartbeats' ages.
                    if self.seams.now().since(self.shown) >= Duration::from_millis(self.options.disk_interval_ms) {
                        self.show();
                    }
                }
                Some(news) => self.take(news),
            }
        }
        self.gate.close();
        self.show();
        if let Some(link) = self.errands.link.get() {
            link.close();
        }
    }

    /// Runs `task`, and takes in what it comes to.
    fn later(&self, name: &'static str, task: BoxFuture<News>) {
        let news = self.news.clone();
        // The driver may be gone by then.
        self.seams.spawn(name, Box::pin(async move { drop(news.send(task.await)) }));
    }

    fn step(&mut self, input: Input) {
        let mut out = std::mem::take(&mut self.out);
        self.core.step(self.seams.now(), input, &mut out);
        for output in out.drain(..) {
            self.act(output);
        }
        self.out = out;
        self.follow();
    }

    /// Before it is a member, the link follows the views that the voting files tell of: members hear nothing older (rule 6), and there is
    /// nothing of an older epoch that this life could have sent or believed.
    fn follow(&self) {
        if self.board.joined.borrow().is_some() {
            return;
        }
        if let (Some(link), Some(view)) = (self.errands.link.get(), self.core.view()) {
            link.set_epoch(view.epoch);
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Input(input) => {
                let read = if let Input::Read { file, result: Ok(_), .. } = &input { Some(*file) } else { None };
                self.step(input);
                if let Some(snapshot) = read.and_then(|file| self.core.snapshot(file).cloned()) {
                    self.look(&snapshot);
                }
            }
            News::Order(Order::Input(input)) => self.step(input),
            News::Order(Order::Confirm { id, incarnation, code }) => {
                tracing::warn!(instance = id.0, incarnation = incarnation.0, code, "an operator says that it is fenced");
                self.step(Input::Fenced { id, incarnation, outcome: FenceOutcome::Confirmed(Method::Operator(code)) });
            }
            News::Order(Order::Replace { position, path, done }) => {
                let index = self.files.add(path);
                self.replacing.push(Replacing { index, position, done });
                self.try_files();
            }
            News::Opened(opened) => self.opened(opened),
            News::Linked(Ok(link)) => self.linked(link),
            News::Linked(Err(why)) => {
                tracing::error!(why, "the interconnect can't be opened");
                self.board.failed.send_replace(Some(why));
                self.over = true;
            }
            News::Arrived(arrival) => self.arrived(arrival),
            News::Attempted { victim, outcome } => self.attempted(victim, &outcome),
        }
    }

    fn try_files(&mut self) {
        for attempt in self.files.tries() {
            self.later("open a voting file", Box::pin(async move { News::Opened(attempt.await) }));
        }
    }

    fn opened(&mut self, opened: Opened) {
        let index = opened.0;
        let result = self.files.opened(opened);
        if let Some(at) = self.replacing.iter().position(|waiting| waiting.index == index) {
            let Replacing { position, done, .. } = self.replacing.remove(at);
            if let Ok(file) = result {
                self.step(Input::Replace { position, file });
            } else {
                self.files.forget(index);
            }
            // Whoever asked may be gone.
            let _ = done.send(result.map(drop).map_err(|trouble| trouble.to_string()));
        } else if let Ok(file) = result {
            self.step(Input::Opened { file });
        }
    }

    fn linked(&mut self, link: Arc<dyn Link>) {
        let address = link.address();
        if self.errands.link.set(link.clone()).is_err() {
            return;
        }
        self.addresses.iter().for_each(|(peer, address)| link.set_peer(*peer, *address));
        let news = self.news.clone();
        self.seams.spawn(
            "interconnect",
            Box::pin(async move {
                loop {
                    if news.send(News::Arrived(link.next().await)).is_err() {
                        return;
                    }
                }
            }),
        );
        self.step(Input::Address { instance: address });
    }

    fn arrived(&mut self, arrival: Arrival) {
        let (from, lane, kind, body) = match arrival {
            Arrival::Frame { from, lane, kind, body, .. } => (from, lane, kind, body),
            other => {
                tracing::debug!(arrival = ?other, "interconnect");
                return;
            }
        };
        let id = from.peer.instance;
        match (lane, kind) {
            (Lane::Heartbeat, BEAT) => match Beat::decode(&body) {
                Ok(beat) if beat.incarnation == from.incarnation => {
                    self.signs.entry(id).or_default().network = Some(self.seams.now());
                    self.step(Input::Beat { from: id, beat });
                }
                Ok(beat) => {
                    tracing::warn!(peer = %from.peer, claimed = beat.incarnation.0, "a heartbeat of another incarnation than its sender's")
                }
                Err(fault) => tracing::warn!(peer = %from.peer, %fault, "a heartbeat that can't be read"),
            },
            (Lane::Control, kind) if is_ours(kind) => match self.desk.heard(id, kind, &body) {
                Ok(Some(report)) => {
                    let (incarnation, drained) = (report.dead(), report.drained());
                    tracing::info!(peer = id.0, incarnation = incarnation.0, drained, "its guard reports its death");
                    self.step(Input::PeerDied { id, incarnation, drained });
                }
                Ok(None) => {}
                Err(refused) => tracing::warn!(peer = %from.peer, why = %refused, "a guard's frame is refused"),
            },
            (lane, kind) => tracing::warn!(peer = %from.peer, ?lane, kind, "a frame that membership doesn't know"),
        }
    }

    /// What guards and heartbeats on the voting files say of deaths and hosts.
    fn look(&mut self, snapshot: &Snapshot) {
        for (id, sectors) in (1..).map(ThreadId).zip(&snapshot.instances) {
            if let Some((head, heartbeat)) = &sectors.heartbeat
                && head.sequence > 0
            {
                self.desk.runs_on(id, head.incarnation, host_id(&heartbeat.host));
                let signs = self.signs.entry(id).or_default();
                if signs.disk.is_none_or(|(age, _)| age < head.age()) {
                    signs.disk = Some((head.age(), self.seams.now()));
                }
            }
            if let Some((_, record)) = &sectors.guard
                && record.child == Child::Drained
                && self.desk.recorded(id, record.incarnation)
            {
                self.step(Input::PeerDied { id, incarnation: record.incarnation, drained: true });
            }
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Beat { to, beat } => {
                if let Some(link) = self.errands.link.get() {
                    // At once or never: the next one comes soon.
                    let _ = link.send(Peer::instance(to), Lane::Heartbeat, BEAT, Bytes::from(beat.encode()));
                }
            }
            Output::Read { file, ticket } => {
                let reading = self.files.read(file);
                self.later("read a voting file", Box::pin(async move { News::Input(Input::Read { file, ticket, result: reading.await }) }));
            }
            Output::Write { file, at, kind, sequence, bytes } => {
                let writing = self.files.write(file, at, &bytes);
                let written = async move { News::Input(Input::Written { file, kind, sequence, result: writing.await }) };
                self.later("write a voting file", Box::pin(written));
            }
            Output::Fence { id, incarnation, epoch } => {
                let (fencer, victim) = (self.fencer.clone(), Victim { id, incarnation, epoch });
                self.attempts.entry(id).and_modify(|last| last.0 = incarnation).or_insert((incarnation, None));
                self.later("fence", Box::pin(async move { News::Attempted { victim, outcome: fencer.fence(victim).await } }));
            }
            Output::Peer { id, incarnation: _, instance, guard } => {
                self.addresses.insert(Peer::instance(id), instance);
                self.addresses.insert(Peer::guard(id), guard);
                if let Some(link) = self.errands.link.get() {
                    link.set_peer(Peer::instance(id), instance);
                    link.set_peer(Peer::guard(id), guard);
                }
            }
            Output::Lease { until } => self.gate.open_until(until),
            Output::Event(event) => self.event(event),
        }
    }

    fn attempted(&mut self, victim: Victim, outcome: &crate::fence::Outcome) {
        if let Some((incarnation, last)) = self.attempts.get_mut(&victim.id)
            && *incarnation == victim.incarnation
        {
            let text = outcome.to_string();
            if last.as_ref() != Some(&text) {
                tracing::warn!(%victim, outcome = text, "fence");
            }
            *last = Some(text);
        }
        let outcome = outcome_of(outcome);
        self.step(Input::Fenced { id: victim.id, incarnation: victim.incarnation, outcome });
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::Announced { incarnation, epoch } => {
                self.incarnation = *incarnation;
                tracing::info!(instance = self.instance.0, incarnation = incarnation.0, epoch = epoch.0, "announced on the voting files");
                if let Some(open) = self.open_link.take() {
                    let opening = open(*incarnation, *epoch);
                    self.later("open the interconnect", Box::pin(async move { News::Linked(opening.await) }));
                }
            }
            Event::Installed(view) => self.install(view.clone()),
            Event::Parked(reason) => {
                self.gate.close();
                tracing::warn!(instance = self.instance.0, why = park_text(*reason), "parked: serves nobody until that is over");
                self.board.parked.send_replace(Some(*reason));
            }
            Event::Unparked => {
                tracing::info!(instance = self.instance.0, "serves again");
                self.board.parked.send_replace(None);
            }
            Event::Suspected { id, silent_ms } => {
                tracing::warn!(peer = id.0, silent_ms, "silent on the interconnect and the voting files: suspected");
                self.signs.entry(*id).or_default().suspected = true;
            }
            Event::Cleared { id } => {
                tracing::info!(peer = id.0, "heard again");
                self.signs.entry(*id).or_default().suspected = false;
            }
            Event::FileFailed { file, why } => {
                tracing::error!(%file, %why, "a voting file failed: the others decide; replace it with `clusterctl voting replace`");
                self.failed_files.insert(*file, why.to_string());
            }
            Event::FileBack { file } => {
                tracing::info!(%file, "a voting file is back");
                self.failed_files.remove(file);
            }
            Event::Stop(reason) => self.stop(reason),
        }
        self.show();
        // Nobody may be listening.
        let _ = self.board.events.send(event);
    }

    fn stop(&mut self, reason: &StopReason) {
        self.gate.close();
        tracing::warn!(instance = self.instance.0, incarnation = self.incarnation.0, why = stop_text(reason), "this life has ended");
        self.board.stopped.send_replace(Some(reason.clone()));
        self.over = true;
    }

    fn install(&mut self, view: Arc<View>) {
        let members: Vec<String> = view.members.iter().map(ToString::to_string).collect();
        tracing::info!(epoch = view.epoch.0, coordinator = view.coordinator.0, members = members.join(", "), "view installed");
        if let Some(link) = self.errands.link.get() {
            // Epoch first: from here on nothing older is sent or taken (rule 6).
            link.set_epoch(view.epoch);
            for member in view.members.iter().filter(|member| member.id != self.instance) {
                link.refuse_below(Peer::instance(member.id), member.incarnation);
            }
            for gone in &view.unconfirmed {
                link.refuse_below(Peer::instance(gone.id), Incarnation(gone.incarnation.0 + 1));
            }
        }
        self.attempts.retain(|id, (incarnation, _)| view.unconfirmed.iter().any(|gone| gone.id == *id && gone.incarnation == *incarnation));
        if view.member(self.instance).is_some_and(|me| me.incarnation == self.incarnation) {
            let standing = Standing { incarnation: self.incarnation, epoch: view.epoch };
            self.board.joined.send_if_modified(|joined| joined.is_none() && joined.replace(standing).is_none());
        }
        self.board.view.send_replace(Some(view.clone()));
        self.view = Some(view);
    }

    /// Puts up how things stand.
    fn show(&mut self) {
        self.shown = self.seams.now();
        let mut voting = self.files.status();
        for file in &mut voting {
            let failed = self.failed_files.iter().find(|(id, _)| file.id.as_ref() == Some(&id.to_string()));
            if let Some((_, why)) = failed {
                (file.state, file.reason) = (FileState::Failed, Some(why.clone()));
            }
        }
        let now = self.shown;
        let age = |at: Instant| now.since(at).as_millis() as u64;
        let others = self.view.iter().flat_map(|view| &view.members).filter(|member| member.id != self.instance);
        let heartbeats = others.map(|member| {
            let signs = self.signs.get(&member.id).copied().unwrap_or_default();
            let (network_age_ms, disk_age_ms) = (signs.network.map(age), signs.disk.map(|(_, at)| age(at)));
            PeerStatus { peer: member.id.0, network_age_ms, disk_age_ms, suspected: signs.suspected }
        });
        let heartbeats = heartbeats.collect();
        let parked = (*self.board.parked.borrow()).map(|reason| park_text(reason).to_string());
        self.board.status.send_modify(|status| {
            (status.voting, status.heartbeats, status.parked) = (voting, heartbeats, parked);
            let Some(view) = &self.view else { return };
            (status.epoch, status.coordinator, status.configuration) = (view.epoch.0, Some(view.coordinator.0), view.configuration);
            status.members = lives(view);
            status.evicted = view.unconfirmed.iter().map(|gone| self.fence_status(gone.id, gone.incarnation)).collect();
        });
    }

    fn fence_status(&self, id: ThreadId, incarnation: Incarnation) -> FenceStatus {
        let outcome = self.attempts.get(&id).filter(|(of, _)| *of == incarnation).and_then(|(_, outcome)| outcome.clone());
        FenceStatus { victim: Life { id: id.0, incarnation: incarnation.0 }, outcome }
    }
}

/// The boot of the machine decides whose locks one can look at.
fn host_id(host: &Host) -> HostId {
    HostId(host.boot)
}
