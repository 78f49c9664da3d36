//! Golden bytes: the samples of `cluster_tests::samples` must lie on disk exactly as the files in `golden/` say.
//!
//! A failure means that the format has changed: files written before can't be read any more, or would be read wrongly. If that is
//! meant, it is a new format version (docs/formats/README.md): raise `FORMAT`, then run this test with `REGROUP_GOLDEN=write` and look at
//! the difference.

use std::path::PathBuf;

use cluster_tests::samples;
use regroup::page::superblock::COPIES;

/// Lines of `offset: 32 bytes`, without those that are all zero, ended by the length.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, chunk) in bytes.chunks(32).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0)) {
        let hex: Vec<String> = chunk.chunks(4).map(|four| four.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        text += &format!("{:04x}: {}\n", line * 32, hex.join(" "));
    }
    text + &format!("{:04x}: end\n", bytes.len())
}

fn golden(name: &str, bytes: &[u8]) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "golden", &format!("{name}.hex")].iter().collect();
    let found = dump(bytes);
    if std::env::var("REGROUP_GOLDEN").is_ok_and(|wish| wish == "write") {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(found == expected, "{name} has another layout than {}:\nexpected\n{expected}\nfound\n{found}", path.display());
}

#[test]
fn superblock() {
    golden("superblock", &[samples::superblock().encode(COPIES[0]), samples::superblock().encode(COPIES[1])].concat());
}

#[test]
fn control_block() {
    golden("control", &samples::control().encode(samples::CLUSTER.tag(), 1));
}

#[test]
fn log_block_with_every_operation() {
    golden("log_block", &samples::log_block());
}

#[test]
fn tree_page() {
    golden("tree_page", &samples::tree_page());
}

#[test]
fn space_page() {
    golden("space_page", &samples::space_page());
}

#[test]
fn double_write_header() {
    golden("double_write", &samples::double_write());
}
