//! What the voting files say, for commands: the newest view, each file's state, who gives signs of life. Read-only, takes no lock, waits for no
//! file for long: it must work when nothing else does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::config::Config;
use crate::base::Seams;
use crate::disk::{Access, Disk};
use crate::membership::survey::{Snapshot, Survey};
use crate::membership::{View, VotingId};
use crate::node::guard::voting;

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
        let (disk, path, send) = (disk.clone(), path.clone(), send.clone());
        let read = async move {
            let outcome = match voting::open(&disk, &path, Access::Read, None).await {
                Ok(file) => voting::read(&disk, &file).await.map_err(|error| error.to_string()),
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
