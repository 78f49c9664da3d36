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
use super::votes::{self, FileState, Votes};
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
    /// The newest view, by the voting files: `epoch`, `coordinator`, `members`, `evicted` (whose fence isn't confirmed); null without voting files.
    view: Option<Value>,
    /// The voting files.
    voting: Vec<FileState>,
    /// Recovery under way, else the last one's report; null when there was none.
    recovery: Option<Value>,
}

/// One instance.
#[derive(Serialize)]
struct Instance {
    id: u16,
    state: State,
    pid: Option<u32>,
    /// The process that guards it; null when there is none.
    guard_pid: Option<u32>,
    incarnation: Option<u64>,
    postgres: Option<String>,
    /// Why it doesn't serve although it is open; null when it does, or isn't asked.
    parked: Option<Value>,
    /// What it hears of each other member: `peer`, `network_age_ms`, `disk_age_ms`, `suspected`; null when it isn't asked.
    heartbeats: Option<Value>,
}

/// Shows the state. True whatever the state is: the command found out.
///
/// # Errors
/// There is no cluster, or its configuration can't be used.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let ids = cluster.instances()?;
    let (found, complaints) = on_runtime(DiskKind::Threads, async |seams, disk| {
        let config = cluster.config(1)?;
        let votes = votes::look(&seams, &disk, &config).await;
        let local = cluster.local_instances()?;
        let mut observed = Vec::new();
        for id in ids {
            let mut seen = observe(&seams, &disk, &cluster, &cluster.config(id)?).await?;
            if !local.contains(&id) {
                elsewhere(&mut seen, &votes);
            }
            observed.push(seen);
        }
        let mut complaints: Vec<String> = observed.iter().filter_map(|instance| instance.complaint.clone()).collect();
        complaints.extend(votes.missing().iter().map(|file| {
            format!("the view names voting file {file}, but no path in storage.voting leads to it: see `clusterctl voting list`")
        }));
        let id = match read_cluster(&disk, &config.storage.paths()).await {
            Ok(id) => Some(id.to_string()),
            Err(error) => {
                complaints.push(format!("the cluster's id can't be read: {error}"));
                None
            }
        };
        Ok((Cluster::of(id, observed, &votes), complaints))
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

/// An instance of another host can be seen by the voting files only: a member counts as open.
fn elsewhere(seen: &mut Observed, votes: &Votes) {
    let Some(view) = votes.survey.newest() else { return };
    if let Some(member) = view.members.iter().find(|member| member.id.0 == seen.id) {
        (seen.state, seen.incarnation) = (State::Open, Some(member.incarnation.0));
    }
}

impl Cluster {
    fn of(cluster: Option<String>, observed: Vec<Observed>, votes: &Votes) -> Cluster {
        let view = votes.view();
        let epoch = observed.iter().filter_map(|instance| instance.epoch).chain(votes.survey.newest().map(|view| view.epoch.0)).max();
        let first_open = observed.iter().filter(|instance| instance.state == State::Open).map(|instance| instance.id).min();
        // The proposer of the newest view leads as long as it is open; then the lowest does, until the next view.
        let proposer = votes.survey.newest().map(|view| view.coordinator.0);
        let leads = |id: &u16| observed.iter().any(|instance| instance.id == *id && instance.state == State::Open);
        let coordinator = proposer.filter(leads).or(first_open);
        let recovery = newest_recovery(&observed);
        let pid = |process: Option<super::process::Identity>| process.map(|process| process.pid);
        let of_member =
            |member: &Option<Value>, name: &str| member.as_ref().map(|member| member[name].clone()).filter(|value| !value.is_null());
        let instances = observed
            .into_iter()
            .map(|instance| Instance {
                id: instance.id,
                state: instance.state,
                pid: pid(instance.process),
                guard_pid: pid(instance.guard),
                incarnation: instance.incarnation,
                postgres: instance.postgres.map(|address| address.to_string()),
                parked: of_member(&instance.member, "parked"),
                heartbeats: of_member(&instance.member, "heartbeats"),
            })
            .collect();
        Cluster { cluster, epoch, coordinator, instances, view, voting: votes.files.clone(), recovery }
    }

    fn print(&self) {
        println!(
            "cluster {}, epoch {}, coordinator {}",
            or_none(self.cluster.clone()),
            or_none(self.epoch.map(|epoch| epoch.to_string())),
            or_none(self.coordinator.map(|id| id.to_string()))
        );
        println!("{:>8}  {:<10}  {:>8}  {:>8}  {:>11}  POSTGRES", "INSTANCE", "STATE", "PID", "GUARD", "INCARNATION");
        for instance in &self.instances {
            let number = |number: Option<u64>| or_none(number.map(|number| number.to_string()));
            println!(
                "{:>8}  {:<10}  {:>8}  {:>8}  {:>11}  {}",
                instance.id,
                instance.state.to_string(),
                number(instance.pid.map(u64::from)),
                number(instance.guard_pid.map(u64::from)),
                number(instance.incarnation),
                or_none(instance.postgres.clone())
            );
        }
        self.print_membership();
        if let Some(recovery) = &self.recovery {
            let when = if is_under_way(recovery) { "recovery" } else { "last recovery" };
            println!("{when}: {}", show_recovery(recovery));
        }
        if self.instances.iter().any(|instance| instance.state == State::Dead) {
            println!("an instance that is dead crashed: `clusterctl start` recovers it");
        }
    }

    fn print_membership(&self) {
        if let Some(view) = &self.view {
            let lives = |list: &Value| {
                let life = |one: &Value| format!("{} (incarnation {})", one["id"], one["incarnation"]);
                list.as_array().into_iter().flatten().map(life).collect::<Vec<_>>().join(", ")
            };
            println!("view of epoch {}: members {}", view["epoch"], or_none(Some(lives(&view["members"])).filter(|text| !text.is_empty())));
            if view["evicted"].as_array().is_some_and(|evicted| !evicted.is_empty()) {
                println!("  evicted, fence not confirmed: {}; see `clusterctl fence list`", lives(&view["evicted"]));
            }
        }
        for file in &self.voting {
            let reason = file.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            println!("voting file {}: {}{reason}", file.path.display(), file.state);
        }
        for instance in &self.instances {
            if let Some(why) = &instance.parked {
                println!("instance {} is parked, and answers no client until that changes: {}", instance.id, why.as_str().unwrap_or("?"));
            }
            for beat in instance.heartbeats.iter().filter_map(Value::as_array).flatten() {
                let age = |name: &str| beat[name].as_u64().map_or_else(|| "never".into(), |age| format!("{age} ms ago"));
                let suspected = if beat["suspected"] == true { ", SUSPECTED" } else { "" };
                let (network, disk) = (age("network_age_ms"), age("disk_age_ms"));
                println!("instance {} hears {}: network {network}, voting files {disk}{suspected}", instance.id, beat["peer"]);
            }
        }
    }
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
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
