//! How long until a view without a dead instance is chosen, and what an idle mesh costs (issue 4, figures).
//!
//! Real processes, each in a network namespace of its own; the moment of the view is the survivors' log line "view installed", by the same machine's
//! clock. Run it as root with nothing else running: `cargo run --release -p cluster-tests --bin failover -- 100 50 > failover.json`.
//!
//! - killed: SIGKILL of an instance's process; its guard lives and reports.
//! - silent: SIGSTOP of an instance and its guard at once: nothing comes from that host any more, neither over the network nor on the voting files.
//! - idle: processor time of an instance and of its guard over 20 s of a mesh of four in which nobody does anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_tests::hosts::{Hosts, wait_for};
use serde_json::json;

const COUNT: u16 = 4;
const IDLE: Duration = Duration::from_secs(20);

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs_f64() * 1000.0
}

/// Processor time of a process so far, in seconds.
fn processor_s(pid: i64) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split_ascii_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("ticks are a number")).sum();
    ticks / 100.0
}

fn percentile(sorted: &[f64], percent: f64) -> f64 {
    sorted[((sorted.len() as f64 * percent / 100.0).ceil() as usize).clamp(1, sorted.len()) - 1]
}

fn summary(mut values: Vec<f64>) -> serde_json::Value {
    values.sort_by(f64::total_cmp);
    if values.is_empty() {
        return json!(null);
    }
    json!({ "runs": values.len(), "p50_ms": percentile(&values, 50.0), "p99_ms": percentile(&values, 99.0), "max_ms": values[values.len() - 1], "all_ms": values })
}

/// From `inflict` until a survivor has installed a view without `victim`.
fn measure(hosts: &Hosts, victim: u16, inflict: impl FnOnce()) -> f64 {
    let incarnation = hosts.view().1[usize::from(victim) - 1].expect("the victim is a member");
    let began = now_ms();
    inflict();
    let life = format!("instance {victim} (i{incarnation})");
    let mut first = f64::INFINITY;
    wait_for("a survivor's view without it", || {
        first =
            (1..=COUNT).filter(|id| *id != victim).filter_map(|id| hosts.installed_without(id, began, &life)).fold(f64::INFINITY, f64::min);
        first.is_finite()
    });
    first - began
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("numbers: kills, silences"));
    let (kills, silences) = (arguments.next().unwrap_or(100), arguments.next().unwrap_or(50));
    let hosts = Hosts::start(COUNT, false);
    let status = hosts.status();
    let processes: Vec<i64> = (0..usize::from(COUNT))
        .flat_map(|at| ["pid", "guard_pid"].map(|field| status["instances"][at][field].as_i64().expect("a process")))
        .collect();
    let before: Vec<f64> = processes.iter().map(|pid| processor_s(*pid)).collect();
    std::thread::sleep(IDLE);
    let used = processes.iter().zip(before).map(|(pid, before)| (processor_s(*pid) - before) / IDLE.as_secs_f64() * 100.0);
    let used: Vec<f64> = used.collect();
    let (mut killed, mut silent) = (Vec::new(), Vec::new());
    for round in 0..kills {
        let victim = 1 + (round % usize::from(COUNT)) as u16;
        killed.push(measure(&hosts, victim, || hosts.signal(victim, libc::SIGKILL)));
        hosts.whole();
        eprintln!("killed {round}: {:.1} ms", killed[round]);
    }
    for round in 0..silences {
        let victim = 1 + (round % usize::from(COUNT)) as u16;
        silent.push(measure(&hosts, victim, || hosts.signal_both(victim, libc::SIGSTOP)));
        hosts.signal_both(victim, libc::SIGCONT);
        hosts.whole();
        eprintln!("silent {round}: {:.1} ms", silent[round]);
    }
    let idle: Vec<_> = used.chunks(2).map(|pair| json!({ "instance_percent": pair[0], "guard_percent": pair[1] })).collect();
    println!("{}", json!({ "instances": COUNT, "killed": summary(killed), "silent": summary(silent), "idle": idle }));
}
