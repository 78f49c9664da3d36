//! Real links over the loopback interface: what is refused, what is bounded, what comes back by itself (issue 4, items 1 and 2).
//!
//! No test waits for a fixed time. That something had *no effect* is shown by what comes next: after the refusal was counted, an honest
//! peer sends a frame, and that is the first thing that arrives.

mod refused;
mod works;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_tests::rogue::Cluster;
use regroup::base::threads::ThreadsRuntime;
use regroup::base::{Epoch, Incarnation, Seams, ThreadId};
use regroup::net::frame::{Class, Head};
use regroup::net::quic::{QuicLink, QuicOptions};
use regroup::net::{Arrival, DownReason, Identity, Lane, Link, Peer, Refusal, Reply, RequestError};

/// Nothing takes longer than this.
const LIMIT: Duration = Duration::from_secs(30);
const ONE: Peer = Peer { instance: ThreadId(1), role: regroup::net::Role::Instance };
const TWO: Peer = Peer { instance: ThreadId(2), role: regroup::net::Role::Instance };
const THREE: Peer = Peer { instance: ThreadId(3), role: regroup::net::Role::Instance };

/// Runs a test with a runtime and its seams.
fn run<F: Future<Output = ()>>(test: impl FnOnce(Seams) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let seams = ThreadsRuntime::start(runtime.handle().clone(), 1).expect("workers");
    runtime.block_on(async { tokio::time::timeout(LIMIT, test(seams)).await.expect("the test ends in time") });
}

/// Instance 1, which rogues talk to, and its cluster.
struct World {
    seams: Seams,
    cluster: Cluster,
    link: Arc<QuicLink>,
}

impl World {
    fn new(seams: &Seams) -> World {
        World::with(seams, QuicOptions::default())
    }

    fn with(seams: &Seams, options: QuicOptions) -> World {
        let cluster = Cluster::new();
        let link = Arc::new(cluster.link(seams, ONE, 1, 5, options));
        World { seams: seams.clone(), cluster, link }
    }

    fn address(&self) -> SocketAddr {
        self.link.address()
    }

    fn peer(&self, peer: Peer, incarnation: u64) -> QuicLink {
        self.cluster.link(&self.seams, peer, incarnation, 5, QuicOptions::default())
    }

    /// Waits until a refusal was counted.
    async fn refused(&self, reason: Refusal) {
        until(|| self.link.counters().refused(reason) > 0).await;
    }

    /// Asserts that what rogues did was refused for `reason`, once, for no other reason, and had no effect.
    async fn refused_without_effect(&self, reason: Refusal) {
        self.refused(reason).await;
        self.nothing_arrived().await;
        assert_eq!((self.link.counters().refused(reason), self.link.counters().refusals()), (1, 1), "{:?}", self.link.counters());
    }

    /// Asserts that nothing has arrived, by what arrives next.
    async fn nothing_arrived(&self) {
        let honest = self.peer(THREE, 1);
        honest.set_peer(ONE, Some(self.address()));
        until_up(&honest).await;
        honest.send(ONE, Lane::Control, 77, Bytes::new()).expect("queued");
        match self.link.next().await {
            Arrival::Frame { from, kind: 77, .. } if from.peer == THREE => {}
            other => panic!("something had an effect: {other:?}"),
        }
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "it never comes");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn until_up(link: &QuicLink) -> Identity {
    loop {
        if let Arrival::Up { identity } = link.next().await {
            return identity;
        }
    }
}

async fn until_down(link: &QuicLink) -> DownReason {
    loop {
        if let Arrival::Down { reason, .. } = link.next().await {
            return reason;
        }
    }
}

async fn next_frame(link: &QuicLink) -> (Identity, Lane, u16, Bytes, Option<Reply>) {
    loop {
        if let Arrival::Frame { from, lane, kind, body, reply } = link.next().await {
            return (from, lane, kind, body, reply);
        }
    }
}

/// Connects two links with each other.
fn acquaint(one: &QuicLink, two: &QuicLink) {
    one.set_peer(TWO, Some(two.address()));
    two.set_peer(ONE, Some(one.address()));
}

async fn beat_until_sent(link: &QuicLink, to: Peer, body: &Bytes) {
    while link.send(to, Lane::Heartbeat, 1, body.clone()).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Requests until the block lane is there.
async fn ask(link: &QuicLink, to: Peer, body: Bytes) -> Result<Bytes, RequestError> {
    loop {
        match link.request(to, 1, body.clone()).await {
            Err(RequestError::NotConnected(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            answered => return answered,
        }
    }
}

fn message(lane: Lane, sequence: u64) -> Head {
    let class = if lane == Lane::Block { Class::Request } else { Class::Message };
    Head { lane, class, kind: 5, epoch: Epoch(5), incarnation: Incarnation(1), sequence }
}
