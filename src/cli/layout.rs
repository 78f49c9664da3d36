//! What lies where in a cluster's directory.
//!
//! ```text
//! D/regroup.toml             configuration of the whole cluster; its presence makes D a cluster: init writes it last
//! D/init-unfinished          only while `clusterctl init` is at work
//! D/storage/redo.1 data.0 voting.1   storage files, unless the configuration names others
//! D/tls/ca.pem ca-key.pem    the cluster's authority; instance-1.pem: certificate and key of an instance and its guard  (net::certificate)
//! D/fences.jsonl             what operators confirmed of fences, and why                                            (cli::fence)
//! D/instance-1/guard         locked by the instance's guard for as long as it lives; says which process that is       (cli::process)
//! D/instance-1/process       the same of the instance's own process
//! D/instance-1/admin.sock    the process's admin socket: state, verify, checkpoint                                (cli::admin)
//! D/instance-1/start         locked by a `clusterctl start` at work, so that there is one at a time
//! D/instance-1/regroupd.log  what the process says on standard error; the one before is regroupd.log.1
//! D/instance-1/events.jsonl  what it says on standard output, one JSON object a line
//! D/instance-1/recovery.json the report of its last recovery
//! ```
//! An instance's directory is its own and local to its host; several hosts share only the storage and the configuration. Called by all
//! commands that take `--dir`. Makes and removes nothing itself but what [`InstanceDir::make`] says.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::CommandError;
use super::config::Config;

/// Names the directory when `--dir` is left out.
pub const DIR_VARIABLE: &str = "REGROUP_DIR";

/// A cluster's directory.
#[derive(Clone, Debug)]
pub struct ClusterDir {
    path: PathBuf,
}

/// One instance's directory.
#[derive(Clone, Debug)]
pub struct InstanceDir {
    /// Which instance.
    pub id: u16,
    path: PathBuf,
}

impl ClusterDir {
    /// The directory at `path`, whether a cluster is there or not.
    pub fn at(path: PathBuf) -> ClusterDir {
        ClusterDir { path }
    }

    /// The path that was given, or the one in the environment.
    ///
    /// # Errors
    /// Neither.
    pub fn named(dir: Option<PathBuf>) -> Result<ClusterDir, CommandError> {
        let path = dir.or_else(|| std::env::var_os(DIR_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from));
        Ok(ClusterDir::at(path.ok_or_else(|| format!("which cluster? Give its directory with --dir, or in {DIR_VARIABLE}"))?))
    }

    /// The cluster that is there: an absolute path.
    ///
    /// # Errors
    /// No directory was named, or there is no cluster in it.
    pub fn open(dir: Option<PathBuf>) -> Result<ClusterDir, CommandError> {
        let named = ClusterDir::named(dir)?;
        let shown = named.path.display();
        let path = named.path.canonicalize().map_err(|error| format!("can't open the cluster's directory {shown}: {error}"))?;
        let found = ClusterDir { path };
        if found.config_file().exists() {
            return Ok(found);
        }
        let hint = if found.unfinished_file().exists() {
            "`clusterctl init` is at work there, or was cut off; run it again"
        } else {
            "make one with `clusterctl init`"
        };
        Err(format!("there is no cluster in {} (no regroup.toml): {hint}", found.path.display()).into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("regroup.toml")
    }

    /// There while `init` is at work.
    pub fn unfinished_file(&self) -> PathBuf {
        self.path.join("init-unfinished")
    }

    /// Where `init` puts storage files.
    pub fn storage(&self) -> PathBuf {
        self.path.join("storage")
    }

    /// Where `init` puts certificates.
    pub fn tls(&self) -> PathBuf {
        self.path.join("tls")
    }

    /// What operators have confirmed of fences.
    pub fn fences_file(&self) -> PathBuf {
        self.path.join("fences.jsonl")
    }

    /// The directory of instance `id`.
    pub fn instance(&self, id: u16) -> InstanceDir {
        InstanceDir { id, path: self.path.join(format!("instance-{id}")) }
    }

    /// The configuration, as instance `id` has it.
    ///
    /// # Errors
    /// It can't be used, or there is no such instance.
    pub fn config(&self, id: u16) -> Result<Config, CommandError> {
        Ok(Config::load_as(&self.config_file(), Some(id))?)
    }

    /// The instances that the configuration knows.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn instances(&self) -> Result<Vec<u16>, CommandError> {
        let count = self.config(1)?.storage.redo.len();
        Ok((1..=u16::try_from(count)?).collect())
    }

    /// The instances of this host: those with a directory here. `init` makes one for each; another host has those that were brought there.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn local_instances(&self) -> Result<Vec<u16>, CommandError> {
        Ok(self.instances()?.into_iter().filter(|id| self.instance(*id).path().is_dir()).collect())
    }

    /// The instances that a command is for: those named, or all of this host.
    ///
    /// # Errors
    /// The configuration can't be used, there is no such instance, or none of this host.
    pub fn chosen(&self, ids: &[u16]) -> Result<Vec<u16>, CommandError> {
        let all = self.instances()?;
        if let Some(unknown) = ids.iter().find(|id| !all.contains(id)) {
            return Err(format!("there is no instance {unknown}: this cluster has instances 1 to {}", all.len()).into());
        }
        let mut chosen = if ids.is_empty() { self.local_instances()? } else { ids.to_vec() };
        if chosen.is_empty() {
            let shown = self.path.display();
            return Err(format!(
                "no instance has a directory in {shown} on this host: name those that are to run here, 1 to {}",
                all.len()
            )
            .into());
        }
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }
}

impl InstanceDir {
    /// Makes the directory, for its owner alone, if it isn't there.
    ///
    /// # Errors
    /// It can't be made.
    pub fn make(&self) -> Result<(), CommandError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| format!("can't make {}: {error}", self.path.display()).into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's directory, in which it lies.
    pub fn cluster(&self) -> ClusterDir {
        ClusterDir::at(self.path.parent().map(Path::to_path_buf).unwrap_or_default())
    }

    /// Locked by the guard while it lives.
    pub fn guard_file(&self) -> PathBuf {
        self.path.join("guard")
    }

    /// Locked by the process while it lives.
    pub fn process_file(&self) -> PathBuf {
        self.path.join("process")
    }

    /// Locked by a start at work.
    pub fn start_file(&self) -> PathBuf {
        self.path.join("start")
    }

    /// The name of the admin socket in the directory.
    pub fn socket(&self) -> PathBuf {
        self.path.join("admin.sock")
    }

    /// Standard error of the process.
    pub fn log_file(&self) -> PathBuf {
        self.path.join("regroupd.log")
    }

    /// Standard output of the process.
    pub fn events_file(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// The report of the last recovery.
    pub fn recovery_file(&self) -> PathBuf {
        self.path.join("recovery.json")
    }
}
