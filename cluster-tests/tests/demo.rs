//! Real `kill -9` under load: the crash demonstration of `clusterctl`, as an operator runs it (issue 2, item 16).

use std::path::PathBuf;
use std::process::Command;

/// `clusterctl` lies beside the test binaries' folder when the workspace was built.
fn clusterctl() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows where it is");
    let folder = here.parent().and_then(|deps| deps.parent()).expect("tests lie in target/<profile>/deps");
    let binary = folder.join("clusterctl");
    assert!(binary.exists(), "{} isn't there: cargo build --release -p regroup --bin clusterctl", binary.display());
    binary
}

/// Demonstrates `kills` kills on `disk` and checks the summary.
fn demonstrate(kills: u64, disk: &str) {
    let kills = cluster_tests::seeds::scaled(kills);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory can be made");
    let output = Command::new(clusterctl())
        .args(["demo", "--json", "--seconds", "0.6", "--disk", disk, "--kills", &kills.to_string()])
        .arg("--dir")
        .arg(directory.path().join("demo"))
        .env("RUST_LOG", "warn")
        .output()
        .expect("clusterctl can be started");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    let summary: serde_json::Value = serde_json::from_str(said.trim()).expect("it says one JSON object");
    assert_eq!(summary["held"], true, "{said}");
    let rounds = summary["rounds"].as_array().expect("rounds is a list");
    assert_eq!(rounds.len() as u64, kills);
    let acknowledged: u64 = rounds.iter().map(|round| round["acknowledged"].as_u64().expect("acknowledged is a number")).sum();
    assert!(acknowledged > 100 * kills, "only {acknowledged} steps were acknowledged: there was no load to speak of");
    let recovered = rounds.iter().filter(|round| !round["check"]["recovery"].is_null()).count();
    assert!(recovered as u64 > kills / 2, "only {recovered} of {kills} kills left something to recover");
    println!("{kills} kills on {disk}: {acknowledged} acknowledged steps, all there");
}

#[test]
fn thirty_kills_lose_nothing() {
    demonstrate(30, "auto");
}

#[test]
fn kills_on_the_threads_disk_lose_nothing() {
    demonstrate(4, "threads");
}
