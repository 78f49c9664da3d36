//! The guard's view of the voting files: it reads everything at the voting interval, and writes its own sector.
//!
//! One task a file, so that a file that stalls holds up no other, and one I/O of a task at a time: so no two writes of the sector are in flight
//! on one file (rule 3). That holds across guards, too: the file is opened under the guard's lock, which the kernel gives up only when the I/O
//! of the guard before has drained. Reads go on whether the child runs, is stopped, or is gone.
//!
//! The sector's contents are replaced as a whole; a file that was late gets the newest. An unreadable file is one that did not answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::GuardError;
use super::voting::{self, VotingFile};
use crate::base::{ClusterId, Epoch, Incarnation, Instant, Seams, ThreadId};
use crate::disk::{Access, Buffer, Disk, DiskError, Durability};
use crate::fence::locks::guard_lock;
use crate::membership::VotingId;
use crate::membership::guard::{Child, GuardRecord};
use crate::membership::heartbeat::head;
use crate::membership::sector::{Place, SectorKind};
use crate::membership::survey::{Snapshot, Survey};
use crate::page::superblock::{Shape, StorageError, StorageFault};

/// Between two tries to open a file that could not be opened.
const REOPEN: Duration = Duration::from_secs(2);
/// Longest wait for files to be opened when the guard starts: others must do.
const FIRST_OPEN: Duration = Duration::from_secs(5);
/// Longest wait for a majority when the guard starts.
const FIRST_READ: Duration = Duration::from_secs(30);
/// Longest wait for the voting files when a child has died: what they would say is useful, but not worth more.
const AFTER_DEATH: Duration = Duration::from_secs(1);
/// Longest wait for a guard that is going.
const GUARD_GOES: Duration = Duration::from_secs(2);
/// Between two tries to obtain its lock.
const EVERY: Duration = Duration::from_millis(5);

/// What is needed to open it.
pub(super) struct Opening {
    pub(super) seams: Seams,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) id: ThreadId,
    pub(super) paths: Vec<PathBuf>,
    pub(super) interval: Duration,
}

/// The board. Clones are the same.
#[derive(Clone)]
pub(super) struct Board {
    shared: Arc<Shared>,
}

struct Shared {
    seams: Seams,
    disk: Arc<dyn Disk>,
    id: ThreadId,
    interval: Duration,
    cluster: ClusterId,
    shape: Shape,
    /// The guard's own life, as the heads of its sectors carry it.
    life: Incarnation,
    /// By position in the configuration.
    places: Mutex<Vec<Slot>>,
    wanted: Mutex<Wanted>,
    /// `wanted` has changed. It wakes the files' tasks in the order in which they wait, so that a simulation is the same each time.
    changed: Notify,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    sequence: u64,
    /// How often a look was asked for.
    looks: u64,
    record: GuardRecord,
    epoch: Epoch,
}

struct Slot {
    path: PathBuf,
    voting: Option<VotingFile>,
    /// An attempt to open it that hadn't ended when this was looked at: it may hold the lock already, so nobody begins another one.
    opening: Option<Attempt>,
    latest: Option<Arc<Snapshot>>,
    acked: u64,
}

impl Board {
    /// Opens the files, of which a majority must answer, and begins a life.
    pub(super) async fn open(opening: Opening) -> Result<Board, GuardError> {
        let Opening { seams, disk, id, paths, interval } = opening;
        let files = paths.len();
        let (places, why) = open_all(&seams, &disk, id, paths).await?;
        let majority = files / 2 + 1;
        let opened: Vec<VotingFile> = places.iter().filter_map(|slot| slot.voting.clone()).collect();
        let Some(shape) = opened.first().map(|voting| voting.shape).filter(|_| opened.len() >= majority) else {
            return Err(GuardError::NoMajority { files, why: why.unwrap_or_else(|| "none is configured".into()) });
        };
        let answers = read_some(&seams, &disk, &opened, majority, FIRST_READ).await;
        if answers.len() < majority {
            let why = format!("only {} answered within {} s", answers.len(), FIRST_READ.as_secs());
            return Err(GuardError::NoMajority { files, why });
        }
        let survey = Survey::of(answers);
        let before = survey.guard(id).map_or(Incarnation(0), |(head, _)| head.incarnation);
        let life = Incarnation(before.0 + 1);
        let shared = Shared {
            seams,
            disk,
            id,
            interval,
            cluster: shape.cluster,
            shape,
            life,
            places: Mutex::new(places),
            wanted: Mutex::default(),
            changed: Notify::new(),
        };
        let board = Board { shared: Arc::new(shared) };
        for snapshot in survey.snapshots() {
            board.keep(snapshot);
        }
        Ok(board)
    }

    /// The guard's own life.
    pub(super) fn life(&self) -> Incarnation {
        self.shared.life
    }

    /// The cluster's shape.
    pub(super) fn shape(&self) -> &Shape {
        &self.shared.shape
    }

    /// Starts reading and writing for ever; each read is told to `heard`.
    pub(super) fn run(&self, heard: &mpsc::Sender<()>) {
        let count = self.shared.places.lock().len();
        for at in 0..count {
            let (board, heard) = (self.clone(), heard.clone());
            self.shared.seams.spawn("guard's voting file", Box::pin(async move { board.serve(at, &heard).await }));
        }
    }

    /// What the files said last.
    pub(super) fn survey(&self) -> Survey {
        Survey::of(self.shared.places.lock().iter().filter_map(|slot| slot.latest.clone()))
    }

    /// Writes this record to all files, as soon as each can take it.
    pub(super) fn record(&self, record: GuardRecord) {
        let epoch = self.survey().newest().map_or(Epoch(0), |view| view.epoch);
        {
            let mut wanted = self.shared.wanted.lock();
            (wanted.sequence, wanted.record, wanted.epoch) = (wanted.sequence + 1, record, epoch);
        }
        self.shared.changed.notify_waiters();
    }

    /// The newest life of `id` that a guard has proven dead and drained, and the epoch for which it was killed.
    pub(super) fn proven(&self, id: ThreadId) -> Option<(Incarnation, Epoch)> {
        let survey = self.survey();
        let (_, record) = survey.guard(id)?;
        (record.child == Child::Drained).then_some((record.incarnation, record.killed))
    }

    /// The newest life of the guard's instance that ran on the host of boot `boot`, by reads that begin now, or that was proven drained before.
    pub(super) async fn highest_on(&self, boot: [u8; 16]) -> Option<Incarnation> {
        let files: Vec<VotingFile> = self.shared.places.lock().iter().filter_map(|slot| slot.voting.clone()).collect();
        let all = files.len();
        let answers = read_some(&self.shared.seams, &self.shared.disk, &files, all, AFTER_DEATH).await;
        let at = usize::from(self.shared.id.0) - 1;
        let beats = answers.iter().filter_map(|snapshot| snapshot.instances.get(at)?.heartbeat.as_ref());
        let here = beats.filter(|(_, beat)| beat.host.boot == boot).map(|(head, _)| head.incarnation);
        here.chain(self.proven(self.shared.id).map(|(incarnation, _)| incarnation)).max()
    }

    /// Reads all files now: where peers are, and the epoch, may be news.
    pub(super) fn look(&self) {
        self.shared.wanted.lock().looks += 1;
        self.shared.changed.notify_waiters();
    }

    async fn serve(&self, at: usize, heard: &mpsc::Sender<()>) {
        let mut failing: Option<Instant> = None;
        loop {
            let now = *self.shared.wanted.lock();
            match self.turn(at, now).await {
                Ok(()) => {
                    if failing.take().is_some() {
                        tracing::info!(file = %self.path(at).display(), "the voting file answers again");
                    }
                }
                Err(error) => {
                    self.shared.places.lock()[at].latest = None;
                    if failing.is_none() {
                        failing = Some(self.shared.seams.now());
                        tracing::warn!(file = %self.path(at).display(), %error, "the voting file doesn't answer");
                    }
                }
            }
            // Whoever hears it looks at everything: one in the queue is enough.
            let _ = heard.try_send(());
            let pause = if failing.is_some() { REOPEN } else { self.shared.interval };
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let is_news = {
                let wanted = self.shared.wanted.lock();
                (wanted.sequence, wanted.looks) != (now.sequence, now.looks)
            };
            if is_news && failing.is_none() {
                continue;
            }
            tokio::select! {
                biased;
                () = changed, if failing.is_none() => {}
                () = self.shared.seams.sleep(pause) => {}
            }
        }
    }

    /// Opens the file if it isn't, writes what is wanted there, reads what stands there.
    async fn turn(&self, at: usize, wanted: Wanted) -> Result<(), StorageError> {
        let Shared { seams, disk, id, cluster, .. } = &*self.shared;
        let (path, voting, acked, before) = {
            let places = self.shared.places.lock();
            let Slot { path, voting, latest, acked, .. } = &places[at];
            (path.clone(), voting.clone(), *acked, latest.clone())
        };
        let voting = match voting {
            Some(voting) => voting,
            None => {
                let begun = self.shared.places.lock()[at].opening.take();
                let opened = begun.unwrap_or_else(|| attempt(seams, disk, &path, *id)).await.expect("an attempt ends with an answer")?;
                let opened = belongs(opened, *cluster)?;
                self.shared.places.lock()[at].voting = Some(opened.clone());
                opened
            }
        };
        if wanted.sequence > acked {
            let place = Place { cluster: *cluster, file: voting.id, instance: *id, kind: SectorKind::Guard };
            let head = head(self.shared.life, wanted.sequence, wanted.epoch, &self.acked());
            let bytes = wanted.record.encode(&place, &head);
            let offset = SectorKind::Guard.at(*id);
            disk.write(voting.file, offset, Buffer::copy_of(&bytes[..]), Durability::Durable).await.1?;
            self.shared.places.lock()[at].acked = wanted.sequence;
        }
        let snapshot = voting::read(disk, &voting, before.as_deref()).await?;
        self.shared.places.lock()[at].latest = Some(Arc::new(snapshot));
        Ok(())
    }

    fn path(&self, at: usize) -> PathBuf {
        self.shared.places.lock()[at].path.clone()
    }

    fn acked(&self) -> Vec<(VotingId, u64)> {
        let places = self.shared.places.lock();
        places.iter().filter_map(|slot| Some((slot.voting.as_ref()?.id, slot.acked))).collect()
    }

    fn keep(&self, snapshot: &Arc<Snapshot>) {
        let mut places = self.shared.places.lock();
        let is_of = |slot: &&mut Slot| slot.voting.as_ref().is_some_and(|voting| voting.id == snapshot.file);
        if let Some(slot) = places.iter_mut().find(is_of) {
            slot.latest = Some(snapshot.clone());
        }
    }
}

/// What an attempt to open a voting file comes to.
type Attempt = oneshot::Receiver<Result<VotingFile, StorageError>>;

/// Opens a voting file under the guard's lock beside everything else, waiting a moment for a guard that is going.
fn attempt(seams: &Seams, disk: &Arc<dyn Disk>, path: &Path, id: ThreadId) -> Attempt {
    let (send, receive) = oneshot::channel();
    let (own, disk, path) = (seams.clone(), disk.clone(), path.to_path_buf());
    let open = async move {
        let begun = own.now();
        let outcome = loop {
            match voting::open(&own, &disk, &path, Access::Write(guard_lock(id)), None).await {
                Err(StorageError::Disk(DiskError::InUse { .. })) if own.now().since(begun) < GUARD_GOES => own.sleep(EVERY).await,
                outcome => break outcome,
            }
        };
        // A guard that couldn't begin has gone.
        drop(send.send(outcome));
    };
    seams.spawn("guard opens a voting file", Box::pin(open));
    receive
}

/// Refuses another cluster's file.
fn belongs(voting: VotingFile, cluster: ClusterId) -> Result<VotingFile, StorageError> {
    if voting.shape.cluster == cluster {
        return Ok(voting);
    }
    let fault = StorageFault::Cluster { expected: cluster, found: voting.shape.cluster };
    Err(StorageError::Fault { file: voting.path, offset: 0, fault })
}

/// Opens all files at once. Those that hang are left behind, for [`Board::turn`] to wait for. Also why one can't be used.
async fn open_all(
    seams: &Seams,
    disk: &Arc<dyn Disk>,
    id: ThreadId,
    paths: Vec<PathBuf>,
) -> Result<(Vec<Slot>, Option<String>), GuardError> {
    let attempts: Vec<Attempt> = paths.iter().map(|path| attempt(seams, disk, path, id)).collect();
    let (mut late, mut is_late) = (seams.sleep(FIRST_OPEN), false);
    let (mut places, mut why): (Vec<Slot>, _) = (Vec::new(), None);
    for (path, mut attempt) in paths.into_iter().zip(attempts) {
        let answer = tokio::select! {
            biased;
            answer = &mut attempt => Some(answer.expect("an attempt ends with an answer")),
            () = &mut late, if !is_late => { is_late = true; None }
            () = std::future::ready(()), if is_late => None,
        };
        let mut slot = Slot { path, voting: None, opening: None, latest: None, acked: 0 };
        let cluster = places.iter().find_map(|slot| slot.voting.as_ref()).map(|voting| voting.shape.cluster);
        let trouble = match answer.map(|answer| answer.and_then(|voting| belongs(voting.clone(), cluster.unwrap_or(voting.shape.cluster))))
        {
            Some(Ok(voting)) => {
                slot.voting = Some(voting);
                None
            }
            Some(Err(StorageError::Disk(DiskError::InUse { .. }))) => return Err(GuardError::Second { id, file: slot.path }),
            Some(Err(error)) => Some(error.to_string()),
            None => {
                slot.opening = Some(attempt);
                Some(format!("{} can't be opened within {} s", slot.path.display(), FIRST_OPEN.as_secs()))
            }
        };
        if let Some(trouble) = &trouble {
            tracing::error!(file = %slot.path.display(), trouble, "a voting file can't be used; a majority of the others must do");
        }
        why = trouble.or(why);
        places.push(slot);
    }
    Ok((places, why))
}

/// Reads `files` at once, until `enough` have answered or `patience` is over.
async fn read_some(seams: &Seams, disk: &Arc<dyn Disk>, files: &[VotingFile], enough: usize, patience: Duration) -> Vec<Snapshot> {
    let (send, mut receive) = mpsc::channel(files.len().max(1));
    for file in files {
        let (disk, file, send) = (disk.clone(), file.clone(), send.clone());
        let read = async move {
            match voting::read(&disk, &file, None).await {
                // Nobody listens any more when there were enough.
                Ok(snapshot) => drop(send.send(snapshot).await),
                Err(error) => tracing::warn!(file = %file.path.display(), %error, "a voting file doesn't answer"),
            }
        };
        seams.spawn("guard's look at a voting file", Box::pin(read));
    }
    drop(send);
    let (mut answers, mut late) = (Vec::new(), seams.sleep(patience));
    while answers.len() < enough {
        tokio::select! {
            biased;
            answer = receive.recv() => match answer {
                Some(snapshot) => answers.push(snapshot),
                None => break,
            },
            () = &mut late => break,
        }
    }
    answers
}
