//! What statements know beside their tables: the client, its settings, the time, the catalog as it is now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::error::{Notice, SqlError};
use super::session::EngineOptions;
use super::settings::Settings;
use super::types::{Context, Formats, Outside};
use crate::base::Seams;
use crate::table::catalog::Table;
use crate::table::rows::Interrupt;

/// Microseconds from 1970-01-01 to 2000-01-01.
const EPOCH_US: i64 = 946_684_800_000_000;

/// All tables at one moment.
#[derive(Default, Debug)]
pub struct Snapshot {
    /// What names this state of the catalog; nothing while this transaction or another one changes it.
    pub stamp: Option<u64>,
    /// In order of their numbers.
    pub tables: Vec<Arc<Table>>,
    by_name: FxHashMap<String, usize>,
}

impl Snapshot {
    /// Of those tables.
    pub fn new(stamp: Option<u64>, tables: Vec<Arc<Table>>) -> Snapshot {
        let by_name = tables.iter().enumerate().map(|(at, table)| (table.name.clone(), at)).collect();
        Snapshot { stamp, tables, by_name }
    }

    /// The table called `name`.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.by_name.get(name).map(|at| &self.tables[*at])
    }

    /// The table of that number.
    pub fn by_id(&self, id: u32) -> Option<&Arc<Table>> {
        self.tables.binary_search_by_key(&id, |table| table.id).ok().map(|at| &self.tables[at])
    }

    /// The number of a table, index or key.
    pub fn relation_id(&self, name: &str) -> Option<u32> {
        if let Some(table) = self.table(name) {
            return Some(table.id);
        }
        self.tables.iter().find_map(|table| {
            let key = table.key.as_ref().filter(|key| key.name == name).map(|key| key.id);
            key.or_else(|| table.indexes.iter().find(|index| index.name == name).map(|index| index.id))
        })
    }

    /// The name of a table, index or key.
    pub fn relation_name(&self, id: u32) -> Option<&str> {
        if let Some(table) = self.by_id(id) {
            return Some(&table.name);
        }
        self.tables.iter().find_map(|table| {
            let key = table.key.as_ref().filter(|key| key.id == id).map(|key| key.name.as_str());
            key.or_else(|| table.indexes.iter().find(|index| index.id == id).map(|index| index.name.as_str()))
        })
    }
}

/// Why a statement is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stop {
    /// The client's request.
    Cancel = 1,
    /// `statement_timeout`.
    Timeout = 2,
    /// The session is to end.
    Terminate = 3,
}

/// What changes of a client while it is connected, and others may look at.
#[derive(Debug, Default)]
pub struct ClientState {
    /// Its settings.
    pub settings: Settings,
    /// The statement under way, or the last one.
    pub query: Arc<str>,
    /// idle, active, idle in transaction, idle in transaction (aborted).
    pub doing: &'static str,
    /// When its transaction began, the statement began, and what it does changed: microseconds since 2000.
    pub times: (Option<i64>, i64, i64),
    /// What each sequence gave last, and which was the last.
    pub sequences: BTreeMap<u32, i64>,
    /// The sequence used last.
    pub last_sequence: Option<u32>,
    /// Notices to tell.
    pub notices: Vec<Notice>,
}

/// A client, as others see it.
pub struct Client {
    /// Its number.
    pub pid: i32,
    /// What a cancel request must know.
    pub secret: i32,
    /// Its role.
    pub user: String,
    /// When it came: microseconds since 2000.
    pub since: i64,
    /// Stops its waits.
    pub interrupt: Interrupt,
    /// Set when it is to end.
    pub ended: Notify,
    stop: AtomicU8,
    /// What changes.
    pub state: Mutex<ClientState>,
}

impl Client {
    /// A new one.
    pub fn new(pid: i32, secret: i32, user: String, since: i64, settings: Settings) -> Client {
        let state = ClientState { settings, doing: "idle", times: (None, since, since), ..ClientState::default() };
        Client {
            pid,
            secret,
            user,
            since,
            interrupt: Interrupt::default(),
            ended: Notify::new(),
            stop: AtomicU8::new(0),
            state: Mutex::new(state),
        }
    }

    /// Stops what it does; a session that is to end stays so.
    pub fn stop(&self, why: Stop) {
        // An earlier reason gives way only to the end of the session.
        let _ =
            self.stop.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now == 0 || why == Stop::Terminate).then_some(why as u8));
        self.interrupt.set();
        if why == Stop::Terminate {
            self.ended.notify_one();
        }
    }

    /// Whether the session is to end.
    pub fn is_ended(&self) -> bool {
        self.stop.load(Ordering::Acquire) == Stop::Terminate as u8
    }

    /// A statement begins: what was to stop an earlier one is forgotten.
    pub fn begin(&self) {
        if self.stop.load(Ordering::Acquire) != 0 && !self.is_ended() {
            self.stop.store(0, Ordering::Release);
            self.interrupt.clear();
        }
    }

    /// Fails when the statement is to stop.
    ///
    /// # Errors
    /// 57014, 57P01.
    pub fn check(&self) -> Result<(), SqlError> {
        match self.stop.load(Ordering::Acquire) {
            0 => Ok(()),
            1 => Err(SqlError::new("57014", "canceling statement due to user request")),
            2 => Err(SqlError::new("57014", "canceling statement due to statement timeout")),
            _ => Err(SqlError::new("57P01", "terminating connection due to administrator command")),
        }
    }
}

/// Clock and randomness.
pub struct Outer(pub Seams);

impl Outside for Outer {
    fn clock(&self) -> i64 {
        clock(&self.0)
    }

    fn bits(&self) -> u64 {
        self.0.random()
    }
}

/// The wall clock: microseconds since 2000-01-01 00:00 UTC.
pub fn clock(seams: &Seams) -> i64 {
    (seams.wall_ms() as i64) * 1000 - EPOCH_US
}

/// All clients of the instance, by number.
pub type Clients = Arc<Mutex<BTreeMap<i32, Arc<Client>>>>;

/// What statements know.
pub struct World {
    /// Who asks.
    pub client: Arc<Client>,
    /// Everyone.
    pub clients: Clients,
    /// The engine's options.
    pub options: Arc<EngineOptions>,
    /// Clock, timers, randomness.
    pub seams: Seams,
    /// Tables now.
    pub catalog: Arc<Snapshot>,
    /// Sequences of the instance.
    pub sequences: super::sequence::Sequences,
    /// Memory of all statements together.
    pub memory: super::exec::memory::Pool,
    /// How values look.
    pub formats: Formats,
    /// When the transaction began: microseconds since 2000.
    pub transaction_start: i64,
    /// When the statement began.
    pub statement_start: i64,
    /// The transaction's number in this session's numbering.
    pub transaction: u64,
    /// When the engine was opened.
    pub engine_start: i64,
    /// Clock and randomness for functions.
    pub outer: Outer,
}

impl World {
    /// What functions are called with.
    pub fn context(&self) -> Context<'_> {
        Context {
            formats: &self.formats,
            transaction_start: self.transaction_start,
            statement_start: self.statement_start,
            outside: &self.outer,
        }
    }
}
