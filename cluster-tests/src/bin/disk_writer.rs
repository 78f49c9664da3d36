//! A process to be killed: opens a storage file as instance 1, says so, and writes its first block over and over, saying when each write is complete.
//!
//! `disk_writer uring|threads FILE`

use std::path::Path;
use std::process::ExitCode;

use regroup::base::ThreadId;
use regroup::base::options::DiskKind;
use regroup::disk::{Access, Buffer, Durability, open_disk};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, file] = arguments.as_slice() else {
        eprintln!("usage: disk_writer uring|threads FILE");
        return ExitCode::from(2);
    };
    let kind = if kind == "threads" { DiskKind::Threads } else { DiskKind::Uring };
    match write(kind, Path::new(file)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk_writer: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn write(kind: DiskKind, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let disk = open_disk(kind)?;
    let file = disk.open(path, Access::Write(ThreadId(1)))?;
    println!("locked");
    for round in 1_u8..=255 {
        let mut block = Buffer::zeroed(4096);
        block.fill(round);
        disk.write(file, 0, block, Durability::Durable).await.1?;
        println!("wrote {round}");
    }
    Ok(())
}
