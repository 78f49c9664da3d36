//! The configuration file, in TOML: of a whole cluster, as `clusterctl init` writes it (`template`), or of one instance.
//!
//! ```toml
//! instance = 1                       # which redo thread is ours, from 1, unless the command line says
//! [storage]
//! redo = ["redo.1"]                  # redo file of instance 1, 2, ...; relative to this file
//! data = ["data.0"]                  # data file 0, 1, ...
//! [options]                          # see base::options; all may be left out
//! cache_bytes = 67108864
//! [postgres]                         # left out: no clients are served
//! listen = "127.0.0.1:7432"
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::ThreadId;
use crate::base::options::{OptionError, Options};
use crate::page::volume::StoragePaths;
use crate::sql::wire::options::PostgresOptions;

/// One instance's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which redo thread is ours, from 1. Default 1; the command line may say otherwise.
    #[serde(default = "first_instance")]
    pub instance: u16,
    /// Where the storage files are.
    pub storage: StoragePaths,
    /// How the instance behaves.
    #[serde(default)]
    pub options: Options,
    /// Where clients find it; left out, it serves none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresOptions>,
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
}

impl Config {
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
        config.options.validate().map_err(|error| ConfigError::Option { file: name(), error })?;
        let listed = config.storage.redo.len();
        if config.instance == 0 || usize::from(config.instance) > listed {
            return Err(ConfigError::Instance { file: name(), instance: config.instance, listed });
        }
        if let Some(postgres) = &config.postgres {
            postgres.validate().map_err(|error| ConfigError::Option { file: name(), error })?;
        }
        if let Some(postgres) = &config.postgres
            && config.listen().is_none()
        {
            return Err(ConfigError::Port { file: name(), port: postgres.listen.port(), instances: listed });
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        for path in config.storage.redo.iter_mut().chain(&mut config.storage.data) {
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    /// Where clients find this instance; nothing when it serves none.
    pub fn listen(&self) -> Option<SocketAddr> {
        let mut address = self.postgres.as_ref()?.listen;
        if address.port() != 0 {
            // Refused by `parse_as` when it overflows.
            address.set_port(address.port().checked_add(self.instance.checked_sub(1)?)?);
        }
        Some(address)
    }

    /// The redo thread that is ours.
    pub fn thread(&self) -> ThreadId {
        ThreadId(self.instance)
    }
}
