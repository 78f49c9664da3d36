//! `clusterctl config`: what is in effect, with all defaults, as a configuration file that would say the same.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::CommandError;
use super::layout::ClusterDir;

/// Of which instance.
#[derive(ClapArgs)]
pub struct Args {
    /// The instance.
    #[arg(value_name = "ID", default_value_t = 1)]
    id: u16,
    /// Print JSON instead of TOML.
    #[arg(long)]
    json: bool,
}

/// Prints the configuration.
///
/// # Errors
/// It can't be used.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let config = ClusterDir::open(dir)?.config(args.id)?;
    if args.json {
        println!("{}", serde_json::to_string(&config)?);
    } else {
        print!("{}", toml::to_string(&config)?);
    }
    Ok(true)
}
