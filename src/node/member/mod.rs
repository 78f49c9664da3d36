//! An instance's membership at work: the state machine of `membership` joined to voting files, links, fencing and the clock.
//!
//! Callers: the instance's process (`cli`), which asks it to join before it opens its storage, serves behind its gate, and leaves before it
//! ends; tests and the simulator in the same way.
//!
//! ```text
//!             +--- voting files (files) ---+             events, view, lease
//!   disk <--> |                            | <-> driver ---------------------> gate, watch, status
//!   link <--> +--- core: membership::Member+       |
//!                                                  +--> fencer (fence), desk <-- guards' reports and sectors
//! ```
//! One task steps the core; everything else (each I/O, each fence attempt, the link) is a task that sends it what happened. So the core sees one order of
//! events, and a stuck voting file holds up nobody but itself. Seams and disk are this instance's own for membership alone, so that load on the
//! rest of the process can't delay a heartbeat.
//!
//! Not here: what is decided (`membership`), what proves a death (`fence`), the guard process (`node::guard`).

mod driver;
mod files;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};

use crate::base::{BoxFuture, ClusterId, Epoch, Gate, Incarnation, Seams, ThreadId};
use crate::disk::{Disk, DiskError};
use crate::fence::desk::Desk;
use crate::fence::guard::Demands;
use crate::fence::{By, Fencer, Outcome};
use crate::membership::heartbeat::Host;
use crate::membership::view::{Method, View};
use crate::membership::{Event, FenceOutcome, Input, Options, ParkReason, StopReason};
use crate::net::Link;
use driver::News;
pub use status::{FenceStatus, FileState, FileStatus, Life, MemberStatus, PeerStatus};

/// Events kept for a reader that is behind; one that is further behind looks at the status instead.
const EVENTS_MAX: usize = 256;

/// Opens the instance's endpoint, once it has an incarnation and knows an epoch: both stand in its hello.
pub type OpenLink = Box<dyn FnOnce(Incarnation, Epoch) -> BoxFuture<Result<Arc<dyn Link>, String>> + Send>;

/// Makes the fencer: the desk collects what is known of deaths, the demands carry the wish to guards.
pub type MakeFencer = Box<dyn FnOnce(Arc<Desk>, Arc<dyn Demands>) -> Fencer + Send>;

/// What membership needs.
pub struct Setup {
    /// Clock and tasks: its own.
    pub seams: Seams,
    /// The driver for the voting files: its own.
    pub disk: Arc<dyn Disk>,
    /// The voting files.
    pub voting: Vec<PathBuf>,
    /// Whose they must be.
    pub cluster: ClusterId,
    /// This instance.
    pub instance: ThreadId,
    /// Instances that the cluster is made for: so many have sectors that are read.
    pub instances: u16,
    /// Intervals and time-outs.
    pub options: Options,
    /// Where this process runs.
    pub host: Host,
    /// The incarnation is to be higher than this: the redo thread's last, or what the guard has proven dead.
    pub above: Incarnation,
    /// An operator's word that lives up to this one are dead and drained, wherever they ran.
    pub confirmed: Option<Incarnation>,
    /// Opens the endpoint.
    pub link: OpenLink,
    /// Makes the fencer.
    pub fencer: MakeFencer,
}

/// Who this process is in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its life.
    pub incarnation: Incarnation,
    /// The epoch in which it became a member.
    pub epoch: Epoch,
}

/// Why an instance isn't a member, or is none any more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MemberError {
    /// A voting file is used by another process under the same identity, or its I/O has not drained.
    #[error("another process runs instance {}: {why}", instance.0)]
    LiveIdentity {
        /// The identity.
        instance: ThreadId,
        /// How that shows.
        why: DiskError,
    },
    /// Too few voting files can be used.
    #[error("only {usable} of {count} voting files can be used, {needed} are needed: {}", troubles.join("; "))]
    NoMajority {
        /// Usable ones.
        usable: usize,
        /// All.
        count: usize,
        /// The majority.
        needed: usize,
        /// What is wrong with the others.
        troubles: Vec<String>,
    },
    /// The interconnect can't be opened.
    #[error("the interconnect can't be opened: {0}")]
    Link(String),
    /// This life has ended.
    #[error("instance {} is no member any more: {}", instance.0, status::stop_text(reason))]
    Stopped {
        /// The identity.
        instance: ThreadId,
        /// Why.
        reason: Box<StopReason>,
    },
}

/// What is asked of the driver beside what happens.
enum Order {
    Input(Input),
    /// An operator's word that this life can neither write nor answer.
    Confirm {
        id: ThreadId,
        incarnation: Incarnation,
        code: u8,
    },
    /// Put the file of this path at this position.
    Replace {
        position: u8,
        path: PathBuf,
        done: tokio::sync::oneshot::Sender<Result<(), String>>,
    },
}

/// What everybody may look at.
struct Board {
    status: watch::Sender<MemberStatus>,
    view: watch::Sender<Option<Arc<View>>>,
    parked: watch::Sender<Option<ParkReason>>,
    stopped: watch::Sender<Option<StopReason>>,
    joined: watch::Sender<Option<Standing>>,
    events: broadcast::Sender<Event>,
    failed: watch::Sender<Option<String>>,
}

/// An instance's membership. Dropping it stops the driver as a crash would: nothing is said to anybody.
pub struct Member {
    instance: ThreadId,
    orders: mpsc::UnboundedSender<News>,
    board: Arc<Board>,
    gate: Gate,
    desk: Arc<Desk>,
}

impl Member {
    /// Opens the voting files, which proves that no other process of this identity lives here, and begins to announce this life.
    ///
    /// # Errors
    /// [`MemberError::LiveIdentity`], [`MemberError::NoMajority`].
    pub async fn start(setup: Setup) -> Result<Member, MemberError> {
        let board = Arc::new(Board {
            status: watch::Sender::new(MemberStatus::default()),
            view: watch::Sender::new(None),
            parked: watch::Sender::new(Some(ParkReason::Starting)),
            stopped: watch::Sender::new(None),
            joined: watch::Sender::new(None),
            events: broadcast::Sender::new(EVENTS_MAX),
            failed: watch::Sender::new(None),
        });
        driver::start(setup, board).await
    }

    /// Waits until this life is a member, and has been shown to be one: before that its gate is closed.
    ///
    /// # Errors
    /// [`MemberError::Stopped`], [`MemberError::Link`].
    pub async fn join(&self) -> Result<Standing, MemberError> {
        let (mut joined, mut stopped, mut failed) =
            (self.board.joined.subscribe(), self.board.stopped.subscribe(), self.board.failed.subscribe());
        tokio::select! {
            biased;
            standing = async {
                let standing = joined.wait_for(Option::is_some).await.map(|standing| *standing);
                // The first lease may come a round later than the view.
                self.gate.pass().await;
                standing
            } => Ok(standing.ok().flatten().expect("the board has a sender, and it was waited for")),
            Ok(reason) = stopped.wait_for(Option::is_some) => Err(self.stopped_as(reason.clone().expect("it was waited for"))),
            Ok(why) = failed.wait_for(Option::is_some) => Err(MemberError::Link(why.clone().expect("it was waited for"))),
        }
    }

    fn stopped_as(&self, reason: StopReason) -> MemberError {
        MemberError::Stopped { instance: self.instance, reason: Box::new(reason) }
    }

    /// Completes when this life is over: the process must end.
    pub async fn stopped(&self) -> StopReason {
        let mut stopped = self.board.stopped.subscribe();
        let reason = stopped.wait_for(Option::is_some).await.expect("the board has a sender");
        reason.clone().expect("it was waited for")
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.board.events.subscribe()
    }

    /// The newest view that this instance has installed.
    pub fn view(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.board.view.subscribe()
    }

    /// Closed while the instance must not answer anybody.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// What is known of deaths.
    pub fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// How things stand, for people.
    pub fn status(&self) -> MemberStatus {
        self.board.status.borrow().clone()
    }

    fn order(&self, order: Order) {
        // A driver that has ended has said why on the board.
        let _ = self.orders.send(News::Order(order));
    }

    /// Leaves the cluster by a view change; what this instance had to write is written. When it returns without an error, nobody will
    /// have to recover it.
    ///
    /// # Errors
    /// [`MemberError::Stopped`] for another reason.
    pub async fn leave(&self) -> Result<(), MemberError> {
        self.order(Order::Input(Input::Leave));
        match self.stopped().await {
            StopReason::Left { .. } => Ok(()),
            other => Err(self.stopped_as(other)),
        }
    }

    /// An operator's word that the evicted life can neither write nor answer any more; `code` stands for the reason in the view. Returns the
    /// epoch that records it.
    ///
    /// # Errors
    /// There is no such unconfirmed eviction, or this life ends first.
    pub async fn confirm_fence(&self, id: ThreadId, incarnation: Incarnation, code: u8) -> Result<Epoch, String> {
        let waits = |view: &View| view.unconfirmed.iter().any(|victim| victim.id == id && victim.incarnation == incarnation);
        if !self.board.view.borrow().as_ref().is_some_and(|view| waits(view)) {
            return Err(format!("no fence of instance {}, incarnation {} waits for a confirmation", id.0, incarnation.0));
        }
        self.order(Order::Confirm { id, incarnation, code });
        self.view_in_which(move |view| !waits(view)).await
    }

    /// Puts the voting file at `path`, which is formatted and unused, in the place of the one at `position` (from 0). Returns the epoch
    /// from which on it counts.
    ///
    /// # Errors
    /// The file can't be used, or this life ends first.
    pub async fn replace_voting(&self, position: u8, path: PathBuf) -> Result<Epoch, String> {
        let (done, answer) = tokio::sync::oneshot::channel();
        let before = self.board.view.borrow().as_ref().and_then(|view| view.voting.get(usize::from(position)).copied());
        let before = before.ok_or_else(|| format!("there is no voting file at position {position} in the present view"))?;
        self.order(Order::Replace { position, path, done });
        answer.await.map_err(|_| "membership has ended".to_string())??;
        self.view_in_which(move |view| view.voting.get(usize::from(position)) != Some(&before)).await
    }

    async fn view_in_which(&self, holds: impl Fn(&View) -> bool) -> Result<Epoch, String> {
        let mut view = self.board.view.subscribe();
        tokio::select! {
            biased;
            Ok(view) = view.wait_for(|view| view.as_ref().is_some_and(|view| holds(view))) => Ok(view.as_ref().expect("it was waited for").epoch),
            reason = self.stopped() => Err(self.stopped_as(reason).to_string()),
        }
    }
}

/// What the core is told of a fence attempt.
fn outcome_of(outcome: &Outcome) -> FenceOutcome {
    match outcome {
        Outcome::Confirmed { by: By::Guard, .. } => FenceOutcome::Confirmed(Method::Guard),
        Outcome::Confirmed { by: By::Locks, .. } => FenceOutcome::Confirmed(Method::Locks),
        Outcome::Confirmed { by: By::Lease, .. } => FenceOutcome::Confirmed(Method::Lease),
        Outcome::Failed { .. } => FenceOutcome::Failed,
        Outcome::Unknown { .. } => FenceOutcome::Unknown,
    }
}
