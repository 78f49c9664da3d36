//! `clusterctl connect`: becomes psql, connected to an open instance as role and database `regroup`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args as ClapArgs;

use super::admin::State;
use super::layout::ClusterDir;
use super::observe::observe;
use super::{CommandError, on_runtime};
use crate::base::options::DiskKind;

/// The role and the database that a fresh cluster has.
const NAME: &str = "regroup";

/// To which instance.
#[derive(ClapArgs)]
pub struct Args {
    /// The instance; the first that is open when left out.
    #[arg(value_name = "ID")]
    id: Option<u16>,
    /// Arguments for psql, for example: -- -c "select 1".
    #[arg(last = true, value_name = "PSQL ARGUMENTS")]
    psql: Vec<std::ffi::OsString>,
}

/// Becomes psql. Comes back only when it can't.
///
/// # Errors
/// No instance is open, or there is no psql.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let ids = cluster.chosen(args.id.as_slice())?;
    let address = on_runtime(DiskKind::Threads, async |seams, disk| {
        let mut why = String::new();
        for id in ids {
            let seen = observe(&seams, &disk, &cluster, &cluster.config(id)?).await?;
            match (seen.state, seen.postgres) {
                (State::Open, Some(address)) => return Ok(address),
                (State::Open, None) => why = format!("instance {id} serves no clients: its configuration has no section [postgres]"),
                (other, _) => why = format!("instance {id} is {other}: start it with `clusterctl start`"),
            }
        }
        Err(why.into())
    })?;
    let address = reachable(address);
    let mut psql = Command::new("psql");
    psql.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string(), "--username", NAME, "--dbname", NAME]);
    psql.args(&args.psql);
    let error = psql.exec();
    Err(match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("psql isn't installed: install the package postgresql-client, or connect any client to {address}, user {NAME}, database {NAME}")
        }
        _ => format!("can't run psql: {error}"),
    }
    .into())
}

/// Where a client of this host finds what listens on `address`: an unspecified address is every one of this host.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) });
    }
    address
}
