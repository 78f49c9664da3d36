//! The gate: what must hold of the source before it is merged. CI and people run the same command.
//!
//! `gate check` changes nothing: formatting, text rules, dependencies, lints, documentation links. Every step runs, also after one has
//! failed, so that one run tells everything. `gate fix` repairs what tools can repair. `gate advisories` renews the vendored list of
//! known vulnerabilities. Tests are not run here: that is the README's test command.

mod advisories;
mod dependencies;
mod steps;
mod text;

use std::path::{Path, PathBuf};
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

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let outcome = match Arguments::parse().command {
        Command::Check { quick } => steps::check(&root, quick),
        Command::Fix => steps::fix(&root),
        Command::Advisories { from } => advisories::import(&root, &from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("gate: {message}");
            ExitCode::FAILURE
        }
    }
}
