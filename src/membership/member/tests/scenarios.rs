//! What happens in the cases that matter, at default settings.

use super::world::World;
use crate::base::{Epoch, Incarnation, Instant, ThreadId};
use crate::membership::ballot;
use crate::membership::heartbeat::{Host, head};
use crate::membership::io::{Event, Input, Output, StopReason};
use crate::membership::member::{Member, Start};
use crate::membership::paxos::{Ballot, Block};
use crate::membership::sector::{Place, SECTOR, SECTORS_AT, SectorKind, VotingId};
use crate::membership::view::Change;

/// A cluster in service.
fn running(seed: u64, count: u16, files: u64) -> World {
    let mut world = World::new(seed, count, files);
    world.start_all();
    world.run_ms(3000);
    assert_eq!(world.member_ids(), (1..=count).collect::<Vec<_>>(), "seed {seed}");
    assert!((0..usize::from(count)).all(|node| world.serves(node)), "seed {seed}: somebody doesn't serve");
    world
}

fn ms(from: Instant, to: Instant) -> u64 {
    to.since(from).as_millis() as u64
}

#[test]
fn a_cluster_forms_and_stays_as_it_is() {
    for (count, files) in [(1, 1), (2, 1), (3, 3), (4, 5), (8, 3)] {
        let mut world = running(u64::from(count), count, files);
        let epoch = world.newest().epoch;
        world.run_ms(20_000);
        assert_eq!(world.newest().epoch, epoch);
        assert_eq!(world.count(|event| matches!(event, Event::Suspected { .. } | Event::Parked(_))), 0);
    }
}

#[test]
fn a_silent_host_is_out_within_a_second() {
    let mut worst = 0;
    for seed in 0..30 {
        let mut world = running(seed, 4, 3);
        world.random.bits();
        world.run_ms(seed * 7 % 200);
        world.node_of(3).restarts = false;
        world.freeze(2, 60_000);
        let at = world.now;
        world.run_ms(1500);
        assert_eq!(world.member_ids(), [1, 2, 4]);
        worst = worst.max(ms(at, world.decided.values().find(|(when, _)| *when > at).expect("decided").0));
    }
    assert!(worst <= 1000, "{worst} ms");
}

#[test]
fn a_guards_report_skips_suspicion() {
    let mut world = running(5, 4, 3);
    world.node_of(2).restarts = false;
    world.kill(1);
    let (at, incarnation) = (world.now, world.newest().member(ThreadId(2)).expect("member").incarnation);
    for node in [0, 2, 3] {
        world.give(node, Input::PeerDied { id: ThreadId(2), incarnation, drained: true });
    }
    world.run_ms(300);
    assert_eq!(world.member_ids(), [1, 3, 4]);
    assert!(world.newest().unconfirmed.is_empty() && world.newest().confirmed.len() == 1);
    let decided = world.decided.values().next_back().expect("decided").0;
    assert!(ms(at, decided) <= 50, "{} ms", ms(at, decided));
}

#[test]
fn one_survivor_goes_on() {
    let mut world = running(6, 4, 3);
    for node in 1..4 {
        world.nodes[node].restarts = false;
        world.kill(node);
    }
    world.run_ms(2500);
    assert_eq!(world.member_ids(), [1]);
    assert!(world.serves(0) && world.newest().unconfirmed.is_empty(), "{}", world.newest());
}

#[test]
fn a_restarted_instance_comes_back_as_another_life() {
    let mut world = running(7, 3, 3);
    let before = world.newest().member(ThreadId(2)).expect("member").incarnation;
    world.kill(1);
    world.start(1);
    world.run_ms(3000);
    assert_eq!(world.member_ids(), [1, 2, 3]);
    assert!(world.newest().member(ThreadId(2)).expect("member").incarnation > before);
    assert!((0..3).all(|node| world.serves(node)));
}

#[test]
fn the_larger_side_wins_and_on_a_tie_the_lowest() {
    for (seed, one, other, stays) in
        [(1, vec![1], vec![2, 3], vec![2, 3]), (2, vec![1, 2], vec![3, 4], vec![1, 2]), (3, vec![1], vec![2], vec![1])]
    {
        let count = one.len() + other.len();
        let mut world = running(seed, count as u16, 3);
        world.nodes.iter_mut().for_each(|node| node.restarts = false);
        world.split(&one, &other);
        world.run_ms(4000);
        assert_eq!(world.member_ids(), stays, "seed {seed}");
        assert!(stays.iter().all(|id| world.serves(usize::from(*id) - 1)));
    }
}

#[test]
fn a_one_way_cut_puts_the_higher_end_out() {
    let mut world = running(4, 3, 3);
    world.nodes.iter_mut().for_each(|node| node.restarts = false);
    world.cut.push((1, 2));
    world.run_ms(4000);
    assert_eq!(world.member_ids(), [1, 2]);
}

#[test]
fn storage_that_stalls_for_everybody_evicts_nobody() {
    for stall_ms in [700, 3000, 30_000] {
        let mut world = running(stall_ms, 4, 3);
        let epoch = world.newest().epoch;
        let until = world.now + std::time::Duration::from_millis(stall_ms);
        world.disks.values_mut().for_each(|disk| disk.stalled = until);
        world.run_ms(stall_ms - 10);
        assert!(world.nodes.iter().all(|node| node.parked), "parked");
        world.run_ms(3000);
        assert_eq!(world.newest().epoch, epoch);
        assert!((0..4).all(|node| world.serves(node)), "resumed");
    }
}

#[test]
fn storage_that_fails_for_everybody_and_comes_back_evicts_nobody() {
    let mut world = running(11, 4, 3);
    let epoch = world.newest().epoch;
    world.disks.values_mut().for_each(|disk| disk.broken = true);
    world.run_ms(5000);
    assert!((0..4).all(|node| !world.serves(node)));
    world.disks.values_mut().for_each(|disk| disk.broken = false);
    world.run_ms(2000);
    assert!((0..4).all(|node| world.serves(node)) && world.newest().epoch == epoch);
}

/// Whoever is heard neither over the network nor on the voting files while nobody can read these isn't silent: nobody was listening (rule 4).
#[test]
fn storage_that_fails_together_with_the_network_evicts_nobody_when_it_comes_back() {
    let mut world = running(15, 3, 3);
    let epoch = world.newest().epoch;
    world.disks.values_mut().for_each(|disk| disk.broken = true);
    world.cut = (0..3).flat_map(|one| (0..3).filter(move |other| *other != one).map(move |other| (one, other))).collect();
    world.run_ms(5000);
    world.disks.values_mut().for_each(|disk| disk.broken = false);
    world.run_ms(50);
    world.cut.clear();
    world.run_ms(3000);
    assert!((0..3).all(|node| world.serves(node)) && world.newest().epoch == epoch, "nobody was put out");
}

#[test]
fn a_minority_of_voting_files_may_stall_or_fail() {
    let mut world = running(12, 3, 3);
    let epoch = world.newest().epoch;
    world.disks.get_mut(&VotingId(11)).expect("a file").broken = true;
    world.run_ms(3000);
    assert!((0..3).all(|node| world.serves(node)) && world.newest().epoch == epoch);
    assert_eq!(world.count(|event| matches!(event, Event::FileFailed { .. })), 3, "each says so once");
    world.kill(2);
    world.run_ms(2000);
    world.disks.get_mut(&VotingId(11)).expect("a file").broken = false;
    world.run_ms(5000);
    assert!(world.serves(0) && world.serves(1));
}

#[test]
fn whoever_loses_the_majority_alone_parks_and_is_put_out_late() {
    let mut world = running(13, 3, 3);
    let forever = world.now + std::time::Duration::from_secs(1000);
    for file in [11, 22] {
        world.detached.insert((1, VotingId(file)), forever);
    }
    world.run_ms(3000);
    assert!(!world.serves(1) && world.serves(0) && world.serves(2));
    assert_eq!(world.member_ids(), [1, 2, 3], "its heartbeat still moves on one file");
    world.detached.insert((1, VotingId(33)), forever);
    world.run_ms(8000);
    assert_eq!(world.member_ids(), [1, 2, 3]);
    world.run_ms(4000);
    assert_eq!(world.member_ids(), [1, 3]);
}

#[test]
fn stopped_for_less_than_the_timeouts_nothing_happens() {
    let mut world = running(14, 3, 3);
    let epoch = world.newest().epoch;
    world.freeze(1, 450);
    world.run_ms(3000);
    assert_eq!(world.newest().epoch, epoch);
    assert!((0..3).all(|node| world.serves(node)));
}

#[test]
fn whoever_wakes_up_suspects_nobody_and_learns_its_eviction_from_the_voting_files() {
    let mut world = running(15, 2, 3);
    // Its fence doesn't reach it: it wakes up as a zombie.
    world.fences_fail = 1.0;
    world.node_of(2).restarts = false;
    world.freeze(1, 5000);
    world.run_ms(2000);
    assert_eq!(world.member_ids(), [1]);
    assert!(!world.newest().unconfirmed.is_empty());
    world.run_ms(5000);
    assert_eq!(world.nodes[0].stops.len(), 0);
    assert!(matches!(world.nodes[1].stops[..], [(_, StopReason::Evicted { .. }), ..]), "{:?}", world.nodes[1].stops);
    assert_eq!(world.newest().unconfirmed.len(), 1, "its fence stays unknown");
    // A new life on the same host has the locks of the old one: that is the proof.
    world.start(1);
    world.run_ms(2000);
    assert_eq!(world.member_ids(), [1, 2]);
    assert!(world.newest().unconfirmed.is_empty());
}

#[test]
fn everybody_stopped_at_once_and_woken_evicts_nobody() {
    let mut world = running(16, 4, 3);
    let epoch = world.newest().epoch;
    (0..4).for_each(|node| world.freeze(node, 8000));
    world.run_ms(12_000);
    assert_eq!(world.newest().epoch, epoch);
    assert!((0..4).all(|node| world.serves(node)));
}

#[test]
fn leaving_is_clean_and_the_last_one_out_leaves_an_empty_view() {
    let mut world = running(17, 3, 3);
    for (node, left) in [(1, vec![1, 3]), (0, vec![3]), (2, vec![])] {
        world.give(node, Input::Leave);
        world.run_ms(1500);
        assert_eq!(world.member_ids(), left);
        assert!(world.newest().unconfirmed.is_empty() && world.newest().confirmed.is_empty());
        assert!(matches!(world.nodes[node].stops.last(), Some((_, StopReason::Left { .. }))));
    }
    world.start(2);
    world.run_ms(500);
    assert_eq!(world.member_ids(), [3], "nobody to wait for");
}

#[test]
fn after_all_died_whoever_starts_forms_the_next_view_and_the_others_are_fenced_first() {
    let mut world = running(18, 3, 3);
    (0..3).for_each(|node| world.kill(node));
    world.run_ms(5000);
    world.start(2);
    world.run_ms(2500);
    assert_eq!(world.member_ids(), [3]);
    assert!(world.newest().unconfirmed.is_empty(), "confirmed: {}", world.newest());
    world.start(0);
    world.start(1);
    world.run_ms(3000);
    assert_eq!(world.member_ids(), [1, 2, 3]);
}

#[test]
fn a_voting_file_is_replaced_online_and_the_old_one_counts_no_more() {
    use crate::membership::sector::{format_region, region_bytes};
    let mut world = running(19, 3, 3);
    let new = VotingId(44);
    let mut region = format_region(super::world::CLUSTER, new, None);
    region.truncate(region_bytes(3));
    world.disks.insert(new, super::world::Disk { region, stalled: Instant(0), broken: false });
    world.disks.get_mut(&VotingId(22)).expect("a file").broken = true;
    world.run_ms(1000);
    for node in [0, 2] {
        world.give(node, Input::Opened { file: new });
    }
    world.give(1, Input::Replace { position: 1, file: new });
    world.run_ms(2000);
    assert_eq!(world.newest().voting, [VotingId(11), new, VotingId(33)]);
    assert!((0..3).all(|node| world.serves(node)));
    // The old file and one of the others: no majority any more.
    world.disks.get_mut(&VotingId(22)).expect("a file").broken = false;
    for file in [11, 44] {
        world.disks.get_mut(&VotingId(file)).expect("a file").broken = true;
    }
    world.run_ms(2000);
    assert!((0..3).all(|node| !world.serves(node)));
}

#[test]
fn a_file_restored_from_an_old_copy_is_not_believed() {
    let mut world = running(20, 2, 3);
    let old = world.disks[&VotingId(11)].region.clone();
    world.kill(1);
    world.run_ms(3000);
    world.disks.get_mut(&VotingId(11)).expect("a file").region = old;
    world.run_ms(1500);
    let went_back = |event: &Event| matches!(event, Event::FileFailed { why: crate::membership::io::FileTrouble::WentBack { .. }, .. });
    assert_eq!(world.count(went_back), 1);
    assert!(world.serves(0), "the other two are a majority");
}

/// A process that asks the voting files of `world` alone: what it says within `ms`.
fn bystander(world: &mut World, start: Start, ms: u64) -> Vec<Event> {
    let mut member = Member::new(start, world.now);
    let mut events = Vec::new();
    for _ in 0..ms / 25 {
        world.run_ms(25);
        let mut inputs = vec![Input::Tick];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            member.step(world.now, input, &mut out);
            for output in out {
                match output {
                    Output::Read { file, ticket } => {
                        inputs.push(Input::Read { file, ticket, result: Ok(world.disks[&file].region.clone()) })
                    }
                    Output::Event(event) => events.push(event),
                    Output::Write { .. } => panic!("writes before its predecessor is proven dead"),
                    _ => {}
                }
            }
        }
    }
    events
}

fn start_of(world: &World, id: u16, host: Host) -> Start {
    Start {
        cluster: super::world::CLUSTER,
        id: ThreadId(id),
        threads: world.nodes.len() as u16,
        host,
        files: world.disks.keys().copied().collect(),
        incarnation_floor: Incarnation(0),
        confirmed: None,
        random: 1,
        options: world.options.clone(),
    }
}

const ELSEWHERE: Host = Host { machine: [99; 16], boot: [99; 16] };

#[test]
fn a_second_process_with_a_live_identity_is_refused() {
    let mut world = running(21, 2, 3);
    let incarnation = world.newest().member(ThreadId(2)).expect("member").incarnation;
    let start = start_of(&world, 2, ELSEWHERE);
    assert_eq!(bystander(&mut world, start, 2000), [Event::Stop(StopReason::LiveIdentity { incarnation })]);
    // Two machines with one id: as if this one had booted again.
    let rebooted = Host { boot: [98; 16], ..world.nodes[1].host };
    let start = start_of(&world, 2, rebooted);
    assert_eq!(bystander(&mut world, start, 2000), [Event::Stop(StopReason::LiveIdentity { incarnation })]);
    assert_eq!(world.nodes[1].stops.len(), 0);
}

#[test]
fn a_dead_identity_moves_to_another_host_only_with_proof() {
    let mut world = running(22, 2, 3);
    let incarnation = world.newest().member(ThreadId(2)).expect("member").incarnation;
    (0..2).for_each(|node| world.kill(node));
    world.run_ms(1000);
    let host = world.nodes[1].host;
    let start = start_of(&world, 2, ELSEWHERE);
    assert_eq!(bystander(&mut world, start, 2000), [Event::Stop(StopReason::Unproven { incarnation, host })]);
    // The other instance evicts and fences it; then the view is the proof.
    world.start(0);
    world.run_ms(3000);
    assert_eq!(world.member_ids(), [1]);
    world.nodes[1].host = ELSEWHERE;
    world.start(1);
    world.run_ms(2000);
    assert_eq!(world.member_ids(), [1, 2]);
}

#[test]
fn no_lease_from_a_file_that_shows_an_accepted_ballot_of_a_later_epoch() {
    let mut world = World::new(23, 3, 3);
    world.options.stagger_ms = 10_000;
    world.start(0);
    world.run_ms(3000);
    assert!(world.serves(0));
    let view = world.newest().next(ThreadId(2), &Change { evict: vec![(world.newest().members[0], None)], ..Change::default() });
    let by = Ballot { round: 9, by: ThreadId(2) };
    for (value, epoch) in [(Some(view.clone()), view.epoch.0), (None, view.epoch.0 + 1)] {
        let accepted = if value.is_some() { by } else { Ballot::default() };
        let block = Block { epoch: Epoch(epoch), tried: by, accepted, value };
        let clean: Vec<_> = world.disks.iter().map(|(id, disk)| (*id, disk.region.clone())).collect();
        for (file, disk) in &mut world.disks {
            let place = Place { cluster: super::world::CLUSTER, file: *file, instance: ThreadId(2), kind: SectorKind::Ballot };
            let head = head(Incarnation(1), epoch, Epoch(1), &[]);
            let at = (SectorKind::Ballot.at(ThreadId(2)) - SECTORS_AT) as usize;
            disk.region[at..at + SECTOR].copy_from_slice(&ballot::encode_sector(&block, &place, &head)[..]);
        }
        world.run_ms(800);
        assert!(world.nodes[0].parked, "a view without it may be decided");
        assert_eq!(world.newest().epoch.0 + 1, view.epoch.0);
        for (file, region) in clean {
            world.disks.get_mut(&file).expect("a file").region = region;
        }
        world = World::new(23, 3, 3);
        world.options.stagger_ms = 10_000;
        world.start(0);
        world.run_ms(3000);
    }
}

#[test]
fn a_dead_proposers_accepted_ballot_is_finished_if_it_may_be_chosen() {
    let mut world = running(24, 3, 1);
    world.nodes.iter_mut().for_each(|node| node.restarts = false);
    let newest = world.newest().clone();
    let out = newest.members[2];
    let view = newest.next(ThreadId(3), &Change { evict: vec![(out, None)], ..Change::default() });
    let by = Ballot { round: 9, by: ThreadId(3) };
    world.freeze(2, 60_000);
    let disk = world.disks.get_mut(&VotingId(11)).expect("a file");
    let place = Place { cluster: super::world::CLUSTER, file: VotingId(11), instance: ThreadId(3), kind: SectorKind::Ballot };
    let block = Block { epoch: view.epoch, tried: by, accepted: by, value: Some(view.clone()) };
    let at = (SectorKind::Ballot.at(ThreadId(3)) - SECTORS_AT) as usize;
    disk.region[at..at + SECTOR].copy_from_slice(&ballot::encode_sector(&block, &place, &head(out.incarnation, 99, newest.epoch, &[]))[..]);
    world.run_ms(1000);
    assert_eq!(*world.decided[&view.epoch].1, view, "the leftover is that epoch's view");
}
