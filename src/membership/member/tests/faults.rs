//! Random faults from a seed: whatever happens, one view per epoch and no service beyond eviction and lease; and when the faults end, the
//! cluster comes together again.

use std::time::Duration;

use super::world::World;
use crate::membership::sector::VotingId;

/// `MEMBERSHIP_SEED=n` runs that seed alone, `MEMBERSHIP_SEEDS=n` as many from 0 on.
fn seeds() -> Vec<u64> {
    match std::env::var("MEMBERSHIP_SEED") {
        Ok(seed) => vec![seed.parse().expect("a seed is a number")],
        Err(_) => (0..std::env::var("MEMBERSHIP_SEEDS").map_or(60, |count| count.parse().expect("a count"))).collect(),
    }
}

fn fault(world: &mut World) {
    let nodes = world.nodes.len();
    let files: Vec<VotingId> = world.disks.keys().copied().collect();
    let node = world.random.index(nodes);
    let file = *world.random.pick(&files);
    let ms = world.random.within(50..4000);
    let until = world.now + Duration::from_millis(ms);
    match world.random.below(11) {
        0 => {
            world.kill(node);
            world.start(node);
        }
        1 => world.freeze(node, ms),
        2 => {
            let other = world.random.index(nodes);
            world.cut.push((node, other));
        }
        3 => {
            let side = world.random.bits();
            let (one, other): (Vec<u16>, Vec<u16>) = (1..=nodes as u16).partition(|id| side >> id & 1 == 1);
            world.split(&one, &other);
        }
        4 => world.cut.clear(),
        5 => world.disks.get_mut(&file).expect("a file").stalled = until,
        6 => world.disks.values_mut().for_each(|disk| disk.stalled = until),
        7 => {
            world.detached.insert((node, file), until);
        }
        8 => world.loss = [0.0, 0.05, 0.5][world.random.index(3)],
        9 => world.io_delay_us = [600, 5000, 60_000, 200_000][world.random.index(4)],
        _ => world.net_delay_us = [300, 20_000, 200_000][world.random.index(3)],
    }
}

fn heal(world: &mut World) {
    world.cut.clear();
    world.loss = 0.0;
    world.io_delay_us = 600;
    world.net_delay_us = 300;
    world.fences_fail = 0.0;
    for node in 0..world.nodes.len() {
        world.start(node);
    }
}

#[test]
fn one_view_per_epoch_whatever_happens() {
    for seed in seeds() {
        let mut world = World::new(seed, 2 + (seed % 4) as u16, [1, 3, 5][seed as usize % 3]);
        world.fences_fail = 0.2;
        world.start_all();
        for _ in 0..20 {
            let pause = world.random.within(0..1500);
            world.run_ms(pause);
            fault(&mut world);
        }
        heal(&mut world);
        // The limits that the faults have raised come down, the last long stall ends, fences are confirmed.
        world.run_ms(30_000);
        let all: Vec<u16> = (1..=world.nodes.len() as u16).collect();
        assert_eq!(world.member_ids(), all, "seed {seed}: MEMBERSHIP_SEED={seed}; {}", world.newest());
        for node in 0..all.len() {
            assert!(world.serves(node), "seed {seed}: instance {} doesn't serve", node + 1);
        }
    }
}
