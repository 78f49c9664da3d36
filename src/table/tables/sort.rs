//! Sorting more than memory holds, into a new tree.
//!
//! What is pushed is collected in chunks of bounded size. A sorted chunk goes to the end of the current run, a tree of its own, if it lies behind it;
//! else a new run begins. So what comes in order is written once, and whatever fits into memory too; only several runs are merged into
//! one more tree. Run trees belong to the transaction and are gone with it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Bound;

use super::define::own_tree;
use super::{Tables, TablesError};
use crate::base::TreeId;
use crate::base::runtime::run_job;
use crate::table::Direction;
use crate::table::rows::{Cursor, RowError, Transaction};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 32 << 20;
/// Bytes handed on at once while merging.
const BATCH_BYTES: usize = 1 << 20;
/// What a pair takes beside its bytes.
const PAIR_BYTES: usize = size_of::<(Vec<u8>, Vec<u8>)>();

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
    chunk: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    chunk_bytes: usize,
    ascending: bool,
    runs: Vec<Run>,
}

impl Sorter {
    pub(super) fn new(tables: &Tables) -> Sorter {
        Sorter::with_chunks(tables, CHUNK_BYTES)
    }

    /// One with chunks of `chunk_bytes`.
    pub(super) fn with_chunks(tables: &Tables, chunk_bytes: usize) -> Sorter {
        Sorter { tables: tables.clone(), chunk: Vec::new(), bytes: 0, chunk_bytes, ascending: true, runs: Vec::new() }
    }

    /// Takes a pair.
    pub(super) async fn push(&mut self, txn: &mut Transaction, key: Vec<u8>, value: Vec<u8>) -> Result<(), SortError> {
        self.ascending &= self.chunk.last().is_none_or(|(last, _)| *last < key);
        self.bytes += key.len() + value.len() + PAIR_BYTES;
        self.chunk.push((key, value));
        if self.bytes >= self.chunk_bytes { self.flush(txn).await } else { Ok(()) }
    }

    /// The tree with all pairs, sorted.
    pub(super) async fn finish(mut self, txn: &mut Transaction) -> Result<TreeId, SortError> {
        if !self.chunk.is_empty() {
            self.flush(txn).await?;
        }
        match self.runs.as_slice() {
            [] => Ok(own_tree(txn).await?),
            [run] => Ok(run.tree),
            _ => self.merge(txn).await,
        }
    }

    async fn flush(&mut self, txn: &mut Transaction) -> Result<(), SortError> {
        let mut chunk = std::mem::take(&mut self.chunk);
        self.bytes = 0;
        if !std::mem::replace(&mut self.ascending, true) {
            let sort = move || {
                chunk.sort_unstable();
                chunk
            };
            chunk = run_job(self.tables.seams(), sort).await;
        }
        if let Some(pair) = chunk.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(SortError::Twice(pair[0].0.clone()));
        }
        let (Some((first, _)), Some((last, _))) = (chunk.first(), chunk.last()) else { return Ok(()) };
        let last = last.clone();
        let tree = match self.runs.last_mut() {
            Some(run) if run.last == *first => return Err(SortError::Twice(first.clone())),
            Some(run) if run.last < *first => {
                run.last = last;
                run.tree
            }
            _ => {
                let tree = own_tree(txn).await?;
                self.runs.push(Run { tree, last });
                tree
            }
        };
        txn.load(tree, &chunk, true).await?;
        // Its memory serves the next chunk.
        chunk.clear();
        self.chunk = chunk;
        Ok(())
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
        let mut batch: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        let mut last: Option<Vec<u8>> = None;
        while let Some(Reverse((key, number, value))) = heap.pop() {
            let before = batch.last().map(|(key, _)| key).or(last.as_ref());
            if before == Some(&key) {
                return Err(SortError::Twice(key));
            }
            bytes += key.len() + value.len();
            batch.push((key, value));
            if bytes >= BATCH_BYTES {
                txn.load(target, &batch, true).await?;
                last = batch.pop().map(|(key, _)| key);
                batch.clear();
                bytes = 0;
            }
            if let Some((key, value)) = sources[number].next(txn).await? {
                heap.push(Reverse((key, number, value)));
            }
        }
        txn.load(target, &batch, true).await?;
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
