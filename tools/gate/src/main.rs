//! The gate: what must hold of the source before it is merged. CI and people run the same command.
//!
//! `gate check` changes nothing: formatting, text rules, dependencies, lints, documentation links. Every step runs, also after one has
//! failed, so that one run tells everything. `gate fix` repairs what tools can repair. `gate advisories` renews the vendored list of
//! known vulnerabilities. Tests are not run here: that is the README's test command.

mod advisories;
mod dependencies;
mod steps;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Checks the source, or fixes what can be fixed")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check everything; change nothing.
    Check {
        /// Leave out clippy and rustdoc, which compile the workspace.
        #[arg(long)]
        quick: bool,
    },
    /// Format, and apply clippy's machine-applicable suggestions.
    Fix,
    /// Rewrite tools/gate/advisories.toml from a checkout of the RustSec advisory database.
    Advisories {
        /// The checkout.
        from: PathBuf,
    },
}

/// Does what the command line says, on the checkout that we are in (not the one that the gate was compiled in: builds may be shared).
fn run(arguments: Arguments) -> Result<(), String> {
    let root = steps::output(&PathBuf::from("."), "git", &["rev-parse", "--show-toplevel"])?;
    let root = PathBuf::from(root.trim_end());
    match arguments.command {
        Command::Check { quick } => steps::check(&root, quick),
        Command::Fix => steps::fix(&root),
        Command::Advisories { from } => advisories::import(&root, &from),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("gate: {message}");
            ExitCode::FAILURE
        }
    }
}
