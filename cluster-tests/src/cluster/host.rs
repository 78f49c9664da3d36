//! A simulated host: its guard, and the lives of the instance that the guard starts.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use regroup::base::sim::{Process, Sim};
use regroup::base::{BoxFuture, Epoch, Incarnation, Seams, ThreadId};
use regroup::disk::memory::{MemoryDisk, MemoryMedia};
use regroup::disk::{Access, Buffer, Disk, Durability};
use regroup::fence::desk::Desk;
use regroup::fence::guard::{Demands, Guard as GuardMethod};
use regroup::fence::locks::{Locks, Look};
use regroup::fence::{Fencer, HostId};
use regroup::membership::heartbeat::Host as Place;
use regroup::membership::{Event, StopReason, View};
use regroup::net::memory::MemoryNetwork;
use regroup::net::{Link, Peer, hello::Local};
use regroup::node::guard::core::{Ending, exit};
use regroup::node::guard::options::GuardOptions;
use regroup::node::guard::{self, Child, ClusterSetup, Heard, Hearing, Signal};
use regroup::node::member::{Member, MemberError, Setup};
use tokio::sync::{Notify, mpsc};

use super::oracle::Oracle;
use super::{CLUSTER, Plan, data_path, voting_paths};

/// Longest time of one fence attempt.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Longest time that a leaving instance is waited for.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// What every part of a host needs.
#[derive(Clone)]
struct World {
    id: ThreadId,
    sim: Arc<dyn Fn(&str) -> Process + Send + Sync>,
    /// Of the test itself: survives every process.
    outside: Seams,
    media: MemoryMedia,
    network: MemoryNetwork,
    oracle: Arc<Oracle>,
    plan: Plan,
    place: Place,
}

/// What runs at present.
#[derive(Default)]
struct Running {
    guard: Option<(Process, mpsc::Sender<()>)>,
    guard_disk: Option<u32>,
    life: Option<Life>,
    paused: bool,
}

/// The life that runs.
#[derive(Clone)]
struct Life {
    process: Process,
    member: Arc<Mutex<Option<Arc<Member>>>>,
    heard: mpsc::UnboundedSender<Heard>,
    terminate: Arc<Notify>,
    disk: Arc<Mutex<Option<u32>>>,
}

/// A host.
pub struct Host {
    world: World,
    running: Arc<Mutex<Running>>,
}

impl Life {
    /// Ends the process at one point, and lets its I/O drain some time later.
    fn end(&self, world: &World, ending: Ending) {
        if !self.process.is_alive() {
            return;
        }
        self.process.kill();
        self.member.lock().take();
        let (world, heard) = (world.clone(), self.heard.clone());
        let outside = world.outside.clone();
        let drains = Duration::from_micros(outside.random() % 30_000);
        outside.clone().spawn(
            "kernel",
            Box::pin(async move {
                // The parent hears of the death first; what is in flight takes its time.
                let _ = heard.send(Heard::Ended(ending));
                outside.sleep(drains).await;
                world.media.settle(outside.random());
            }),
        );
    }
}

impl Child for Handle {
    fn signal(&self, signal: Signal) {
        match signal {
            Signal::Kill => self.life.end(&self.world, Ending::Signal(9)),
            Signal::Terminate => self.life.terminate.notify_one(),
        }
    }
}

/// A life with what it takes to end it.
struct Handle {
    life: Life,
    world: World,
}

struct Ears(mpsc::UnboundedReceiver<Heard>);

impl Hearing for Ears {
    fn next(mut self: Box<Self>) -> BoxFuture<(Box<dyn Hearing>, Heard)> {
        Box::pin(async move {
            match self.0.recv().await {
                Some(heard) => (self as Box<dyn Hearing>, heard),
                // Its end was told before.
                None => std::future::pending().await,
            }
        })
    }
}

/// Starts lives as simulated processes.
struct Lives {
    world: World,
    running: Arc<Mutex<Running>>,
}

impl guard::Host for Lives {
    fn start(&mut self, above: Incarnation) -> Result<(Box<dyn Child>, Box<dyn Hearing>), String> {
        let world = self.world.clone();
        let process = (world.sim)(&format!("instance {}", world.id.0));
        let (heard, ears) = mpsc::unbounded_channel();
        let life = Life { process: process.clone(), member: Arc::default(), heard, terminate: Arc::default(), disk: Arc::default() };
        let mut running = self.running.lock();
        running.life = Some(life.clone());
        if running.paused {
            process.pause();
        }
        drop(running);
        let seams = process.seams();
        let lives = (world.clone(), life.clone());
        let here = seams.clone();
        seams.spawn(
            "life",
            Box::pin(async move {
                let (world, life) = lives;
                let code = live(&here, &world, &life, above).await;
                // The process ends from outside, as it can't drop itself.
                let outside = world.outside.clone();
                outside.spawn("exit", Box::pin(async move { life.end(&world, Ending::Code(code)) }));
            }),
        );
        Ok((Box::new(Handle { life, world }), Box::new(Ears(ears))))
    }
}

/// Looks at the locks of the simulated media.
struct MediaLocks {
    media: MemoryMedia,
    files: u16,
    between_peers: bool,
}

impl Locks for MediaLocks {
    fn look(&self, instance: ThreadId) -> BoxFuture<Look> {
        let held = voting_paths(self.files).into_iter().chain([data_path()]).find(|path| self.media.is_locked(path, instance));
        Box::pin(async move { held.map_or(Look::Drained, Look::Held) })
    }

    fn prove_between_peers(&self) -> Result<(), String> {
        if self.between_peers { Ok(()) } else { Err("another machine".into()) }
    }
}

fn member_setup(seams: &Seams, world: &World, disk: Arc<dyn Disk>, above: Incarnation) -> Setup {
    let plan = &world.plan;
    let (id, network, at) = (world.id, world.network.clone(), seams.clone());
    let link = Box::new(move |incarnation, epoch| -> BoxFuture<Result<Arc<dyn Link>, String>> {
        let local = Local { cluster: CLUSTER, peer: Peer::instance(id), incarnation };
        let link = network.attach(&at, local, epoch);
        Box::pin(async move { Ok(link) })
    });
    let locks = MediaLocks { media: world.media.clone(), files: plan.files, between_peers: plan.one_machine };
    let (fences, host) = (seams.clone(), HostId(world.place.boot));
    let fencer = Box::new(move |desk: Arc<Desk>, demands: Arc<dyn Demands>| {
        let method = GuardMethod { seams: fences, desk, demands, locks: Some(Arc::new(locks)), host, attempt: ATTEMPT };
        Fencer::new(vec![Arc::new(method)])
    });
    Setup {
        seams: seams.clone(),
        disk,
        voting: voting_paths(plan.files),
        cluster: CLUSTER,
        instance: id,
        instances: plan.instances,
        options: plan.options.clone(),
        host: world.place,
        above,
        confirmed: None,
        link,
        fencer,
    }
}

/// One life from its start to its end; its exit code.
async fn live(seams: &Seams, world: &World, life: &Life, above: Incarnation) -> i32 {
    let disk = Arc::new(MemoryDisk::new(&world.media, seams.clone()));
    let number = disk.number();
    *life.disk.lock() = Some(number);
    let disk: Arc<dyn Disk> = disk;
    // The lock on every storage file comes before the incarnation.
    let Ok(data) = disk.open(&data_path(), Access::Write(world.id)) else { return exit::UNUSABLE };
    let member = match Member::start(member_setup(seams, world, disk.clone(), above)).await {
        Ok(member) => Arc::new(member),
        Err(MemberError::LiveIdentity { .. }) => return exit::UNUSABLE,
        Err(_) => return exit::NOT_OPENED,
    };
    *life.member.lock() = Some(member.clone());
    watch(seams, world, life, &member, number);
    let standing = match member.join().await {
        Ok(standing) => standing,
        Err(MemberError::Stopped { reason, .. }) => return code_of(&reason),
        Err(_) => return exit::NOT_OPENED,
    };
    let _ = life.heard.send(Heard::Joined(standing.epoch));
    let serves = serve(seams, world, &member, standing.incarnation, &disk, data);
    let mut serves = std::pin::pin!(serves);
    tokio::select! {
        biased;
        reason = member.stopped() => return code_of(&reason),
        () = life.terminate.notified() => {}
        () = &mut serves => unreachable!("serving has no end"),
    }
    let _ = life.heard.send(Heard::Leaving);
    let mut patience = seams.sleep(LEAVE_WITHIN);
    tokio::select! {
        biased;
        left = member.leave() => if left.is_ok() { exit::CLEAN } else { exit::EVICTED },
        () = &mut patience => exit::NOT_OPENED,
    }
}

fn code_of(reason: &StopReason) -> i32 {
    match reason {
        StopReason::Left { .. } => exit::CLEAN,
        StopReason::Evicted { .. } => exit::EVICTED,
        StopReason::Displaced { .. } | StopReason::LiveIdentity { .. } | StopReason::Unproven { .. } => exit::NOT_OPENED,
        StopReason::FilesFailed => exit::NOT_OPENED,
    }
}

/// Passes the member's events to the oracle and the guard.
fn watch(seams: &Seams, world: &World, life: &Life, member: &Member, number: u32) {
    let mut events = member.events();
    let (world, life) = (world.clone(), life.clone());
    seams.spawn(
        "watch",
        Box::pin(async move {
            let mut incarnation = Incarnation(0);
            while let Ok(event) = events.recv().await {
                if let Event::Announced { incarnation: drawn, .. } = &event {
                    incarnation = *drawn;
                    world.oracle.announced(world.id, incarnation, &life.process, &[number]);
                    let _ = life.heard.send(Heard::Announced(incarnation));
                }
                world.oracle.event(world.id, incarnation, &event);
            }
        }),
    );
}

/// Serves clients: works when the gate lets it, writes, and answers when the gate still lets it.
async fn serve(seams: &Seams, world: &World, member: &Member, incarnation: Incarnation, disk: &Arc<dyn Disk>, data: regroup::disk::FileId) {
    let gate = member.gate();
    let at = u64::from(world.id.0) * 4096;
    for count in 0u64.. {
        gate.pass().await;
        let mut block = vec![0; 4096];
        block[..8].copy_from_slice(&incarnation.0.to_le_bytes());
        block[8..16].copy_from_slice(&count.to_le_bytes());
        let wrote = disk.write(data, at, Buffer::copy_of(&block), Durability::Durable).await.1;
        if wrote.is_ok() && gate.is_open() {
            world.oracle.answered(world.id, incarnation);
        }
        seams.sleep(Duration::from_micros(20_000 + seams.random() % 60_000)).await;
    }
}

impl Host {
    /// A host on which nothing runs.
    pub(super) fn new(id: ThreadId, sim: &Sim, media: &MemoryMedia, network: &MemoryNetwork, oracle: &Arc<Oracle>, plan: &Plan) -> Host {
        let machine = if plan.one_machine { 1 } else { id.0 as u8 };
        let place = Place { machine: [machine; 16], boot: [machine; 16] };
        let (media, network, oracle, plan, outside) = (media.clone(), network.clone(), oracle.clone(), plan.clone(), sim.runtime());
        let main = sim.main_process();
        let world = World { id, sim: Arc::new(move |name| main.sibling(name)), outside, media, network, oracle, plan, place };
        Host { world, running: Arc::default() }
    }

    /// Starts the guard, unless it runs. It starts the instance.
    pub fn start(&self) {
        let mut running = self.running.lock();
        if running.guard.as_ref().is_some_and(|(guard, _)| guard.is_alive()) {
            return;
        }
        let world = self.world.clone();
        let process = (world.sim)(&format!("guard {}", world.id.0));
        let (stop, stopped) = mpsc::channel(1);
        running.guard = Some((process.clone(), stop));
        drop(running);
        let seams = process.seams();
        let (plan, id, network, at) = (world.plan.clone(), world.id, world.network.clone(), seams.clone());
        let connect = Box::new(move |_cluster, incarnation, epoch| -> Result<Arc<dyn Link>, String> {
            Ok(network.attach(&at, Local { cluster: CLUSTER, peer: Peer::guard(id), incarnation }, epoch))
        });
        let disk = MemoryDisk::new(&world.media, seams.clone());
        self.running.lock().guard_disk = Some(disk.number());
        let cluster = ClusterSetup {
            disk: Arc::new(disk),
            voting: voting_paths(plan.files),
            interval: Duration::from_millis(plan.options.disk_interval_ms),
            boot: HostId(world.place.boot),
            machine: world.place.machine,
            connect,
        };
        let setup = guard::Setup {
            seams: seams.clone(),
            id,
            options: GuardOptions::default(),
            host: Box::new(Lives { world: world.clone(), running: self.running.clone() }),
            locks: Arc::new(MediaLocks { media: world.media.clone(), files: plan.files, between_peers: true }),
            cluster: Some(cluster),
            stop: stopped,
        };
        let running = self.running.clone();
        seams.spawn(
            "guard",
            Box::pin(async move {
                let ended = guard::run(setup).await;
                world.oracle.count(match &ended {
                    Ok(ended) if ended.code == 0 => "guard ended: clean",
                    Ok(_) => "guard ended: gave up",
                    Err(_) => "guard ended: could not begin",
                });
                // Its death takes the child with it.
                let outside = world.outside.clone();
                outside.spawn("guard's end", Box::pin(async move { end_guard(&world, &running) }));
            }),
        );
    }

    /// SIGTERM to the guard.
    pub fn stop(&self) {
        if let Some((_, stop)) = &self.running.lock().guard {
            let _ = stop.try_send(());
        }
    }

    /// SIGKILL to the instance.
    pub fn kill_instance(&self) {
        let life = self.running.lock().life.clone();
        if let Some(life) = life {
            life.end(&self.world, Ending::Signal(9));
        }
    }

    /// SIGKILL to the guard; the instance dies with it.
    pub fn kill_guard(&self) {
        end_guard(&self.world, &self.running);
    }

    /// SIGSTOP or SIGCONT to the instance.
    pub fn pause_instance(&self, pause: bool) {
        let life = self.running.lock().life.clone();
        if let Some(life) = life {
            if pause { life.process.pause() } else { life.process.resume() }
        }
    }

    /// The whole machine stops, or goes on: guard, instance, and lives that would be started.
    pub fn pause_machine(&self, pause: bool) {
        let (life, guard) = {
            let mut running = self.running.lock();
            running.paused = pause;
            (running.life.clone(), running.guard.clone())
        };
        for process in life.iter().map(|life| &life.process).chain(guard.iter().map(|(guard, _)| guard)) {
            if pause { process.pause() } else { process.resume() }
        }
    }

    /// Clocks of the host's processes jump.
    pub fn jump_clocks(&self, ahead: Duration, wall_ms: i64) {
        let running = self.running.lock();
        for process in running.life.iter().map(|life| &life.process).chain(running.guard.iter().map(|(guard, _)| guard)) {
            process.advance_clock(ahead);
            process.set_wall_clock(wall_ms);
        }
    }

    /// Numbers of the disks through which it reaches the media.
    pub fn disks(&self) -> Vec<u32> {
        let running = self.running.lock();
        let of_guard = running.guard_disk.filter(|_| running.guard.is_some());
        running.life.as_ref().and_then(|life| *life.disk.lock()).into_iter().chain(of_guard).collect()
    }

    fn member(&self) -> Option<Arc<Member>> {
        let running = self.running.lock();
        let life = running.life.as_ref().filter(|life| life.process.is_alive())?;
        let member = life.member.lock();
        member.clone()
    }

    /// The view in which it serves at this moment.
    pub fn serving_view(&self) -> Option<Arc<View>> {
        let member = self.member()?;
        let view = member.view().borrow().clone();
        view.filter(|_| member.gate().is_open())
    }

    /// Its epoch, if it is a member.
    pub fn epoch(&self) -> Option<Epoch> {
        self.member()?.view().borrow().as_ref().map(|view| view.epoch)
    }

    /// How it stands, for a failing test.
    pub fn state(&self) -> String {
        let guard = self.running.lock().guard.as_ref().is_some_and(|(guard, _)| guard.is_alive());
        match self.member() {
            Some(member) => format!("{}: guard {guard}, {:?}", self.world.id, member.status()),
            None => format!("{}: guard {guard}, no life", self.world.id),
        }
    }
}

fn end_guard(world: &World, running: &Mutex<Running>) {
    let (guard, life) = {
        let mut running = running.lock();
        (running.guard.take(), running.life.take())
    };
    if let Some((guard, _)) = guard {
        guard.kill();
    }
    if let Some(life) = life {
        life.end(world, Ending::Signal(9));
    }
    // The guard's own I/O drains, too.
    let (media, outside) = (world.media.clone(), world.outside.clone());
    outside.clone().spawn(
        "kernel",
        Box::pin(async move {
            outside.sleep(Duration::from_micros(outside.random() % 30_000)).await;
            media.settle(outside.random());
        }),
    );
}
