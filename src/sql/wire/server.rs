//! The server: listens, lets clients in while the instance is open, counts them, and sends them away when it stops.
//!
//! Callers: the daemon. Phases: starting (every client is told so, with the progress: 57P03) -> open -> stopping. Sessions are counted from
//! the moment a client has said who it is until its transaction has ended.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::backend::Gravity;
use super::conversation::{Conversation, last_words};
use super::options::PostgresOptions;
use super::port::{Port, Stopper};
use super::startup::{Identity, Wish, listen};
use super::stream::{End, Guard, Patience, Stream, Timeout};
use crate::base::{BoxFuture, Gate, Seams};
use crate::sql::error::SqlError;
use crate::sql::session::{Engine, Session};

/// How long a refused client may take to hear why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Connections beyond the sessions allowed that may be at their beginning, or bring cancel requests; more are closed unheard.
const OPENING_SPARE: usize = 100;

/// What the instance is doing.
enum Phase {
    /// Recovering; how far it is.
    Starting(String),
    /// A member that serves no SQL; where that is.
    Elsewhere(String),
    Open(Engine),
    Stopping,
}

struct State {
    phase: Phase,
    /// Sessions by a number of their own; nothing: about to begin.
    sessions: BTreeMap<u64, Option<Arc<dyn Stopper>>>,
    next: u64,
    /// Connections whose client has not said yet who it is.
    opening: usize,
}

struct Shared {
    seams: Seams,
    options: PostgresOptions,
    gate: Gate,
    state: Mutex<State>,
    /// True once the server is stopping.
    stopping: watch::Sender<bool>,
    /// A connection has ended while stopping.
    ended: Notify,
}

/// The PostgreSQL server of an instance. Clones share everything.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

/// Counts a connection that is at its beginning.
struct Beginning {
    shared: Arc<Shared>,
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.shared.state.lock().opening -= 1;
        self.shared.ended.notify_one();
    }
}

/// Counts a session.
struct Seat {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.state.lock().sessions.remove(&self.number);
        self.shared.ended.notify_one();
    }
}

impl Server {
    /// A server that nobody can reach yet but by [`Server::serve`]; the instance is starting. While `gate` is closed, sessions neither begin
    /// statements nor answer.
    pub fn new(seams: Seams, options: PostgresOptions, gate: Gate) -> Server {
        let phase = Phase::Starting("the instance is opening its storage".into());
        let state = Mutex::new(State { phase, sessions: BTreeMap::new(), next: 0, opening: 0 });
        let (stopping, _) = watch::channel(false);
        Server { shared: Arc::new(Shared { seams, options, gate, state, stopping, ended: Notify::new() }) }
    }

    /// Listens there and serves whoever comes; gives the address.
    ///
    /// # Errors
    /// The address can't be had.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let server = self.clone();
        self.shared.seams.spawn("postgres listener", Box::pin(async move { server.accept(listener).await }));
        Ok(address)
    }

    /// Tells how far the instance's start is, for clients that come too early.
    pub fn starting(&self, progress: String) {
        let mut state = self.shared.state.lock();
        if let Phase::Starting(said) = &mut state.phase {
            *said = progress;
        }
    }

    /// The instance is a member, but another one serves SQL: clients are told `where_`. The code is 57P03, on which libpq goes on to the next host of
    /// a connection string that names several.
    pub fn elsewhere(&self, where_: String) {
        let mut state = self.shared.state.lock();
        if matches!(state.phase, Phase::Starting(_)) {
            state.phase = Phase::Elsewhere(where_);
        }
    }

    /// The instance is open: sessions may begin.
    pub fn open(&self, engine: Engine) {
        let mut state = self.shared.state.lock();
        if matches!(state.phase, Phase::Starting(_)) {
            state.phase = Phase::Open(engine);
        }
    }

    /// How many sessions there are, and connections at their beginning.
    pub fn connections(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.sessions.len(), state.opening)
    }

    /// Stops: no one is let in any more, every session is told (57P01) and its transaction rolled back. Returns when all are gone.
    pub async fn close(&self) {
        self.shared.state.lock().phase = Phase::Stopping;
        self.shared.stopping.send_replace(true);
        let mut round = 0u32;
        loop {
            let (sessions, opening, stoppers) = {
                let state = self.shared.state.lock();
                let stoppers: Vec<Arc<dyn Stopper>> = state.sessions.values().flatten().cloned().collect();
                (state.sessions.len(), state.opening, stoppers)
            };
            if sessions + opening == 0 {
                return;
            }
            stoppers.iter().for_each(|stopper| stopper.stop());
            if round > 0 && round.is_multiple_of(50) {
                tracing::warn!(sessions, opening, "stopping: still waiting for sessions to end; their statements are interrupted");
            }
            let mut patience = self.shared.seams.sleep(Duration::from_millis(100));
            tokio::select! {
                biased;
                () = self.shared.ended.notified() => {}
                () = &mut patience => round += 1,
            }
        }
    }

    async fn accept(self, listener: TcpListener) {
        let mut stopping = self.shared.stopping.subscribe();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of files, most likely: they come back when others leave.
                    tracing::warn!(%error, "can't accept a connection; trying again in 100 ms");
                    self.shared.seams.sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Err(error) = self.set_up(&socket) {
                tracing::info!(%peer, %error, "a connection broke before it began");
                continue;
            }
            let server = self.clone();
            self.shared.seams.spawn("connection", Box::pin(async move { server.serve(socket, peer.ip()).await }));
        }
    }

    fn set_up(&self, socket: &TcpStream) -> io::Result<()> {
        let options = &self.shared.options;
        socket.set_nodelay(true)?;
        if options.tcp_keepalives_idle_s == 0 {
            return Ok(());
        }
        let (idle, interval) = (options.tcp_keepalives_idle_s, options.tcp_keepalives_interval_s);
        let (idle, interval) = (Duration::from_secs(u64::from(idle)), Duration::from_secs(u64::from(interval)));
        let socket = SockRef::from(socket);
        let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(options.tcp_keepalives_count);
        socket.set_tcp_keepalive(&keepalive)?;
        // The same patience with a machine that is gone while output is on its way to it.
        socket.set_tcp_user_timeout(Some(idle + interval * options.tcp_keepalives_count))
    }

    /// Serves one connection until it ends. `peer` decides whether it is trusted.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(&self, io: S, peer: IpAddr) {
        let shared = &self.shared;
        let beginning = {
            let mut state = shared.state.lock();
            if state.opening >= shared.options.max_connections as usize + OPENING_SPARE {
                tracing::warn!(%peer, opening = state.opening, "too many connections at their beginning: one is closed unheard");
                return;
            }
            state.opening += 1;
            Beginning { shared: shared.clone() }
        };
        let mut stream = Stream::new(io, shared.options.message_bytes_max as usize);
        let mut guard = Guard::new(shared.seams.clone(), self.stopped(), shared.options.send_timeout(), shared.gate.clone());
        let deadline = shared.seams.now() + shared.options.authentication_timeout();
        let wish = listen(&mut stream, &mut guard, Patience::Until(deadline, Timeout::Authentication)).await;
        let refusal = match wish {
            Ok(Wish::Session(identity)) => match self.seat(peer, &identity) {
                Ok((seat, session)) => {
                    drop(beginning);
                    Conversation::new(shared.seams.clone(), stream, guard, session).run(peer).await;
                    drop(seat);
                    return;
                }
                Err(refusal) => refusal,
            },
            Ok(Wish::Cancel { pid, secret }) => return self.cancel(pid, secret),
            Ok(Wish::Impossible(error)) => error,
            // Connections that are opened only to see whether somebody listens, too.
            Err(End::Gone | End::Quit) => return,
            Err(End::Stopped) => too_late(),
            Err(end) => last_words(&end),
        };
        tracing::info!(%peer, code = refusal.code, why = refusal.message, "connection refused");
        stream.out.error(Gravity::Fatal, &refusal);
        // A refusal says nothing of data: it may also leave a parked instance.
        let open = Gate::always_open(shared.seams.clone());
        stream.flush_last(&shared.seams, LAST_WORDS, &open).await;
    }

    /// Completes when the server is stopping.
    fn stopped(&self) -> BoxFuture<()> {
        let mut stopping = self.shared.stopping.subscribe();
        // The sender lives as long as the server.
        Box::pin(async move { drop(stopping.wait_for(|stopping| *stopping).await) })
    }

    /// Lets a client in: a place among the sessions, and its session.
    fn seat(&self, peer: IpAddr, identity: &Identity) -> Result<(Seat, Session), SqlError> {
        trusted(peer, identity)?;
        let (seat, engine) = {
            let mut state = self.shared.state.lock();
            let engine = match &state.phase {
                Phase::Starting(progress) => {
                    return Err(SqlError::new("57P03", "the database system is starting up").detail(progress.clone()));
                }
                Phase::Elsewhere(where_) => return Err(SqlError::new("57P03", "this instance serves no SQL").hint(where_.clone())),
                Phase::Stopping => return Err(too_late()),
                Phase::Open(engine) => engine.clone(),
            };
            if state.sessions.len() >= self.shared.options.max_connections as usize {
                return Err(SqlError::new("53300", "sorry, too many clients already"));
            }
            let number = state.next;
            state.next += 1;
            state.sessions.insert(number, None);
            (Seat { shared: self.shared.clone(), number }, engine)
        };
        let session = engine.session(&identity.user, &identity.database, &identity.settings)?;
        // Whoever stops the server meanwhile finds it at the next look, at the latest in 100 ms.
        self.shared.state.lock().sessions.insert(seat.number, Some(session.stopper()));
        Ok((seat, session))
    }

    fn cancel(&self, pid: i32, secret: i32) {
        let engine = match &self.shared.state.lock().phase {
            Phase::Open(engine) => engine.clone(),
            Phase::Starting(_) | Phase::Elsewhere(_) | Phase::Stopping => return,
        };
        engine.cancel(pid, secret);
    }
}

/// Without passwords, only the machine itself is trusted.
fn trusted(peer: IpAddr, identity: &Identity) -> Result<(), SqlError> {
    if peer.to_canonical().is_loopback() {
        return Ok(());
    }
    let (user, database) = (&identity.user, &identity.database);
    Err(SqlError::new("28000", format!("no entry for host \"{peer}\", user \"{user}\", database \"{database}\""))
        .hint("only clients on the same machine are let in: connect to 127.0.0.1, for example through an SSH tunnel"))
}

fn too_late() -> SqlError {
    SqlError::new("57P03", "the database system is shutting down")
}
