//! The simulated network: what it carries, loses and cuts, and that a seed decides all of it.

use bytes::Bytes;

use super::*;
use crate::base::sim::{Process, Sim};
use crate::base::{ClusterId, Incarnation};
use crate::net::{Arrival, DownReason, Lane, Peer, Refusal, RequestError, SendError};

const CLUSTER: ClusterId = ClusterId(*b"a simulated one.");
const ONE: Peer = Peer { instance: ThreadId(1), role: crate::net::Role::Instance };
const TWO: Peer = Peer { instance: ThreadId(2), role: crate::net::Role::Instance };

/// A process with a link.
struct Node {
    process: Process,
    seams: Seams,
    link: Arc<dyn Link>,
}

fn node(sim: &Sim, network: &MemoryNetwork, peer: Peer, incarnation: u64, epoch: u64) -> Node {
    let process = sim.process(&peer.to_string());
    let seams = process.seams();
    let local = Local { cluster: CLUSTER, peer, incarnation: Incarnation(incarnation) };
    let link = network.attach(&seams, local, Epoch(epoch));
    Node { process, seams, link }
}

/// Two instances that know each other's addresses.
fn pair(sim: &Sim, network: &MemoryNetwork) -> (Node, Node) {
    let (one, two) = (node(sim, network, ONE, 1, 5), node(sim, network, TWO, 1, 5));
    one.link.set_peer(TWO, Some(two.link.address()));
    two.link.set_peer(ONE, Some(one.link.address()));
    (one, two)
}

fn body(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number(body: &Bytes) -> u64 {
    u64::from_le_bytes(body[..].try_into().expect("eight bytes"))
}

/// The next arrival that isn't of no interest to a test of frames.
async fn next_frame(link: &Arc<dyn Link>) -> (crate::net::Identity, Lane, u16, Bytes, Option<crate::net::Reply>) {
    loop {
        if let Arrival::Frame { from, lane, kind, body, reply } = link.next().await {
            return (from, lane, kind, body, reply);
        }
    }
}

async fn until_up(link: &Arc<dyn Link>) {
    while !matches!(link.next().await, Arrival::Up { .. }) {}
}

async fn until_down(link: &Arc<dyn Link>) -> DownReason {
    loop {
        if let Arrival::Down { reason, .. } = link.next().await {
            return reason;
        }
    }
}

/// A network that does everything but cut.
fn bad() -> Faults {
    Faults { delay: Duration::from_micros(50)..Duration::from_millis(3), loss: 0.1, duplicate: 0.1, reorder: 0.2, ..Faults::default() }
}

#[test]
fn frames_of_every_lane_arrive_with_their_senders_identity() {
    let (sim, network) = (Sim::new(1), MemoryNetwork::new(1));
    let (one, two) = pair(&sim, &network);
    sim.run(async {
        until_up(&one.link).await;
        one.link.send(TWO, Lane::Control, 7, body(1)).expect("queued");
        let (from, lane, kind, bytes, reply) = next_frame(&two.link).await;
        assert_eq!((from.peer, from.incarnation, from.epoch, lane, kind), (ONE, Incarnation(1), Epoch(5), Lane::Control, 7));
        assert!(number(&bytes) == 1 && reply.is_none());
        while one.link.send(TWO, Lane::Heartbeat, 8, body(2)).is_err() {
            one.seams.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(next_frame(&two.link).await.1, Lane::Heartbeat);
        let asked = one.link.request(TWO, 9, body(3));
        let answered = async {
            let (_, _, kind, bytes, reply) = next_frame(&two.link).await;
            reply.expect("a request").send(body(number(&bytes) + u64::from(kind))).expect("answered");
        };
        let (answer, ()) = tokio::join!(asked, answered);
        assert_eq!(number(&answer.expect("an answer")), 12);
        let dropped = async { drop(next_frame(&two.link).await) };
        assert_eq!(tokio::join!(one.link.request(TWO, 9, body(3)), dropped).0, Err(RequestError::NoAnswer(TWO)));
    });
    assert_eq!((one.link.counters().refusals(), two.link.counters().refusals()), (0, 0));
}

/// What two processes said to each other on a bad network, and the trace.
fn chatter(seed: u64) -> (u64, Vec<u64>, Vec<u64>, Happened, u64) {
    let (sim, network) = (Sim::new(seed), MemoryNetwork::new(seed));
    let (one, two) = pair(&sim, &network);
    network.set_faults(bad());
    let (mut control, mut beats) = (Vec::new(), Vec::new());
    sim.run(async {
        until_up(&one.link).await;
        let link = one.link.clone();
        let seams = one.seams.clone();
        one.seams.spawn(
            "chatter",
            Box::pin(async move {
                for round in 0..200 {
                    let _ = link.send(TWO, Lane::Control, 1, body(round));
                    let _ = link.send(TWO, Lane::Heartbeat, 1, body(round));
                    seams.sleep(Duration::from_millis(1)).await;
                }
                link.send(TWO, Lane::Control, 2, body(0)).expect("queued");
            }),
        );
        loop {
            let (_, lane, kind, bytes, _) = next_frame(&two.link).await;
            match (lane, kind) {
                (Lane::Heartbeat, _) => beats.push(number(&bytes)),
                (_, 1) => control.push(number(&bytes)),
                _ => return,
            }
        }
    });
    (sim.trace_hash(), control, beats, network.happened(), two.link.counters().refused(Refusal::Replay))
}

#[test]
fn a_bad_network_keeps_each_lanes_promise() {
    let (_, control, beats, happened, replays) = chatter(3);
    assert!(control.iter().copied().eq(0..200), "control frames come all and in order: {control:?}");
    assert!(beats.is_sorted_by(|one, next| one < next) && (50..195).contains(&beats.len()), "{beats:?}");
    assert!(happened.lost > 10 && happened.duplicated > 5 && happened.reordered > 10, "{happened:?}");
    assert!(replays > 10, "duplicates and overtaken heartbeats are refused: {replays}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert_eq!(chatter(seed), chatter(seed));
    }
    assert_ne!(chatter(1).0, chatter(2).0);
}

#[test]
fn a_killed_process_is_gone_without_a_word_and_a_closed_one_says_so() {
    for (reset, expected, least) in [(1.0, DownReason::Reset, Duration::ZERO), (0.0, DownReason::Silent, Faults::default().idle)] {
        let (sim, network) = (Sim::new(4), MemoryNetwork::new(4));
        network.set_faults(Faults { reset, ..Faults::default() });
        let (one, two) = pair(&sim, &network);
        sim.run(async {
            until_up(&one.link).await;
            let killed = sim.now();
            two.process.kill();
            assert_eq!(until_down(&one.link).await, expected);
            assert!(sim.now().since(killed) >= least);
            assert_eq!(one.link.send(TWO, Lane::Control, 1, body(1)), Err(SendError::NotConnected(TWO)));
        });
    }
    let (sim, network) = (Sim::new(4), MemoryNetwork::new(4));
    let (one, two) = pair(&sim, &network);
    sim.run(async {
        until_up(&one.link).await;
        let Node { link, process, .. } = two;
        drop(link);
        assert_eq!(until_down(&one.link).await, DownReason::Closed);
        assert!(process.is_alive());
    });
    assert!(network.happened().closed > 0);
}

#[test]
fn a_request_in_flight_ends_with_the_peer_or_the_epoch() {
    let (sim, network) = (Sim::new(5), MemoryNetwork::new(5));
    let (one, two) = pair(&sim, &network);
    sim.run(async {
        until_up(&one.link).await;
        one.seams.sleep(Duration::from_millis(50)).await;
        let crossing = async {
            let held = next_frame(&two.link).await.4.expect("a request");
            one.link.set_epoch(Epoch(6));
            two.link.set_epoch(Epoch(6));
            assert_eq!(held.send(body(1)), Err(SendError::Stale));
        };
        assert_eq!(tokio::join!(one.link.request(TWO, 1, body(1)), crossing).0, Err(RequestError::EpochOver(TWO)));
        let killing = async {
            let _held = next_frame(&two.link).await;
            two.process.kill();
            one.seams.sleep(Duration::from_millis(1)).await;
        };
        let asked = one.link.request(TWO, 1, body(1));
        assert_eq!(tokio::join!(asked, killing).0, Err(RequestError::Broken(TWO)));
    });
}

#[test]
fn what_was_sent_in_an_old_epoch_is_refused_and_a_newer_one_is_told() {
    let (sim, network) = (Sim::new(6), MemoryNetwork::new(6));
    let (one, two) = pair(&sim, &network);
    sim.run(async {
        until_up(&one.link).await;
        one.link.send(TWO, Lane::Control, 1, body(1)).expect("queued");
        two.link.set_epoch(Epoch(6));
        one.seams.sleep(Duration::from_millis(10)).await;
        assert_eq!(two.link.counters().refused(Refusal::StaleEpoch), 1);
        one.link.set_epoch(Epoch(7));
        one.link.send(TWO, Lane::Control, 2, body(1)).expect("queued");
        let (from, _, kind, ..) = next_frame(&two.link).await;
        assert_eq!((from.epoch, kind), (Epoch(7), 2), "the connection outlives the epoch");
        // One that is behind can't connect, and hears why.
        let three = node(&sim, &network, Peer::instance(ThreadId(3)), 1, 2);
        three.link.set_peer(TWO, Some(two.link.address()));
        let Arrival::Refused { peer, reason, epoch } = three.link.next().await else { panic!("refused") };
        assert_eq!((peer, reason, epoch), (TWO, Refusal::StaleEpoch, Epoch(6)));
        three.link.set_epoch(Epoch(6));
        until_up(&three.link).await;
    });
}

#[test]
fn a_new_incarnation_ends_the_old_ones_connections_and_an_old_one_is_refused() {
    let (sim, network) = (Sim::new(7), MemoryNetwork::new(7));
    let (one, two) = pair(&sim, &network);
    sim.run(async {
        until_up(&one.link).await;
        until_up(&two.link).await;
        let again = node(&sim, &network, TWO, 2, 5);
        again.link.set_peer(ONE, Some(one.link.address()));
        until_up(&again.link).await;
        // The old process still runs: it is cut off, and told why.
        assert!(matches!(until_down(&two.link).await, DownReason::Refused(Refusal::OldIncarnation)));
        let Arrival::Refused { reason, .. } = two.link.next().await else { panic!("refused") };
        assert_eq!(reason, Refusal::OldIncarnation);
        assert_eq!(until_down(&one.link).await, DownReason::Superseded);
        one.link.set_peer(TWO, Some(again.link.address()));
        until_up(&one.link).await;
        one.link.refuse_below(TWO, Incarnation(3));
        assert_eq!(until_down(&one.link).await, DownReason::Superseded);
    });
}

#[test]
fn a_cut_path_carries_nothing_and_breaks_connections_when_it_stays_cut() {
    let (sim, network) = (Sim::new(8), MemoryNetwork::new(8));
    let (one, two) = pair(&sim, &network);
    sim.run(async {
        until_up(&one.link).await;
        until_up(&two.link).await;
        one.seams.sleep(Duration::from_millis(50)).await;
        network.set_cut(ThreadId(1), ThreadId(2), true);
        one.link.send(TWO, Lane::Control, 1, body(1)).expect("queued");
        one.link.send(TWO, Lane::Heartbeat, 2, body(1)).expect("sent in vain");
        two.link.send(ONE, Lane::Heartbeat, 3, body(1)).expect("sent");
        assert_eq!(next_frame(&one.link).await.2, 3, "the other way is open");
        one.seams.sleep(Duration::from_millis(500)).await;
        network.heal();
        assert_eq!(next_frame(&two.link).await.2, 1, "a control frame is sent again until it gets through");
        network.set_cut(ThreadId(2), ThreadId(1), true);
        assert_eq!(until_down(&one.link).await, DownReason::Silent);
        network.heal();
        until_up(&one.link).await;
    });
    assert!(network.happened().cut > 0 && network.happened().silent > 0);
}

#[test]
fn queues_are_bounded() {
    let (sim, network) = (Sim::new(9), MemoryNetwork::new(9));
    let (one, two) = pair(&sim, &network);
    sim.run(async {
        until_up(&one.link).await;
        let mut queued = 0;
        // Nobody takes what arrives at the other.
        while one.link.send(TWO, Lane::Control, 1, body(queued)).is_ok() {
            queued += 1;
            one.seams.sleep(Duration::from_micros(10)).await;
            assert!(queued < 10_000);
        }
        assert_eq!(one.link.send(TWO, Lane::Control, 1, body(0)), Err(SendError::Full(TWO)));
        for expected in 0..queued {
            assert_eq!(number(&next_frame(&two.link).await.3), expected);
        }
        let mut asked: Vec<_> = (0..257).map(|_| one.link.request(TWO, 1, Bytes::new())).collect();
        let last = asked.pop().expect("as many");
        for request in asked {
            one.seams.spawn("request", Box::pin(async move { drop(request.await) }));
        }
        one.seams.sleep(Duration::from_millis(1)).await;
        assert_eq!(last.await, Err(RequestError::Full(TWO)));
        let long = Bytes::from(vec![0; Lane::Control.body_max() + 1]);
        assert!(matches!(one.link.send(TWO, Lane::Control, 1, long), Err(SendError::TooLong { .. })));
        assert_eq!(one.link.send(TWO, Lane::Block, 1, body(0)), Err(SendError::WrongLane));
        assert_eq!(one.link.send(Peer::guard(ThreadId(2)), Lane::Heartbeat, 1, body(0)), Err(SendError::WrongLane));
    });
}
