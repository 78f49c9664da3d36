//! `clusterctl checkpoint`: has open instances write what is dirty now.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::admin::{Request, client};
use super::layout::ClusterDir;
use super::process::{self, Found};
use super::{CommandError, on_runtime};
use crate::base::options::DiskKind;

/// Of which instances.
#[derive(ClapArgs)]
pub struct Args {
    /// The instances; all of the cluster when left out.
    #[arg(value_name = "ID")]
    ids: Vec<u16>,
}

/// Asks each for a checkpoint.
///
/// # Errors
/// An instance isn't open, or its checkpoint failed.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let ids = cluster.chosen(&args.ids)?;
    on_runtime(DiskKind::Threads, async |seams, _| {
        for id in ids {
            let home = cluster.instance(id);
            if process::find(&home)? == Found::Nobody {
                return Err(format!("instance {id} isn't running: there is nothing to write").into());
            }
            let done = client::ask(&seams, &home.socket(), &Request::Checkpoint {}, |_| {}).await;
            let done = done.map_err(|error| format!("instance {id}: {error}"))?;
            println!(
                "instance {id}: checkpoint taken in {:.2} s, {} pages dirty since",
                done["seconds"].as_f64().unwrap_or(0.0),
                done["dirty"]
            );
        }
        Ok(true)
    })
}
