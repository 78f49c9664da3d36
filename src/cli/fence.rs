//! `clusterctl fence list | confirm`: evicted lives whose fence isn't confirmed, and an operator's word that one is dead.
//!
//! A fence that nothing can confirm blocks the recovery of what it is about, loudly (rule 1). The last resort is a person who knows: the host is off,
//! or its path to the storage is cut. The word is asked for with a reason, written down in `D/fences.jsonl` before anything else is done, and
//! carried out by a running instance as a view change, which keeps that it was an operator's. Where no instance of the cluster runs, the next one that
//! is started from the same directory carries it out: also of its own identity, whose last life may have run on a host that is gone.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::admin::{Request, client};
use super::layout::ClusterDir;
use super::process::{self, Found};
use super::votes::{self, Votes};
use super::{CommandError, on_runtime};
use crate::base::options::DiskKind;
use crate::base::{Incarnation, Seams, ThreadId};
use crate::membership::View;
use crate::membership::heartbeat::Standing;
use crate::membership::view::Identity;

/// Longest reason, in bytes: a request on an admin socket has 4096.
const REASON_MAX: usize = 1000;

/// What to do with fences.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows evicted instances whose fence isn't confirmed: nothing of theirs is recovered, and they may not come back, until it is.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says that an evicted instance is dead and can't write any more. ONLY when you have made sure: its host is switched off or rebooted, or its way
    /// to the storage is cut. If it still writes, data is lost, and nothing will notice in time.
    Confirm(Confirm),
}

/// Whom, and how it is known.
#[derive(ClapArgs)]
struct Confirm {
    /// The instance.
    #[arg(value_name = "ID")]
    id: u16,
    /// Which life of it, as `fence list` shows: so that a later one isn't meant by accident.
    #[arg(long, value_name = "N")]
    incarnation: u64,
    /// How you know, and who you are, for those who ask later: "powered off by BMC, jd". Kept in the logs.
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
}

fn parse_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("say how you know that it is dead".into());
    }
    if text.len() > REASON_MAX || text.chars().any(char::is_control) {
        return Err(format!("a reason is one line of at most {REASON_MAX} bytes"));
    }
    Ok(text.into())
}

/// Carries the command out; `list` is false when a fence isn't confirmed.
///
/// # Errors
/// There is no cluster; no instance can carry the confirmation out, or it refuses.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    match &args.command {
        Command::List { json } => list(&cluster, *json),
        Command::Confirm(confirm) => confirmed(&cluster, confirm),
    }
}

fn list(cluster: &ClusterDir, as_json: bool) -> Result<bool, CommandError> {
    let config = cluster.config(1)?;
    let votes = on_runtime(DiskKind::Threads, async |seams, disk| Ok(votes::look(&seams, &disk, &config).await))?;
    let Some(view) = votes.survey.newest() else {
        return Err("no voting file tells of a view: see `clusterctl voting list`".into());
    };
    if as_json {
        let lives: Vec<_> = view.unconfirmed.iter().map(|one| json!({ "id": one.id.0, "incarnation": one.incarnation.0 })).collect();
        println!("{}", json!({ "epoch": view.epoch.0, "unconfirmed": lives }));
        return Ok(lives.is_empty());
    }
    if view.unconfirmed.is_empty() {
        println!("view of epoch {}: every fence is confirmed", view.epoch.0);
    }
    for one in &view.unconfirmed {
        let (id, incarnation) = (one.id.0, one.incarnation.0);
        println!("instance {id}, incarnation {incarnation}: evicted, but it isn't certain that it writes nothing any more");
        println!(
            "  start it again where it ran (clusterctl start {id}): its guard proves that the old life is dead. Or make sure that its host is off, then:"
        );
        println!("  clusterctl fence confirm {id} --incarnation {incarnation} --reason \"...\"");
    }
    Ok(view.unconfirmed.is_empty())
}

fn confirmed(cluster: &ClusterDir, confirm: &Confirm) -> Result<bool, CommandError> {
    let Confirm { id, incarnation, reason } = confirm;
    let config = cluster.config(1)?;
    if !cluster.instances()?.contains(id) {
        return Err(format!("there is no instance {id}").into());
    }
    on_runtime(DiskKind::Threads, async |seams, disk| {
        let living = votes::living(&seams, &disk, &config).await?;
        let votes = votes::look(&seams, &disk, &config).await;
        let view = votes.survey.newest().ok_or("no voting file tells of a view: see `clusterctl voting list`")?;
        let evicted = view.unconfirmed.iter().find(|one| one.id.0 == *id);
        if evicted.is_none() && !living.is_empty() {
            let epoch = view.epoch.0;
            return Err(format!("instance {id} isn't waiting for a fence in the view of epoch {epoch}: see `clusterctl fence list`").into());
        }
        if living.contains(&ThreadId(*id)) {
            // Evicted, but not dead: what moves is not to be called so.
            return Err(format!("instance {id} is alive: its heartbeat on the voting files moves; nothing was done").into());
        }
        let last = evicted.map(|one| one.incarnation).or_else(|| last_life(&votes, view, ThreadId(*id)));
        match last {
            None => return Err(format!("instance {id} never lived: there is nothing to confirm").into()),
            Some(last) if last.0 != *incarnation => {
                return Err(
                    format!("the life of instance {id} that waits for its fence is incarnation {}, not {incarnation}", last.0).into()
                );
            }
            Some(_) => {}
        }
        let word = Word { id: *id, incarnation: *incarnation };
        let line = json!({
            "at_ms": seams.wall_ms(), "id": id, "incarnation": incarnation, "epoch": view.epoch.0, "reason": reason, "user": user(),
        });
        if living.is_empty() {
            write_down(cluster, &line)?;
            println!(
                "{word}: written down; no instance runs, and the next that is started from this directory carries it out: clusterctl start"
            );
            return Ok(true);
        }
        carried_out(cluster, &seams, confirm, &line).await
    })
}

/// Has a running instance of this host carry it out.
async fn carried_out(cluster: &ClusterDir, seams: &Seams, confirm: &Confirm, line: &serde_json::Value) -> Result<bool, CommandError> {
    let Confirm { id, incarnation, reason } = confirm;
    let mut running = Vec::new();
    for other in cluster.local_instances()?.into_iter().filter(|other| other != id) {
        let home = cluster.instance(other);
        if process::find(&home)? != Found::Nobody {
            running.push(home);
        }
    }
    if running.is_empty() {
        return Err("the cluster lives, but none of its instances on this host: give this command where one runs. Nothing was done".into());
    }
    write_down(cluster, line)?;
    let request = Request::ConfirmFence { id: *id, incarnation: *incarnation, reason: reason.clone() };
    let mut why = Vec::new();
    for home in running {
        match client::ask(seams, &home.socket(), &request, |_| {}).await {
            Ok(done) => {
                println!("instance {id}, incarnation {incarnation}: confirmed by your word; view of epoch {}", done["epoch"]);
                return Ok(true);
            }
            Err(error) => why.push(format!("instance {}: {error}", home.id)),
        }
    }
    Err(format!("written down, but not carried out yet: {}; the next instance started here does", why.join("; ")).into())
}

/// The last life of an instance that anything on the voting files speaks of, unless it is proven dead already.
fn last_life(votes: &Votes, view: &View, id: ThreadId) -> Option<Incarnation> {
    let beat = votes.survey.heartbeat(id).filter(|(head, beat)| head.sequence > 0 && beat.standing != Standing::Gone);
    let member = view.member(id).map(|member| member.incarnation);
    let last = beat.map(|(head, _)| head.incarnation).max(member)?;
    (!view.proves(Identity::new(id, last))).then_some(last)
}

/// An operator's word that a life, and all before it, can neither write nor answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(super) struct Word {
    /// The instance.
    pub(super) id: u16,
    /// Its life.
    pub(super) incarnation: u64,
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "instance {}, incarnation {}", self.id, self.incarnation)
    }
}

/// All that was written down. An instance takes it in when it starts: what was true once of a life that is over stays true.
///
/// # Errors
/// The record is there, but can't be read: nobody should start on half of it.
pub(super) fn words(cluster: &ClusterDir) -> Result<Vec<Word>, CommandError> {
    let path = cluster.fences_file();
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|error| format!("can't read {}: {error}", path.display()))?,
    };
    // A line that was cut off by a crash was never reported as written down.
    let whole = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(whole.collect())
}

/// Who runs this command, for the record.
fn user() -> String {
    // SAFETY: takes nothing, touches no memory.
    let number = unsafe { libc::getuid() };
    std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .map_or_else(|_| format!("uid {number}"), |name| format!("{name} (uid {number})"))
}

/// Adds a line to the record, durable.
fn write_down(cluster: &ClusterDir, line: &serde_json::Value) -> Result<(), CommandError> {
    let path = cluster.fences_file();
    let written = File::options().append(true).create(true).mode(0o600).open(&path).and_then(|mut file| {
        writeln!(file, "{line}")?;
        file.sync_all()
    });
    written.map_err(|error| format!("the confirmation can't be written down in {}: {error}; nothing was done", path.display()).into())
}
