//! `clusterctl status`: what the cluster and its instances are doing.
//!
//! The JSON object has exactly these fields: `cluster`, `epoch`, `coordinator`, `instances` (each with `id`, `state`, `pid`, `guard_pid`,
//! `incarnation`, `postgres`), `recovery`. What isn't known is null. `docs/clusterctl.md` says what each means.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::Serialize;
use serde_json::Value;

use super::admin::State;
use super::layout::ClusterDir;
use super::observe::{Observed, observe, read_cluster};
use super::{CommandError, on_runtime};
use crate::base::options::DiskKind;

/// How to show it.
#[derive(ClapArgs)]
pub struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The whole cluster.
#[derive(Serialize)]
struct Cluster {
    /// Its id, in hexadecimal; null when no storage file can tell it.
    cluster: Option<String>,
    /// The present epoch, or the last one.
    epoch: Option<u64>,
    /// The instance that leads recovery and membership; null while none is open.
    coordinator: Option<u16>,
    instances: Vec<Instance>,
    /// Recovery under way, else the last one's report; null when there was none.
    recovery: Option<Value>,
}

/// One instance.
#[derive(Serialize)]
struct Instance {
    id: u16,
    state: State,
    pid: Option<u32>,
    /// The process that guards it; null, as there are no guards yet.
    guard_pid: Option<u32>,
    incarnation: Option<u64>,
    postgres: Option<String>,
}

/// Shows the state. True whatever the state is: the command found out.
///
/// # Errors
/// There is no cluster, or its configuration can't be used.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let ids = cluster.instances()?;
    let (found, complaints) = on_runtime(DiskKind::Threads, async |seams, disk| {
        let mut observed = Vec::new();
        for id in ids {
            observed.push(observe(&seams, &disk, &cluster, &cluster.config(id)?).await?);
        }
        let mut complaints: Vec<String> = observed.iter().filter_map(|instance| instance.complaint.clone()).collect();
        let id = match read_cluster(&disk, &cluster.config(1)?.storage.paths()).await {
            Ok(id) => Some(id.to_string()),
            Err(error) => {
                complaints.push(format!("the cluster's id can't be read: {error}"));
                None
            }
        };
        Ok((Cluster::of(id, observed), complaints))
    })?;
    for complaint in complaints {
        eprintln!("warning: {complaint}");
    }
    if args.json {
        println!("{}", serde_json::to_string(&found)?)
    } else {
        found.print()
    }
    Ok(true)
}

impl Cluster {
    fn of(cluster: Option<String>, observed: Vec<Observed>) -> Cluster {
        let epoch = observed.iter().filter_map(|instance| instance.epoch).max();
        let coordinator = observed.iter().filter(|instance| instance.state == State::Open).map(|instance| instance.id).min();
        let recovery = newest_recovery(&observed);
        let instances = observed
            .into_iter()
            .map(|instance| Instance {
                id: instance.id,
                state: instance.state,
                pid: instance.process.map(|process| process.pid),
                guard_pid: None,
                incarnation: instance.incarnation,
                postgres: instance.postgres.map(|address| address.to_string()),
            })
            .collect();
        Cluster { cluster, epoch, coordinator, instances, recovery }
    }

    fn print(&self) {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        println!(
            "cluster {}, epoch {}, coordinator {}",
            or_none(self.cluster.clone()),
            or_none(self.epoch.map(|epoch| epoch.to_string())),
            or_none(self.coordinator.map(|id| id.to_string()))
        );
        println!("{:>8}  {:<10}  {:>8}  {:>11}  POSTGRES", "INSTANCE", "STATE", "PID", "INCARNATION");
        for instance in &self.instances {
            println!(
                "{:>8}  {:<10}  {:>8}  {:>11}  {}",
                instance.id,
                instance.state.to_string(),
                or_none(instance.pid.map(|pid| pid.to_string())),
                or_none(instance.incarnation.map(|incarnation| incarnation.to_string())),
                or_none(instance.postgres.clone())
            );
        }
        if let Some(recovery) = &self.recovery {
            let when = if is_under_way(recovery) { "recovery" } else { "last recovery" };
            println!("{when}: {}", show_recovery(recovery));
        }
        if self.instances.iter().any(|instance| instance.state == State::Dead) {
            println!("an instance that is dead crashed: `clusterctl start` recovers it");
        }
    }
}

fn is_under_way(recovery: &Value) -> bool {
    recovery["under_way"] == Value::Bool(true)
}

/// The one under way, else the one that began last, with the instance that it is of.
fn newest_recovery(observed: &[Observed]) -> Option<Value> {
    let of = |instance: &Observed| {
        let mut recovery = instance.recovery.clone()?;
        recovery.as_object_mut()?.insert("instance".into(), instance.id.into());
        Some(recovery)
    };
    observed.iter().filter_map(of).max_by_key(|recovery| (is_under_way(recovery), recovery["started_ms"].as_u64()))
}

/// A recovery in a few words, under way or done.
pub fn show_recovery(recovery: &Value) -> String {
    let number = |name: &str| recovery[name].as_f64().unwrap_or(0.0);
    if is_under_way(recovery) {
        let (done, unit) = (number("done") as u64, recovery["unit"].as_str().unwrap_or("units"));
        let amount =
            |count: u64| if unit == "bytes" { format!("{:.1} MiB", count as f64 / f64::from(1 << 20)) } else { format!("{count} {unit}") };
        let total = recovery["total"].as_u64().map_or_else(String::new, |total| format!(" of {}", amount(total)));
        let left = recovery["seconds_left"].as_f64().map_or_else(String::new, |left| format!(", {left:.1} s left"));
        let phase = recovery["phase"].as_str().unwrap_or("?");
        return format!("{phase}: {}{total} after {:.1} s{left}", amount(done), number("seconds"));
    }
    let quarantined = recovery["quarantined"].as_array().map_or(0, Vec::len);
    format!(
        "instance {}, incarnation {}: {:.1} MiB of log, {} pages changed, {} torn pages mended, {quarantined} pages set apart, in {:.2} s",
        recovery["instance"],
        recovery["incarnation"],
        number("log_bytes") / f64::from(1 << 20),
        recovery["pages_changed"],
        recovery["pages_restored"],
        number("seconds")
    )
}
