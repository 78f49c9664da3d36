//! `clusterctl superblock FILE [--restore]`: what a storage file says it is, and a damaged copy brought back.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::{CommandError, on_runtime};
use crate::base::ThreadId;
use crate::base::options::DiskKind;
use crate::disk::Access;
use crate::page::restore::restore_copy;
use crate::page::superblock::COPIES;
use crate::page::volume::read_copy;

/// Which file, and whether to mend it.
#[derive(ClapArgs)]
pub struct Args {
    /// A redo or data file.
    file: PathBuf,
    /// Rewrite a damaged copy from the whole one. Refused while an instance uses the file, when neither copy is whole, and when both are whole
    /// but differ.
    #[arg(long)]
    restore: bool,
    /// The instance whose lock is taken for restoring: stop it first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    instance: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Shows both copies; false when one isn't whole.
///
/// # Errors
/// The file can't be read, or not restored.
pub fn run(args: &Args) -> Result<bool, CommandError> {
    on_runtime(DiskKind::Threads, async |_, disk| {
        let access = if args.restore { Access::Write(ThreadId(args.instance)) } else { Access::Read };
        let file = disk.open(&args.file, access)?;
        if args.restore {
            let done = restore_copy(&disk, file).await?;
            let said = done.restored.map_or("both copies are whole, nothing to restore".to_string(), |(at, fault)| {
                format!("the copy at offset {at} was restored; it had been damaged: {fault}")
            });
            if !args.json {
                println!("{said}");
            }
        }
        let mut copies = Vec::new();
        for at in COPIES {
            copies.push((at, read_copy(&disk, file, at).await?));
        }
        let whole = copies.iter().all(|(_, copy)| copy.is_ok()) && copies[0].1 == copies[1].1;
        if args.json {
            let copies: Vec<_> = copies
                .iter()
                .map(|(at, copy)| match copy {
                    Ok(superblock) => json!({ "offset": at, "whole": true, "says": format!("{superblock:?}") }),
                    Err(fault) => json!({ "offset": at, "whole": false, "fault": fault.to_string(), "remedy": fault.remedy() }),
                })
                .collect();
            println!("{}", json!({ "file": args.file, "whole": whole, "copies": copies }));
        } else {
            for (at, copy) in &copies {
                match copy {
                    Ok(superblock) => println!(
                        "offset {at}: whole: {} file {} of cluster {}: {:?}",
                        superblock.kind, superblock.number, superblock.shape.cluster, superblock.shape
                    ),
                    Err(fault) => println!("offset {at}: {fault}; {}", fault.remedy()),
                }
            }
        }
        Ok(whole)
    })
}
