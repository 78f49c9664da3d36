//! Log blocks, groups and operations.

use std::collections::BTreeMap;

use regroup::base::limits::LOG_BLOCK;
use regroup::base::{Lsn, PageId, Scn, ThreadId};
use regroup::disk::{Buffer, FileId};
use regroup::page::superblock::RING_AT;
use regroup::redo::LogReader;
use regroup::redo::block::{self, LogIdentity, NO_GROUP};
use regroup::redo::control::{Control, ThreadState};
use regroup::redo::reader::{LogGroup, LogSource};
use regroup::redo::record::{Changes, GroupKind, Op, Ops, RecordFault, written_items};
use serde_json::{Value, json};

use crate::files::{Store, name};
use crate::output::Output;

/// Blocks looked at for the first group.
const SEARCH_BLOCKS: u64 = 256;

/// What to show of the log.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only this redo thread.
    #[arg(long)]
    thread: Option<u16>,
    /// From this position on, as BLOCK/OFFSET in hexadecimal or as one decimal number; the first group that starts in its block or behind.
    /// Left out: from the checkpoint on.
    #[arg(long, value_parser = parse_lsn)]
    from: Option<Lsn>,
    /// Up to this position. Left out: to the log's end.
    #[arg(long, value_parser = parse_lsn)]
    to: Option<Lsn>,
    /// Show the header of each block.
    #[arg(long)]
    blocks: bool,
    /// Show the operations of each group.
    #[arg(long)]
    operations: bool,
}

fn parse_lsn(text: &str) -> Result<Lsn, String> {
    let wrong = || format!("{text:?} is no position: give BLOCK/OFFSET in hexadecimal (12f/040), or bytes in decimal");
    match text.split_once('/') {
        None => text.parse().map(Lsn).map_err(|_| wrong()),
        Some((block, offset)) => {
            let block = u64::from_str_radix(block, 16).ok().filter(|block| *block < 1 << 50).ok_or_else(wrong)?;
            let offset = u64::from_str_radix(offset, 16).ok().filter(|offset| *offset < LOG_BLOCK as u64).ok_or_else(wrong)?;
            Ok(Lsn(Lsn::of_block(block).0 + offset))
        }
    }
}

/// What logs say of pages.
#[derive(Default)]
pub(crate) struct Said {
    /// Where each log ends.
    pub(crate) ends: BTreeMap<ThreadId, Lsn>,
    /// Pages that are made anew, in these versions, and not known to be durable at home since.
    pub(crate) made_anew: BTreeMap<PageId, Scn>,
}

/// Reads each thread's log, shows it, and returns what it says. Damage before the known end is a finding.
///
/// # Errors
/// The disk's.
pub(crate) async fn show(store: &Store, controls: &BTreeMap<ThreadId, Control>, args: &Args, out: &mut Output) -> Result<Said, String> {
    let mut said = Said::default();
    for (thread, at) in store.redo.iter().filter(|(thread, _)| args.thread.is_none_or(|wanted| wanted == thread.0)) {
        let file = store.file(*at);
        let Some(control) = controls.get(thread) else {
            out.finding("log", &name(&file.path), "neither control slot is whole: where the log starts and ends is not known");
            continue;
        };
        let ring_blocks = store.shape.ring_bytes / LOG_BLOCK as u64;
        let identity = LogIdentity { cluster: store.tag(), thread: *thread, ring_blocks };
        let log = Log { store, file: file.file, identity, path: name(&file.path) };
        if let Some(end) = log.read(control, args, &mut said.made_anew, out).await? {
            said.ends.insert(*thread, end);
        }
    }
    Ok(said)
}

struct Log<'s> {
    store: &'s Store,
    file: FileId,
    identity: LogIdentity,
    path: String,
}

impl Log<'_> {
    async fn read(
        &self,
        control: &Control,
        args: &Args,
        made_anew: &mut BTreeMap<PageId, Scn>,
        out: &mut Output,
    ) -> Result<Option<Lsn>, String> {
        let start = match args.from {
            Some(from) => self.first_group(from).await?,
            None => control.checkpoint,
        };
        let known_end = (control.state != ThreadState::Open).then_some(control.end);
        let source = LogSource { start, ..LogSource::of(control, self.store.disk().clone(), self.file, self.identity) };
        if args.blocks {
            self.blocks(start, args.to, out).await?;
        }
        let quiet = !args.operations && args.from.is_none() && args.to.is_none() && args.blocks;
        let mut reader = LogReader::new(source);
        let mut counted = Counted::default();
        loop {
            let outcome = reader
                .read(|group| {
                    counted.add(&group);
                    if !quiet && args.to.is_none_or(|to| group.end.0 <= to.0) {
                        print_group(&group, args.operations, out);
                    }
                    check_group(&group, made_anew)
                })
                .await;
            match outcome {
                Ok(true) if !out.is_closed() && args.to.is_none_or(|to| reader.position() < to) => {}
                Ok(_) => break,
                Err(fault) => {
                    out.finding("log", &self.path, &fault.to_string());
                    break;
                }
            }
        }
        let end = reader.end();
        let thread = self.identity.thread;
        let Counted { groups, changes, notices } = counted;
        let to = end.map_or(reader.position(), |end| end.at);
        let text = format!("log {thread}: {start} to {to}, {groups} groups with {changes} changes, {notices} notices");
        out.summary(
            &text,
            json!({ "log": thread.0, "from": start.0, "to": to.0, "groups": groups, "changes": changes, "notices": notices }),
        );
        // Only a log that was read from its start to its end says where it ends.
        Ok(end.filter(|_| args.from.is_none()).map(|end| known_end.unwrap_or(end.at)))
    }

    /// The first group that starts in `from`'s block or behind it.
    async fn first_group(&self, from: Lsn) -> Result<Lsn, String> {
        for number in from.block()..from.block() + SEARCH_BLOCKS {
            let header = block::open(&self.block(number).await?, &self.identity, number)
                .map_err(|fault| format!("{}: block {number:x} is not in the log: {fault}", self.path))?;
            if header.first_group != NO_GROUP {
                return Ok(Lsn(Lsn::of_block(number).0 + u64::from(header.first_group)));
            }
        }
        Err(format!("{}: no group starts in the {SEARCH_BLOCKS} blocks from {from} on", self.path))
    }

    async fn block(&self, number: u64) -> Result<Buffer, String> {
        let at = RING_AT + number % self.identity.ring_blocks * LOG_BLOCK as u64;
        let (bytes, outcome) = self.store.disk().read(self.file, at, Buffer::zeroed(LOG_BLOCK)).await;
        outcome.map(|()| bytes).map_err(|error| error.to_string())
    }

    async fn blocks(&self, start: Lsn, to: Option<Lsn>, out: &mut Output) -> Result<(), String> {
        for number in start.block()..start.block() + self.identity.ring_blocks {
            if out.is_closed() || to.is_some_and(|to| Lsn::of_block(number) >= to) {
                break;
            }
            // The first that doesn't belong here is the end; the reader says whether it may be.
            let Ok(header) = block::open(&self.block(number).await?, &self.identity, number) else { break };
            let block::Header { crc, previous_crc, writer, durable, lap, length, first_group, .. } = header;
            let first = if first_group == NO_GROUP { "none".to_string() } else { format!("{first_group:03x}") };
            let text = format!(
                "block {number:x}: {length} bytes, first group {first}, {} {}, durable {durable}, lap {lap}, crc {crc:08x} after {previous_crc:08x}",
                writer.incarnation, writer.epoch
            );
            let object = json!({
                "block": number, "length": length, "first_group": (first_group != NO_GROUP).then_some(first_group),
                "incarnation": writer.incarnation.0, "epoch": writer.epoch.0, "durable": durable.0, "lap": lap, "crc": crc, "previous_crc": previous_crc,
            });
            out.fact(&text, object);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Counted {
    groups: u64,
    changes: u64,
    notices: u64,
}

impl Counted {
    fn add(&mut self, group: &LogGroup<'_>) {
        match group.header.kind {
            GroupKind::Changes => {
                self.groups += 1;
                self.changes += group.header.items as u64;
            }
            GroupKind::Written => self.notices += 1,
        }
    }
}

/// Every operation of a group can be decoded. Notes which pages are made anew.
fn check_group(group: &LogGroup<'_>, made_anew: &mut BTreeMap<PageId, Scn>) -> Result<(), RecordFault> {
    if group.header.kind == GroupKind::Written {
        for (page, version) in written_items(group.body) {
            if made_anew.get(&page).is_some_and(|made| *made <= version) {
                made_anew.remove(&page);
            }
        }
        return Ok(());
    }
    for change in Changes::new(group.body, group.header.items) {
        let change = change?;
        Ops::new(change.ops).try_for_each(|op| op.map(|_| ()))?;
        if change.formats() {
            made_anew.insert(change.page, group.header.scn);
        }
    }
    Ok(())
}

fn print_group(group: &LogGroup<'_>, operations: bool, out: &mut Output) {
    let header = &group.header;
    let what = match header.kind {
        GroupKind::Changes => "changes",
        GroupKind::Written => "written",
    };
    let mut text = format!("group to {} {}: {} {what}, {} bytes", group.end, header.scn, header.items, header.length);
    let mut items: Vec<Value> = Vec::new();
    if operations && header.kind == GroupKind::Written {
        for (page, version) in written_items(group.body) {
            text += &format!("\n  {page} {version}");
            items.push(json!({ "page": page.to_string(), "version": version.0 }));
        }
    }
    if operations && header.kind == GroupKind::Changes {
        for change in Changes::new(group.body, header.items).map_while(Result::ok) {
            text += &format!("\n  {} from {}", change.page, change.previous);
            let ops: Vec<String> = Ops::new(change.ops).map(|op| op.map_or_else(|fault| fault.to_string(), |op| operation(&op))).collect();
            ops.iter().for_each(|op| text += &format!("\n    {op}"));
            items.push(json!({ "page": change.page.to_string(), "previous": change.previous.0, "operations": ops }));
        }
    }
    let object = json!({
        "group_end": group.end.0, "scn": header.scn.0, "kind": what, "count": header.items, "bytes": header.length,
        "incarnation": group.writer.incarnation.0, "items": items,
    });
    out.fact(&text, object);
}

fn operation(op: &Op<'_>) -> String {
    let show = |bytes: &[u8]| format!("\"{}\"", bytes.escape_ascii());
    let fence = |high: &Option<&[u8]>| high.map_or("unbounded".to_string(), show);
    match op {
        Op::Format { kind, tree, low, heap } => format!("format {kind:?} of {tree}, body {} + {} bytes", low.len(), heap.len()),
        Op::Insert { slot, key, value } => format!("insert at {slot} {} = {}", show(key), show(value)),
        Op::Delete { slot } => format!("delete {slot}"),
        Op::SetValue { slot, value } => format!("set {slot} = {}", show(value)),
        Op::Patch { slot, at, bytes } => format!("patch {slot} from {at} = {}", show(bytes)),
        Op::SplitOff { from, right, high } => format!("split off from {from}, right {right}, high {}", fence(high)),
        Op::Append { key, value } => format!("append {} = {}", show(key), show(value)),
        Op::SetBounds { right, high } => format!("bounds: right {right}, high {}", fence(high)),
        Op::Free => "free".to_string(),
        Op::SetBit { bit, used } => format!("bit {bit} {}", if *used { "in use" } else { "free" }),
    }
}
