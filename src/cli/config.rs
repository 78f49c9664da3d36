//! The configuration file, in TOML: of a whole cluster, as `clusterctl init` writes it (`template`), or of one instance.
//!
//! ```toml
//! instance = 1                       # which redo thread is ours, from 1, unless the command line says
//! [storage]
//! redo = ["redo.1", "redo.2"]        # redo file of instance 1, 2, ...; relative to this file
//! data = ["data.0"]                  # data file 0, 1, ...
//! voting = ["voting.1"]              # 1, 3 or 5; none: one instance alone, without membership
//! [options]                          # see base::options; all may be left out
//! cache_bytes = 67108864
//! [postgres]                         # left out: no clients are served
//! listen = "127.0.0.1:7432"
//! [interconnect]                     # see Interconnect
//! tls = "tls"
//! [[instances]]                      # what differs between them; all of it may be left out
//! id = 2
//! listen = "10.0.0.2:7432"
//! interconnect = "10.0.0.2:0"
//! [fence]                            # see fence::options
//! methods = ["guard"]
//! [guard]                            # see node::guard::options
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::ThreadId;
use crate::base::options::{OptionError, Options};
use crate::fence::locks::LockFiles;
use crate::fence::options::{FenceOptions, FenceOptionsError};
use crate::membership::options::{OptionError as MembershipError, Options as MembershipOptions};
use crate::node::guard::options::GuardOptions;
use crate::page::volume::StoragePaths;
use crate::sql::wire::options::PostgresOptions;

/// Most voting files; their number is odd.
pub const VOTING_FILES_MAX: usize = 5;

/// One instance's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which redo thread is ours, from 1. Default 1; the command line may say otherwise.
    #[serde(default = "first_instance")]
    pub instance: u16,
    /// Where the storage files are.
    pub storage: Storage,
    /// How the instance behaves.
    #[serde(default)]
    pub options: Options,
    /// Where clients find it; left out, it serves none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresOptions>,
    /// Heartbeats, suspicion, leases.
    #[serde(default)]
    pub membership: MembershipOptions,
    /// How instances speak with each other.
    #[serde(default)]
    pub interconnect: Interconnect,
    /// How evicted instances are fenced.
    #[serde(default)]
    pub fence: FenceOptions,
    /// How guards treat their instances.
    #[serde(default)]
    pub guard: GuardOptions,
    /// What differs between instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<OfInstance>,
}

/// The storage files of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Redo file of instance 1, 2, ...
    pub redo: Vec<PathBuf>,
    /// Data file 0, 1, ...
    pub data: Vec<PathBuf>,
    /// The voting files: 1, 3 or 5; none for one instance alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voting: Vec<PathBuf>,
}

impl Storage {
    /// Redo and data files, without voting files.
    pub fn paths(&self) -> StoragePaths {
        StoragePaths { redo: self.redo.clone(), data: self.data.clone() }
    }
}

impl From<StoragePaths> for Storage {
    fn from(paths: StoragePaths) -> Storage {
        Storage { redo: paths.redo, data: paths.data, voting: Vec::new() }
    }
}

/// How instances speak with each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Interconnect {
    /// Where an instance and its guard listen for their peers unless `[[instances]]` says otherwise. Port 0, any free one, is best: peers find the
    /// port on the voting files. Default 127.0.0.1:0.
    pub listen: SocketAddr,
    /// Folder of the certificates, relative to the configuration: `ca.pem`, and this host's `instance-N.pem`.
    pub tls: PathBuf,
}

impl Default for Interconnect {
    fn default() -> Interconnect {
        Interconnect { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), tls: PathBuf::from("tls") }
    }
}

/// What is one instance's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfInstance {
    /// Which instance.
    pub id: u16,
    /// Where PostgreSQL clients find it, instead of what `postgres.listen` gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Where its peers find it, instead of `interconnect.listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interconnect: Option<SocketAddr>,
    /// Where its peers find its guard; otherwise any free port of `interconnect`'s address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<SocketAddr>,
}

fn first_instance() -> u16 {
    1
}

/// Why a configuration file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("can't read {}: {error}", file.display())]
    Read {
        /// The configuration file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It isn't a configuration; the message has the line.
    #[error("{}: {error}", file.display())]
    Syntax {
        /// The configuration file.
        file: PathBuf,
        /// Where and what.
        error: toml::de::Error,
    },
    /// A value is out of range.
    #[error("{}: {error}", file.display())]
    Option {
        /// The configuration file.
        file: PathBuf,
        /// Which and why.
        error: OptionError,
    },
    /// No room for a port of each instance.
    #[error("{}: postgres.listen has port {port}, but instance 1 to {instances} need one port each, up to 65535", file.display())]
    Port {
        /// The configuration file.
        file: PathBuf,
        /// Configured.
        port: u16,
        /// How many need one.
        instances: usize,
    },
    /// The instance isn't one of those with a redo file.
    #[error("{}: instance is {instance}, but storage.redo lists {listed} files: it must be 1 to {listed}", file.display())]
    Instance {
        /// The configuration file.
        file: PathBuf,
        /// Configured.
        instance: u16,
        /// Redo files.
        listed: usize,
    },
    /// Voting files can't have a majority, or several instances have no arbiter (rule 3).
    #[error(
        "{}: storage.voting lists {found} files, but must list {}: they decide which instances are members", file.display(),
        if *instances > 1 { "1, 3 or 5 for several instances" } else { "0, 1, 3 or 5" }
    )]
    Voting {
        /// The configuration file.
        file: PathBuf,
        /// How many.
        found: usize,
        /// Redo files.
        instances: usize,
    },
    /// `[membership]` can't be used.
    #[error("{}: membership.{}", file.display(), error.to_string().trim_start_matches("option "))]
    Membership {
        /// The configuration file.
        file: PathBuf,
        /// Which and why.
        error: MembershipError,
    },
    /// `[fence]` can't be used.
    #[error("{}: {error}", file.display())]
    Fence {
        /// The configuration file.
        file: PathBuf,
        /// Which and why.
        error: FenceOptionsError,
    },
    /// A section `[[instances]]` is of no instance, or of one that has a section already.
    #[error("{}: [[instances]] with id = {id}: {}", file.display(), if *twice { "there is another one".to_string() } else { format!("ids are 1 to {listed}") })]
    Section {
        /// The configuration file.
        file: PathBuf,
        /// Its id.
        id: u16,
        /// Redo files.
        listed: usize,
        /// Whether it stands there twice.
        twice: bool,
    },
}

impl Config {
    /// Of one instance without membership and clients.
    pub fn alone(storage: StoragePaths, options: Options) -> Config {
        Config {
            instance: 1,
            storage: storage.into(),
            options,
            postgres: None,
            membership: MembershipOptions::default(),
            interconnect: Interconnect::default(),
            fence: FenceOptions::default(),
            guard: GuardOptions::default(),
            instances: Vec::new(),
        }
    }

    /// Reads and checks the file; relative storage paths are taken from its folder.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        Config::load_as(file, None)
    }

    /// As [`Config::load`] for the instance that the command line names.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load_as(file: &Path, instance: Option<u16>) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Read { file: file.to_path_buf(), error })?;
        Config::parse_as(&text, file, instance)
    }

    /// Checks `text`, the contents of `file`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        Config::parse_as(text, file, None)
    }

    /// As [`Config::parse`] for the instance that the command line names.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse_as(text: &str, file: &Path, instance: Option<u16>) -> Result<Config, ConfigError> {
        let name = || file.to_path_buf();
        let mut config: Config = toml::from_str(text).map_err(|error| ConfigError::Syntax { file: name(), error })?;
        config.instance = instance.unwrap_or(config.instance);
        let of_option = |error| ConfigError::Option { file: name(), error };
        config.options.validate().map_err(of_option)?;
        config.guard.validate().map_err(of_option)?;
        config.membership.validate().map_err(|error| ConfigError::Membership { file: name(), error })?;
        config.fence.validate().map_err(|error| ConfigError::Fence { file: name(), error })?;
        config.check_instances(file)?;
        if let Some(postgres) = &config.postgres {
            postgres.validate().map_err(of_option)?;
        }
        if let Some(postgres) = &config.postgres
            && (1..=config.storage.redo.len() as u16).any(|id| config.listen_of(id).is_none())
        {
            return Err(ConfigError::Port { file: name(), port: postgres.listen.port(), instances: config.storage.redo.len() });
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        let Storage { redo, data, voting } = &mut config.storage;
        for path in redo.iter_mut().chain(data).chain(voting) {
            *path = folder.join(&*path);
        }
        config.interconnect.tls = folder.join(&config.interconnect.tls);
        Ok(config)
    }

    /// Checks what depends on the number of instances.
    fn check_instances(&self, file: &Path) -> Result<(), ConfigError> {
        let name = || file.to_path_buf();
        let listed = self.storage.redo.len();
        if self.instance == 0 || usize::from(self.instance) > listed {
            return Err(ConfigError::Instance { file: name(), instance: self.instance, listed });
        }
        let found = self.storage.voting.len();
        if found > VOTING_FILES_MAX || found.is_multiple_of(2) && !(found == 0 && listed == 1) {
            return Err(ConfigError::Voting { file: name(), found, instances: listed });
        }
        for (at, section) in self.instances.iter().enumerate() {
            let twice = self.instances[..at].iter().any(|other| other.id == section.id);
            if twice || section.id == 0 || usize::from(section.id) > listed {
                return Err(ConfigError::Section { file: name(), id: section.id, listed, twice });
            }
        }
        Ok(())
    }

    /// What is instance `id`'s own.
    fn section(&self, id: u16) -> Option<&OfInstance> {
        self.instances.iter().find(|section| section.id == id)
    }

    /// Where clients find this instance; nothing when it serves none.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.listen_of(self.instance)
    }

    /// Where clients find instance `id`; nothing when it serves none.
    pub fn listen_of(&self, id: u16) -> Option<SocketAddr> {
        let mut address = self.postgres.as_ref()?.listen;
        if let Some(own) = self.section(id).and_then(|section| section.listen) {
            return Some(own);
        }
        if address.port() != 0 {
            // Refused by `parse_as` when it overflows.
            address.set_port(address.port().checked_add(id.checked_sub(1)?)?);
        }
        Some(address)
    }

    /// Where this instance listens for its peers.
    pub fn interconnect(&self) -> SocketAddr {
        self.section(self.instance).and_then(|section| section.interconnect).unwrap_or(self.interconnect.listen)
    }

    /// Where this instance's guard listens for its peers.
    pub fn guard_listen(&self) -> SocketAddr {
        let any_port = SocketAddr::new(self.interconnect().ip(), 0);
        self.section(self.instance).and_then(|section| section.guard).unwrap_or(any_port)
    }

    /// Whether this is a member of a cluster, rather than one instance alone.
    pub fn is_clustered(&self) -> bool {
        !self.storage.voting.is_empty()
    }

    /// All storage files, voting files first.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.storage.voting.iter().chain(&self.storage.redo).chain(&self.storage.data)
    }

    /// The files whose locks prove an instance's death and drain.
    pub fn locks(&self) -> LockFiles {
        LockFiles { voting: self.storage.voting.clone(), storage: self.storage.redo.iter().chain(&self.storage.data).cloned().collect() }
    }

    /// The redo thread that is ours.
    pub fn thread(&self) -> ThreadId {
        ThreadId(self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(more: &str, instance: u16) -> Result<Config, ConfigError> {
        let storage = "[storage]\nredo = [\"r1\", \"r2\", \"r3\"]\ndata = [\"d\"]\n";
        Config::parse_as(&format!("{storage}{more}"), Path::new("/c/regroup.toml"), Some(instance))
    }

    #[test]
    fn an_instance_has_its_own_addresses_where_a_section_gives_them() {
        let text = "voting = [\"v\"]\n[postgres]\nlisten = \"10.0.0.1:7000\"\n[interconnect]\nlisten = \"10.0.0.9:5\"\ntls = \"/keys\"\n\
             [[instances]]\nid = 3\nlisten = \"10.0.0.3:9\"\ninterconnect = \"10.0.0.3:0\"\n[[instances]]\nid = 2\nguard = \"10.0.0.2:6\"\n";
        let addresses = |id| {
            let config = parsed(text, id).unwrap();
            (config.listen().unwrap().to_string(), config.interconnect().to_string(), config.guard_listen().to_string())
        };
        let expected = |listen: &str, interconnect: &str, guard: &str| (listen.to_string(), interconnect.to_string(), guard.to_string());
        assert_eq!(addresses(1), expected("10.0.0.1:7000", "10.0.0.9:5", "10.0.0.9:0"));
        assert_eq!(addresses(2), expected("10.0.0.1:7001", "10.0.0.9:5", "10.0.0.2:6"));
        assert_eq!(addresses(3), expected("10.0.0.3:9", "10.0.0.3:0", "10.0.0.3:0"));
        let config = parsed(text, 1).unwrap();
        assert_eq!((config.storage.voting[0].to_str(), config.interconnect.tls.to_str()), (Some("/c/v"), Some("/keys")));
        assert_eq!(config.files().count(), 5);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (text, complaint) in [
            ("", "lists 0 files"),
            ("voting = [\"a\", \"b\"]\n", "lists 2 files"),
            ("voting = [\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\"]\n", "lists 7 files"),
            ("voting = [\"v\"]\n[[instances]]\nid = 4\n", "ids are 1 to 3"),
            ("voting = [\"v\"]\n[[instances]]\nid = 0\n", "ids are 1 to 3"),
            ("voting = [\"v\"]\n[[instances]]\nid = 2\n[[instances]]\nid = 2\n", "another one"),
            ("voting = [\"v\"]\n[postgres]\nlisten = \"127.0.0.1:65534\"\n", "65535"),
            ("voting = [\"v\"]\n[fence]\nmethods = [\"lease\"]\n", "no-pause"),
            ("voting = [\"v\"]\n[guard]\nrestart_pause_ms = 0\n", "guard.restart_pause_ms"),
            ("voting = [\"v\"]\n[membership]\nlease_ms = 599\n", "membership.lease_ms"),
            ("voting = [\"v\"]\n[[instances]]\nid = 2\nports = 3\n", "ports"),
        ] {
            let error = parsed(text, 1).unwrap_err().to_string();
            assert!(error.contains(complaint), "{text}: {error}");
        }
        let alone = "[storage]\nredo = [\"r\"]\ndata = [\"d\"]\n";
        assert!(!Config::parse(alone, Path::new("c")).unwrap().is_clustered());
    }
}
