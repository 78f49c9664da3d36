//! Options of the PostgreSQL door: section `[postgres]` of an instance's configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frontend::MESSAGE_MAX;
use crate::base::options::OptionError;

/// How clients come in. Durations in milliseconds or seconds as their names say; 0 means never where a default below is "never".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresOptions {
    /// Address and port of instance 1; the others have the ports behind it. Port 0: any free one, as event `open` and `clusterctl status`
    /// show. Default 127.0.0.1:7432.
    pub listen: SocketAddr,
    /// Sessions at once; who comes then is told 53300. Default 100; 1 to 10000.
    pub max_connections: u32,
    /// How long a session may wait for its client outside of a transaction, in milliseconds (57P05). Default 0, never; up to 2^31.
    pub idle_session_timeout_ms: u64,
    /// How long a session may wait for its client inside a transaction, which holds locks and undo, in milliseconds (25P03). Default
    /// 600000; 0 never; up to 2^31.
    pub idle_in_transaction_session_timeout_ms: u64,
    /// How long a client may take no byte of what is there for it, in milliseconds. Default 600000; 0 never; up to 2^31.
    pub send_timeout_ms: u64,
    /// How long a client may take to say who it is, in milliseconds. Default 60000; 1 to 600000.
    pub authentication_timeout_ms: u64,
    /// Silence on a connection before the system asks whether the client's machine is there, in seconds. Default 60; 0 never asks.
    pub tcp_keepalives_idle_s: u32,
    /// Time between two such questions, in seconds. Default 10; 1 to 32767.
    pub tcp_keepalives_interval_s: u32,
    /// Questions without an answer until the connection is given up. Default 6; 1 to 127.
    pub tcp_keepalives_count: u32,
    /// Longest message that a client may send, in bytes. Default 268435456; 65536 to 1073741822.
    pub message_bytes_max: u64,
    /// Memory that one sort, hash table or list of rows of a statement may take, in bytes (53200). Default 67108864; 65536 to 2^40.
    pub work_bytes_max: u64,
    /// Memory that those of all statements of an instance may take together, in bytes (53200). Default 268435456; 1048576 to 2^44.
    pub work_total_bytes_max: u64,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7432)),
            max_connections: 100,
            idle_session_timeout_ms: 0,
            idle_in_transaction_session_timeout_ms: 600_000,
            send_timeout_ms: 600_000,
            authentication_timeout_ms: 60_000,
            tcp_keepalives_idle_s: 60,
            tcp_keepalives_interval_s: 10,
            tcp_keepalives_count: 6,
            message_bytes_max: 256 << 20,
            work_bytes_max: 64 << 20,
            work_total_bytes_max: 256 << 20,
        }
    }
}

impl PostgresOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// The first option that is outside its range.
    pub fn validate(&self) -> Result<(), OptionError> {
        let checks: [(&'static str, u64, std::ops::RangeInclusive<u64>, &'static str); 11] = [
            ("postgres.max_connections", u64::from(self.max_connections), 1..=10_000, "1 to 10000"),
            ("postgres.idle_session_timeout_ms", self.idle_session_timeout_ms, 0..=1 << 31, "0 to 2^31"),
            ("postgres.idle_in_transaction_session_timeout_ms", self.idle_in_transaction_session_timeout_ms, 0..=1 << 31, "0 to 2^31"),
            ("postgres.send_timeout_ms", self.send_timeout_ms, 0..=1 << 31, "0 to 2^31"),
            ("postgres.authentication_timeout_ms", self.authentication_timeout_ms, 1..=600_000, "1 to 600000"),
            ("postgres.tcp_keepalives_idle_s", u64::from(self.tcp_keepalives_idle_s), 0..=32_767, "0 to 32767"),
            ("postgres.tcp_keepalives_interval_s", u64::from(self.tcp_keepalives_interval_s), 1..=32_767, "1 to 32767"),
            ("postgres.tcp_keepalives_count", u64::from(self.tcp_keepalives_count), 1..=127, "1 to 127"),
            ("postgres.message_bytes_max", self.message_bytes_max, 65_536..=MESSAGE_MAX as u64, "65536 to 1073741822"),
            ("postgres.work_bytes_max", self.work_bytes_max, 65_536..=1 << 40, "65536 to 2^40"),
            ("postgres.work_total_bytes_max", self.work_total_bytes_max, 1 << 20..=1 << 44, "1048576 to 2^44"),
        ];
        for (name, found, range, allowed) in checks {
            if !range.contains(&found) {
                return Err(OptionError { name, found, allowed });
            }
        }
        Ok(())
    }

    /// [`PostgresOptions::send_timeout_ms`]; `None`: never.
    pub fn send_timeout(&self) -> Option<Duration> {
        (self.send_timeout_ms > 0).then(|| Duration::from_millis(self.send_timeout_ms))
    }

    /// [`PostgresOptions::authentication_timeout_ms`].
    pub fn authentication_timeout(&self) -> Duration {
        Duration::from_millis(self.authentication_timeout_ms)
    }

    /// Defaults of SQL settings that come from here.
    pub fn settings(&self) -> Vec<(String, String)> {
        let idle = |name: &str, milliseconds: u64| (name.to_string(), format!("{milliseconds}ms"));
        vec![
            idle("idle_session_timeout", self.idle_session_timeout_ms),
            idle("idle_in_transaction_session_timeout", self.idle_in_transaction_session_timeout_ms),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_out_of_range_is_refused_by_name() {
        let default = PostgresOptions::default();
        assert_eq!(default.validate(), Ok(()));
        assert_eq!(toml::from_str::<PostgresOptions>("").unwrap(), default);
        assert_eq!(toml::from_str::<PostgresOptions>(&toml::to_string(&default).unwrap()).unwrap(), default);
        for (line, name) in [
            ("max_connections = 0", "postgres.max_connections"),
            ("authentication_timeout_ms = 0", "postgres.authentication_timeout_ms"),
            ("message_bytes_max = 1073741823", "postgres.message_bytes_max"),
            ("tcp_keepalives_count = 128", "postgres.tcp_keepalives_count"),
            ("work_bytes_max = 1024", "postgres.work_bytes_max"),
            ("work_total_bytes_max = 65536", "postgres.work_total_bytes_max"),
        ] {
            let options: PostgresOptions = toml::from_str(line).unwrap();
            assert_eq!(options.validate().map_err(|error| error.name), Err(name));
        }
        assert!(toml::from_str::<PostgresOptions>("listen = \"nowhere\"").is_err());
        assert!(toml::from_str::<PostgresOptions>("max_connection = 1").is_err());
    }
}
