//! Steps: what is sent, on which of two sessions; and which orders of steps can't make one session wait for the other.

use super::schema::{Index, Table};
use crate::wire::Parameter;

/// How a step is sent.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Query; with what a COPY gets.
    Simple {
        /// Data for COPY FROM STDIN.
        copy: Vec<u8>,
    },
    /// Parse, bind, describe, execute.
    Extended {
        /// Declared types of parameters.
        types: Vec<u32>,
        /// Parameters.
        parameters: Vec<Parameter>,
        /// Results: 0 text, 1 binary.
        format: i16,
        /// Rows at a time, 0 for all.
        rows: i32,
    },
}

/// What else a step may stand in the way of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// No table is touched.
    Nothing,
    /// Rows are read.
    Read,
    /// Rows are locked, but nobody is waited for who has only rows: NOWAIT, SKIP LOCKED.
    Try,
    /// Rows are written or locked.
    Write,
    /// Tables are made, changed or locked whole.
    Exclusive,
}

/// What a step changes in what the generator knows, if it succeeds.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// A transaction block begins.
    Begin,
    /// It ends.
    End,
    /// A savepoint is set.
    Savepoint(String),
    /// A savepoint goes, and those since.
    Release(String),
    /// All since a savepoint is undone.
    RollbackTo(String),
    /// A table appears.
    Create(Table),
    /// A table goes.
    Drop(String),
    /// A table gets a primary key.
    Key(String, Vec<usize>),
    /// A table gets an index.
    Index(String, Index),
    /// A table loses an index.
    DropIndex(String, String),
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// 0 or 1.
    pub session: usize,
    /// What is sent.
    pub sql: String,
    /// How.
    pub protocol: Protocol,
    /// Rows must come in the same order.
    pub ordered: bool,
    /// For the order of steps.
    pub access: Access,
    /// For the generator.
    pub effect: Effect,
}

impl Step {
    /// A statement on the first session, in the simple protocol, whose rows come in any order.
    pub fn plain(sql: &str) -> Step {
        let protocol = Protocol::Simple { copy: Vec::new() };
        Step { session: 0, sql: sql.into(), protocol, ordered: false, access: Access::Exclusive, effect: Effect::Nothing }
    }
}

/// What sessions' open transactions stand in the way of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interleaving {
    /// By session: none, or the most that its transaction did so far.
    open: [Option<Access>; 2],
}

impl Interleaving {
    /// The step can't come to wait for the other session.
    pub fn allows(&self, session: usize, access: Access) -> bool {
        match self.open[1 - session] {
            None => true,
            Some(Access::Nothing | Access::Read) => access != Access::Exclusive,
            Some(Access::Try | Access::Write) => access <= Access::Try,
            Some(Access::Exclusive) => access == Access::Nothing,
        }
    }

    /// The step was taken. What a statement outside a block did is over with it.
    pub fn take(&mut self, step: &Step) {
        let open = &mut self.open[step.session];
        match step.effect {
            Effect::Begin => *open = Some(open.unwrap_or(Access::Nothing)),
            Effect::End => *open = None,
            _ => *open = open.map(|held| held.max(step.access)),
        }
    }

    /// The step that should have ended the session's transaction failed before its end: what it did and had done may be held on.
    pub fn goes_on(&mut self, session: usize) {
        self.open[session].get_or_insert(Access::Exclusive);
    }

    /// Whether that session has a transaction open.
    pub fn open(&self, session: usize) -> bool {
        self.open[session].is_some()
    }
}

/// No step of these can come to wait.
pub fn never_blocks(steps: &[Step]) -> bool {
    let mut interleaving = Interleaving::default();
    steps.iter().all(|step| {
        let allowed = interleaving.allows(step.session, step.access);
        interleaving.take(step);
        allowed
    })
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.session, self.sql)?;
        match &self.protocol {
            Protocol::Simple { copy } if copy.is_empty() => Ok(()),
            Protocol::Simple { copy } => write!(f, "   -- COPY gets {:?}", String::from_utf8_lossy(copy)),
            Protocol::Extended { types, parameters, format, rows } => {
                write!(f, "   -- extended, results {}", if *format == 1 { "binary" } else { "text" })?;
                if *rows > 0 {
                    write!(f, ", {rows} rows at a time")?;
                }
                for (index, ((format, value), declared)) in parameters.iter().zip(types).enumerate() {
                    let shown = match (value, format) {
                        (None, _) => "null".into(),
                        (Some(bytes), 0) => format!("{:?}", String::from_utf8_lossy(bytes)),
                        (Some(bytes), _) => format!("binary {bytes:02x?}"),
                    };
                    write!(f, ", ${} (type {declared}) = {shown}", index + 1)?;
                }
                Ok(())
            }
        }
    }
}
