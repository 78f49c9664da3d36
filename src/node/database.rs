//! The embedding API: a database in a directory, opened by the program that uses it, without SQL.
//!
//! A [`Database`] is one instance over its own storage files. A [`Transaction`] reads and writes typed tables; each of its operations is a
//! statement: it happens as a whole or not at all. What must be known about isolation, waiting and errors stands at the operations;
//! [`DatabaseError::sqlstate`] says what PostgreSQL would call an error. What it doesn't do: SQL, several instances; whatever isn't here
//! can be done with [`Database::tables`], one layer below.
//!
//! ```
//! use regroup::base::options::{DiskKind, Options};
//! use regroup::base::threads::ThreadsRuntime;
//! use regroup::disk::open_disk;
//! use regroup::node::database::{Database, Range};
//! use regroup::table::catalog::Column;
//! use regroup::table::datum::{Datum, Type};
//! use regroup::table::tables::{KeySpec, TableSpec};
//! use regroup::txn::Isolation;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
//! let seams = ThreadsRuntime::start(runtime.handle().clone(), 0)?;
//! runtime.block_on(async {
//!     Database::create(seams.clone(), open_disk(DiskKind::Auto)?, directory.path()).await?;
//!     let database = Database::open(seams.clone(), open_disk(DiskKind::Auto)?, directory.path(), Options::default()).await?;
//!
//!     let column = |name: &str, ty| Column { name: name.to_owned(), ty, not_null: true, default: None };
//!     let accounts = TableSpec {
//!         name: "accounts".to_owned(),
//!         columns: vec![column("id", Type::Int8), column("owner", Type::Text), column("balance", Type::Int8)],
//!         key: Some(KeySpec { name: None, columns: vec!["id".to_owned()] }),
//!         unique: Vec::new(),
//!     };
//!     let mut txn = database.begin(Isolation::ReadCommitted);
//!     txn.create_table(accounts).await?;
//!     for (id, owner) in [(1, "Ada"), (2, "Grace")] {
//!         txn.insert("accounts", &[Datum::Int8(id), Datum::Text(owner.to_owned()), Datum::Int8(100)]).await?;
//!     }
//!     txn.commit().await?;
//!
//!     // Move 30 from one to the other; think better of something on the way.
//!     let mut txn = database.begin(Isolation::ReadCommitted);
//!     for (id, change) in [(1, -30), (2, 30)] {
//!         let balance = |row: &mut Vec<Datum>| if let Datum::Int8(balance) = &mut row[2] { *balance += change };
//!         assert!(txn.update("accounts", &[Datum::Int8(id)], balance).await?);
//!     }
//!     let savepoint = txn.savepoint();
//!     assert!(txn.delete("accounts", &[Datum::Int8(2)]).await?);
//!     txn.rollback_to(savepoint).await?;
//!     txn.commit().await?;
//!
//!     let mut txn = database.begin(Isolation::RepeatableRead);
//!     let mut scan = txn.scan("accounts", Range::ALL).await?;
//!     let mut balances = Vec::new();
//!     while let Some(row) = scan.next().await? {
//!         balances.push(row[2].clone());
//!     }
//!     assert_eq!(balances, [Datum::Int8(70), Datum::Int8(130)]);
//!     drop(scan);
//!     txn.rollback().await?;
//!     database.close().await?;
//!     Ok(())
//! })
//! # }
//! ```

mod scan;
#[cfg(test)]
mod tests;
mod transaction;

use std::path::Path;
use std::sync::Arc;

pub use scan::{Range, Scan};
pub use transaction::Transaction;

use super::storage::Opening;
use super::store::{Store, StoreError};
use crate::base::options::Options;
use crate::base::{ClusterId, Seams, ThreadId};
use crate::disk::Disk;
use crate::page::superblock::Shape;
use crate::page::volume::StoragePaths;
use crate::recovery::RecoveryReport;
use crate::table::rows::{Interrupt, RowError};
use crate::table::tables::{Tables, TablesError, TablesProgress, TablesReport};
use crate::txn::Isolation;

/// Length of the redo ring, in bytes.
const RING_BYTES: u64 = 256 << 20;
/// First length of the data file, in bytes; it grows.
const DATA_BYTES: u64 = 16 << 20;

/// Why something with a database failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It can't be made, opened or closed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An operation on its tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
}

impl From<RowError> for DatabaseError {
    fn from(error: RowError) -> DatabaseError {
        DatabaseError::Tables(error.into())
    }
}

impl DatabaseError {
    /// What PostgreSQL calls it. `40001` and `40P01`: try the transaction again.
    ///
    /// ```
    /// use regroup::node::database::DatabaseError;
    /// use regroup::table::rows::RowError;
    /// assert_eq!(DatabaseError::from(RowError::Serialization).sqlstate(), "40001");
    /// ```
    pub fn sqlstate(&self) -> &'static str {
        match self {
            DatabaseError::Store(_) => "58030",
            DatabaseError::Tables(error) => error.sqlstate(),
        }
    }
}

/// An open database.
pub struct Database {
    store: Store,
    tables: Tables,
}

fn paths(directory: &Path) -> StoragePaths {
    StoragePaths { redo: vec![directory.join("redo1")], data: vec![directory.join("data0")] }
}

impl Database {
    /// Makes the files of a new database in `directory`, which is there.
    ///
    /// # Errors
    /// [`DatabaseError::Store`], also when there is one already; files made so far are left.
    pub async fn create(seams: Seams, disk: Arc<dyn Disk>, directory: &Path) -> Result<(), DatabaseError> {
        let mut cluster = [0; 16];
        cluster[..8].copy_from_slice(&seams.random().to_le_bytes());
        cluster[8..].copy_from_slice(&seams.random().to_le_bytes());
        let shape = Shape {
            cluster: ClusterId(cluster),
            threads: 1,
            data_files: 1,
            ring_bytes: RING_BYTES,
            data_bytes: DATA_BYTES,
            grow: true,
            created_ms: seams.wall_ms(),
        };
        Ok(Store::create(seams, disk, &paths(directory), shape).await?)
    }

    /// Opens the database in `directory`, recovering it first if it wasn't closed. One process at a time has it open.
    ///
    /// # Errors
    /// [`DatabaseError::Store`].
    pub async fn open(seams: Seams, disk: Arc<dyn Disk>, directory: &Path, options: Options) -> Result<Database, DatabaseError> {
        let (on_progress, on_checkpoint) = (None, None);
        let opening = Opening { seams, disk, paths: paths(directory), thread: ThreadId(1), options, on_progress, on_checkpoint };
        Ok(Database::over(Store::open(opening).await?))
    }

    /// The database in an open store.
    pub fn over(store: Store) -> Database {
        let tables = Tables::new(store.rows().clone());
        Database { store, tables }
    }

    /// What recovery did when the database was opened; nothing if it had been closed.
    pub fn recovery(&self) -> Option<&RecoveryReport> {
        self.store.storage().recovery()
    }

    /// The typed tables below: definitions, online index builds, bulk loads.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Begins a transaction. Dropped without an end, it is rolled back.
    pub fn begin(&self, isolation: Isolation) -> Transaction {
        self.begin_with(isolation, Interrupt::default())
    }

    /// The same; `interrupt` stops its waits and scans.
    pub fn begin_with(&self, isolation: Isolation, interrupt: Interrupt) -> Transaction {
        Transaction::new(self.tables.clone(), self.tables.rows().begin(isolation, interrupt))
    }

    /// Checks all indexes against their tables.
    ///
    /// # Errors
    /// [`DatabaseError::Tables`]: it could not be checked. What is wrong is in the report.
    pub async fn check(&self, progress: &mut (dyn FnMut(&TablesProgress) + Send)) -> Result<TablesReport, DatabaseError> {
        Ok(self.tables.check(&Interrupt::default(), progress).await?)
    }

    /// Closes the database: nothing to recover. Transactions still open are cut off, and undone by the next opening.
    ///
    /// # Errors
    /// [`DatabaseError::Store`]: the next opening recovers.
    pub async fn close(self) -> Result<(), DatabaseError> {
        Ok(self.store.close().await?)
    }
}
