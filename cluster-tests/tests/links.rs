//! Real links over the loopback interface: what is refused, what is bounded, what comes back by itself (issue 4, items 1 and 2).
//!
//! No test waits for a fixed time. That something had *no effect* is shown by what comes next: after the refusal was counted, an honest
//! peer sends a frame, and that is the first thing that arrives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_tests::rogue::{CLUSTER, Cluster, DAY, Rogue, claim_length, client_config, frame, hello, hello_frame, wall_ms};
use regroup::base::threads::ThreadsRuntime;
use regroup::base::{ClusterId, Epoch, Incarnation, Seams, ThreadId};
use regroup::net::certificate::Authority;
use regroup::net::frame::{Class, Head};
use regroup::net::hello::Hello;
use regroup::net::quic::{QuicLink, QuicOptions, Rate};
use regroup::net::{Arrival, DownReason, Identity, Lane, Link, Peer, QuotaLimits, Refusal, Reply, RequestError, SendError};

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

// Who is refused before its hello.

#[test]
fn another_authority_is_refused() {
    run(|seams| async move {
        let world = World::new(&seams);
        // One that calls itself as ours does, and one of another cluster.
        let rogue = Rogue::connect(world.address(), Some(&Cluster::new().issue(2))).await;
        rogue.connection.closed().await;
        world.refused_without_effect(Refusal::Authority).await;
        let other = Authority::create(ClusterId([3; 16]), wall_ms(), DAY).expect("an authority").issue(ThreadId(2), wall_ms(), DAY);
        let rogue = Rogue::connect(world.address(), Some(&other.expect("issued"))).await;
        rogue.connection.closed().await;
        until(|| world.link.counters().refused(Refusal::Authority) == 2).await;
    });
}

#[test]
fn an_expired_certificate_is_refused() {
    run(|seams| async move {
        let world = World::new(&seams);
        let rogue = Rogue::connect(world.address(), Some(&world.cluster.issue_expired(2))).await;
        rogue.connection.closed().await;
        world.refused_without_effect(Refusal::Expired).await;
    });
}

#[test]
fn no_certificate_and_another_protocol_are_refused() {
    run(|seams| async move {
        let world = World::new(&seams);
        let rogue = Rogue::connect(world.address(), None).await;
        rogue.connection.closed().await;
        world.refused_without_effect(Refusal::Tls).await;
        let config = client_config(Some(&world.cluster.issue(2)), b"h3");
        assert!(rogue.endpoint.connect_with(config, world.address(), "regroup").expect("an address").await.is_err());
        until(|| world.link.counters().refused(Refusal::Tls) == 2).await;
    });
}

#[test]
fn a_certificate_without_an_instance_is_refused() {
    run(|seams| async move {
        let world = World::new(&seams);
        let rogue = Rogue::connect(world.address(), Some(&world.cluster.issue_names(&["regroup://somebody".into()]))).await;
        assert_eq!(rogue.hung_up().await, Some(Refusal::Name));
        world.refused_without_effect(Refusal::Name).await;
    });
}

#[test]
fn nothing_is_sent_before_the_handshake() {
    run(|seams| async move {
        let world = World::new(&seams);
        let pem = world.cluster.issue(2);
        let (rogue, ..) = Rogue::accepted(world.address(), &pem, &hello(TWO, 1, Lane::Control)).await;
        // A second connection with the same configuration has no ticket, so nothing to send early.
        let config = client_config(Some(&pem), b"regroup/1");
        for _ in 0..2 {
            let connecting = rogue.endpoint.connect_with(config.clone(), world.address(), "regroup").expect("an address");
            let Err(connecting) = connecting.into_0rtt() else { panic!("early data") };
            connecting.await.expect("TLS").closed().await;
        }
    });
}

#[test]
fn an_address_and_a_certificate_have_their_rate() {
    run(|seams| async move {
        let once = Rate { burst: 1, per_second: 1 };
        let world = World::with(&seams, QuicOptions { certificate_rate: once, ..QuicOptions::default() });
        let pem = world.cluster.issue(2);
        let _first = Rogue::accepted(world.address(), &pem, &hello(TWO, 1, Lane::Control)).await;
        let second = Rogue::connect(world.address(), Some(&pem)).await;
        assert_eq!(second.hung_up().await, Some(Refusal::Handshakes));
        world.refused(Refusal::Handshakes).await;
        // The honest one's other lanes run into its rate too, and come later.
        world.nothing_arrived().await;
        assert_eq!(world.link.counters().refused(Refusal::Handshakes), world.link.counters().refusals());
        let world = World::with(&seams, QuicOptions { address_rate: once, ..QuicOptions::default() });
        let _first = Rogue::connect(world.address(), Some(&pem)).await;
        let config = client_config(Some(&pem), b"regroup/1");
        let refused = second.endpoint.connect_with(config, world.address(), "regroup").expect("an address").await;
        assert!(matches!(refused, Err(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");
        world.refused(Refusal::Handshakes).await;
    });
}

#[test]
fn one_that_says_nothing_is_hung_up() {
    run(|seams| async move {
        let options = QuicOptions { hello_timeout: Duration::from_millis(100), ..QuicOptions::default() };
        let world = World::with(&seams, options);
        let rogue = Rogue::connect(world.address(), Some(&world.cluster.issue(2))).await;
        assert_eq!(rogue.hung_up().await, Some(Refusal::Late));
        world.refused_without_effect(Refusal::Late).await;
    });
}

// Whose hello is refused.

/// A rogue with instance 2's certificate says these bytes first.
async fn hello_refused(seams: &Seams, bytes: &[u8], reason: Refusal) {
    let world = World::new(seams);
    let rogue = Rogue::connect(world.address(), Some(&world.cluster.issue(2))).await;
    rogue.say(bytes).await;
    assert_eq!(rogue.hung_up().await, Some(reason));
    world.refused_without_effect(reason).await;
}

#[test]
fn another_cluster_is_refused() {
    run(|seams| async move {
        let other = ClusterId(*b"some other links");
        // In the hello (of a frame that is for ours), and in the certificate.
        hello_refused(&seams, &hello_frame(&Hello { cluster: other, ..hello(TWO, 1, Lane::Control) }), Refusal::Cluster).await;
        let world = World::new(&seams);
        let rogue = Rogue::connect(world.address(), Some(&world.cluster.issue_names(&[format!("regroup://{other}/2")]))).await;
        rogue.say(&hello_frame(&hello(TWO, 1, Lane::Control))).await;
        assert_eq!(rogue.hung_up().await, Some(Refusal::Cluster));
        world.refused_without_effect(Refusal::Cluster).await;
    });
}

#[test]
fn instance_2_can_be_neither_3_nor_1() {
    run(|seams| async move {
        for claimed in [THREE, ONE, Peer::guard(ThreadId(3))] {
            hello_refused(&seams, &hello_frame(&hello(claimed, 1, Lane::Control)), Refusal::Instance).await;
        }
    });
}

#[test]
fn a_hello_for_another_is_refused() {
    run(|seams| async move {
        for to in [THREE, Peer::guard(ThreadId(1))] {
            hello_refused(&seams, &hello_frame(&Hello { to, ..hello(TWO, 1, Lane::Control) }), Refusal::Misdirected).await;
        }
    });
}

#[test]
fn another_version_is_refused() {
    run(|seams| async move {
        let mut bytes = hello_frame(&hello(TWO, 1, Lane::Control));
        bytes[10] = 2;
        hello_refused(&seams, &bytes, Refusal::Version).await;
        let head = Head { class: Class::Hello, kind: 0, ..message(Lane::Control, 0) };
        let mut body = hello(TWO, 1, Lane::Control).encode();
        body[0] = 2;
        hello_refused(&seams, &frame(&head, &body), Refusal::Version).await;
    });
}

#[test]
fn a_hello_of_an_old_epoch_is_refused_and_tells_the_new_one() {
    run(|seams| async move {
        hello_refused(&seams, &hello_frame(&Hello { epoch: Epoch(4), ..hello(TWO, 1, Lane::Control) }), Refusal::StaleEpoch).await;
        let world = World::new(&seams);
        let behind = world.cluster.link(&seams, TWO, 1, 4, QuicOptions::default());
        behind.set_peer(ONE, Some(world.address()));
        let Arrival::Refused { peer, reason, epoch } = behind.next().await else { panic!("refused") };
        assert_eq!((peer, reason, epoch), (ONE, Refusal::StaleEpoch, Epoch(5)));
        behind.set_epoch(Epoch(5));
        until_up(&behind).await;
    });
}

#[test]
fn garbage_is_no_hello() {
    run(|seams| async move {
        hello_refused(&seams, &[0xa5; 500], Refusal::Garbage).await;
        let good = hello_frame(&hello(TWO, 1, Lane::Control));
        hello_refused(&seams, &good[..60], Refusal::Garbage).await;
        let mut flipped = good.clone();
        flipped[70] ^= 4;
        hello_refused(&seams, &flipped, Refusal::Garbage).await;
        hello_refused(&seams, &frame(&message(Lane::Control, 1), b"no hello"), Refusal::Garbage).await;
        let mut long = good;
        claim_length(&mut long, 1 << 30);
        hello_refused(&seams, &long, Refusal::Oversized).await;
    });
}

#[test]
fn an_old_incarnation_is_refused_and_a_new_one_ends_its_connections() {
    run(|seams| async move {
        let world = World::new(&seams);
        let pem = world.cluster.issue(2);
        let (old, mut stream, _keep) = Rogue::accepted(world.address(), &pem, &hello(TWO, 7, Lane::Control)).await;
        // Two frames of the old life: one that arrives, one that waits in the inbox when the new life says hello.
        let of_old = |sequence| Head { incarnation: Incarnation(7), ..message(Lane::Control, sequence) };
        stream.write_all(&frame(&of_old(1), b"before")).await.expect("sent");
        assert_eq!(&next_frame(&world.link).await.3[..], b"before");
        stream.write_all(&frame(&of_old(2), b"waits")).await.expect("sent");
        let _new = Rogue::accepted(world.address(), &pem, &hello(TWO, 8, Lane::Heartbeat)).await;
        assert_eq!(old.hung_up().await, Some(Refusal::OldIncarnation));
        let again = Rogue::connect(world.address(), Some(&pem)).await;
        again.say(&hello_frame(&hello(TWO, 7, Lane::Control))).await;
        assert_eq!(again.hung_up().await, Some(Refusal::OldIncarnation));
        world.refused(Refusal::OldIncarnation).await;
        world.nothing_arrived().await;
        // Membership may know of an eviction before anything newer was heard.
        world.link.refuse_below(TWO, Incarnation(20));
        let again = Rogue::connect(world.address(), Some(&pem)).await;
        again.say(&hello_frame(&hello(TWO, 19, Lane::Control))).await;
        assert_eq!(again.hung_up().await, Some(Refusal::OldIncarnation));
    });
}

#[test]
fn who_answers_under_another_name_is_not_spoken_with() {
    run(|seams| async move {
        let world = World::new(&seams);
        let three = world.peer(THREE, 1);
        // The address of instance 3 stands where that of instance 2 should.
        world.link.set_peer(TWO, Some(three.address()));
        world.refused(Refusal::Instance).await;
        world.nothing_arrived().await;
        assert_eq!(three.counters().accepted, 0);
        assert_eq!(world.link.send(TWO, Lane::Control, 1, Bytes::new()), Err(SendError::NotConnected(TWO)));
    });
}

// Frames that are refused. Each is sent by a rogue whose hello was accepted.

/// Frames on the control lane, of which the last ends the connection for `reason`; those before it are good and were `accepted`.
async fn control_refused(seams: &Seams, accepted: usize, frames: &[Vec<u8>], reason: Refusal) {
    let world = World::new(seams);
    let (rogue, mut stream, _keep) = Rogue::accepted(world.address(), &world.cluster.issue(2), &hello(TWO, 1, Lane::Control)).await;
    stream.write_all(&frames.concat()).await.expect("sent");
    for _ in 0..accepted {
        assert_eq!(next_frame(&world.link).await.0.peer, TWO);
    }
    assert_eq!(rogue.hung_up().await, Some(reason));
    world.refused_without_effect(reason).await;
}

#[test]
fn bad_control_frames_end_the_connection() {
    run(|seams| async move {
        let good = |sequence| frame(&message(Lane::Control, sequence), b"body");
        control_refused(&seams, 2, &[good(1), good(2), good(2)], Refusal::Replay).await;
        control_refused(&seams, 1, &[good(1), good(3)], Refusal::Garbage).await;
        let mut long = good(1);
        claim_length(&mut long, Lane::Control.body_max() as u32 + 1);
        control_refused(&seams, 0, &[long], Refusal::Oversized).await;
        let mut flipped = good(1);
        *flipped.last_mut().expect("a byte") ^= 1;
        control_refused(&seams, 0, &[flipped], Refusal::Garbage).await;
        let other = Head { incarnation: Incarnation(2), ..message(Lane::Control, 1) };
        control_refused(&seams, 0, &[frame(&other, b"of another life")], Refusal::Garbage).await;
        let request = Head { class: Class::Request, ..message(Lane::Control, 1) };
        control_refused(&seams, 0, &[frame(&request, b"not here")], Refusal::Garbage).await;
        control_refused(&seams, 0, &[vec![0x5a; 4096]], Refusal::Garbage).await;
    });
}

#[test]
fn a_stale_control_frame_is_dropped_and_the_next_one_counts() {
    run(|seams| async move {
        let world = World::new(&seams);
        let (_rogue, mut stream, _keep) = Rogue::accepted(world.address(), &world.cluster.issue(2), &hello(TWO, 1, Lane::Control)).await;
        let stale = Head { epoch: Epoch(4), ..message(Lane::Control, 1) };
        stream.write_all(&[frame(&stale, b"old"), frame(&message(Lane::Control, 2), b"new")].concat()).await.expect("sent");
        assert_eq!(&next_frame(&world.link).await.3[..], b"new");
        assert_eq!(world.link.counters().refused(Refusal::StaleEpoch), 1);
        // One that waits when the epoch is crossed isn't handed out either.
        stream.write_all(&frame(&message(Lane::Control, 3), b"waits")).await.expect("sent");
        world.link.set_epoch(Epoch(6));
        let newer = Head { epoch: Epoch(9), ..message(Lane::Control, 4) };
        stream.write_all(&frame(&newer, b"ahead")).await.expect("sent");
        let (from, _, _, body, _) = next_frame(&world.link).await;
        assert_eq!((from.epoch, &body[..]), (Epoch(9), &b"ahead"[..]));
        assert_eq!(world.link.counters().refused(Refusal::StaleEpoch), 2);
    });
}

#[test]
fn bad_heartbeats_are_dropped_each() {
    run(|seams| async move {
        let world = World::new(&seams);
        let (rogue, _send, _receive) = Rogue::accepted(world.address(), &world.cluster.issue(2), &hello(TWO, 1, Lane::Heartbeat)).await;
        let beat = |head: Head, body: &[u8]| rogue.connection.send_datagram(frame(&head, body).into()).expect("sent");
        let counted = async |reason, times| until(|| world.link.counters().refused(reason) == times).await;
        beat(message(Lane::Heartbeat, 5), b"first");
        assert_eq!(&next_frame(&world.link).await.3[..], b"first");
        beat(message(Lane::Heartbeat, 5), b"first");
        counted(Refusal::Replay, 1).await;
        beat(message(Lane::Heartbeat, 4), b"late");
        counted(Refusal::Replay, 2).await;
        beat(Head { epoch: Epoch(4), ..message(Lane::Heartbeat, 6) }, b"stale");
        counted(Refusal::StaleEpoch, 1).await;
        rogue.connection.send_datagram(Bytes::from_static(b"garbage")).expect("sent");
        counted(Refusal::Garbage, 1).await;
        let mut long = frame(&message(Lane::Heartbeat, 7), &[0; 8]);
        claim_length(&mut long, 2000);
        rogue.connection.send_datagram(long.into()).expect("sent");
        counted(Refusal::Oversized, 1).await;
        beat(message(Lane::Heartbeat, 8), b"good");
        assert_eq!(&next_frame(&world.link).await.3[..], b"good", "the connection lives on");
        assert_eq!(world.link.counters().refusals(), 5);
    });
}

/// Says `bytes` on a stream of the block lane; how the stream ends.
async fn ask_raw(rogue: &Rogue, bytes: &[u8]) -> Result<Vec<u8>, quinn::ReadToEndError> {
    let (mut send, mut receive) = rogue.connection.open_bi().await.expect("a stream");
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    receive.read_to_end(1 << 20).await
}

#[test]
fn bad_requests_have_no_effect() {
    run(|seams| async move {
        let mut long = frame(&message(Lane::Block, 1), b"");
        claim_length(&mut long, Lane::Block.body_max() as u32 + 1);
        let mut longer = long.clone();
        longer.resize(Lane::Block.body_max() + 1000, 0);
        let cases = [
            (frame(&message(Lane::Block, 0), b""), Refusal::Replay),
            (vec![1; 100], Refusal::Garbage),
            (long, Refusal::Oversized),
            (longer, Refusal::Oversized),
            (frame(&Head { class: Class::Answer, ..message(Lane::Block, 1) }, b""), Refusal::Garbage),
        ];
        for (bytes, reason) in cases {
            let world = World::new(&seams);
            let (rogue, ..) = Rogue::accepted(world.address(), &world.cluster.issue(2), &hello(TWO, 1, Lane::Block)).await;
            assert!(ask_raw(&rogue, &bytes).await.is_err());
            assert_eq!(rogue.hung_up().await, Some(reason));
            world.refused_without_effect(reason).await;
        }
    });
}

#[test]
fn a_request_counts_once_and_not_in_an_old_epoch() {
    run(|seams| async move {
        let world = World::new(&seams);
        let (rogue, ..) = Rogue::accepted(world.address(), &world.cluster.issue(2), &hello(TWO, 1, Lane::Block)).await;
        let stale = frame(&Head { epoch: Epoch(3), ..message(Lane::Block, 1) }, b"");
        assert!(ask_raw(&rogue, &stale).await.is_err());
        assert_eq!(world.link.counters().refused(Refusal::StaleEpoch), 1);
        let good = frame(&message(Lane::Block, 2), b"");
        let answer = async { next_frame(&world.link).await.4.expect("a request").send(Bytes::from_static(b"yes")) };
        let (answered, sent) = tokio::join!(ask_raw(&rogue, &good), answer);
        assert!(answered.is_ok_and(|bytes| bytes.ends_with(b"yes")) && sent.is_ok());
        assert!(ask_raw(&rogue, &good).await.is_err());
        assert_eq!(rogue.hung_up().await, Some(Refusal::Replay));
        world.refused(Refusal::Replay).await;
        world.nothing_arrived().await;
    });
}

#[test]
fn before_its_hello_a_peer_has_one_stream_and_no_datagrams() {
    run(|seams| async move {
        let world = World::new(&seams);
        let rogue = Rogue::connect(world.address(), Some(&world.cluster.issue(2))).await;
        rogue.connection.send_datagram(frame(&message(Lane::Heartbeat, 1), b"").into()).expect("sent");
        let _first = rogue.connection.open_bi().await.expect("one stream");
        assert!(tokio::time::timeout(Duration::from_millis(50), rogue.connection.open_bi()).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(50), rogue.connection.open_uni()).await.is_err());
        world.nothing_arrived().await;
    });
}

// Bounds.

#[test]
fn control_frames_that_nobody_takes_fill_the_senders_queue_and_nobody_elses() {
    run(|seams| async move {
        let options = QuicOptions { quota: QuotaLimits { frames: 8, bytes: 1 << 20 }, ..QuicOptions::default() };
        let world = World::with(&seams, options);
        let two = world.cluster.link(&seams, TWO, 1, 5, QuicOptions { queue_frames: 16, ..QuicOptions::default() });
        two.set_peer(ONE, Some(world.address()));
        until_up(&two).await;
        let body = Bytes::from(vec![7; 200 << 10]);
        let mut queued = 0u16;
        // What QUIC itself has under way is bounded too: after some MiB it takes no more.
        loop {
            match two.send(ONE, Lane::Control, queued, body.clone()) {
                Ok(()) => queued += 1,
                Err(SendError::Full(ONE)) if two.counters().sent + 16 < u64::from(queued) => break,
                Err(SendError::Full(ONE)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(other) => panic!("{other}"),
            }
            assert!(queued < 500, "nothing holds it back");
            if two.counters().sent + 15 <= u64::from(queued) {
                break;
            }
        }
        // Another peer has its own share.
        let three = world.peer(THREE, 1);
        three.set_peer(ONE, Some(world.address()));
        until_up(&three).await;
        three.send(ONE, Lane::Control, 999, Bytes::new()).expect("queued");
        let (mut seen, mut other) = (0, false);
        while seen < queued || !other {
            let (from, _, kind, ..) = next_frame(&world.link).await;
            if from.peer == THREE {
                other = true;
            } else {
                assert_eq!(kind, seen, "none is lost");
                seen += 1;
            }
        }
    });
}

#[test]
fn heartbeats_beyond_the_quota_are_dropped() {
    run(|seams| async move {
        let world = World::with(&seams, QuicOptions { quota: QuotaLimits { frames: 2, bytes: 1 << 20 }, ..QuicOptions::default() });
        let (rogue, _send, _receive) = Rogue::accepted(world.address(), &world.cluster.issue(2), &hello(TWO, 1, Lane::Heartbeat)).await;
        for sequence in 1..=5 {
            rogue.connection.send_datagram(frame(&message(Lane::Heartbeat, sequence), &[sequence as u8]).into()).expect("sent");
        }
        until(|| world.link.counters().refused(Refusal::Quota) == 3).await;
        assert_eq!((next_frame(&world.link).await.3[0], next_frame(&world.link).await.3[0]), (1, 2));
        rogue.connection.send_datagram(frame(&message(Lane::Heartbeat, 6), &[6]).into()).expect("sent");
        assert_eq!(next_frame(&world.link).await.3[0], 6);
    });
}

#[test]
fn requests_in_flight_are_bounded() {
    run(|seams| async move {
        let world = World::new(&seams);
        let two = world.peer(TWO, 1);
        acquaint(&world.link, &two);
        until_up(&world.link).await;
        let answered = async { next_frame(&two).await.4.expect("a request").send(Bytes::new()) };
        let (asked, sent) = tokio::join!(ask(&world.link, TWO, Bytes::new()), answered);
        assert!(asked.is_ok() && sent.is_ok());
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..300 {
            asked.spawn(world.link.request(TWO, 1, Bytes::new()));
        }
        let mut full = 0;
        while full < 300 - 256 {
            assert_eq!(asked.join_next().await.expect("a request").expect("no panic"), Err(RequestError::Full(TWO)));
            full += 1;
        }
        for _ in 0..256 {
            next_frame(&two).await.4.expect("a request").send(Bytes::new()).expect("answered");
        }
        while let Some(answer) = asked.join_next().await {
            assert_eq!(answer.expect("no panic"), Ok(Bytes::new()));
        }
    });
}

#[test]
fn what_is_too_long_or_on_the_wrong_lane_isnt_sent() {
    run(|seams| async move {
        let world = World::new(&seams);
        let long = |lane: Lane| Bytes::from(vec![0; lane.body_max() + 1]);
        for lane in [Lane::Heartbeat, Lane::Control] {
            assert!(matches!(world.link.send(TWO, lane, 1, long(lane)), Err(SendError::TooLong { .. })));
        }
        assert!(matches!(world.link.request(TWO, 1, long(Lane::Block)).await, Err(RequestError::TooLong { .. })));
        assert_eq!(world.link.send(TWO, Lane::Block, 1, Bytes::new()), Err(SendError::WrongLane));
        assert_eq!(world.link.send(Peer::guard(ThreadId(2)), Lane::Heartbeat, 1, Bytes::new()), Err(SendError::WrongLane));
    });
}

// What works.

#[test]
fn each_lane_carries_its_frames() {
    run(|seams| async move {
        let world = World::new(&seams);
        let two = world.peer(TWO, 3);
        acquaint(&world.link, &two);
        let identity = until_up(&world.link).await;
        assert_eq!(identity, Identity { peer: TWO, incarnation: Incarnation(3), epoch: Epoch(5) });
        until_up(&two).await;
        let longest = Bytes::from(vec![9; Lane::Heartbeat.body_max()]);
        beat_until_sent(&world.link, TWO, &longest).await;
        let (from, lane, _, body, _) = next_frame(&two).await;
        assert_eq!((from.peer, lane, body), (ONE, Lane::Heartbeat, longest));
        for number in 0..500u16 {
            while world.link.send(TWO, Lane::Control, number, Bytes::from(vec![1; usize::from(number) * 20])).is_err() {
                tokio::task::yield_now().await;
            }
        }
        for number in 0..500u16 {
            let (_, lane, kind, body, _) = next_frame(&two).await;
            assert_eq!((lane, kind, body.len()), (Lane::Control, number, usize::from(number) * 20));
        }
        let echo = async {
            for _ in 0..3 {
                let (.., body, reply) = next_frame(&two).await;
                reply.expect("a request").send(body).expect("answered");
            }
            drop(next_frame(&two).await);
        };
        let asking = async {
            for length in [0, 8192, Lane::Block.body_max()] {
                let body = Bytes::from(vec![3; length]);
                assert_eq!(ask(&world.link, TWO, body.clone()).await, Ok(body));
            }
            assert_eq!(ask(&world.link, TWO, Bytes::new()).await, Err(RequestError::NoAnswer(TWO)));
        };
        tokio::join!(echo, asking);
        assert_eq!((world.link.counters().refusals(), two.counters().refusals()), (0, 0));
    });
}

#[test]
fn guards_speak_on_the_control_lane() {
    run(|seams| async move {
        let world = World::new(&seams);
        let guard = world.peer(Peer::guard(ThreadId(2)), 1);
        guard.set_peer(ONE, Some(world.address()));
        until_up(&guard).await;
        guard.send(ONE, Lane::Control, 4, Bytes::from_static(b"my child is dead")).expect("queued");
        assert_eq!(next_frame(&world.link).await.0.peer, Peer::guard(ThreadId(2)));
        // An instance beside its guard: two processes, one certificate.
        let two = world.peer(TWO, 9);
        two.set_peer(ONE, Some(world.address()));
        until_up(&two).await;
        guard.send(ONE, Lane::Control, 5, Bytes::new()).expect("still connected");
        assert_eq!(next_frame(&world.link).await.2, 5);
    });
}

#[test]
fn a_process_that_stops_says_so_and_one_that_comes_back_is_found() {
    run(|seams| async move {
        let world = World::new(&seams);
        let two = world.peer(TWO, 1);
        world.link.set_peer(TWO, Some(two.address()));
        until_up(&world.link).await;
        let stopped = Instant::now();
        two.close();
        assert_eq!(until_down(&world.link).await, DownReason::Closed);
        assert!(stopped.elapsed() < Duration::from_secs(1), "at once, not after the idle time-out");
        two.closed().await;
        let again = world.peer(TWO, 2);
        world.link.set_peer(TWO, Some(again.address()));
        assert_eq!(until_up(&world.link).await.incarnation, Incarnation(2));
    });
}

#[test]
fn a_request_in_flight_ends_with_the_epoch_and_with_the_peer() {
    run(|seams| async move {
        let world = World::new(&seams);
        let two = world.peer(TWO, 1);
        acquaint(&world.link, &two);
        let crossing = async {
            let held = next_frame(&two).await.4.expect("a request");
            world.link.set_epoch(Epoch(6));
            two.set_epoch(Epoch(6));
            assert_eq!(held.send(Bytes::new()), Err(SendError::Stale));
        };
        assert_eq!(tokio::join!(ask(&world.link, TWO, Bytes::new()), crossing).0, Err(RequestError::EpochOver(TWO)));
        // An answer of one that is behind is refused.
        world.link.set_epoch(Epoch(7));
        let behind = async { next_frame(&two).await.4.expect("a request").send(Bytes::new()) };
        let (answered, _) = tokio::join!(ask(&world.link, TWO, Bytes::new()), behind);
        assert_eq!(answered, Err(RequestError::BadAnswer(TWO, Refusal::StaleEpoch)));
        let stopping = async {
            let _held = next_frame(&two).await;
            two.close();
        };
        assert_eq!(tokio::join!(ask(&world.link, TWO, Bytes::new()), stopping).0, Err(RequestError::Broken(TWO)));
    });
}

#[test]
fn queued_control_frames_of_an_old_epoch_never_leave() {
    run(|seams| async move {
        let options = QuicOptions { quota: QuotaLimits { frames: 1, bytes: 1 << 20 }, ..QuicOptions::default() };
        let world = World::with(&seams, options);
        let two = world.peer(TWO, 1);
        two.set_peer(ONE, Some(world.address()));
        until_up(&two).await;
        // Nobody takes them there, so soon QUIC takes no more here.
        let body = Bytes::from(vec![0; 200 << 10]);
        let mut queued = 0u64;
        while two.send(ONE, Lane::Control, 1, body.clone()).is_ok() || two.counters().sent == 0 {
            queued = queued.max(two.counters().sent) + 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        two.set_epoch(Epoch(6));
        let given = two.counters().sent;
        world.link.set_epoch(Epoch(6));
        loop {
            // The first of the new epoch finds room once the old ones are dropped.
            if two.send(ONE, Lane::Control, 2, Bytes::new()).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(queued > 0);
        }
        assert_eq!(next_frame(&world.link).await.2, 2);
        let counters = two.counters();
        assert!(counters.dropped > 0 && counters.sent <= given + 2, "{counters:?}, {given} before");
    });
}

#[test]
fn a_renewed_certificate_is_used_for_new_connections() {
    run(|seams| async move {
        let world = World::new(&seams);
        let two = world.peer(TWO, 1);
        two.set_peer(ONE, Some(world.address()));
        until_up(&two).await;
        two.renew(world.cluster.credentials(2)).expect("renewed");
        world.link.renew(world.cluster.credentials(1)).expect("renewed");
        assert!(two.renew(world.cluster.credentials(3)).is_err(), "another's is refused");
        two.send(ONE, Lane::Control, 1, Bytes::new()).expect("the connection stays");
        assert_eq!(next_frame(&world.link).await.2, 1);
        two.set_peer(ONE, None);
        assert_eq!(until_down(&two).await, DownReason::Moved);
        two.set_peer(ONE, Some(world.address()));
        until_up(&two).await;
        // A new authority is another one, whatever it calls itself.
        let other = Authority::create(CLUSTER, wall_ms(), DAY).expect("an authority").issue(ThreadId(2), wall_ms(), DAY).expect("issued");
        let rogue = Rogue::connect(world.address(), Some(&other)).await;
        rogue.connection.closed().await;
        world.refused(Refusal::Authority).await;
    });
}

#[test]
fn a_peer_that_falls_silent_is_down_after_the_idle_time_out() {
    run(|seams| async move {
        let options = QuicOptions { idle_timeout: Duration::from_millis(200), ..QuicOptions::default() };
        let world = World::with(&seams, options);
        // Instance 2 lives on a runtime of its own, which stops: to its peers that is a process that was killed, or stopped.
        let (tell, told) = std::sync::mpsc::channel();
        let (cluster, link) = (world.cluster, world.link);
        let other = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let seams = ThreadsRuntime::start(runtime.handle().clone(), 1).expect("workers");
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let two = runtime.block_on(async {
                let two = cluster.link(&seams, TWO, 1, 5, QuicOptions::default());
                tell.send((two.address(), stop)).expect("the test waits");
                let _ = stopped.await;
                two
            });
            (runtime, two)
        });
        let (address, stop) = told.recv().expect("an address");
        link.set_peer(TWO, Some(address));
        until_up(&link).await;
        beat_until_sent(&link, TWO, &Bytes::new()).await;
        stop.send(()).expect("it runs");
        let stopped = Instant::now();
        assert_eq!(until_down(&link).await, DownReason::Silent);
        assert!(stopped.elapsed() < Duration::from_secs(2), "the heartbeat lane's time-out, not the others': {:?}", stopped.elapsed());
        assert_eq!(link.send(TWO, Lane::Control, 1, Bytes::new()), Err(SendError::NotConnected(TWO)));
        let (runtime, two) = other.join().expect("it ended");
        drop(two);
        runtime.shutdown_background();
    });
}
