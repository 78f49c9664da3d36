//! What the voting files say, for commands: the newest view, each file's state, who gives signs of life. Read-only, takes no lock, waits for no
//! file for long: it must work when nothing else does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::CommandError;
use super::config::Config;
use crate::base::limits::THREADS_MAX;
use crate::base::{Incarnation, Seams, ThreadId};
use crate::disk::lock::{self, Freed};
use crate::disk::{Access, Disk};
use crate::fence::locks::guard_lock;
use crate::membership::survey::{Snapshot, Survey};
use crate::membership::{View, VotingId};
use crate::node::guard::voting;

/// Longest wait for the locks of a process that has just ended.
const GOING: Duration = Duration::from_secs(2);
/// Longest wait for a file.
const PATIENCE: Duration = Duration::from_secs(2);

/// What all files say.
pub(super) struct Votes {
    /// By position in the configuration.
    pub(super) files: Vec<FileState>,
    /// Those that answered, together.
    pub(super) survey: Survey,
}

/// How a voting file is.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FileState {
    /// As configured.
    pub(super) path: PathBuf,
    /// The number that views name it by, in hexadecimal; null when it can't be read.
    pub(super) id: Option<String>,
    /// `ok`: in use; `unused`: no view names it; `failed`: it can't be read, or holds damaged sectors.
    pub(super) state: &'static str,
    /// What is wrong.
    pub(super) reason: Option<String>,
}

/// Reads all voting files of `config`, at once.
pub(super) async fn look(seams: &Seams, disk: &Arc<dyn Disk>, config: &Config) -> Votes {
    let paths = &config.storage.voting;
    let (send, mut receive) = mpsc::channel(paths.len().max(1));
    for (at, path) in paths.iter().enumerate() {
        let (opener, disk, path, send) = (seams.clone(), disk.clone(), path.clone(), send.clone());
        let read = async move {
            let outcome = match voting::open(&opener, &disk, &path, Access::Read, None).await {
                Ok(file) => voting::read(&disk, &file, None).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            // Nobody listens when it took too long.
            drop(send.send((at, outcome)).await);
        };
        seams.spawn("look at a voting file", Box::pin(read));
    }
    drop(send);
    let late = || Err(format!("it doesn't answer within {} s", PATIENCE.as_secs()));
    let mut found: Vec<Result<Snapshot, String>> = paths.iter().map(|_| late()).collect();
    let mut patience = seams.sleep(PATIENCE);
    loop {
        tokio::select! {
            biased;
            answer = receive.recv() => match answer {
                Some((at, outcome)) => found[at] = outcome,
                None => break,
            },
            () = &mut patience => break,
        }
    }
    let survey = Survey::of(found.iter().filter_map(|snapshot| snapshot.as_ref().ok()).cloned());
    let view = survey.newest();
    let files = paths.iter().zip(&found).map(|(path, outcome)| state_of(path.clone(), outcome, view)).collect();
    Votes { files, survey }
}

/// The instances that write to the voting files: those whose sectors change while this watches, for longer than anybody may be
/// silent. Only changes count: clocks of other hosts say nothing (rule 5).
///
/// # Errors
/// No majority of the voting files answers: nothing can be told.
pub(super) async fn living(seams: &Seams, disk: &Arc<dyn Disk>, config: &Config) -> Result<Vec<ThreadId>, CommandError> {
    let ages = |votes: &Votes| -> BTreeMap<ThreadId, (Incarnation, u64)> {
        let beats = (1..=THREADS_MAX).map(ThreadId).filter_map(|id| Some((id, votes.survey.heartbeat(id)?.0.age())));
        beats.collect()
    };
    let began = seams.now();
    let watch = Duration::from_millis(config.membership.suspicion_floor_ms);
    let mut first = None;
    loop {
        let votes = look(seams, disk, config).await;
        let good = votes.survey.snapshots().count();
        if good <= config.storage.voting.len() / 2 {
            let said = votes.files.iter().filter_map(|file| Some(format!("{}: {}", file.path.display(), file.reason.as_ref()?)));
            return Err(format!(
                "it can't be told who lives: no majority of the voting files answers: {}",
                said.collect::<Vec<_>>().join("; ")
            )
            .into());
        }
        let now = ages(&votes);
        let before = first.get_or_insert_with(|| now.clone());
        let moved: Vec<ThreadId> = now.iter().filter(|(id, age)| before.get(id) != Some(age)).map(|(id, _)| *id).collect();
        // All of them, not the first that shows itself.
        if seams.now().since(began) >= watch {
            return Ok(moved);
        }
        seams.sleep(Duration::from_millis(config.membership.disk_interval_ms).min(watch)).await;
    }
}

/// Makes sure that no instance of the cluster lives: not on this host, by the locks, which are held while the result lives, so that none starts
/// meanwhile; nor elsewhere, as far as the voting files tell. For whoever opens a cluster's storage without being a member. The I/O that a killed
/// process of instance `config.instance` has left behind may take `drain` to end.
///
/// # Errors
/// One lives, or that can't be told.
pub(super) async fn claim(config: &Config, seams: &Seams, disk: &Arc<dyn Disk>, drain: Duration) -> Result<Vec<Freed>, CommandError> {
    if !config.is_clustered() {
        return Ok(Vec::new());
    }
    let mut held = Vec::new();
    for path in &config.storage.voting {
        for id in (1..=config.storage.redo.len()).filter_map(|id| u16::try_from(id).ok()).map(ThreadId) {
            for byte in [id, guard_lock(id)] {
                // The process that crashed may have left I/O under way.
                let patience = if byte == config.thread() { drain } else { GOING };
                let free = lock::wait_free(seams, path, byte, patience).await;
                held.push(
                    free.map_err(|error| format!("instance {} lives, or its I/O hasn't drained: stop all instances first: {error}", id.0))?,
                );
            }
        }
    }
    let alive = living(seams, disk, config).await?;
    if !alive.is_empty() {
        let ids: Vec<String> = alive.iter().map(|id| id.0.to_string()).collect();
        let which = if ids.len() == 1 { "instance" } else { "instances" };
        return Err(format!(
            "{which} {} live on other hosts, as their heartbeats on the voting files move: stop them there first",
            ids.join(", ")
        )
        .into());
    }
    Ok(held)
}

fn state_of(path: PathBuf, outcome: &Result<Snapshot, String>, view: Option<&View>) -> FileState {
    match outcome {
        Err(why) => FileState { path, id: None, state: "failed", reason: Some(why.clone()) },
        Ok(snapshot) => {
            let id = Some(snapshot.file.to_string());
            let named = view.is_none_or(|view| view.voting.contains(&snapshot.file));
            let (state, reason) = match snapshot.faults.first() {
                Some((instance, kind, fault)) => {
                    let more = snapshot.faults.len();
                    ("failed", Some(format!("{more} damaged sectors; the first is the {kind} sector of instance {}: {fault}", instance.0)))
                }
                None if !named => ("unused", Some("no view names it: another file has its place".into())),
                None => ("ok", None),
            };
            FileState { path, id, state, reason }
        }
    }
}

impl Votes {
    /// The newest view, as JSON.
    pub(super) fn view(&self) -> Option<Value> {
        let view = self.survey.newest()?;
        let list = |list: &[crate::membership::view::Identity]| {
            list.iter().map(|one| json!({ "id": one.id.0, "incarnation": one.incarnation.0 })).collect::<Vec<_>>()
        };
        let coordinator = Some(view.coordinator.0).filter(|id| *id != 0);
        Some(json!({
            "epoch": view.epoch.0, "coordinator": coordinator, "members": list(&view.members), "evicted": list(&view.unconfirmed),
            "configuration": view.configuration, "certain": self.survey.is_certain(),
        }))
    }

    /// Files that the view names and no path of the configuration leads to.
    pub(super) fn missing(&self) -> Vec<VotingId> {
        let known: Vec<VotingId> = self.survey.snapshots().map(|snapshot| snapshot.file).collect();
        let Some(view) = self.survey.newest() else { return Vec::new() };
        view.voting.iter().copied().filter(|file| !known.contains(file)).collect()
    }
}
