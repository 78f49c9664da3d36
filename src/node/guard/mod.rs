//! The guard: the parent that an instance's process runs under.
//!
//! ```text
//!                        the other instances (net, control lane): demands in, reports out
//!                                   |                        the voting files (board): views in, own sector out
//!                                 peers                           |
//!  SIGTERM, SIGINT ------------>  run ---- core: what to do ---- board
//!                                   |
//!                    Host, Child: the instance's process (process, child; leash is the child's end)      Locks: proof of drain
//! ```
//! It reports its child's death to the others at once; kills it when a peer demands that, or when a view that it reads itself has evicted it,
//! also when the child is stopped; proves death and drain by the child's locks, records that on the voting files, and starts a new life. Its own
//! death kills the child. One thread, no page cache, nothing that waits for SQL: `core` decides, this module carries out.
//!
//! Invariant: outputs are carried out in order, and what takes long (locks, voting files) runs beside, so that a demand is answered at once whatever
//! the storage does. Not here: membership (the child takes part in it), fencing of others (`fence`).

mod board;
pub mod child;
pub mod core;
pub mod leash;
pub mod options;
mod peers;
#[cfg(test)]
mod tests;
pub mod voting;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use self::board::Board;
use self::core::{Ending, Guard, Input, Output, Verdict};
use self::options::GuardOptions;
use self::peers::Peers;
use crate::base::{BoxFuture, ClusterId, Epoch, Incarnation, Seams, ThreadId};
use crate::disk::Disk;
use crate::fence::HostId;
use crate::fence::locks::{Locks, Look, drained};
use crate::membership::guard::{Child as ChildState, GuardRecord};
use crate::membership::heartbeat::Host as Place;
use crate::net::Link;

/// Longest wait for locks before the state machine is asked again.
const LOOK_FOR: Duration = Duration::from_secs(1);
/// Pause before locks are looked at again that can't be looked at now.
const UNCLEAR_PAUSE: Duration = Duration::from_millis(200);
/// Inputs that may wait. Whoever has more waits itself (rule 19); voting files' reads are dropped then, as the next says the same.
const INPUTS_MAX: usize = 256;

/// What is heard of a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It has drawn this incarnation.
    Announced(Incarnation),
    /// It is a member since this epoch.
    Joined(Epoch),
    /// It leaves by itself.
    Leaving,
    /// It is gone. Nothing follows.
    Ended(Ending),
}

/// What may be done to a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Close everything and end.
    Terminate,
    /// End now.
    Kill,
}

/// How to signal a child. Nothing happens to one that is gone.
pub trait Child: Send + 'static {
    /// Signals it.
    fn signal(&self, signal: Signal);
}

/// How to hear of a child.
pub trait Hearing: Send + 'static {
    /// What is heard next: all that it says before its end.
    fn next(self: Box<Self>) -> BoxFuture<(Box<dyn Hearing>, Heard)>;
}

/// A child that was started: how to signal it, and how to hear of it.
pub type Started = (Box<dyn Child>, Box<dyn Hearing>);

/// Starts children: real processes, or simulated ones.
pub trait Host: Send + 'static {
    /// Starts one whose incarnation is to be above this one.
    ///
    /// # Errors
    /// Why not.
    fn start(&mut self, above: Incarnation) -> Result<Started, String>;
}

/// Makes the guard's end of the interconnect: of which cluster, for its life, and the epoch that it knows.
pub type Connect = Box<dyn FnOnce(ClusterId, Incarnation, Epoch) -> Result<Arc<dyn Link>, String> + Send>;

/// What a guard needs.
pub struct Setup {
    /// Clock, tasks, workers.
    pub seams: Seams,
    /// Whose guard.
    pub id: ThreadId,
    /// When to start again.
    pub options: GuardOptions,
    /// Starts the instance.
    pub host: Box<dyn Host>,
    /// Proof of its death and drain.
    pub locks: Arc<dyn Locks>,
    /// The cluster; nothing for one instance alone.
    pub cluster: Option<ClusterSetup>,
    /// SIGTERM or SIGINT came.
    pub stop: mpsc::Receiver<()>,
}

/// What a guard needs in a cluster.
pub struct ClusterSetup {
    /// Where the voting files are open.
    pub disk: Arc<dyn Disk>,
    /// The voting files.
    pub voting: Vec<PathBuf>,
    /// Between two reads of them.
    pub interval: Duration,
    /// This host, by its boot.
    pub boot: HostId,
    /// This machine, over all boots; zeroes when it isn't known.
    pub machine: [u8; 16],
    /// The way to the others.
    pub connect: Connect,
}

/// Why a guard can't begin.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Another guard of the same identity holds its lock.
    #[error(
        "another guard of instance {} has {} in use: an identity runs once. `clusterctl status` shows it; if it runs on this host from another \
         directory, stop it there", id.0, file.display()
    )]
    Second {
        /// Whose.
        id: ThreadId,
        /// Where it was noticed.
        file: PathBuf,
    },
    /// Too few voting files.
    #[error(
        "no majority of the {files} voting files can be used, and without one no instance may run: {why}; check storage.voting in the configuration"
    )]
    NoMajority {
        /// How many there are.
        files: usize,
        /// Of the last one that can't be used.
        why: String,
    },
    /// The interconnect can't be used.
    #[error("can't open the interconnect: {0}")]
    Link(String),
}

/// How a guard ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// Why, unless the instance's process has said so.
    pub why: Option<String>,
}

/// Runs a guard until its instance is not to run any more.
///
/// With real processes this must be awaited on the main thread (see [`child`]).
///
/// # Errors
/// [`GuardError`]: nothing was started.
pub async fn run(setup: Setup) -> Result<Ended, GuardError> {
    let Setup { seams, id, options, host, locks, cluster, mut stop } = setup;
    let (send, mut inputs) = mpsc::channel(INPUTS_MAX);
    let (heard, mut reads) = mpsc::channel(1);
    let cluster = match cluster {
        Some(cluster) => Some(Connected::open(&seams, id, cluster, &heard, &send).await?),
        None => None,
    };
    let mut out = Vec::new();
    let mut core = Guard::new(id, options, seams.now(), &mut out);
    let mut hands = Hands { seams: seams.clone(), id, host, locks, cluster, send, child: None };
    loop {
        // One may lead to the next: starting a child is answered at once.
        while !out.is_empty() {
            let mut answers = Vec::new();
            for output in std::mem::take(&mut out) {
                match hands.carry_out(output) {
                    Done::Nothing => {}
                    Done::Answer(input) => answers.push(input),
                    Done::Over(ended) => return Ok(ended),
                }
            }
            for input in answers {
                core.step(seams.now(), input, &mut out);
            }
        }
        let tick = core.wakes();
        let wait = tick.map_or(Duration::MAX, |at| at.since(seams.now()));
        let input = tokio::select! {
            biased;
            Some(()) = stop.recv() => Input::Stop,
            Some(input) = inputs.recv() => input,
            () = seams.sleep(wait), if tick.is_some() => Input::Tick,
            Some(()) = reads.recv() => match hands.read() {
                Some(verdict) => Input::View(verdict),
                None => continue,
            },
        };
        core.step(seams.now(), input, &mut out);
    }
}

/// The cluster, seen from a running guard.
struct Connected {
    board: Board,
    peers: Peers,
    place: Place,
    address: SocketAddr,
}

impl Connected {
    async fn open(
        seams: &Seams,
        id: ThreadId,
        setup: ClusterSetup,
        heard: &mpsc::Sender<()>,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<Connected, GuardError> {
        let ClusterSetup { disk, voting, interval, boot, machine, connect } = setup;
        let opening = board::Opening { seams: seams.clone(), disk, id, paths: voting, interval };
        let board = Board::open(opening).await?;
        let epoch = board.survey().newest().map_or(Epoch(0), |view| view.epoch);
        let link = connect(board.shape().cluster, board.life(), epoch).map_err(GuardError::Link)?;
        let address = link.address();
        let peers = Peers::start(seams, id, board.shape().threads, link, inputs.clone());
        let connected = Connected { board, peers, place: Place { machine, boot: boot.0 }, address };
        // What an earlier guard has proven stays proven, wherever this one runs.
        let before = connected.board.proven(id);
        let state = before.map_or(ChildState::None, |_| ChildState::Drained);
        let (incarnation, killed) = before.unwrap_or_default();
        connected.record(state, incarnation, killed);
        connected.board.run(heard);
        Ok(connected)
    }

    fn record(&self, child: ChildState, incarnation: Incarnation, killed: Epoch) {
        self.board.record(GuardRecord { child, incarnation, killed, host: self.place, address: Some(self.address) });
    }
}

/// What comes of carrying out an output.
enum Done {
    Nothing,
    Answer(Input),
    Over(Ended),
}

/// Carries out what the state machine says.
struct Hands {
    seams: Seams,
    id: ThreadId,
    host: Box<dyn Host>,
    locks: Arc<dyn Locks>,
    cluster: Option<Connected>,
    send: mpsc::Sender<Input>,
    child: Option<Box<dyn Child>>,
}

impl Hands {
    fn carry_out(&mut self, output: Output) -> Done {
        match output {
            Output::Start { above } => return Done::Answer(self.start(above)),
            Output::Terminate => self.signal(Signal::Terminate),
            Output::Kill => self.signal(Signal::Kill),
            Output::Look => self.look(),
            Output::Record { dead, killed } => {
                if let Some(cluster) = &self.cluster {
                    cluster.record(ChildState::Drained, dead, killed);
                }
            }
            Output::Report { to, report } => {
                if let Some(cluster) = &self.cluster {
                    cluster.peers.report(to, &report);
                    if to.is_none() {
                        // It may be of an epoch that is over by now, and not even known to a peer that has moved.
                        cluster.board.look();
                    }
                }
            }
            Output::Say(what) => tracing::warn!(instance = self.id.0, "guard: {what}"),
            Output::Exit { code, why } => return Done::Over(Ended { code, why }),
        }
        Done::Nothing
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            child.signal(signal);
        }
    }

    fn start(&mut self, above: Incarnation) -> Input {
        match self.host.start(above) {
            Ok((child, mut hearing)) => {
                self.child = Some(child);
                let send = self.send.clone();
                let listen = async move {
                    loop {
                        let (same, heard) = hearing.next().await;
                        hearing = same;
                        let (input, over) = match heard {
                            Heard::Announced(incarnation) => (Input::Announced(incarnation), false),
                            Heard::Joined(epoch) => (Input::Joined(epoch), false),
                            Heard::Leaving => (Input::Leaving, false),
                            Heard::Ended(ending) => (Input::Ended(ending), true),
                        };
                        if send.send(input).await.is_err() || over {
                            return;
                        }
                    }
                };
                self.seams.spawn("guard's child", Box::pin(listen));
                Input::Started
            }
            Err(why) => Input::NotStarted(why),
        }
    }

    /// Looks at the locks beside everything else, and then at what the voting files know.
    fn look(&self) {
        let (seams, locks, id, send) = (self.seams.clone(), self.locks.clone(), self.id, self.send.clone());
        let known = self.cluster.as_ref().map(|cluster| (cluster.board.clone(), cluster.place.boot));
        let look = async move {
            let look = drained(&seams, &*locks, id, LOOK_FOR).await;
            let highest = match (&look, known) {
                (Look::Drained, Some((board, boot))) => board.highest_on(boot).await,
                (Look::Unclear(_), _) => {
                    seams.sleep(UNCLEAR_PAUSE).await;
                    None
                }
                _ => None,
            };
            // The guard is over when nobody listens.
            let _ = send.send(Input::Looked { look, highest }).await;
        };
        self.seams.spawn("guard's look at locks", Box::pin(look));
    }

    /// The voting files were read: peers may have moved, and there may be a newer view.
    fn read(&self) -> Option<Verdict> {
        let Connected { board, peers, .. } = self.cluster.as_ref()?;
        let survey = board.survey();
        let view = survey.newest()?;
        peers.found(&survey, view.epoch);
        let of_mine = |list: &[crate::membership::view::Identity]| list.iter().find(|one| one.id == self.id).map(|one| one.incarnation);
        Some(Verdict { epoch: view.epoch, member: of_mine(&view.members), unfenced: of_mine(&view.unconfirmed) })
    }
}
