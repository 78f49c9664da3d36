//! What is refused: connections, hellos, frames.

use std::time::Duration;

use bytes::Bytes;
use cluster_tests::rogue::{Cluster, DAY, Rogue, claim_length, client_config, frame, hello, hello_frame, wall_ms};
use regroup::base::{ClusterId, Epoch, Incarnation, Seams, ThreadId};
use regroup::net::certificate::Authority;
use regroup::net::frame::{Class, Head};
use regroup::net::hello::Hello;
use regroup::net::quic::{QuicOptions, Rate};
use regroup::net::{Arrival, Lane, Link, Peer, Refusal, SendError};

use super::{ONE, THREE, TWO, World, message, next_frame, run, until, until_up};

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
