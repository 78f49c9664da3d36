//! `clusterctl salvage`: the rows that can be read from storage that recovery refuses, for a database whose log is damaged.
//!
//! Nothing is written to the storage. Rows go to a file of JSON lines: tree, key and value in hexadecimal, page and version. A report says
//! where the log ended and which pages are lost: rows on them, and changes behind the damage, are missing from the output.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use serde_json::json;

use super::config::Config;
use super::layout::ClusterDir;
use super::{CommandError, on_runtime};
use crate::disk::Access;
use crate::page::volume::Volume;
use crate::recovery::salvage::{MEMORY_MIN, Row, Salvage};

/// From where, to where.
#[derive(ClapArgs)]
pub struct Args {
    /// The configuration file of the instance whose log is damaged; left out, that of the cluster named with --dir.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The instance whose log is damaged; left out, the one that the configuration names, or 1.
    #[arg(long, value_name = "ID")]
    instance: Option<u16>,
    /// New file for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Memory for pages that the log changes, in bytes. All of them are held at once, as nothing may be written.
    #[arg(long, default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(MEMORY_MIN..))]
    memory_bytes: u64,
}

/// Salvages; false when something was lost.
///
/// # Errors
/// The storage can't be read at all, memory is too small, or the output can't be written.
pub fn run(dir: Option<PathBuf>, args: Args) -> Result<bool, CommandError> {
    let file = match args.config {
        Some(file) => file,
        None => ClusterDir::open(dir)?.config_file(),
    };
    let config = Config::load_as(&file, args.instance)?;
    let can_not = |error| format!("can't make {}: {error}", args.out.display());
    let mut out = BufWriter::new(File::options().write(true).create_new(true).open(&args.out).map_err(can_not)?);
    on_runtime(config.options.disk, async |_, disk| {
        let volume = Arc::new(Volume::open(disk, &config.storage.paths(), Access::Read).await?);
        let salvage = Salvage::open(volume, config.thread(), args.memory_bytes).await?;
        let mut rows = salvage.rows();
        let mut told = 0;
        while let Some(row) = rows.next().await {
            writeln!(out, "{}", line(&row))?;
            let progress = rows.progress();
            if progress.pages >= told + 100_000 {
                told = progress.pages;
                eprintln!("{} of {} pages, {} rows", progress.pages, progress.pages_total, progress.rows);
            }
        }
        out.flush()?;
        out.get_ref().sync_all()?;
        let report = salvage.report();
        let lost = report.damage.is_some() || !rows.unreadable().is_empty();
        println!("{}", json!({ "rows": rows.progress().rows, "log": report, "unreadable": rows.unreadable() }));
        Ok(!lost)
    })
}

fn line(row: &Row) -> serde_json::Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "tree": row.tree.0, "key": hex(&row.key), "value": hex(&row.value), "page": row.page.to_string(), "version": row.version.0,
    })
}
