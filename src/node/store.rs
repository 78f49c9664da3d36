//! A storage core with its trees: what a process opens and serves from.
//!
//! [`Store::create`] makes the files and the first pages, [`Store::open`] recovers what needs it. [`Store::commit`] applies a change group
//! and acknowledges it as the log's mode says; reading sees it at once, as one instance has one cache.

use std::sync::Arc;

use super::storage::{self, Life, OpenError, Opening, OpeningVolume, Storage};
use crate::base::options::Options;
use crate::base::{Seams, ThreadId};
use crate::cache::Committed;
use crate::disk::Disk;
use crate::page::superblock::Shape;
use crate::page::volume::StoragePaths;
use crate::table::catalog::CATALOG;
use crate::table::rows::{RowError, Rows};
use crate::table::{TableError, Trees, Write};
use crate::txn::elsewhere::Alone;

/// Why a store can't be opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The storage core.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The trees.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The rows.
    #[error(transparent)]
    Rows(#[from] RowError),
}

/// An open store.
pub struct Store {
    storage: Storage,
    trees: Trees,
    rows: Rows,
}

impl Store {
    /// Makes the storage files of a new cluster and its first pages, and closes them.
    ///
    /// # Errors
    /// [`StoreError`]; the files made so far are left for the caller to remove.
    pub async fn create(seams: Seams, disk: Arc<dyn Disk>, paths: &StoragePaths, shape: Shape) -> Result<(), StoreError> {
        let volume = storage::create(disk, paths, shape).await?;
        let options = Options { cache_bytes: 2 << 20, ..Options::default() };
        let (on_progress, on_checkpoint) = (None, None);
        let opening = OpeningVolume { seams, volume, thread: ThreadId(1), options, on_progress, on_checkpoint };
        let storage = Storage::open_volume(opening).await?;
        Trees::bootstrap(storage.cache().clone(), ThreadId(1)).await?;
        let trees = Trees::open(storage.cache().clone(), ThreadId(1)).await?;
        trees.create_tree(CATALOG).await?;
        Rows::open(trees, &Options::default(), Arc::new(Alone)).await?.close().await;
        storage.close().await?;
        Ok(())
    }

    /// Opens the store, recovering it first if it wasn't closed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(opening: Opening) -> Result<Store, StoreError> {
        let (thread, options) = (opening.thread, opening.options.clone());
        Store::over(Storage::open(opening).await?, thread, &options).await
    }

    /// As [`Store::open`] for a member of a cluster, whose files are open, and who has its incarnation and epoch from membership.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_member(opening: OpeningVolume, life: Life) -> Result<Store, StoreError> {
        let (thread, options) = (opening.thread, opening.options.clone());
        Store::over(Storage::open_member(opening, life).await?, thread, &options).await
    }

    async fn over(storage: Storage, thread: ThreadId, options: &Options) -> Result<Store, StoreError> {
        let trees = Trees::open(storage.cache().clone(), thread).await?;
        if let Err(error) = trees.finish_drops().await {
            tracing::error!(%error, "trees whose drop was cut off by a crash can't be freed now; the next open tries again");
        }
        let rows = Rows::open(trees.clone(), options, Arc::new(Alone)).await?;
        storage.count_transactions(rows.counter());
        Ok(Store { storage, trees, rows })
    }

    /// The storage core.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The trees.
    pub fn trees(&self) -> &Trees {
        &self.trees
    }

    /// The rows of the trees, under transactions.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Applies `writes` as one change group and waits until it can be acknowledged.
    ///
    /// # Errors
    /// [`TableError`]: nothing changed, unless the log has failed: then whether it did shows after recovery.
    pub async fn commit(&self, writes: &[Write<'_>]) -> Result<Committed, TableError> {
        let done = self.trees.apply(writes).await?;
        self.storage.committed(done.end).await?;
        Ok(done)
    }

    /// Closes the store: nothing to recover.
    ///
    /// # Errors
    /// The log or the disk failed: the next open recovers.
    pub async fn close(self) -> Result<(), StoreError> {
        self.rows.close().await;
        Ok(self.storage.close().await?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::sim::Sim;
    use crate::base::{ClusterId, TreeId};
    use crate::disk::memory::{MemoryDisk, MemoryMedia};
    use crate::table::rows::{Inserted, Interrupt, Isolation};

    /// The second thread's clock had never moved, so that its snapshots saw nothing of what the first one had committed.
    #[test]
    fn a_thread_opened_for_the_first_time_sees_what_another_one_committed() {
        const TREE: TreeId = TreeId(7);
        let (sim, media) = (Sim::new(1), MemoryMedia::new(1));
        let disk = || Arc::new(MemoryDisk::new(&media, sim.runtime())) as Arc<dyn Disk>;
        let redo = (1..=2).map(|thread| PathBuf::from(format!("redo.{thread}"))).collect();
        let paths = StoragePaths { redo, data: vec![PathBuf::from("data.0")] };
        let shape = Shape {
            cluster: ClusterId(*b"store of threads"),
            threads: 2,
            data_files: 1,
            ring_bytes: 8 << 20,
            data_bytes: 1000 * 8192,
            grow: true,
            created_ms: 0,
        };
        let opening = |thread| Opening {
            seams: sim.runtime(),
            disk: disk(),
            paths: paths.clone(),
            thread: ThreadId(thread),
            options: Options { cache_bytes: 2 << 20, ..Options::default() },
            on_progress: None,
            on_checkpoint: None,
        };
        sim.run(async {
            Store::create(sim.runtime(), disk(), &paths, shape).await.unwrap();
            for round in 0u64..6 {
                let store = Store::open(opening(1 + (round % 2) as u16)).await.unwrap();
                if round == 0 {
                    store.trees().create_tree(TREE).await.unwrap();
                }
                let mut txn = store.rows().begin(Isolation::ReadCommitted, Interrupt::default());
                txn.begin_statement();
                for before in 0..round {
                    let row = txn.get(TREE, &before.to_be_bytes()).await.unwrap();
                    assert_eq!(row.map(|row| row.value), Some(before.to_le_bytes().to_vec()), "round {round}");
                }
                let done = txn.insert(TREE, &round.to_be_bytes(), &round.to_le_bytes()).await;
                assert_eq!(done, Ok(Inserted::Done));
                txn.commit().await.unwrap();
                store.close().await.unwrap();
            }
        });
    }
}
