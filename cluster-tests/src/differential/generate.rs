//! Which statement comes next: by chance, and by what the reference server said to the ones before.

use std::collections::VecDeque;

use regroup::base::Random;

use super::schema::{Schema, Table};
use super::script::{Access, Effect, Interleaving, Protocol, Step};
use super::sql::Sql;
use super::{statement, wrong};
use crate::wire::Event;

/// Most tables at a time.
const TABLES_MAX: usize = 4;

/// What one session is in.
#[derive(Default)]
struct Block {
    /// As ReadyForQuery said last: I, T, E.
    status: u8,
    /// The schema when the block began, and at each savepoint.
    before: Option<Schema>,
    savepoints: Vec<(String, Schema)>,
    /// It was asked to be repeatable read, perhaps in vain.
    repeatable: bool,
}

/// The generator of one script.
pub struct Generator {
    random: Random,
    schema: Schema,
    blocks: [Block; 2],
    interleaving: Interleaving,
    sessions: usize,
    names: u64,
    /// Steps that are decided already.
    planned: VecDeque<(usize, Draft)>,
}

/// A statement that was written, before it is known how it is sent.
struct Draft {
    sql: Sql,
    access: Access,
    effect: Effect,
    ordered: bool,
    copy: Vec<u8>,
    /// Rows at a time are possible.
    portal: bool,
}

impl Draft {
    fn new(sql: Sql, access: Access) -> Draft {
        Draft { sql, access, effect: Effect::Nothing, ordered: false, copy: Vec::new(), portal: false }
    }

    fn text(text: &str, access: Access) -> Draft {
        let mut sql = Sql::new(false);
        sql.put(text);
        Draft::new(sql, access)
    }
}

impl Generator {
    /// For the script of `seed`.
    pub fn new(seed: u64) -> Generator {
        let mut random = Random::new(seed);
        let sessions = random.within(1..3) as usize;
        let blocks = [Block { status: b'I', ..Block::default() }, Block { status: b'I', ..Block::default() }];
        Generator {
            random,
            schema: Schema::default(),
            blocks,
            interleaving: Interleaving::default(),
            sessions,
            names: 0,
            planned: VecDeque::new(),
        }
    }

    /// The next step: one that can't come to wait for the other session.
    pub fn next_step(&mut self) -> Step {
        if self.planned.is_empty() && self.random.chance(0.02) {
            self.plan_conflict();
        }
        while let Some((session, draft)) = self.planned.pop_front() {
            if self.interleaving.allows(session, draft.access) {
                return self.step(session, draft);
            }
        }
        let mut tries = 0;
        loop {
            // After many that would wait, the other session's block must end.
            let session = self.random.index(self.sessions);
            let draft = if tries > 20 { self.end_block(session) } else { self.draft(session) };
            tries += 1;
            let Some(draft) = draft else { continue };
            if self.interleaving.allows(session, draft.access) {
                return self.step(session, draft);
            }
        }
    }

    fn step(&mut self, session: usize, draft: Draft) -> Step {
        let random = &mut self.random;
        let Draft { sql, access, effect, ordered, copy, portal } = draft;
        let protocol = if sql.parameterised {
            let rows = if portal && random.chance(0.15) { random.within(1..4) as i32 } else { 0 };
            let format = i16::from(random.chance(0.5));
            Protocol::Extended { types: sql.types, parameters: sql.parameters, format, rows }
        } else {
            Protocol::Simple { copy }
        };
        // Which rows a suspended portal shows first is only fixed by a total order.
        let protocol = match protocol {
            Protocol::Extended { types, parameters, format, .. } if !ordered => Protocol::Extended { types, parameters, format, rows: 0 },
            other => other,
        };
        let step = Step { session, sql: sql.text, protocol, ordered, access, effect };
        self.interleaving.take(&step);
        step
    }

    fn end_block(&mut self, session: usize) -> Option<Draft> {
        self.interleaving.open(session).then(|| {
            let mut draft =
                Draft::text(self.random.pick::<&str>(&["COMMIT", "COMMIT", "COMMIT WORK", "END", "ROLLBACK", "ABORT"]), Access::Nothing);
            draft.effect = Effect::End;
            draft
        })
    }

    fn draft(&mut self, session: usize) -> Option<Draft> {
        let status = self.blocks[session].status;
        let random = &mut self.random;
        if status == b'E' && random.chance(0.6) {
            if let Some((name, _)) = self.blocks[session].savepoints.last().filter(|_| random.chance(0.5)) {
                let mut draft = Draft::text(&format!("ROLLBACK TO SAVEPOINT {name}"), Access::Nothing);
                draft.effect = Effect::RollbackTo(name.clone());
                return Some(draft);
            }
            return self.end_block(session);
        }
        if self.schema.tables.len() < 2 && status == b'I' {
            return Some(self.create_table());
        }
        let roll = random.below(100);
        match roll {
            0..=11 => self.transactional(session),
            12..=17 => self.definition(session),
            18..=24 => Some(self.wrong()),
            25..=27 => self.odd(),
            _ => self.ordinary(roll),
        }
    }

    /// Transaction control.
    fn transactional(&mut self, session: usize) -> Option<Draft> {
        let block = &self.blocks[session];
        let random = &mut self.random;
        if block.status == b'I' {
            let word = random.pick(&["BEGIN", "START TRANSACTION", "BEGIN TRANSACTION"]).to_string();
            let level = *random.pick(&[
                "",
                "",
                " ISOLATION LEVEL READ COMMITTED",
                " ISOLATION LEVEL REPEATABLE READ",
                " ISOLATION LEVEL REPEATABLE READ",
            ]);
            let mut draft = Draft::text(&format!("{word}{level}"), Access::Nothing);
            draft.effect = Effect::Begin;
            return Some(draft);
        }
        match random.below(10) {
            0..=2 => {
                let name = format!("s{}", random.below(3));
                let mut draft = Draft::text(&format!("SAVEPOINT {name}"), Access::Nothing);
                draft.effect = Effect::Savepoint(name);
                Some(draft)
            }
            3..=4 => {
                let name = random.pick(block.savepoints.get(..).filter(|all| !all.is_empty())?).0.clone();
                let mut draft = Draft::text(&format!("ROLLBACK TO {name}"), Access::Nothing);
                draft.effect = Effect::RollbackTo(name);
                Some(draft)
            }
            5 => {
                let name = random.pick(block.savepoints.get(..).filter(|all| !all.is_empty())?).0.clone();
                let mut draft = Draft::text(&format!("RELEASE SAVEPOINT {name}"), Access::Nothing);
                draft.effect = Effect::Release(name);
                Some(draft)
            }
            6 => {
                let level = *random.pick(&["READ COMMITTED", "REPEATABLE READ"]);
                Some(Draft::text(&format!("SET TRANSACTION ISOLATION LEVEL {level}"), Access::Nothing))
            }
            _ => self.end_block(session),
        }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn create_table(&mut self) -> Draft {
        let name = self.name("t");
        let mut sql = Sql::new(false);
        let table = statement::create_table(&mut sql, &mut self.random, &name);
        Draft { effect: Effect::Create(table), ..Draft::new(sql, Access::Exclusive) }
    }

    /// DDL.
    fn definition(&mut self, session: usize) -> Option<Draft> {
        let table = self.random.pick(self.schema.tables.get(..).filter(|all| !all.is_empty())?).clone();
        match self.random.below(10) {
            0..=1 if self.schema.tables.len() < TABLES_MAX => Some(self.create_table()),
            0..=2 => {
                let exists = *self.random.pick(&["", "IF EXISTS "]);
                let mut draft = Draft::text(&format!("DROP TABLE {exists}{}", table.name), Access::Exclusive);
                draft.effect = Effect::Drop(table.name);
                Some(draft)
            }
            3..=5 => {
                let name = self.name("i");
                let mut sql = Sql::new(false);
                let index = statement::create_index(&mut sql, &mut self.random, &table, &name);
                Some(Draft { effect: Effect::Index(table.name, index), ..Draft::new(sql, Access::Exclusive) })
            }
            6 => {
                let index = table.indexes.first()?.name.clone();
                let mut draft = Draft::text(&format!("DROP INDEX {index}"), Access::Exclusive);
                draft.effect = Effect::DropIndex(table.name, index);
                Some(draft)
            }
            7 => Some(Draft::text(&format!("TRUNCATE {}{}", self.random.pick(&["", "TABLE "]), table.name), Access::Exclusive)),
            // A table gets a key by being made anew, which an older snapshot can't see: Regroup refuses it there (25001).
            _ if self.blocks[session].repeatable => None,
            _ => {
                // Of a column with nulls and duplicates, which is told would depend on what is looked for first.
                let whole = |column: &usize| table.columns[*column].not_null || !table.key.is_empty();
                let columns: Vec<usize> = (0..table.columns.len()).filter(whole).collect();
                let key = vec![*self.random.pick(columns.get(..).filter(|all| !all.is_empty())?)];
                let text = format!("ALTER TABLE {} ADD PRIMARY KEY ({})", table.name, table.names(&key));
                let mut draft = Draft::text(&text, Access::Exclusive);
                draft.effect = Effect::Key(table.name, key);
                Some(draft)
            }
        }
    }

    fn wrong(&mut self) -> Draft {
        if self.random.chance(0.15) {
            return Draft::new(wrong::misused(&mut self.random), Access::Nothing);
        }
        let table = if self.schema.tables.is_empty() { None } else { Some(self.random.pick(&self.schema.tables).clone()) };
        let text = wrong::statement(&mut self.random, table.as_ref());
        let mut sql = Sql::new(self.random.chance(0.4));
        sql.put(&text);
        Draft::new(sql, Access::Exclusive)
    }

    /// What is rare: several statements in one message, COPY, settings, maintenance, none at all.
    fn odd(&mut self) -> Option<Draft> {
        let table = self.random.pick(self.schema.tables.get(..).filter(|all| !all.is_empty())?).clone();
        match self.random.below(8) {
            0..=1 => Some(self.several(&table)),
            2..=4 => {
                let columns: Vec<usize> = (0..table.columns.len()).collect();
                let listed = if self.random.chance(0.5) { format!(" ({})", table.names(&columns)) } else { String::new() };
                let mut draft = Draft::text(&format!("COPY {}{listed} FROM STDIN", table.name), Access::Write);
                draft.copy = statement::copy_rows(&mut self.random, &table, &columns).into_bytes();
                if self.random.chance(0.15) {
                    // A row too short or too long, or one that is no value of anything.
                    draft.copy.extend_from_slice(self.random.pick::<&[u8]>(&[b"1\t2\t3\t4\t5\t6\t7\t8\n", b"\\.\n"]));
                }
                Some(draft)
            }
            5 => {
                let word = *self.random.pick(&["ANALYZE", "VACUUM"]);
                Some(Draft::text(&format!("{word} {}", table.name), Access::Exclusive))
            }
            6 => {
                let text = *self.random.pick(&[
                    "",
                    ";",
                    "-- nothing",
                    "SHOW transaction_isolation",
                    "SHOW client_encoding",
                    "SHOW standard_conforming_strings",
                ]);
                Some(Draft::text(text, Access::Nothing))
            }
            _ => {
                let text = *self.random.pick(&[
                    "SET application_name = 'x'",
                    "SET client_min_messages TO warning",
                    "CHECKPOINT",
                    "SELECT 1",
                    "SELECT 1 AS one, 'two', 3.0, NULL, true",
                ]);
                Some(Draft::text(text, Access::Nothing))
            }
        }
    }

    /// A repeatable read transaction that meets rows changed since its snapshot, where both sessions are free for it.
    fn plan_conflict(&mut self) {
        let free = self.sessions == 2 && (0..2).all(|session| self.blocks[session].status == b'I' && !self.interleaving.open(session));
        if !free || self.schema.tables.is_empty() {
            return;
        }
        let table = self.random.pick(&self.schema.tables).clone();
        let (name, column) = (&table.name, &table.columns[0].name);
        let session = self.random.index(2);
        let change = |random: &mut Random| match random.below(4) {
            0 => (format!("DELETE FROM {name}"), Access::Write),
            1 => (format!("SELECT * FROM {name} FOR UPDATE"), Access::Write),
            _ => (format!("UPDATE {name} SET {column} = {column}"), Access::Write),
        };
        let mut begin = Draft::text("BEGIN ISOLATION LEVEL REPEATABLE READ", Access::Nothing);
        begin.effect = Effect::Begin;
        self.planned.push_back((session, begin));
        self.planned.push_back((session, Draft::text(&format!("SELECT count(*) FROM {name}"), Access::Read)));
        for session in [1 - session, session] {
            let (text, access) = change(&mut self.random);
            self.planned.push_back((session, Draft::text(&text, access)));
        }
    }

    /// Several statements in one message: one transaction, unless they say otherwise; also one that fails in the middle.
    fn several(&mut self, table: &Table) -> Draft {
        let random = &mut self.random;
        let mut sql = Sql::new(false);
        let block = random.chance(0.2);
        if block {
            sql.put("BEGIN; ");
        }
        statement::insert(&mut sql, random, table, false);
        sql.put("; ");
        statement::update(&mut sql, random, table);
        if random.chance(0.3) {
            sql.put(random.pick::<&str>(&["; SELECT 1 / 0", "; SELECT nonesuch", "; SELEC", "; ROLLBACK TO nonesuch"]));
        }
        sql.put(&format!("; SELECT count(*) FROM {};", table.name));
        let mut draft = Draft::new(sql, Access::Write);
        if block {
            draft.sql.put(if random.chance(0.7) { " COMMIT" } else { " ROLLBACK;" });
            draft.effect = Effect::End;
        }
        draft
    }

    /// Reading and writing rows.
    fn ordinary(&mut self, roll: u64) -> Option<Draft> {
        let table = self.random.pick(self.schema.tables.get(..).filter(|all| !all.is_empty())?).clone();
        let random = &mut self.random;
        let mut sql = Sql::new(random.chance(0.6));
        let read = |sql, ordered| Draft { ordered, portal: true, ..Draft::new(sql, Access::Read) };
        Some(match roll {
            28..=47 => {
                statement::insert(&mut sql, random, &table, false);
                Draft::new(sql, Access::Write)
            }
            48..=53 => {
                statement::insert(&mut sql, random, &table, true);
                Draft::new(sql, Access::Write)
            }
            54..=64 => {
                statement::update(&mut sql, random, &table);
                Draft::new(sql, Access::Write)
            }
            65..=69 => {
                statement::delete(&mut sql, random, &table);
                Draft::new(sql, Access::Write)
            }
            70..=83 => {
                let ordered = statement::select(&mut sql, random, &table);
                read(sql, ordered)
            }
            84..=85 => {
                let waits = statement::select_for_update(&mut sql, random, &table);
                Draft::new(sql, if waits { Access::Write } else { Access::Try })
            }
            86..=89 => {
                statement::aggregates(&mut sql, random, &table);
                read(sql, true)
            }
            90..=94 => {
                let ordered = statement::grouped(&mut sql, random, &table);
                read(sql, ordered)
            }
            _ => {
                let other = random.pick(&self.schema.tables).clone();
                statement::join(&mut sql, random, &table, &other)?;
                read(sql, false)
            }
        })
    }

    /// Takes in what the reference server answered to a step.
    pub fn learn(&mut self, step: &Step, events: &[Event]) {
        let failed = events.iter().any(|event| matches!(event, Event::Failure(_)));
        let block = &mut self.blocks[step.session];
        let rolled_back = events.iter().any(|event| matches!(event, Event::Complete(tag) if tag == "ROLLBACK"));
        if let Some(Event::Ready(status)) = events.last() {
            block.status = *status;
        }
        if !failed {
            apply(&mut self.schema, block, &step.effect, rolled_back);
        }
        if block.status != b'I' {
            self.interleaving.goes_on(step.session);
        }
        block.repeatable |= block.status != b'I' && step.sql.contains("REPEATABLE READ");
        if block.status == b'I' {
            block.repeatable = false;
            let before = block.before.take();
            block.savepoints.clear();
            if let Some(before) = before.filter(|_| rolled_back || failed) {
                self.schema = before;
            }
        }
    }
}

fn apply(schema: &mut Schema, block: &mut Block, effect: &Effect, rolled_back: bool) {
    match effect {
        Effect::Nothing => {}
        Effect::Begin => block.before = block.before.take().or_else(|| Some(schema.clone())),
        // What a rollback undoes is known when the block is seen to have ended.
        Effect::End => debug_assert!(rolled_back || block.status == b'I'),
        Effect::Savepoint(name) => block.savepoints.push((name.clone(), schema.clone())),
        Effect::Release(name) => {
            if let Some(position) = block.savepoints.iter().rposition(|(other, _)| other == name) {
                block.savepoints.truncate(position);
            }
        }
        Effect::RollbackTo(name) => {
            if let Some(position) = block.savepoints.iter().rposition(|(other, _)| other == name) {
                *schema = block.savepoints[position].1.clone();
                block.savepoints.truncate(position + 1);
            }
        }
        Effect::Create(table) => schema.tables.push(table.clone()),
        Effect::Drop(name) => schema.tables.retain(|table| table.name != *name),
        Effect::Key(name, key) => {
            if let Some(table) = schema.table_mut(name) {
                key.iter().for_each(|&column| table.columns[column].not_null = true);
                table.key.clone_from(key);
            }
        }
        Effect::Index(name, index) => {
            if let Some(table) = schema.table_mut(name) {
                table.indexes.push(index.clone());
            }
        }
        Effect::DropIndex(name, index) => {
            if let Some(table) = schema.table_mut(name) {
                table.indexes.retain(|other| other.name != *index);
            }
        }
    }
}
