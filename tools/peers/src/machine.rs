//! The machine that figures were taken on.

use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

fn line(file: &str, head: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(head))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The file system that holds `folder`: type, device and options.
fn file_system(folder: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() > 3);
    let holding = fields.filter(|fields| folder.starts_with(fields[1])).max_by_key(|fields| fields[1].len())?;
    Some(format!("{} on {} ({})", holding[2], holding[0], holding[3]))
}

/// Processor, memory, kernel, file system, time; what can't be had is null.
pub(crate) fn describe(folder: &Path) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_string());
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|time| time.as_secs()).ok();
    json!({
        "processor": line("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map(std::num::NonZero::get).ok(),
        "memory": line("/proc/meminfo", "MemTotal"),
        "kernel": kernel,
        "file_system": file_system(folder),
        "unix_seconds": since,
        "load_before": std::fs::read_to_string("/proc/loadavg").ok().map(|text| text.trim().to_string()),
    })
}
