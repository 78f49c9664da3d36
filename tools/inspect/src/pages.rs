//! Pages: one of them in full, or all of them verified.

use std::io::Write;
use std::time::Instant;

use regroup::base::PageId;
use regroup::base::limits::{PAGE_SIZE, SPACE_GROUP_PAGES};
use regroup::base::threads::ThreadsRuntime;
use regroup::disk::Buffer;
use regroup::ops::scrub::{Counts, DataFile, Evidence, Heard, Progress, Scrub};
use regroup::page::superblock::PAGES_AT;
use regroup::page::{Kind, header, slotted, space, verify};
use serde_json::{Value, json};

use crate::files::{Store, name};
use crate::output::Output;

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

/// Verifies every page of every data file. A bad page is a finding; one that was never written is not, unless its space map says that it is
/// in use.
///
/// # Errors
/// A data file's length can't be had, or threads can't be started.
pub(crate) async fn verify_all(store: &Store, evidence: Evidence, out: &mut Output) -> Result<(), String> {
    let seams = ThreadsRuntime::start(tokio::runtime::Handle::current(), 1).map_err(|error| error.to_string())?;
    let mut files = Vec::new();
    for (number, at) in &store.data {
        let file = store.file(*at).file;
        let length = store.disk().length(file).map_err(|error| error.to_string())?;
        files.push(DataFile { number: *number, file, pages: length.saturating_sub(PAGES_AT) / PAGE_SIZE as u64 });
    }
    let started = Instant::now();
    let scrub = Scrub::files(seams, store.disk().clone(), store.tag(), files, evidence);
    let counts = scrub.run(|heard| match heard {
        Heard::Progress(progress) => tell(&progress),
        Heard::Bad(bad) => {
            let place = format!("{} at offset {} of {}", bad.page, bad.offset, name(&bad.file));
            out.finding("page", &place, &bad.trouble.to_string());
        }
    });
    let Counts { tree, undo, space, free, blank, mendable, bad, pages, .. } = counts.await;
    let rate = (pages * PAGE_SIZE as u64) as f64 / 1e6 / started.elapsed().as_secs_f64().max(1e-9);
    let text = format!(
        "pages: {tree} tree, {undo} undo, {space} space maps, {free} free, {blank} never written, {mendable} torn with a double-write image, {bad} bad; {rate:.0} MB/s"
    );
    let object = json!({
        "pages": pages, "tree": tree, "undo": undo, "space": space, "free": free, "blank": blank, "mendable": mendable, "bad": bad,
        "mb_per_second": rate.round(),
    });
    out.summary(&text, object);
    Ok(())
}

fn tell(progress: &Progress) {
    let (done, total) = (progress.done as f64, progress.total.max(1) as f64);
    let rate = done / 1e6 / progress.elapsed.as_secs_f64().max(1e-9);
    // Progress is for people who watch: it doesn't matter if nobody does.
    let _ = writeln!(std::io::stderr(), "pages: {:.0} %, {rate:.0} MB/s, {:.0} s left", done / total * 100.0, progress.left.as_secs_f64());
}
