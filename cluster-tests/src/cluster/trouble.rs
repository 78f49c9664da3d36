//! Faults: what a seed draws, how each is inflicted and taken back.

use std::ops::Range;
use std::time::Duration;

use regroup::base::{Random, ThreadId};
use regroup::disk::memory::{Fault, FaultKind, Operation};
use regroup::net::memory::Faults;

use super::{Cluster, voting_paths};

/// A kind of fault. `All` says how often each came up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trouble {
    /// Packets take long, at random.
    Delay,
    /// Packets overtake each other.
    Reorder,
    /// Heartbeats come twice.
    Duplicate,
    /// Packets get lost.
    Loss,
    /// One host isn't heard by another, but hears it.
    OneWay,
    /// Two groups of hosts don't hear each other.
    Partition,
    /// A link goes and comes.
    Flapping,
    /// One host's way to storage hangs.
    StallOne,
    /// A minority of the voting files hangs for everybody.
    StallMinority,
    /// All storage hangs for everybody.
    StallAll,
    /// Reads and writes of one voting file fail.
    FileErrors,
    /// An instance is stopped for less than the time-outs.
    PauseShort,
    /// An instance is stopped for longer than the time-outs.
    PauseLong,
    /// A whole machine is stopped for longer than the time-outs.
    PauseMachine,
    /// An instance's process is killed.
    Kill,
    /// A guard is killed, and its instance with it; started again later.
    KillGuard,
    /// Guard and instance stop in order; started again later.
    Restart,
    /// A machine's clocks jump.
    Clocks,
}

impl Trouble {
    /// All kinds.
    pub const ALL: [Trouble; 18] = [
        Trouble::Delay,
        Trouble::Reorder,
        Trouble::Duplicate,
        Trouble::Loss,
        Trouble::OneWay,
        Trouble::Partition,
        Trouble::Flapping,
        Trouble::StallOne,
        Trouble::StallMinority,
        Trouble::StallAll,
        Trouble::FileErrors,
        Trouble::PauseShort,
        Trouble::PauseLong,
        Trouble::PauseMachine,
        Trouble::Kill,
        Trouble::KillGuard,
        Trouble::Restart,
        Trouble::Clocks,
    ];

    /// Its name among the oracle's counts.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Delay => "fault: delay",
            Trouble::Reorder => "fault: reorder",
            Trouble::Duplicate => "fault: duplicate",
            Trouble::Loss => "fault: loss",
            Trouble::OneWay => "fault: one-way partition",
            Trouble::Partition => "fault: partition",
            Trouble::Flapping => "fault: flapping",
            Trouble::StallOne => "fault: storage stalls for one",
            Trouble::StallMinority => "fault: a minority of voting files stalls",
            Trouble::StallAll => "fault: storage stalls for all",
            Trouble::FileErrors => "fault: errors of a voting file",
            Trouble::PauseShort => "fault: short pause",
            Trouble::PauseLong => "fault: long pause",
            Trouble::PauseMachine => "fault: machine pauses",
            Trouble::Kill => "fault: kill",
            Trouble::KillGuard => "fault: kill of guard and instance",
            Trouble::Restart => "fault: restart",
            Trouble::Clocks => "fault: clocks jump",
        }
    }
}

fn ms(random: &mut Random, range: Range<u64>) -> Duration {
    Duration::from_millis(random.within(range))
}

/// One host, at random.
fn anyone(cluster: &Cluster, random: &mut Random) -> u16 {
    1 + random.below(u64::from(cluster.plan.instances)) as u16
}

/// Inflicts a fault and takes it back after its time.
pub async fn inflict(cluster: &Cluster, trouble: Trouble, random: &mut Random) {
    cluster.oracle.count(trouble.name());
    match trouble {
        Trouble::Delay | Trouble::Reorder | Trouble::Duplicate | Trouble::Loss => network(cluster, trouble, random).await,
        Trouble::OneWay | Trouble::Partition | Trouble::Flapping => parts(cluster, trouble, random).await,
        Trouble::StallOne | Trouble::StallMinority | Trouble::StallAll | Trouble::FileErrors => storage(cluster, trouble, random).await,
        _ => processes(cluster, trouble, random).await,
    }
}

async fn network(cluster: &Cluster, trouble: Trouble, random: &mut Random) {
    let mut faults = Faults::default();
    match trouble {
        Trouble::Delay => faults.delay = Duration::from_micros(20)..ms(random, 2..400),
        Trouble::Reorder => (faults.reorder, faults.reorder_by) = (0.3, ms(random, 2..300)),
        Trouble::Duplicate => faults.duplicate = 0.5,
        _ => faults.loss = 0.1 + 0.1 * random.below(7) as f64,
    }
    cluster.network.set_faults(faults);
    cluster.clock.sleep(ms(random, 200..5000)).await;
    cluster.network.set_faults(Faults::default());
}

async fn parts(cluster: &Cluster, trouble: Trouble, random: &mut Random) {
    let (one, mut other) = (anyone(cluster, random), anyone(cluster, random));
    if one == other {
        other = one % cluster.plan.instances + 1;
    }
    let (one, other) = (ThreadId(one), ThreadId(other));
    match trouble {
        Trouble::OneWay => {
            cluster.network.set_cut(one, other, true);
            cluster.clock.sleep(ms(random, 100..8000)).await;
        }
        Trouble::Partition => {
            let sides: Vec<bool> = (0..cluster.plan.instances).map(|_| random.chance(0.5)).collect();
            for (a, side) in (1..).map(ThreadId).zip(&sides) {
                for (b, far) in (1..).map(ThreadId).zip(&sides) {
                    if side != far {
                        cluster.network.set_cut(a, b, true);
                    }
                }
            }
            cluster.clock.sleep(ms(random, 100..8000)).await;
        }
        _ => {
            for _ in 0..random.within(3..20) {
                let cut = random.chance(0.6);
                cluster.network.set_parted(one, other, cut);
                cluster.clock.sleep(ms(random, 50..900)).await;
            }
        }
    }
    cluster.network.heal();
}

async fn storage(cluster: &Cluster, trouble: Trouble, random: &mut Random) {
    let for_ = ms(random, 100..6000);
    let until = cluster.clock.now() + for_;
    let paths = voting_paths(cluster.plan.files);
    let stall = || Fault::new(FaultKind::Stall).until(until).forever();
    match trouble {
        Trouble::StallOne => {
            let host = cluster.host(anyone(cluster, random));
            host.disks().into_iter().for_each(|disk| cluster.media.inject(stall().disk(disk)));
        }
        Trouble::StallMinority => {
            let first = random.index(paths.len());
            let minority = (paths.len() - 1) / 2;
            (0..minority).for_each(|next| cluster.media.inject(stall().file(&paths[(first + next) % paths.len()])));
        }
        Trouble::StallAll => cluster.media.inject(stall()),
        _ => {
            let path = random.pick(&paths);
            let chance = 0.1 + 0.1 * random.below(9) as f64;
            cluster.media.inject(Fault::new(FaultKind::ReadError).file(path).chance(chance).until(until).forever());
            if paths.len() > 1 && random.chance(0.5) {
                cluster
                    .media
                    .inject(Fault::new(FaultKind::WriteError).on(Operation::Write).file(path).chance(chance).until(until).forever());
            }
        }
    }
    cluster.clock.sleep(for_).await;
}

async fn processes(cluster: &Cluster, trouble: Trouble, random: &mut Random) {
    let host = cluster.host(anyone(cluster, random));
    match trouble {
        Trouble::PauseShort | Trouble::PauseLong => {
            host.pause_instance(true);
            // Short: up to where suspicion begins, and a little further, so that some are heard again while others decide.
            let range = if trouble == Trouble::PauseShort { 20..750 } else { 1000..8000 };
            cluster.clock.sleep(ms(random, range)).await;
            host.pause_instance(false);
        }
        Trouble::PauseMachine => {
            host.pause_machine(true);
            cluster.clock.sleep(ms(random, 1000..6000)).await;
            host.pause_machine(false);
        }
        Trouble::Kill => host.kill_instance(),
        Trouble::KillGuard => {
            host.kill_guard();
            cluster.clock.sleep(ms(random, 10..6000)).await;
            host.start();
        }
        Trouble::Restart => {
            host.stop();
            cluster.clock.sleep(ms(random, 500..8000)).await;
            host.kill_guard();
            host.start();
        }
        _ => {
            let wall = random.within(0..200_000) as i64 - 100_000;
            host.jump_clocks(ms(random, 1..20_000), wall);
        }
    }
}
