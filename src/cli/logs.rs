//! `clusterctl logs`: the end of what an instance's process said on standard error.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;

use super::layout::ClusterDir;
use super::{CommandError, on_runtime};
use crate::base::options::DiskKind;

/// Between two looks when following.
const EVERY: Duration = Duration::from_millis(200);
/// Most bytes looked at for the last lines.
const TAIL_MAX: u64 = 4 << 20;

/// Of which instance, and how much.
#[derive(ClapArgs)]
pub struct Args {
    /// The instance.
    #[arg(value_name = "ID", default_value_t = 1)]
    id: u16,
    /// So many of the last lines.
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    lines: usize,
    /// Show events (JSON lines on standard output) instead.
    #[arg(long)]
    events: bool,
    /// Go on as more comes, until interrupted.
    #[arg(long, short)]
    follow: bool,
}

/// Shows the log.
///
/// # Errors
/// It can't be read.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    cluster.chosen(&[args.id])?;
    let home = cluster.instance(args.id);
    let path = if args.events { home.events_file() } else { home.log_file() };
    let mut at = show_end(&path, args.lines)?;
    if !args.follow {
        return Ok(true);
    }
    on_runtime(DiskKind::Threads, async |seams, _| {
        loop {
            seams.sleep(EVERY).await;
            let mut file = open(&path)?;
            // Shorter than it was: a start has put the old one aside.
            if file.metadata()?.len() < at {
                at = 0;
            }
            file.seek(SeekFrom::Start(at))?;
            let mut more = Vec::new();
            at += file.take(TAIL_MAX).read_to_end(&mut more)? as u64;
            if std::io::stdout().write_all(&more).and_then(|()| std::io::stdout().flush()).is_err() {
                return Ok(true);
            }
        }
    })
}

fn open(path: &Path) -> Result<File, CommandError> {
    File::open(path).map_err(|error| format!("can't read {}: {error}; was the instance ever started?", path.display()).into())
}

/// Shows the last lines, and returns where the file ends.
fn show_end(path: &Path, lines: usize) -> Result<u64, CommandError> {
    let mut file = open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(TAIL_MAX)))?;
    let mut text = Vec::new();
    file.take(end.min(TAIL_MAX)).read_to_end(&mut text)?;
    let shown = last_lines(&text, lines);
    // A closed pipe has seen enough.
    let _ = std::io::stdout().write_all(shown);
    Ok(end)
}

/// The last `count` lines of `text`, the last of which may lack its end.
fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match count.checked_sub(1) {
        None => &[],
        Some(before) => breaks.map(|(at, _)| at + 1).nth(before).map_or(text, |at| &text[at..]),
    }
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_are_the_last_lines() {
        for (count, expected) in [(0, ""), (1, "c\n"), (2, "b\nc\n"), (3, "a\nb\nc\n"), (9, "a\nb\nc\n")] {
            assert_eq!(last_lines(b"a\nb\nc\n", count), expected.as_bytes());
        }
        assert_eq!(last_lines(b"a\nb", 1), b"b");
        assert_eq!(last_lines(b"", 3), b"");
        assert_eq!(last_lines(b"\n\n", 1), b"\n");
    }
}
