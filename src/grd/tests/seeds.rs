//! Random histories: work, joins and leaves under it; deaths, after which what the dead had stays untouched.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::world::{Counts, World};
use crate::base::ThreadId;

fn seeds() -> u64 {
    std::env::var("REGROUP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

fn for_each_seed(run: impl Fn(u64) -> Counts) -> Counts {
    let only = std::env::var("REGROUP_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let mut total = Counts::default();
    for seed in only.map_or(0..seeds(), |seed| seed..seed + 1) {
        let counts = match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(counts) => counts,
            Err(panic) => {
                eprintln!("REGROUP_SEED={seed} replays this");
                std::panic::resume_unwind(panic);
            }
        };
        total.transfers += counts.transfers;
        total.again += counts.again;
        total.voids += counts.voids;
        total.later += counts.later;
        total.images += counts.images;
        total.notices += counts.notices;
        total.reinstated += counts.reinstated;
        total.crossings += counts.crossings;
        total.upgrades += counts.upgrades;
        total.views += counts.views;
        total.changes += counts.changes;
        total.parked += counts.parked;
    }
    total
}

/// Runs `body`; when it panics, tells what happened before.
fn told(world: &mut World, body: impl FnOnce(&mut World)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(world))) {
        eprintln!("{}", world.describe());
        std::panic::resume_unwind(panic);
    }
}

fn come_and_go(world: &mut World, next: &mut u16) {
    let members: Vec<ThreadId> = world.view.members.iter().copied().collect();
    let leaver = world.nodes.iter().find(|(_, node)| node.leaving).map(|(id, _)| *id);
    match leaver {
        Some(id) if world.is_quit(id) => world.leave(id),
        Some(_) => {}
        None if members.len() > 2 && world.random.chance(0.5) => {
            let id = *world.random.pick(&members);
            if let Some(node) = world.nodes.get_mut(&id) {
                node.leaving = true;
            }
        }
        None if members.len() < 5 => {
            let all: BTreeSet<ThreadId> = members.into_iter().chain([ThreadId(*next)]).collect();
            *next += 1;
            world.change_view(all, BTreeSet::new());
        }
        None => {}
    }
}

#[test]
fn one_exclusive_holder_and_no_version_lost_while_members_come_and_go() {
    let total = for_each_seed(|seed| {
        let mut world = World::new(seed, 2 + (seed % 3) as u16, 1 + seed % 7);
        let mut next = 10;
        told(&mut world, |world| {
            for step in 0..4000 {
                world.happen(true);
                if step % 50 == 0 {
                    come_and_go(world, &mut next);
                }
            }
            world.settle();
            for resource in world.resources.clone() {
                assert_eq!(world.disk.get(&resource), world.latest.get(&resource), "{resource} is written at the end");
            }
        });
        world.counts
    });
    let Counts { transfers, again, voids, later, images, notices, reinstated, crossings, upgrades, views, changes, parked } = total.clone();
    let reached = [transfers, again, voids, later, images, notices, reinstated, crossings, upgrades, views, changes];
    assert!(reached.iter().all(|count| *count > 0), "not reached: {total:?}");
    assert_eq!(parked, 0, "nobody died");
}

#[test]
fn after_a_death_nobody_gets_what_may_be_old() {
    let total = for_each_seed(|seed| {
        let mut world = World::new(seed, 3 + (seed % 3) as u16, 1 + seed % 7);
        told(&mut world, |world| {
            for step in 0..3000 {
                world.happen(true);
                if step == 1000 || step == 2000 && seed % 2 == 0 {
                    let members: Vec<ThreadId> = world.view.members.iter().copied().collect();
                    let id = *world.random.pick(&members);
                    world.kill(id);
                }
            }
        });
        world.counts
    });
    assert!(total.parked > 0 && total.changes > 0, "not reached: {total:?}");
}
