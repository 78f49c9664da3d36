//! The answering side of an admin socket: what the instance's process shows of itself, and what it does when asked.
//!
//! `cli::serve` keeps a [`Board`] of what the process is doing and serves it from its first moment to its last. Whoever connects is
//! bounded: one request of 4 KiB within ten seconds, few connections at once. Nothing that comes in is trusted to be JSON.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};

use super::{Answer, REQUEST_MAX, Request, State, Status, short_name};
use crate::base::{BoxFuture, Epoch, Incarnation, Seams, ThreadId, Writer};
use crate::cli::CommandError;
use crate::cli::layout::InstanceDir;
use crate::cli::verify::check;
use crate::cli::verify::findings::{Finding, Listener, Step};
use crate::node::store::Store;
use crate::recovery::{Progress, RecoveryReport};

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Longest wait for a request, and for room for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the process is doing, for all to see. Clones share it.
#[derive(Clone)]
pub struct Board {
    shared: Arc<Shared>,
}

struct Shared {
    status: Mutex<Status>,
    /// There while it is open.
    store: Mutex<Option<Arc<Store>>>,
    /// There as long as it takes part in a cluster.
    membership: Mutex<Option<Arc<dyn Membership>>>,
    stopping: watch::Sender<bool>,
}

/// How the instance stands in its cluster, and what an operator may ask of it there.
pub trait Membership: Send + Sync + 'static {
    /// For `status`.
    fn status(&self) -> Value;
    /// An operator says that this life is dead and drained; gives the epoch of the view that says so.
    fn confirm_fence(&self, id: ThreadId, incarnation: Incarnation, reason: String) -> BoxFuture<Result<Epoch, String>>;
    /// Puts the voting file at `path` in place of the one at `position`; gives the epoch of the view that names it.
    fn replace_voting(&self, position: u8, path: PathBuf) -> BoxFuture<Result<Epoch, String>>;
}

/// The socket; removed when this is dropped.
pub struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "can't remove the admin socket; it doesn't matter, as nobody listens there now");
        }
    }
}

impl Default for Board {
    fn default() -> Board {
        Board::new()
    }
}

impl Board {
    /// Of a process that is starting.
    pub fn new() -> Board {
        let status = Status { state: State::Starting, incarnation: None, epoch: None, postgres: None, recovery: None, member: None };
        let (stopping, _) = watch::channel(false);
        Board { shared: Arc::new(Shared { status: Mutex::new(status), store: Mutex::new(None), membership: Mutex::new(None), stopping }) }
    }

    /// What it shows.
    pub fn status(&self) -> Status {
        let membership = self.shared.membership.lock().clone();
        let mut status = self.shared.status.lock().clone();
        status.member = membership.map(|membership| membership.status());
        status
    }

    /// From now on it takes part in a cluster.
    pub fn takes_part(&self, membership: Arc<dyn Membership>) {
        *self.shared.membership.lock() = Some(membership);
    }

    /// It is a member, and serves no SQL.
    pub fn member(&self, writer: Writer, postgres: Option<SocketAddr>) {
        let mut status = self.shared.status.lock();
        (status.state, status.incarnation, status.epoch, status.postgres) =
            (State::Open, Some(writer.incarnation.0), Some(writer.epoch.0), postgres);
    }

    /// Another view is in effect.
    pub fn in_epoch(&self, epoch: Epoch) {
        self.shared.status.lock().epoch = Some(epoch.0);
    }

    fn membership(&self) -> Result<Arc<dyn Membership>, CommandError> {
        let found = self.shared.membership.lock().clone();
        found.ok_or_else(|| "this instance doesn't take part in a cluster (yet): it has no voting files, or is still starting".into())
    }

    /// Recovery is under way.
    pub fn recovering(&self, progress: &Progress) {
        let mut status = self.shared.status.lock();
        status.state = State::Recovering;
        status.recovery = Some(show_progress(progress));
    }

    /// Recovery is done.
    pub fn recovered(&self, report: &RecoveryReport) {
        self.shared.status.lock().recovery = Some(show_report(report));
    }

    /// The storage is open; what is asked for from now on is done with it.
    pub fn open(&self, writer: Writer, store: Arc<Store>, postgres: Option<SocketAddr>) {
        *self.shared.store.lock() = Some(store);
        let mut status = self.shared.status.lock();
        (status.state, status.incarnation, status.epoch, status.postgres) =
            (State::Open, Some(writer.incarnation.0), Some(writer.epoch.0), postgres);
    }

    /// The storage is being closed: nothing is done any more, and what is under way ends.
    pub fn stopping(&self) {
        self.shared.status.lock().state = State::Stopping;
        *self.shared.store.lock() = None;
        self.shared.stopping.send_replace(true);
    }

    fn store(&self) -> Result<Arc<Store>, CommandError> {
        let found = self.shared.store.lock().clone();
        found.ok_or_else(|| format!("the instance is {}: it must be open", self.status().state).into())
    }

    /// Listens in `home`. The caller holds the instance's [`super::super::process::Presence`], so a socket that lies there is a dead process's.
    ///
    /// # Errors
    /// The socket can't be made.
    pub fn listen(&self, home: &InstanceDir, seams: &Seams) -> Result<Socket, CommandError> {
        let path = home.socket();
        let can_not = |error: std::io::Error| format!("can't listen on {}: {error}", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(can_not(error).into()),
            _ => {}
        }
        let (_folder, name) = short_name(&path).map_err(can_not)?;
        let listener = UnixListener::bind(&name).map_err(can_not)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(can_not)?;
        let (board, own) = (self.clone(), seams.clone());
        seams.spawn("admin socket", Box::pin(async move { board.accept(listener, own).await }));
        Ok(Socket { path })
    }

    async fn accept(self, listener: UnixListener, seams: Seams) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (board, own) = (self.clone(), seams.clone());
                    seams.spawn(
                        "admin connection",
                        Box::pin(async move {
                            board.serve(stream, &own).await;
                            drop(permit);
                        }),
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin socket can't accept a connection");
                    seams.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection.
    async fn serve(&self, stream: UnixStream, seams: &Seams) {
        let (read, write) = stream.into_split();
        let mut to = Answering { write, seams: seams.clone() };
        let request = match request(read, seams).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(why) => {
                to.say(&Answer::Error(why)).await;
                return;
            }
        };
        let last = match self.answer(request, &mut to).await {
            Ok(done) => Answer::Done(done),
            Err(error) => Answer::Error(error.to_string()),
        };
        to.say(&last).await;
    }

    async fn answer(&self, request: Request, to: &mut Answering) -> Result<Value, CommandError> {
        match request {
            Request::Status {} => Ok(serde_json::to_value(self.status())?),
            Request::Checkpoint {} => {
                let store = self.store()?;
                let report = store.storage().checkpoint().await?;
                Ok(json!({ "from": report.from.0, "to": report.to.0, "dirty": report.dirty, "seconds": report.took.as_secs_f64() }))
            }
            Request::Verify {} => self.verify(to).await,
            Request::ConfirmFence { id, incarnation, reason } => {
                tracing::warn!(id, incarnation, reason, "an operator confirms a fence");
                let epoch = self.membership()?.confirm_fence(ThreadId(id), Incarnation(incarnation), reason).await?;
                Ok(json!({ "epoch": epoch.0 }))
            }
            Request::ReplaceVoting { position, path } => {
                tracing::info!(position, path = %path.display(), "a voting file is to be replaced");
                let epoch = self.membership()?.replace_voting(position, path).await?;
                Ok(json!({ "epoch": epoch.0 }))
            }
        }
    }

    /// Checks everything, telling what is found on the way; ends when nobody listens any more, or the instance is to stop.
    async fn verify(&self, to: &mut Answering) -> Result<Value, CommandError> {
        let store = self.store()?;
        let mut stopping = self.shared.stopping.subscribe();
        let (send, mut said) = mpsc::unbounded_channel();
        let mut relay = Relay { send };
        let mut check = std::pin::pin!(check::live(&store, &mut relay));
        loop {
            tokio::select! {
                biased;
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => return Err("the instance is being stopped".into()),
                Some(answer) = said.recv() => {
                    if !to.say(&answer).await {
                        return Err("nobody listens any more".into());
                    }
                }
                outcome = &mut check => {
                    let summary = outcome?;
                    while let Ok(answer) = said.try_recv() {
                        to.say(&answer).await;
                    }
                    return Ok(serde_json::to_value(summary)?);
                }
            }
        }
    }
}

/// Passes on what a check says. Bounded by the check itself: `findings::TOLD_MAX` findings, and progress now and then.
struct Relay {
    send: mpsc::UnboundedSender<Answer>,
}

impl Relay {
    fn pass(&self, value: serde_json::Result<Value>, wrap: fn(Value) -> Answer) {
        match value {
            // The other end lives as long as the check.
            Ok(value) => drop(self.send.send(wrap(value))),
            Err(error) => tracing::error!(%error, "a finding can't be written as JSON"),
        }
    }
}

impl Listener for Relay {
    fn finding(&mut self, finding: &Finding) {
        self.pass(serde_json::to_value(finding), Answer::Finding);
    }

    fn step(&mut self, step: &Step) {
        self.pass(serde_json::to_value(step), Answer::Progress);
    }
}

/// Where an answer goes.
pub(super) struct Answering {
    write: tokio::net::unix::OwnedWriteHalf,
    seams: Seams,
}

impl Answering {
    /// Says a line; false when nobody listens any more, or not fast enough.
    pub(super) async fn say(&mut self, answer: &Answer) -> bool {
        let mut line = match serde_json::to_vec(answer) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "an answer on the admin socket can't be written as JSON");
                return false;
            }
        };
        line.push(b'\n');
        tokio::select! {
            biased;
            written = self.write.write_all(&line) => written.is_ok(),
            () = self.seams.sleep(PATIENCE) => false,
        }
    }
}

/// Reads the request; nothing when the other side left without one.
async fn request(read: tokio::net::unix::OwnedReadHalf, seams: &Seams) -> Result<Option<Request>, String> {
    let mut line = Vec::new();
    let mut bounded = BufReader::new(read).take(REQUEST_MAX as u64);
    tokio::select! {
        biased;
        read = bounded.read_until(b'\n', &mut line) => drop(read.map_err(|error| error.to_string())?),
        () = seams.sleep(PATIENCE) => return Err(format!("no request within {} s", PATIENCE.as_secs())),
    }
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(format!("a request is one line of JSON, at most {REQUEST_MAX} bytes"));
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| format!("no request that this version knows: {error}"))
}

/// Recovery under way, as status shows it.
fn show_progress(progress: &Progress) -> Value {
    json!({
        "under_way": true, "phase": progress.phase, "unit": progress.unit, "done": progress.done, "total": progress.total,
        "seconds": progress.elapsed.as_secs_f64(), "seconds_left": progress.left.map(|left| left.as_secs_f64()),
    })
}

/// A recovery's report, as status shows it.
pub fn show_report(report: &RecoveryReport) -> Value {
    let mut shown = json!({ "under_way": false });
    if let (Some(fields), Ok(Value::Object(more))) = (shown.as_object_mut(), serde_json::to_value(report)) {
        fields.extend(more);
    }
    shown
}
