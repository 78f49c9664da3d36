//! Proof of death and drain by locks, on one host.
//!
//! ```text
//! instance I holds byte I of every storage file, from before it draws an incarnation until it is gone and its I/O has drained (disk::lock)
//! I's guard holds byte 1024 + I of the voting files: it writes there too, and there is one guard of an identity
//!
//! dead     byte I of a majority of the voting files is free: it works only with a majority open, so one of these was its own
//! drained  after that, byte I of every redo and data file is free, and of every voting file that can be looked at
//! ```
//! Looking at the locks takes none, so that nobody stumbles over a look. The order matters: a process that isn't proven dead may still open a
//! data file whose lock was seen free. A voting file that can't be opened proves nothing and hinders nothing: who writes there later has to
//! obtain its lock first (rule 6). Any other file that can't be opened, also because it isn't there, forbids the proof: the path may be wrong here.
//!
//! Valid between processes that see the same inodes. Two nodes of one block device are two inodes, and containers have their own: so peers don't
//! accept this proof for block devices ([`Locks::prove_between_peers`]); a guard and its child share their view of the file system and do.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::runtime::run_job;
use crate::base::{BoxFuture, Seams, ThreadId};
use crate::disk::lock;

/// Pause between two looks: short against a takeover, long against the cost of a look.
const RETRY: Duration = Duration::from_millis(2);
/// Distance from an instance's lock byte to its guard's.
const GUARDS_FROM: u16 = 1024;

/// The lock that the guard of `instance` holds on voting files.
pub fn guard_lock(instance: ThreadId) -> ThreadId {
    ThreadId(GUARDS_FROM + instance.0)
}

/// Looks at an instance's locks on all storage files: the real ones, or simulated ones.
pub trait Locks: Send + Sync + 'static {
    /// Looks once.
    fn look(&self, instance: ThreadId) -> BoxFuture<Look>;

    /// Whether one instance may take another's free locks for proof.
    ///
    /// # Errors
    /// Why not.
    fn prove_between_peers(&self) -> Result<(), String>;
}

/// The files whose locks tell.
#[derive(Clone, Debug)]
pub struct LockFiles {
    /// The voting files; none for an instance without a cluster, whose other files then tell of its death too.
    pub voting: Vec<PathBuf>,
    /// All redo and data files.
    pub storage: Vec<PathBuf>,
}

/// What the locks say of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look {
    /// Its process is gone, and its I/O has drained.
    Drained,
    /// A file is in use: by the process, or by I/O that it left behind.
    Held(PathBuf),
    /// The locks can't tell.
    Unclear(String),
}

impl LockFiles {
    /// Looks once. Blocks as long as opening files does.
    pub fn look(&self, instance: ThreadId) -> Look {
        let (mut free, mut why) = (0, String::new());
        for path in &self.voting {
            match lock::is_held(path, instance) {
                Ok(true) => return Look::Held(path.clone()),
                Ok(false) => free += 1,
                Err(error) => why = error.to_string(),
            }
        }
        if free < self.voting.len() / 2 + 1 && !self.voting.is_empty() {
            return Look::Unclear(format!("only {free} of {} voting files can be looked at: {why}", self.voting.len()));
        }
        for path in &self.storage {
            match lock::is_held(path, instance) {
                Ok(true) => return Look::Held(path.clone()),
                Ok(false) => {}
                Err(error) => return Look::Unclear(error.to_string()),
            }
        }
        Look::Drained
    }
}

/// [`Locks`] of real files, looked at by workers.
pub struct FileLocks {
    /// Where the looking is done.
    pub seams: Seams,
    /// At which files.
    pub files: LockFiles,
}

impl Locks for FileLocks {
    fn look(&self, instance: ThreadId) -> BoxFuture<Look> {
        let (seams, files) = (self.seams.clone(), self.files.clone());
        Box::pin(async move { run_job(&seams, move || files.look(instance)).await })
    }

    fn prove_between_peers(&self) -> Result<(), String> {
        let device = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
        match self.files.voting.iter().chain(&self.files.storage).find(device) {
            Some(path) => Err(format!(
                "{} is a block device: between instances its locks prove nothing, as each may have a node of its own",
                path.display()
            )),
            None => Ok(()),
        }
    }
}

/// Looks until the instance is proven dead and drained, or nothing can be seen, at most for `patience`; returns what the last look said.
pub async fn drained(seams: &Seams, locks: &dyn Locks, instance: ThreadId, patience: Duration) -> Look {
    let begun = seams.now();
    loop {
        let seen = locks.look(instance).await;
        if !matches!(seen, Look::Held(_)) || seams.now().since(begun) >= patience {
            return seen;
        }
        seams.sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        _folder: tempfile::TempDir,
        locks: LockFiles,
    }

    fn files(voting: usize) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, "x").unwrap();
            path
        };
        let locks = LockFiles {
            voting: (1..=voting).map(|number| make(format!("voting.{number}"))).collect(),
            storage: ["redo.1", "redo.2", "data.0"].map(|name| make(name.into())).to_vec(),
        };
        Files { _folder: folder, locks }
    }

    #[test]
    fn any_lock_that_is_held_forbids_the_proof() {
        let Files { locks, _folder } = files(3);
        assert_eq!(locks.look(ThreadId(2)), Look::Drained);
        for path in locks.voting.iter().chain(&locks.storage) {
            let other = lock::probe(path, ThreadId(1)).unwrap();
            let guard = lock::probe(path, guard_lock(ThreadId(2))).unwrap();
            assert_eq!(locks.look(ThreadId(2)), Look::Drained, "neither a peer nor the guard counts");
            let held = lock::probe(path, ThreadId(2)).unwrap();
            assert_eq!(locks.look(ThreadId(2)), Look::Held(path.clone()));
            drop((other, guard, held));
        }
        assert_eq!(locks.look(ThreadId(2)), Look::Drained);
    }

    #[test]
    fn a_minority_of_voting_files_may_be_out_of_reach_but_no_other_file() {
        let Files { mut locks, _folder } = files(3);
        let beyond = locks.voting[0].join("no directory");
        locks.voting[1] = beyond.clone();
        assert_eq!(locks.look(ThreadId(1)), Look::Drained);
        locks.voting[2] = beyond.clone();
        assert!(matches!(locks.look(ThreadId(1)), Look::Unclear(why) if why.contains("1 of 3")));
        let Files { mut locks, _folder } = files(1);
        locks.storage[1] = beyond;
        assert!(matches!(locks.look(ThreadId(1)), Look::Unclear(_)));
    }
}
