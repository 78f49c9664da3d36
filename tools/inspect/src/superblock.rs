//! Superblock copies.

use regroup::page::superblock::{COPIES, FileKind, Superblock};
use regroup::page::volume::read_copy;
use serde_json::json;

use crate::files::{Opened, OpenedFiles, name};
use crate::output::Output;

/// Shows both copies of every file; a copy that isn't whole, a pair that differs and a wrong length are findings.
///
/// # Errors
/// The disk's.
pub(crate) async fn show(opened: &OpenedFiles, out: &mut Output) -> Result<(), String> {
    for file in &opened.files {
        let mut whole = Vec::new();
        for at in COPIES {
            match read_copy(&opened.disk, file.file, at).await {
                Ok(Ok(found)) => {
                    print(file, at, &found, out);
                    whole.push(found);
                }
                Ok(Err(fault)) => out.finding("superblock", &name(&file.path), &format!("copy at {at}: {fault}; {}", fault.remedy())),
                Err(error) => out.finding("superblock", &name(&file.path), &error.to_string()),
            }
        }
        if whole.len() == 2 && whole[0] != whole[1] {
            out.finding("superblock", &name(&file.path), "the two copies are whole but differ");
        }
        if let Some(found) = whole.first() {
            check_length(opened, file, found, out)?;
        }
    }
    Ok(())
}

fn check_length(opened: &OpenedFiles, file: &Opened, found: &Superblock, out: &mut Output) -> Result<(), String> {
    let length = opened.disk.length(file.file).map_err(|error| error.to_string())?;
    let expected = found.shape.file_bytes(found.kind);
    let may_grow = found.kind == FileKind::Data && found.shape.grow;
    if length < expected || (length > expected && !may_grow) {
        out.finding("superblock", &name(&file.path), &format!("the file has {length} bytes, its superblock says {expected}"));
    }
    Ok(())
}

fn print(file: &Opened, at: u64, found: &Superblock, out: &mut Output) {
    let shape = &found.shape;
    let text = format!(
        "superblock {} at {at}: {} file {} of cluster {}; {} threads, {} data files, ring {} bytes, data {} bytes, {}, created {} ms",
        file.path.display(),
        found.kind,
        found.number,
        shape.cluster,
        shape.threads,
        shape.data_files,
        shape.ring_bytes,
        shape.data_bytes,
        if shape.grow { "growing" } else { "fixed" },
        shape.created_ms
    );
    let object = json!({
        "superblock": name(&file.path), "offset": at, "kind": found.kind.to_string(), "number": found.number,
        "cluster": shape.cluster.to_string(), "threads": shape.threads, "data_files": shape.data_files, "ring_bytes": shape.ring_bytes,
        "data_bytes": shape.data_bytes, "grow": shape.grow, "created_ms": shape.created_ms,
    });
    out.fact(&text, object);
}
