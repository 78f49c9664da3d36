//! The real link: QUIC with mutual TLS 1.3 (quinn, rustls).
//!
//! For the `node` layer and the guard, one for each process. `docs/protocols/interconnect.md` has the protocol. A process sends only on
//! connections that it made (`dial.rs`, `send.rs`), and receives and answers on those made to it (`accept.rs`, `receive.rs`).
//!
//! Invariants: those of [`super::Link`]; all that arrives goes through `Incoming::judge` before it is put anywhere.
//!
//! It runs on tokio only, as quinn does; simulations use [`super::memory`].

mod accept;
mod dial;
mod rate;
mod receive;
mod send;
mod transport;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::Endpoint;

use super::certificate::Credentials;
use super::hello::{Hello, Local};
use super::inbox::{Culprit, Inbox, Quota};
use super::{Arrival, Counters, DownReason, Lane, Link, Peer, QuotaLimits, Refusal, RequestError, SendError};
use crate::base::{BoxFuture, Epoch, Incarnation, Seams};
pub use rate::Rate;
use send::Outgoing;

/// Longest wait for peers to hear that the link was closed.
const CLOSING_MAX: Duration = Duration::from_millis(500);

/// Bounds of a link. The defaults are for production; tests make them small.
#[derive(Clone, Debug, PartialEq)]
pub struct QuicOptions {
    /// Silence after which a connection breaks; keep-alives come in two fifths of it. Between instances only the heartbeat lane watches so
    /// closely: when it breaks, it takes the others with it; by themselves they bear four times as much. Default 2 s; 100 ms to 60 s.
    pub idle_timeout: Duration,
    /// Longest time from a connection attempt to its accepted hello. Default 2 s; 10 ms to 60 s.
    pub hello_timeout: Duration,
    /// Longest UDP payload tried, in bytes; discovery finds what the path carries. Default 1452. With jumbo frames 8952 puts a block into one packet;
    /// on the loopback interface that is slower than several small ones. 1200 to 8952.
    pub payload_max: u16,
    /// What each peer may have waiting here.
    pub quota: QuotaLimits,
    /// Control frames that may wait for each peer. Default 1024; 1 to 65536.
    pub queue_frames: usize,
    /// Bytes of their bodies. Default 4 MiB; at least one body.
    pub queue_bytes: usize,
    /// Handshakes that may be going on at once. Default 256; 1 to 65536.
    pub pending_max: u32,
    /// Connection attempts of one address. Default 512 at once, 256 a second.
    pub address_rate: Rate,
    /// Handshakes with one certificate. Default 64 at once, 16 a second.
    pub certificate_rate: Rate,
}

impl Default for QuicOptions {
    fn default() -> Self {
        QuicOptions {
            idle_timeout: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(2),
            payload_max: 1452,
            quota: QuotaLimits::default(),
            queue_frames: 1024,
            queue_bytes: 4 << 20,
            pending_max: 256,
            address_rate: Rate { burst: 512, per_second: 256 },
            certificate_rate: Rate { burst: 64, per_second: 16 },
        }
    }
}

/// A link that couldn't be made.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The address can't be used.
    #[error("can't listen on {address}: {reason}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        reason: std::io::Error,
    },
    /// TLS refused the credentials, or the options are out of range.
    #[error("the interconnect can't be set up: {0}")]
    Tls(String),
    /// The certificate is another's.
    #[error("the certificate is of instance {found} and its cluster {cluster}, not this process's")]
    NotOurs {
        /// The instance that it names.
        found: u16,
        /// The cluster that it names.
        cluster: crate::base::ClusterId,
    },
    /// It was called outside of a tokio runtime.
    #[error("no tokio runtime to run on")]
    NoRuntime,
}

/// What a link's tasks share.
struct Core {
    seams: Seams,
    local: Local,
    options: QuicOptions,
    inbox: Inbox,
    endpoint: Endpoint,
    state: Mutex<State>,
}

struct State {
    credentials: Arc<Credentials>,
    closed: bool,
    calls: BTreeMap<Peer, Call>,
    turns: u64,
    /// Connections that peers made, the newest for each lane.
    taken: BTreeMap<(Peer, Lane), (Incarnation, quinn::Connection)>,
    quotas: BTreeMap<Peer, Quota>,
}

/// A peer that this process connects to.
struct Call {
    address: SocketAddr,
    /// Which giving of an address made it: tasks of earlier ones end.
    turn: u64,
    outgoing: BTreeMap<Lane, Arc<Outgoing>>,
    told: Option<(Refusal, Epoch)>,
}

impl Core {
    fn credentials(&self) -> Arc<Credentials> {
        self.state.lock().credentials.clone()
    }

    fn quota(&self, peer: Peer) -> Quota {
        self.state.lock().quotas.entry(peer).or_insert_with(|| Quota::new(self.options.quota)).clone()
    }

    fn is_turn(&self, peer: Peer, turn: u64) -> bool {
        let state = self.state.lock();
        !state.closed && state.calls.get(&peer).is_some_and(|call| call.turn == turn)
    }

    /// Puts a connection to use, unless the peer's address was given anew or a newer incarnation said hello meanwhile.
    fn use_connection(&self, peer: Peer, turn: u64, outgoing: &Arc<Outgoing>) -> bool {
        let mut state = self.state.lock();
        let closed = state.closed || !self.inbox.admission.lock().is_current(peer, outgoing.identity.incarnation);
        let Some(call) = state.calls.get_mut(&peer).filter(|call| call.turn == turn && !closed) else { return false };
        call.told = None;
        call.outgoing.insert(outgoing.lane, outgoing.clone());
        true
    }

    fn outgoing(&self, to: Peer, lane: Lane) -> Option<Arc<Outgoing>> {
        let state = self.state.lock();
        state.calls.get(&to)?.outgoing.get(&lane).filter(|outgoing| outgoing.is_open()).cloned()
    }

    fn tell_refused(&self, peer: Peer, reason: Refusal, epoch: Epoch) {
        let news = {
            let mut state = self.state.lock();
            let Some(call) = state.calls.get_mut(&peer) else { return };
            call.told.replace((reason, epoch)) != Some((reason, epoch))
        };
        if news {
            self.inbox.put(Arrival::Refused { peer, reason, epoch }, None);
        }
    }

    /// Takes a connection that a peer made, after its hello was admitted; it replaces the one before. False when a newer hello overtook it.
    fn take_connection(&self, hello: &Hello, connection: &quinn::Connection) -> bool {
        let old = {
            let mut state = self.state.lock();
            if state.closed || !self.inbox.admission.lock().is_current(hello.from, hello.incarnation) {
                return false;
            }
            state.taken.insert((hello.from, hello.lane), (hello.incarnation, connection.clone()))
        };
        if let Some((_, old)) = old {
            transport::close(&old, self.inbox.epoch());
        }
        true
    }

    fn forget_connection(&self, hello: &Hello, connection: &quinn::Connection) {
        let mut state = self.state.lock();
        let key = (hello.from, hello.lane);
        if state.taken.get(&key).is_some_and(|(_, taken)| taken.stable_id() == connection.stable_id()) {
            state.taken.remove(&key);
        }
    }

    /// Ends what belongs to incarnations of `peer` before `incarnation`.
    fn supersede(&self, peer: Peer, incarnation: Incarnation) {
        let (mut taken, mut made) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.lock();
            state.taken.retain(|(of, _), (old, connection)| {
                let stays = *of != peer || *old >= incarnation;
                if !stays {
                    taken.push(connection.clone());
                }
                stays
            });
            if let Some(call) = state.calls.get(&peer) {
                made.extend(call.outgoing.values().filter(|outgoing| outgoing.identity.incarnation < incarnation).cloned());
            }
        }
        let epoch = self.inbox.epoch();
        taken.iter().for_each(|connection| transport::close_for(connection, Refusal::OldIncarnation, epoch));
        made.iter().for_each(|outgoing| outgoing.end(DownReason::Superseded, epoch));
    }

    /// Ends the lanes to `peer` in this incarnation that watch less closely than the one that fell silent.
    fn silence(&self, peer: Peer, incarnation: Incarnation) {
        let made: Vec<Arc<Outgoing>> = {
            let state = self.state.lock();
            let call = state.calls.get(&peer);
            call.map(|call| call.outgoing.values().filter(|other| other.identity.incarnation == incarnation).cloned().collect())
                .unwrap_or_default()
        };
        made.iter().for_each(|outgoing| outgoing.end(DownReason::Silent, self.inbox.epoch()));
    }

    /// Counts and logs a refusal, and ends the connection for it.
    fn refuse(&self, culprit: Culprit, connection: &quinn::Connection, reason: Refusal) {
        self.inbox.refuse(culprit, reason);
        transport::close_for(connection, reason, self.inbox.epoch());
    }

    /// Waits for `future`, but not longer than `time`.
    async fn within<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        let mut late = self.seams.sleep(time);
        tokio::select! {
            biased;
            done = future => Some(done),
            () = &mut late => None,
        }
    }
}

/// The real [`Link`].
pub struct QuicLink {
    core: Arc<Core>,
    address: SocketAddr,
}

impl QuicLink {
    /// Starts to listen on `bind` (port 0: any free one) as `local`, in `epoch`. Within a tokio runtime, the one behind `seams`.
    ///
    /// # Errors
    /// [`QuicError`].
    pub fn start(
        seams: &Seams,
        local: Local,
        epoch: Epoch,
        bind: SocketAddr,
        credentials: Credentials,
        options: QuicOptions,
    ) -> Result<QuicLink, QuicError> {
        check(&local, &credentials)?;
        validate(&options)?;
        let endpoint = transport::endpoint(bind, transport::server(&credentials, &options)?, &options)?;
        let address = endpoint.local_addr().map_err(|reason| QuicError::Bind { address: bind, reason })?;
        let state = State {
            credentials: Arc::new(credentials),
            closed: false,
            calls: BTreeMap::new(),
            turns: 0,
            taken: BTreeMap::new(),
            quotas: BTreeMap::new(),
        };
        let inbox = Inbox::new(local, epoch);
        let core = Arc::new(Core { seams: seams.clone(), local, options, inbox, endpoint, state: Mutex::new(state) });
        seams.spawn("accept", Box::pin(accept::accept_all(core.clone())));
        Ok(QuicLink { core, address })
    }

    /// Uses other credentials for connections from now on: after the certificate was renewed. Those that exist stay as they are.
    ///
    /// # Errors
    /// [`QuicError`]; the old ones stay in use then.
    pub fn renew(&self, credentials: Credentials) -> Result<(), QuicError> {
        check(&self.core.local, &credentials)?;
        let server = transport::server(&credentials, &self.core.options)?;
        self.core.state.lock().credentials = Arc::new(credentials);
        self.core.endpoint.set_server_config(Some(server));
        Ok(())
    }
}

fn check(local: &Local, credentials: &Credentials) -> Result<(), QuicError> {
    let certified = credentials.certified;
    if certified.cluster != local.cluster || certified.instance != local.peer.instance {
        return Err(QuicError::NotOurs { found: certified.instance.0, cluster: certified.cluster });
    }
    Ok(())
}

fn validate(options: &QuicOptions) -> Result<(), QuicError> {
    let minute = Duration::from_secs(60);
    let wrong = |what: &str| Err(QuicError::Tls(format!("option {what} is out of its range")));
    if !(Duration::from_millis(100)..=minute).contains(&options.idle_timeout) {
        return wrong("idle_timeout");
    }
    if !(Duration::from_millis(10)..=minute).contains(&options.hello_timeout) {
        return wrong("hello_timeout");
    }
    if !(1200..=8952).contains(&options.payload_max) {
        return wrong("payload_max");
    }
    if !(1..=65_536).contains(&options.queue_frames) || options.queue_bytes < Lane::Control.body_max() {
        return wrong("queue_frames or queue_bytes");
    }
    if !(1..=65_536).contains(&options.pending_max) {
        return wrong("pending_max");
    }
    Ok(())
}

impl Link for QuicLink {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn set_peer(&self, peer: Peer, address: Option<SocketAddr>) {
        let core = &self.core;
        if peer == core.local.peer {
            return;
        }
        let (old, turn) = {
            let mut state = core.state.lock();
            if state.closed || state.calls.get(&peer).map(|call| call.address) == address {
                return;
            }
            let old = state.calls.remove(&peer);
            state.turns += 1;
            let turn = state.turns;
            if let Some(address) = address {
                state.calls.insert(peer, Call { address, turn, outgoing: BTreeMap::new(), told: None });
            }
            (old, turn)
        };
        let epoch = core.inbox.epoch();
        old.iter().flat_map(|call| call.outgoing.values()).for_each(|outgoing| outgoing.end(DownReason::Moved, epoch));
        let Some(address) = address else { return };
        for lane in Lane::ALL.into_iter().filter(|lane| lane.joins(core.local.peer.role, peer.role)) {
            core.seams.spawn("connect", Box::pin(dial::keep_connected(core.clone(), peer, lane, address, turn)));
        }
    }

    fn set_epoch(&self, epoch: Epoch) {
        self.core.inbox.set_epoch(epoch);
    }

    fn epoch(&self) -> Epoch {
        self.core.inbox.epoch()
    }

    fn refuse_below(&self, peer: Peer, oldest: Incarnation) {
        let news = self.core.inbox.admission.lock().refuse_below(peer, oldest);
        if news {
            self.core.supersede(peer, oldest);
        }
    }

    fn send(&self, to: Peer, lane: Lane, kind: u16, body: Bytes) -> Result<(), SendError> {
        if lane == Lane::Block || !lane.joins(self.core.local.peer.role, to.role) {
            return Err(SendError::WrongLane);
        }
        let max = lane.body_max();
        if body.len() > max {
            return Err(SendError::TooLong { bytes: body.len(), max });
        }
        let outgoing = self.core.outgoing(to, lane).ok_or(SendError::NotConnected(to))?;
        match lane {
            Lane::Heartbeat => outgoing.beat(&self.core, kind, &body),
            _ => outgoing.queue(&self.core, kind, body),
        }
    }

    fn request(&self, to: Peer, kind: u16, body: Bytes) -> BoxFuture<Result<Bytes, RequestError>> {
        let max = Lane::Block.body_max();
        if body.len() > max {
            return Box::pin(async move { Err(RequestError::TooLong { bytes: body.len(), max }) });
        }
        let Some(outgoing) = self.core.outgoing(to, Lane::Block) else {
            return Box::pin(async move { Err(RequestError::NotConnected(to)) });
        };
        Box::pin(send::request(self.core.clone(), outgoing, kind, body))
    }

    fn next(&self) -> BoxFuture<Arrival> {
        self.core.inbox.next()
    }

    fn counters(&self) -> Counters {
        self.core.inbox.counters()
    }

    fn close(&self) {
        let calls = {
            let mut state = self.core.state.lock();
            state.closed = true;
            state.taken.clear();
            std::mem::take(&mut state.calls)
        };
        let epoch = self.core.inbox.epoch();
        calls.values().flat_map(|call| call.outgoing.values()).for_each(|outgoing| outgoing.end(DownReason::Closed, epoch));
        self.core.endpoint.close(0u32.into(), &epoch.0.to_le_bytes());
    }

    fn closed(&self) -> BoxFuture<()> {
        let core = self.core.clone();
        Box::pin(async move {
            // Peers that are gone acknowledge nothing: then it is over when they would have to have.
            core.within(CLOSING_MAX, core.endpoint.wait_idle()).await;
        })
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.close();
    }
}
