//! Trees of a closed store: all of them checked, or one of them shown key by key.
//!
//! Needs pages that are up to date: a store that wasn't closed is recovered by opening it, or read with `clusterctl salvage`.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use regroup::base::threads::ThreadsRuntime;
use regroup::base::{ThreadId, TreeId};
use regroup::cache::{Cache, CacheSetup, LocalGrants};
use regroup::disk::Access;
use regroup::page::volume::{StoragePaths, Volume};
use regroup::redo::control::{Control, ThreadState};
use regroup::table::{Direction, Trees};
use serde_json::json;

use crate::files::Store;
use crate::output::Output;

/// Frames for reading trees: 64 MiB.
const FRAMES: usize = 8192;

/// What to show.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Show the keys and values of this tree, in hexadecimal, instead of checking.
    #[arg(long, value_name = "NUMBER")]
    dump: Option<u32>,
}

/// Checks all trees and space maps, or shows one tree.
///
/// # Errors
/// The store wasn't closed, or can't be opened as a whole; the disk's.
pub(crate) async fn show(store: &Store, controls: &BTreeMap<ThreadId, Control>, args: &Args, out: &mut Output) -> Result<(), String> {
    if let Some(control) = unclosed(controls) {
        return Err(format!(
            "redo thread {} is {}: its pages are not up to date; open the store once to recover it, or use `clusterctl salvage`",
            control.writer.thread, control.state
        ));
    }
    let trees = open(store).await?;
    match args.dump {
        Some(number) => dump(&trees, TreeId(number), out).await,
        None => check(&trees, out).await,
    }
}

/// A thread that wasn't closed.
pub(crate) fn unclosed(controls: &BTreeMap<ThreadId, Control>) -> Option<&Control> {
    controls.values().find(|control| control.state != ThreadState::Closed)
}

async fn open(store: &Store) -> Result<Trees, String> {
    let listed = |numbered: Vec<(u16, usize)>| {
        let sorted: BTreeMap<u16, usize> = numbered.into_iter().collect();
        sorted.into_values().map(|at| store.file(at).path.clone()).collect()
    };
    let redo = listed(store.redo.iter().map(|(thread, at)| (thread.0, *at)).collect());
    let paths = StoragePaths { redo, data: listed(store.data.clone()) };
    let volume = Volume::open(store.disk().clone(), &paths, Access::Read).await.map_err(|error| error.to_string())?;
    let seams = ThreadsRuntime::start(tokio::runtime::Handle::current(), 1).map_err(|error| error.to_string())?;
    let cache = Cache::new(CacheSetup {
        seams,
        volume: Arc::new(volume),
        grants: Arc::new(LocalGrants),
        frames: FRAMES,
        io_depth: 32,
        double_write: true,
        clock: Arc::new(AtomicU64::new(0)),
    });
    Trees::open(cache, ThreadId(1)).await.map_err(|error| error.to_string())
}

async fn check(trees: &Trees, out: &mut Output) -> Result<(), String> {
    let report = trees.check(|_| {}).await.map_err(|error| error.to_string())?;
    for finding in &report.findings {
        out.finding("tree", "trees", &finding.to_string());
    }
    for tree in &report.trees {
        let (entries, nodes, levels, fill) = (tree.entries, tree.nodes, tree.levels, tree.leaf_fill());
        let text = format!(
            "{} root {}: {entries} keys, {nodes} nodes in {levels} levels, leaves {:.0} % full",
            tree.tree,
            tree.root,
            fill * 100.0
        );
        let object = json!({
            "tree": tree.tree.0, "root": tree.root.to_string(), "keys": entries, "nodes": nodes, "levels": levels, "leaf_fill": fill,
        });
        out.fact(&text, object);
    }
    let text = format!("trees: {} checked, {} findings", report.trees.len(), report.findings.len());
    out.summary(&text, json!({ "trees": report.trees.len(), "findings": report.findings.len() }));
    Ok(())
}

async fn dump(trees: &Trees, tree: TreeId, out: &mut Output) -> Result<(), String> {
    let all = (Bound::Unbounded, Bound::Unbounded);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let show = |key: &[u8], value: &[u8]| {
        let (key, value) = (hex(key), hex(value));
        out.fact(&format!("{tree} {key} {value}"), json!({ "tree": tree.0, "key": key, "value": value }));
        if out.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    trees.scan(tree, all, Direction::Up, show).await.map_err(|error| error.to_string())
}
