//! The differential test: the same seeded statements on PostgreSQL 15 and on Regroup must have the same answers.
//!
//! ```text
//!   generator ---step---> PostgreSQL ---events---> generator learns (did it fail? in a transaction?)
//!       |                                   |
//!       '------- step --> Regroup --events--'--> compare --> shrink --> a short script and how to replay it
//! ```
//!
//! - `value`: types and values, as literals, as text and binary parameters
//! - `sql`: a statement being written, values inline or as parameters
//! - `schema`: what the generator knows of tables
//! - `expression`: conditions and select lists
//! - `statement`: the statements themselves
//! - `wrong`: statements that must fail
//! - `generate`: which statement comes next, on which session, in which protocol
//! - `script`: steps, and which orders of two sessions' steps can't block
//! - `run`: performs a script on a server, compares, shrinks
//!
//! Generated is what issue 3 promises, and only what has one right answer: rows are compared in order where ORDER BY is total, else as
//! multisets; a statement has at most one reason to fail; nothing depends on the time, on a plan, or on who wins a race.

pub mod expression;
pub mod generate;
pub mod run;
pub mod schema;
pub mod script;
pub mod sql;
pub mod statement;
pub mod value;
pub mod wrong;
