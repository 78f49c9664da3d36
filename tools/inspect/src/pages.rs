//! Pages: one of them in full, or all of them verified.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant};

use regroup::base::limits::{PAGE_SIZE, SPACE_GROUP_PAGES};
use regroup::base::{Lsn, PageId, Scn, ThreadId};
use regroup::disk::{Buffer, IoOutcome};
use regroup::page::superblock::PAGES_AT;
use regroup::page::{Kind, PageFault, header, slotted, space, verify};
use serde_json::{Value, json};

use crate::files::{Store, name};
use crate::output::Output;

/// Pages of one read: 1 MiB.
const READ_PAGES: u64 = 128;
/// Reads in flight.
const READ_DEPTH: usize = 4;
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Which page.
#[derive(clap::Args)]
pub(crate) struct PageArgs {
    /// The page: FILE:INDEX, as in messages (p0:17 or 0:17).
    #[arg(value_parser = parse_page)]
    page: PageId,
    /// Show keys and values too.
    #[arg(long)]
    cells: bool,
}

fn parse_page(text: &str) -> Result<PageId, String> {
    let wrong = || format!("{text:?} is no page: give FILE:INDEX, for example p0:17");
    let (file, index) = text.trim_start_matches('p').split_once(':').ok_or_else(wrong)?;
    let index = index.parse().ok().filter(|index: &u64| *index < 1 << 48).ok_or_else(wrong)?;
    Ok(PageId::new(file.parse().map_err(|_| wrong())?, index))
}

/// What other structures say of pages.
#[derive(Default)]
pub(crate) struct Evidence {
    /// Where each thread's log ends: no page may have redo behind it.
    pub(crate) log_ends: BTreeMap<ThreadId, Lsn>,
    /// Whole images in double-write areas: recovery mends these homes.
    pub(crate) images: BTreeMap<PageId, Scn>,
}

/// Shows one page. A page that doesn't verify is a finding, and is shown as far as it can be.
///
/// # Errors
/// There is no such page; the disk's.
pub(crate) async fn show_one(store: &Store, args: &PageArgs, out: &mut Output) -> Result<(), String> {
    let page = args.page;
    let (_, at) = store.data.iter().find(|(number, _)| *number == page.file()).ok_or(format!("there is no data file {}", page.file()))?;
    let offset = page.index() * PAGE_SIZE as u64 + PAGES_AT;
    let (bytes, outcome) = store.disk().read(store.file(*at).file, offset, Buffer::zeroed(PAGE_SIZE)).await;
    outcome.map_err(|error| error.to_string())?;
    let whole = verify(&bytes, page, store.tag());
    let stamp = header::of(&bytes);
    let writer = stamp.writer();
    let kind = stamp.kind().map_or(format!("kind {}", stamp.kind), |kind| format!("{kind:?}"));
    let mut text = format!(
        "page {}: {kind}, {}, {}, redo {}, by {} {} {}, crc {:08x}",
        stamp.id(),
        stamp.tree(),
        stamp.version(),
        stamp.redo(),
        writer.thread,
        writer.incarnation,
        writer.epoch,
        stamp.crc.get()
    );
    let mut body = Value::Null;
    if whole.is_ok() {
        let (more, object) = describe(&bytes, args.cells);
        (text, body) = (text + &more, object);
    }
    let object = json!({
        "page": stamp.id().to_string(), "kind": kind, "tree": stamp.tree().0, "version": stamp.version().0, "redo": stamp.redo().0,
        "thread": writer.thread.0, "incarnation": writer.incarnation.0, "epoch": writer.epoch.0, "crc": stamp.crc.get(), "body": body,
    });
    out.fact(&text, object);
    if let Err(fault) = whole {
        out.finding("page", &format!("{} offset {offset}", name(&store.file(*at).path)), &fault.to_string());
    }
    Ok(())
}

/// The body of a page that verified.
fn describe(bytes: &[u8], cells: bool) -> (String, Value) {
    match header::of(bytes).kind() {
        Some(Kind::Tree | Kind::Slots | Kind::Undo) => {
            let show = |key: Option<&[u8]>| key.map(|key| key.escape_ascii().to_string());
            let (low, high, count) = (show(slotted::low(bytes)), show(slotted::high(bytes)), slotted::count(bytes));
            let (level, right, free) = (slotted::level(bytes), slotted::right(bytes), slotted::free(bytes));
            let none = || "unbounded".to_string();
            let mut text = format!("\n  level {level}, {count} cells, {free} bytes free, right {right}");
            text += &format!("\n  low {}, high {}", low.clone().unwrap_or_else(none), high.clone().unwrap_or_else(none));
            let mut list = Vec::new();
            for slot in (0..count).filter(|_| cells) {
                let (key, value) =
                    (slotted::key(bytes, slot).escape_ascii().to_string(), slotted::value(bytes, slot).escape_ascii().to_string());
                text += &format!("\n  {slot}: {key} = {value}");
                list.push(json!({ "key": key, "value": value }));
            }
            let object = json!({
                "level": level, "cells": count, "free": free, "right": right.to_string(), "low": low, "high": high, "list": list,
            });
            (text, object)
        }
        Some(Kind::Space) => {
            let (owner, used) = (space::owner(bytes), space::count_used(bytes));
            let text = format!("\n  map of {owner}: {used} of {SPACE_GROUP_PAGES} pages in use");
            (text, json!({ "owner": owner.0, "used": used }))
        }
        Some(Kind::Free) | None => (String::new(), Value::Null),
    }
}

/// What a walk has seen.
#[derive(Default)]
struct Seen {
    tree: u64,
    undo: u64,
    space: u64,
    free: u64,
    blank: u64,
    mendable: u64,
    bad: u64,
    bytes: u64,
}

/// Verifies every page of every data file. A bad page is a finding; one that was never written is not, unless its space map says that it is
/// in use.
///
/// # Errors
/// The disk's length can't be had.
pub(crate) async fn verify_all(store: &Store, evidence: &Evidence, out: &mut Output) -> Result<(), String> {
    let mut walk = Walk { store, evidence, seen: Seen::default(), map: None, total: 0, started: Instant::now(), told: Instant::now() };
    let mut files = Vec::new();
    for (number, at) in &store.data {
        let length = store.disk().length(store.file(*at).file).map_err(|error| error.to_string())?;
        let pages = length.saturating_sub(PAGES_AT) / PAGE_SIZE as u64;
        walk.total += pages * PAGE_SIZE as u64;
        files.push((*number, *at, pages));
    }
    for (number, at, pages) in files {
        walk.file(number, at, pages, out).await;
    }
    let Seen { tree, undo, space, free, blank, mendable, bad, bytes } = walk.seen;
    let rate = bytes as f64 / 1e6 / walk.started.elapsed().as_secs_f64().max(1e-9);
    let text = format!(
        "pages: {tree} tree, {undo} undo, {space} space maps, {free} free, {blank} never written, {mendable} torn with a double-write image, {bad} bad; {rate:.0} MB/s"
    );
    let object = json!({
        "pages": bytes / PAGE_SIZE as u64, "tree": tree, "undo": undo, "space": space, "free": free, "blank": blank, "mendable": mendable, "bad": bad,
        "mb_per_second": rate.round(),
    });
    out.summary(&text, object);
    Ok(())
}

struct Walk<'s> {
    store: &'s Store,
    evidence: &'s Evidence,
    seen: Seen,
    /// The space map of the present group, if it is whole.
    map: Option<Vec<u8>>,
    total: u64,
    started: Instant,
    told: Instant,
}

impl Walk<'_> {
    async fn file(&mut self, number: u16, at: usize, pages: u64, out: &mut Output) {
        let file = self.store.file(at);
        let read = |first: u64, count: u64| {
            let buffer = Buffer::zeroed(count as usize * PAGE_SIZE);
            self.store.disk().read(file.file, PAGES_AT + first * PAGE_SIZE as u64, buffer)
        };
        let mut starts = (0..pages).step_by(READ_PAGES as usize);
        let mut reads = VecDeque::new();
        loop {
            while reads.len() < READ_DEPTH
                && let Some(first) = starts.next()
            {
                let count = READ_PAGES.min(pages - first);
                reads.push_back((first, count, read(first, count)));
            }
            let Some((first, count, outcome)) = reads.pop_front() else { return };
            let (bytes, outcome): IoOutcome = outcome.await;
            for index in 0..count {
                let page = PageId::new(number, first + index);
                let found = if outcome.is_ok() {
                    let from = index as usize * PAGE_SIZE;
                    self.page(page, &bytes[from..from + PAGE_SIZE])
                } else {
                    // One bad sector costs one page, not its neighbours.
                    let (bytes, outcome) = read(first + index, 1).await;
                    outcome.map_err(|error| error.to_string()).and_then(|()| self.page(page, &bytes))
                };
                if let Err(what) = found {
                    self.seen.bad += 1;
                    let offset = PAGES_AT + page.index() * PAGE_SIZE as u64;
                    out.finding("page", &format!("{page} at offset {offset} of {}", name(&file.path)), &what);
                }
            }
            self.seen.bytes += count * PAGE_SIZE as u64;
            self.tell();
        }
    }

    /// Verifies one page, and counts it.
    fn page(&mut self, page: PageId, bytes: &[u8]) -> Result<(), String> {
        if space::is_map(page) {
            self.map = None;
        }
        match verify(bytes, page, self.store.tag()) {
            Ok(()) => {}
            Err(PageFault::Blank { .. }) if !self.in_use(page) => {
                self.seen.blank += 1;
                return Ok(());
            }
            Err(_) if self.evidence.images.contains_key(&page) => {
                self.seen.mendable += 1;
                return Ok(());
            }
            Err(fault) => return Err(fault.to_string()),
        }
        let stamp = header::of(bytes);
        match stamp.kind() {
            Some(Kind::Tree) => self.seen.tree += 1,
            Some(Kind::Slots | Kind::Undo) => self.seen.undo += 1,
            Some(Kind::Space) => {
                self.seen.space += 1;
                self.map = Some(bytes.to_vec());
            }
            Some(Kind::Free) | None => self.seen.free += 1,
        }
        match self.evidence.log_ends.get(&stamp.writer().thread) {
            Some(end) if stamp.redo() > *end => Err(format!(
                "has redo up to {}, but the log of {} ends at {end}: durable redo is missing",
                stamp.redo(),
                stamp.writer().thread
            )),
            _ => Ok(()),
        }
    }

    fn in_use(&self, page: PageId) -> bool {
        self.map.as_ref().is_some_and(|map| space::used(map, space::bit_of(page)))
    }

    fn tell(&mut self) {
        if self.told.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.told = Instant::now();
        let (done, total) = (self.seen.bytes as f64, self.total.max(1) as f64);
        let seconds = self.started.elapsed().as_secs_f64();
        let left = seconds * (total - done) / done.max(1.0);
        let rate = done / 1e6 / seconds;
        // Progress is for people who watch: it doesn't matter if nobody does.
        let _ =
            writeln!(std::io::stderr(), "pages: {:.0} %, {rate:.0} MB/s, {left:.0} s left, {} bad", done / total * 100.0, self.seen.bad);
    }
}
