//! What heartbeats on the network cost when nothing else happens: four links, each beating to the three others every 100 ms.
//!
//! All four run in this process, so a quarter of its processor time is one instance's. Heartbeats on voting files are not in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use regroup::base::ThreadId;
use regroup::net::certificate::Authority;
use regroup::net::quic::QuicLink;
use regroup::net::{Lane, Link, Peer};

use super::exchange::{CLUSTER, DAY, link, wall_ms};
use super::rig::{Numbers, Rig, World};

const INSTANCES: u16 = 4;
const INTERVAL: Duration = Duration::from_millis(100);
/// A heartbeat's body: epoch, incarnation, whom it hears, room to spare.
const BODY: usize = 64;

/// Seconds of processor time that this process has used.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    // Behind the name, which may hold anything: fields 14 and 15 are user and system time in ticks of 10 ms.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// Share of a core that one instance uses.
pub(crate) fn idle(rig: &Rig) -> Numbers {
    let world = World::new();
    let time = Duration::from_secs_f64(10.0 * rig.scale);
    world.runtime.block_on(async {
        let authority = Authority::create(CLUSTER, wall_ms(), DAY).expect("an authority");
        let links: Vec<Arc<QuicLink>> = (1..=INSTANCES).map(|instance| link(&world.seams, &authority, instance)).collect();
        for (one, other) in links.iter().enumerate().flat_map(|(index, one)| links.iter().skip(index + 1).map(move |other| (one, other))) {
            one.set_peer(peer(&links, other), Some(other.address()));
            other.set_peer(peer(&links, one), Some(one.address()));
        }
        for (index, link) in links.iter().enumerate() {
            let (taking, beating) = (link.clone(), link.clone());
            tokio::spawn(async move {
                loop {
                    drop(taking.next().await);
                }
            });
            let others: Vec<Peer> =
                (1..=INSTANCES).filter(|other| usize::from(*other) != index + 1).map(|other| Peer::instance(ThreadId(other))).collect();
            tokio::spawn(async move {
                let mut interval = tokio::time::interval(INTERVAL);
                loop {
                    interval.tick().await;
                    for other in &others {
                        let _ = beating.send(*other, Lane::Heartbeat, 1, Bytes::from_static(&[1; BODY]));
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let received = |links: &[Arc<QuicLink>]| links.iter().map(|link| link.counters().received).sum::<u64>();
        let (before, beats, start) = (processor_seconds(), received(&links), Instant::now());
        tokio::time::sleep(time).await;
        let (used, beats, passed) = (processor_seconds() - before, received(&links) - beats, start.elapsed().as_secs_f64());
        let per_instance = used / passed / f64::from(INSTANCES);
        vec![("core_share", per_instance), ("heartbeats_per_second", beats as f64 / passed)]
    })
}

fn peer(links: &[Arc<QuicLink>], link: &Arc<QuicLink>) -> Peer {
    let index = links.iter().position(|other| Arc::ptr_eq(other, link)).expect("one of them");
    Peer::instance(ThreadId(index as u16 + 1))
}
