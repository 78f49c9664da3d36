//! The voting files of this process: opened, known by their ids, read and written for the core.
//!
//! Opening may hang with the storage, so each file is opened in a job, and what can't be used is tried again now and then. A file once open
//! stays open, whatever happens to it: its lock is the proof of this process's life.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::status::{FileState, FileStatus};
use crate::base::runtime::run_job;
use crate::base::{BoxFuture, ClusterId, Instant, Seams, ThreadId};
use crate::disk::{Access, Buffer, Disk, DiskError, Durability, FileId};
use crate::membership::FileTrouble;
use crate::membership::sector::{SECTOR, SECTORS_AT, VotingId, region_bytes};
use crate::node::guard::voting;

/// Between two tries to open a file that couldn't be used.
const AGAIN: Duration = Duration::from_secs(1);

/// A voting file by its path.
struct Entry {
    path: PathBuf,
    /// Nothing until it could be opened.
    id: Option<VotingId>,
    /// Why it couldn't.
    trouble: Option<String>,
    trying: bool,
    tried: Instant,
    forgotten: bool,
}

/// Why a voting file can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum OpenTrouble {
    /// Another process has this identity's lock on it.
    #[error(transparent)]
    InUse(DiskError),
    /// It can't be read, or isn't what it must be.
    #[error("{0}")]
    Other(String),
}

/// What a try to open the file at an index came to.
pub(super) type Opened = (usize, Result<(VotingId, FileId), OpenTrouble>);

/// All of them.
pub(super) struct Files {
    seams: Seams,
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    instance: ThreadId,
    region: usize,
    entries: Vec<Entry>,
    open: BTreeMap<VotingId, FileId>,
}

async fn open(
    seams: Seams,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    cluster: ClusterId,
    instance: ThreadId,
) -> Result<(VotingId, FileId), OpenTrouble> {
    let (opener, there) = (disk.clone(), path.clone());
    let file = run_job(&seams, move || opener.open(&there, Access::Write(instance))).await.map_err(|error| match error {
        DiskError::InUse { .. } => OpenTrouble::InUse(error),
        other => OpenTrouble::Other(other.to_string()),
    })?;
    let found = voting::identify(&disk, &path, file, Some(cluster)).await.map_err(|error| OpenTrouble::Other(error.to_string()))?;
    Ok((found.id, file))
}

impl Files {
    /// The files at `paths`, none of them open yet.
    pub(super) fn new(
        seams: &Seams,
        disk: &Arc<dyn Disk>,
        cluster: ClusterId,
        instance: ThreadId,
        instances: u16,
        paths: &[PathBuf],
    ) -> Files {
        let (seams, disk, region) = (seams.clone(), disk.clone(), region_bytes(instances));
        let mut files = Files { seams, disk, cluster, instance, region, entries: Vec::new(), open: BTreeMap::new() };
        for path in paths {
            files.add(path.clone());
        }
        files
    }

    /// Another path, for a file that is to take a place; its index.
    pub(super) fn add(&mut self, path: PathBuf) -> usize {
        self.entries.push(Entry { path, id: None, trouble: None, trying: false, tried: Instant::default(), forgotten: false });
        self.entries.len() - 1
    }

    /// Tries to open what isn't open, unless that was tried just now. The futures say what came of it, for [`Files::opened`].
    pub(super) fn tries(&mut self) -> Vec<BoxFuture<Opened>> {
        let now = self.seams.now();
        let mut tries: Vec<BoxFuture<Opened>> = Vec::new();
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let fresh = entry.trouble.is_some() && now.since(entry.tried) < AGAIN;
            if entry.id.is_some() || entry.trying || entry.forgotten || fresh {
                continue;
            }
            (entry.trying, entry.tried) = (true, now);
            let opening = open(self.seams.clone(), self.disk.clone(), entry.path.clone(), self.cluster, self.instance);
            tries.push(Box::pin(async move { (index, opening.await) }));
        }
        tries
    }

    /// Takes in what a try came to. Its id when it is usable now.
    pub(super) fn opened(&mut self, (index, result): Opened) -> Result<VotingId, OpenTrouble> {
        let entry = &mut self.entries[index];
        entry.trying = false;
        let result = result.and_then(|(id, file)| match self.open.contains_key(&id) {
            true => Err(OpenTrouble::Other(format!("{} is the same voting file as another: {id}", entry.path.display()))),
            false => Ok((id, file)),
        });
        match result {
            Ok((id, file)) => {
                (entry.id, entry.trouble) = (Some(id), None);
                self.open.insert(id, file);
                Ok(id)
            }
            Err(trouble) => {
                let text = trouble.to_string();
                if entry.trouble.as_ref() != Some(&text) {
                    tracing::warn!(file = %entry.path.display(), why = text, "a voting file can't be used; it is tried again each second");
                }
                entry.trouble = Some(text);
                Err(trouble)
            }
        }
    }

    /// Doesn't try this path again: it was for a file that was to take a place, and can't.
    pub(super) fn forget(&mut self, index: usize) {
        // Indexes of others stay.
        self.entries[index].forgotten = true;
    }

    /// How many there are, how many of them are open, and whether any is being tried.
    pub(super) fn count(&self) -> (usize, usize, bool) {
        (self.entries.len(), self.open.len(), self.entries.iter().any(|entry| entry.trying))
    }

    /// Ids of the open ones.
    pub(super) fn ids(&self) -> Vec<VotingId> {
        self.open.keys().copied().collect()
    }

    /// What is wrong with those that aren't open.
    pub(super) fn troubles(&self) -> Vec<String> {
        let trouble = |entry: &Entry| entry.trouble.clone().unwrap_or_else(|| format!("{} doesn't answer", entry.path.display()));
        self.entries.iter().filter(|entry| entry.id.is_none()).map(trouble).collect()
    }

    /// Reads the sector region of `id`.
    pub(super) fn read(&self, id: VotingId) -> BoxFuture<Result<Vec<u8>, FileTrouble>> {
        let Some(&file) = self.open.get(&id) else {
            let what = format!("voting file {id} isn't open here: is its path in the configuration?");
            return Box::pin(async move { Err(FileTrouble::Io { what }) });
        };
        let reading = self.disk.read(file, SECTORS_AT, Buffer::zeroed(self.region));
        Box::pin(async move {
            let (buffer, result) = reading.await;
            result.map(|()| buffer.to_vec()).map_err(|error| FileTrouble::Io { what: error.to_string() })
        })
    }

    /// Writes a sector of `id`, durably.
    pub(super) fn write(&self, id: VotingId, at: u64, bytes: &[u8; SECTOR]) -> BoxFuture<Result<(), FileTrouble>> {
        let Some(&file) = self.open.get(&id) else {
            let what = format!("voting file {id} isn't open here: is its path in the configuration?");
            return Box::pin(async move { Err(FileTrouble::Io { what }) });
        };
        let writing = self.disk.write(file, at, Buffer::copy_of(bytes), Durability::Durable);
        Box::pin(async move { writing.await.1.map_err(|error| FileTrouble::Io { what: error.to_string() }) })
    }

    /// For people: each file, and why it isn't open.
    pub(super) fn status(&self) -> Vec<FileStatus> {
        let shown = |entry: &Entry| FileStatus {
            path: entry.path.clone(),
            id: entry.id.map(|id| id.to_string()),
            state: if entry.id.is_some() { FileState::Ok } else { FileState::Absent },
            reason: entry.trouble.clone(),
        };
        self.entries.iter().filter(|entry| !entry.forgotten).map(shown).collect()
    }
}
