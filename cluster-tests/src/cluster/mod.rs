//! A whole cluster's membership in the simulator: real guards, real members, real fencing, over simulated disks, links and processes.
//!
//! `host` is a host with its guard and the lives that the guard starts, `oracle` watches what no run may show, `trouble` draws and
//! inflicts faults. Nothing of the product is replaced but what lies behind its seams.

pub mod host;
pub mod oracle;
pub mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use regroup::base::sim::Sim;
use regroup::base::{ClusterId, Random, Seams, ThreadId};
use regroup::disk::Disk;
use regroup::disk::memory::{MemoryDisk, MemoryMedia};
use regroup::membership::{Options, View};
use regroup::net::memory::MemoryNetwork;
use regroup::node::guard::voting;
use regroup::page::superblock::Shape;

use host::Host;
use oracle::Oracle;

/// The cluster of these tests.
pub const CLUSTER: ClusterId = ClusterId(*b"simulatedregroup");

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Instances, each on a host of its own.
    pub instances: u16,
    /// Voting files.
    pub files: u16,
    /// Whether all hosts are one machine: locks prove deaths between them.
    pub one_machine: bool,
    /// Membership's options.
    pub options: Options,
}

impl Plan {
    /// 2 to 5 instances, 1, 3 or 5 voting files, as `seed` says.
    pub fn drawn(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x706c_616e);
        let files = *random.pick(&[1, 3, 3, 3, 5]);
        let one_machine = random.chance(0.4);
        Plan { instances: 2 + random.below(4) as u16, files, one_machine, options: Options::default() }
    }
}

/// The cluster and the world around it.
pub struct Cluster {
    /// The simulation.
    pub sim: Sim,
    /// The test's own clock.
    pub clock: Seams,
    /// The storage.
    pub media: MemoryMedia,
    /// The interconnect.
    pub network: MemoryNetwork,
    /// Instance 1 first.
    pub hosts: Vec<Host>,
    /// What watches.
    pub oracle: Arc<Oracle>,
    /// As asked for.
    pub plan: Plan,
}

/// The voting files' paths.
pub fn voting_paths(files: u16) -> Vec<PathBuf> {
    (1..=files).map(|number| PathBuf::from(format!("voting.{number}"))).collect()
}

/// The file that stands for all pages: instances write there when they serve.
pub fn data_path() -> PathBuf {
    PathBuf::from("data.0")
}

fn shape(instances: u16) -> Shape {
    Shape { cluster: CLUSTER, threads: instances, data_files: 1, ring_bytes: 8 << 20, data_bytes: 1 << 20, grow: false, created_ms: 0 }
}

impl Cluster {
    /// Makes the files, and hosts on which nothing runs yet.
    pub fn new(seed: u64, plan: Plan) -> Cluster {
        if std::env::var_os("RUST_LOG").is_some() {
            // Two clusters in one test share it.
            let _ = tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .try_init();
        }
        let sim = Sim::new(seed).step_limit(200_000_000);
        let (media, network, clock) = (MemoryMedia::new(seed), MemoryNetwork::new(seed), sim.runtime());
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, clock.clone()));
        sim.run(async {
            let ids: Vec<_> = (0..plan.files).map(|_| voting::new_id(&clock)).collect();
            let genesis = View::genesis(&ids);
            for ((number, path), id) in (0..).zip(voting_paths(plan.files)).zip(ids) {
                let made = voting::create(&disk, &path, shape(plan.instances), number, id, Some(&genesis)).await;
                made.expect("a voting file can be made");
            }
            let access = regroup::disk::Access::Create(ThreadId(1), 1 << 20);
            disk.open(&data_path(), access).expect("a data file can be made");
        });
        drop(disk);
        let oracle = Arc::new(Oracle::new(&media));
        let hosts = (1..=plan.instances).map(ThreadId).map(|id| Host::new(id, &sim, &media, &network, &oracle, &plan)).collect();
        Cluster { sim, clock, media, network, hosts, oracle, plan }
    }

    /// The host of instance `id`.
    pub fn host(&self, id: u16) -> &Host {
        &self.hosts[usize::from(id) - 1]
    }

    /// Starts every guard.
    pub fn start_all(&self) {
        self.hosts.iter().for_each(Host::start);
    }

    /// Waits until every instance serves in one and the same view, and no fence is unconfirmed.
    ///
    /// # Panics
    /// When that takes longer than `within`.
    pub async fn whole(&self, within: Duration) {
        let since = self.clock.now();
        loop {
            let views: Vec<_> = self.hosts.iter().map(Host::serving_view).collect();
            if let Some(Some(first)) = views.first()
                && views.iter().all(|view| view.as_ref().is_some_and(|view| view == first))
                && first.members.len() == self.hosts.len()
                && first.unconfirmed.is_empty()
            {
                return;
            }
            if self.clock.now().since(since) > within {
                let states: Vec<String> = self.hosts.iter().map(Host::state).collect();
                panic!("not whole again after {} s: {}", within.as_secs(), states.join("; "));
            }
            self.clock.sleep(Duration::from_millis(50)).await;
        }
    }
}
