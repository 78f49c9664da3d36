//! Sorting more than memory holds, into a new tree.
//!
//! What is pushed is collected in chunks of bounded size, small ones as long as it comes in order. A sorted chunk goes to the end of the current run,
//! a tree of its own, if it lies behind it; else a new run begins. So what comes in order is written once, and whatever fits into memory too; only several runs are merged into
//! one more tree. Run trees belong to the transaction and are gone with it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Bound;

use super::define::own_tree;
use super::{Tables, TablesError};
use crate::base::TreeId;
use crate::base::runtime::run_job;
use crate::table::rows::{Cursor, RowError, Transaction, frozen_header};
use crate::table::{Batch, Direction};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 32 << 20;
/// Bytes handed on at once while merging.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes handed on at once when they come in order: little more than one change group takes, so that they are still in the processor's cache.
const STREAM_BYTES: usize = 256 << 10;

/// Why sorting ended.
pub(super) enum SortError {
    /// This key came twice.
    Twice(Vec<u8>),
    /// Something below failed.
    Tables(TablesError),
}

impl From<TablesError> for SortError {
    fn from(error: TablesError) -> SortError {
        SortError::Tables(error)
    }
}

impl From<RowError> for SortError {
    fn from(error: RowError) -> SortError {
        SortError::Tables(error.into())
    }
}

/// Sorted pairs in a tree of their own.
struct Run {
    tree: TreeId,
    last: Vec<u8>,
}

/// Sorts pairs by key.
pub(super) struct Sorter {
    tables: Tables,
    /// What stands before each value.
    header: Vec<u8>,
    chunk: Batch,
    chunk_bytes: usize,
    /// The chunk's keys ascend.
    ascending: bool,
    runs: Vec<Run>,
}

impl Sorter {
    pub(super) fn new(tables: &Tables) -> Sorter {
        Sorter::with_chunks(tables, CHUNK_BYTES)
    }

    /// One with chunks of `chunk_bytes`.
    pub(super) fn with_chunks(tables: &Tables, chunk_bytes: usize) -> Sorter {
        let (tables, header) = (tables.clone(), frozen_header());
        Sorter { tables, header, chunk: Batch::default(), chunk_bytes, ascending: true, runs: Vec::new() }
    }

    /// Takes the pair whose key `key` appends to what it is given, with `value`; the pair is left out when `key` fails.
    pub(super) fn push<E>(&mut self, value: &[u8], key: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let mut begun = self.chunk.begin();
        key(begun.out())?;
        begun.key_is_whole();
        self.ascending &= begun.ascends();
        begun.out().extend_from_slice(&self.header);
        begun.out().extend_from_slice(value);
        begun.finish();
        Ok(())
    }

    /// Writes what was pushed when that is enough: whoever pushes calls this now and then. What comes in order isn't kept for long.
    pub(super) async fn settle(&mut self, txn: &mut Transaction) -> Result<(), SortError> {
        if self.chunk.memory() >= self.chunk_bytes {
            return self.flush(txn).await;
        }
        let behind = || self.runs.last().is_none_or(|run| &run.last[..] < self.chunk.key(0));
        if self.chunk.bytes() >= STREAM_BYTES && self.ascending && behind() {
            let run = self.run(txn).await?;
            if let Some(last) = txn.load_front(self.runs[run].tree, &mut self.chunk).await? {
                self.runs[run].last = last;
            }
        }
        Ok(())
    }

    /// The tree with all pairs, sorted.
    pub(super) async fn finish(mut self, txn: &mut Transaction) -> Result<TreeId, SortError> {
        self.flush(txn).await?;
        match self.runs.as_slice() {
            [] => Ok(own_tree(txn).await?),
            [run] => Ok(run.tree),
            _ => self.merge(txn).await,
        }
    }

    /// Writes all of the chunk.
    async fn flush(&mut self, txn: &mut Transaction) -> Result<(), SortError> {
        if !std::mem::replace(&mut self.ascending, true) {
            let mut chunk = std::mem::take(&mut self.chunk);
            let sort = move || {
                chunk.sort();
                chunk
            };
            self.chunk = run_job(self.tables.seams(), sort).await;
            if let Some(at) = (1..self.chunk.len()).find(|at| self.chunk.key(at - 1) == self.chunk.key(*at)) {
                return Err(SortError::Twice(self.chunk.key(at).to_vec()));
            }
        }
        let Some(last) = self.chunk.last_key().map(<[u8]>::to_vec) else { return Ok(()) };
        let run = self.run(txn).await?;
        txn.load_batch(self.runs[run].tree, &self.chunk).await?;
        self.runs[run].last = last;
        self.chunk.clear();
        Ok(())
    }

    /// The run that the chunk, which is in order, goes behind: the last one or a new one.
    async fn run(&mut self, txn: &mut Transaction) -> Result<usize, SortError> {
        let first = self.chunk.key(0);
        match self.runs.last() {
            Some(run) if run.last == first => return Err(SortError::Twice(first.to_vec())),
            Some(run) if &run.last[..] < first => {}
            _ => {
                let tree = own_tree(txn).await?;
                self.runs.push(Run { tree, last: Vec::new() });
            }
        }
        Ok(self.runs.len() - 1)
    }

    async fn merge(self, txn: &mut Transaction) -> Result<TreeId, SortError> {
        let target = own_tree(txn).await?;
        let mut sources = Vec::with_capacity(self.runs.len());
        let mut heap = BinaryHeap::with_capacity(self.runs.len());
        for (number, run) in self.runs.iter().enumerate() {
            let cursor = txn.cursor(run.tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
            let mut source = Source { cursor, pairs: VecDeque::new() };
            if let Some((key, value)) = source.next(txn).await? {
                heap.push(Reverse((key, number, value)));
            }
            sources.push(source);
        }
        let mut batch = Batch::default();
        let mut last: Option<Vec<u8>> = None;
        while let Some(Reverse((key, number, value))) = heap.pop() {
            if batch.last_key().or(last.as_deref()) == Some(&key) {
                return Err(SortError::Twice(key));
            }
            batch.push_parts(&key, &self.header, &value);
            if batch.bytes() >= BATCH_BYTES {
                txn.load_batch(target, &batch).await?;
                last = Some(key);
                batch.clear();
            }
            if let Some((key, value)) = sources[number].next(txn).await? {
                heap.push(Reverse((key, number, value)));
            }
        }
        txn.load_batch(target, &batch).await?;
        drop(sources);
        for run in &self.runs {
            txn.drop_tree(run.tree).await?;
        }
        Ok(target)
    }
}

/// A run being read.
struct Source {
    cursor: Cursor,
    pairs: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Source {
    async fn next(&mut self, txn: &Transaction) -> Result<Option<(Vec<u8>, Vec<u8>)>, RowError> {
        if self.pairs.is_empty() {
            self.pairs.extend(self.cursor.next(txn).await?.into_iter().map(|row| (row.key, row.value)));
        }
        Ok(self.pairs.pop_front())
    }
}
