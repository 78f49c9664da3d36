//! What is bounded, and what works.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_tests::rogue::{CLUSTER, DAY, Rogue, frame, hello, wall_ms};
use regroup::base::threads::ThreadsRuntime;
use regroup::base::{Epoch, Incarnation, ThreadId};
use regroup::net::certificate::Authority;
use regroup::net::quic::QuicOptions;
use regroup::net::{DownReason, Identity, Lane, Link, Peer, QuotaLimits, Refusal, RequestError, SendError};

use super::{ONE, THREE, TWO, World, acquaint, ask, beat_until_sent, message, next_frame, run, until, until_down, until_up};

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
