//! A cluster on block devices (issue 4 item 8): made by `clusterctl init` on loop devices, which needs root and `losetup` (package util-linux).

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::commands::Cluster;
use cluster_tests::endpoint::{Endpoint, Listener};

/// Loop devices over files in a folder. Dropped, they are detached: at once, or by the kernel when their last user is gone.
struct Loops {
    folder: tempfile::TempDir,
    devices: Vec<PathBuf>,
}

impl Loops {
    fn new() -> Loops {
        Loops { folder: cluster_tests::regroup::directory(), devices: Vec::new() }
    }

    /// Another one, of so many MiB.
    fn add(&mut self, mib: u64) -> PathBuf {
        let file = self.folder.path().join(format!("disk-{}", self.devices.len()));
        File::create(&file).and_then(|made| made.set_len(mib << 20)).expect("a file can be made");
        let output =
            Command::new("losetup").args(["--find", "--show"]).arg(&file).output().expect("losetup can be run: install util-linux");
        assert!(output.status.success(), "losetup needs root: {}", String::from_utf8_lossy(&output.stderr));
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        self.devices.push(device.clone());
        device
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.devices {
            let detached = Command::new("losetup").arg("--detach").arg(device).status();
            if !detached.is_ok_and(|status| status.success()) {
                eprintln!("{} may be left: losetup --detach {0}", device.display());
            }
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a device's path is text")
}

/// `init` for two instances on these devices.
fn arguments<'a>(redo: &'a [PathBuf], data: &'a Path, voting: &'a [PathBuf]) -> Vec<&'a str> {
    let mut all =
        vec!["init", "--instances", "2", "--voting-files", "3", "--cache", "8MiB", "--listen", "127.0.0.1:0", "--data-device", text(data)];
    redo.iter().for_each(|path| all.extend(["--redo-device", text(path)]));
    voting.iter().for_each(|path| all.extend(["--voting-device", text(path)]));
    all
}

fn sql(cluster: &Cluster, sql: &str) -> String {
    let address = cluster.instance(1)["postgres"].as_str().expect("an address").to_string();
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let endpoint = Endpoint { listener: Listener::Tcp(port), user: "regroup".into(), database: "regroup".into() };
    let mut client = endpoint.wire(Duration::from_secs(60)).expect("a client is let in");
    let rows = client.rows(sql).expect("an answer");
    rows.into_iter().flatten().flatten().collect::<Vec<_>>().join(",")
}

#[test]
fn a_cluster_lives_and_crashes_on_block_devices() {
    let mut loops = Loops::new();
    let redo = [loops.add(24), loops.add(20)];
    let data = loops.add(32);
    let voting = [loops.add(4), loops.add(4), loops.add(4)];
    // What is dropped first is the cluster: its processes use the devices.
    let cluster = Cluster::unmade();
    let init = arguments(&redo, &data, &voting);
    // Something lies on one of them: where a file system begins.
    let mut disk = File::options().write(true).open(&voting[1]).expect("a device can be opened");
    disk.seek(SeekFrom::Start(1080)).and_then(|_| disk.write_all(&[0x53, 0xef])).and_then(|()| disk.sync_all()).expect("it can be written");
    drop(disk);
    let refused = cluster.run(&init).expect(2);
    assert!(refused.complained.contains("holds something") && refused.complained.contains(text(&voting[1])), "{}", refused.complained);
    assert!(!cluster.path().join("regroup.toml").exists());
    let made = cluster.run(&[&init[..], &["--force"]].concat()).expect(0);
    assert!(made.said.contains("redo ring 18 MiB"), "as long as the smaller device lets it be: {}", made.said);
    cluster.run(&["start"]).expect(0);
    sql(&cluster, "CREATE TABLE kept (id int PRIMARY KEY)");
    sql(&cluster, "INSERT INTO kept SELECT generate_series(1, 1000)");
    // In use, and it says so, --force or not.
    let other = Cluster::unmade();
    let refused = other.run(&[&init[..], &["--force"]].concat()).expect(2);
    assert!(refused.complained.contains("in use"), "{}", refused.complained);
    let before = cluster.instance(1)["incarnation"].as_u64();
    cluster.signal_instance(1, libc::SIGKILL);
    let begun = Instant::now();
    while cluster.instance(1)["incarnation"].as_u64() <= before || cluster.instance(1)["state"] != "open" {
        assert!(begun.elapsed() < Duration::from_secs(120), "it isn't back: {}", cluster.status());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(sql(&cluster, "SELECT count(*) FROM kept"), "1000");
    cluster.run(&["stop"]).expect(0);
    cluster.run(&["verify"]).expect(0);
    // Another cluster's devices aren't taken by mistake.
    let refused = other.run(&init).expect(2);
    assert!(refused.complained.contains("holds something"), "{}", refused.complained);
}

#[test]
fn devices_that_do_not_fit_are_refused_and_stay_as_they_were() {
    let mut loops = Loops::new();
    let redo = [loops.add(12), loops.add(9)];
    let data = loops.add(4);
    let voting = [loops.add(4), loops.add(4), loops.add(4)];
    let cluster = Cluster::unmade();
    let too_small = cluster.run(&arguments(&redo, &data, &voting)).expect(2);
    assert!(too_small.complained.contains("too small") && too_small.complained.contains(text(&redo[1])), "{}", too_small.complained);
    let twice = [redo[0].clone(), redo[0].clone()];
    let refused = cluster.run(&arguments(&twice, &data, &voting)).expect(2);
    assert!(refused.complained.contains("twice"), "{}", refused.complained);
    let refused = cluster.run(&arguments(&redo[..1], &data, &voting)).expect(2);
    assert!(refused.complained.contains("--instances is 2"), "{}", refused.complained);
    let file = loops.folder.path().join("file");
    File::create(&file).expect("a file can be made");
    let refused = cluster.run(&arguments(&redo, &file, &voting)).expect(2);
    assert!(refused.complained.contains("isn't a block device"), "{}", refused.complained);
    assert!(!cluster.path().exists());
    for device in &loops.devices {
        let bytes = std::fs::read(device).expect("a device can be read");
        assert!(bytes.iter().all(|byte| *byte == 0), "{} was written to", device.display());
    }
}
