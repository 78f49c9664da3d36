//! The catalog's rows as bytes. Format: `docs/formats/catalog.md`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Column, Index, PrimaryKey};
use crate::base::TreeId;

/// First byte of each value; JSON follows.
const FORMAT: u8 = 1;

const NAME: u8 = 1;
const TABLE: u8 = 2;
const COLUMN: u8 = 3;
const INDEX: u8 = 4;

/// Key of the row of a relation's name.
pub(super) fn name_key(name: &str) -> Vec<u8> {
    [&[NAME], name.as_bytes()].concat()
}

/// Key of a table's row.
pub(super) fn table_key(table: u32) -> Vec<u8> {
    [&[TABLE][..], &table.to_be_bytes()].concat()
}

/// Key of a column's row.
pub(super) fn column_key(table: u32, position: u16) -> Vec<u8> {
    [&[COLUMN][..], &table.to_be_bytes(), &position.to_be_bytes()].concat()
}

/// What the keys of all columns of a table begin with.
pub(super) fn columns_prefix(table: u32) -> Vec<u8> {
    [&[COLUMN][..], &table.to_be_bytes()].concat()
}

/// Key of an index's row.
pub(super) fn index_key(table: u32, index: u32) -> Vec<u8> {
    [&[INDEX][..], &table.to_be_bytes(), &index.to_be_bytes()].concat()
}

/// What the keys of all indexes of a table begin with.
pub(super) fn indexes_prefix(table: u32) -> Vec<u8> {
    [&[INDEX][..], &table.to_be_bytes()].concat()
}

/// What a relation's name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Named {
    /// A table.
    Table {
        /// Its number.
        table: u32,
    },
    /// A secondary index.
    Index {
        /// Its table's number.
        table: u32,
        /// Its number.
        index: u32,
    },
    /// A primary key.
    PrimaryKey {
        /// Its table's number.
        table: u32,
    },
}

impl Named {
    /// The table that it is, or belongs to.
    pub fn table(self) -> u32 {
        match self {
            Named::Table { table } | Named::Index { table, .. } | Named::PrimaryKey { table } => table,
        }
    }
}

/// A table's row: all but its columns and indexes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableRecord {
    pub(super) name: String,
    pub(super) tree: TreeId,
    pub(super) key: Option<PrimaryKey>,
}

/// One row, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Name(String, Named),
    Table(u32, TableRecord),
    Column(u32, u16, Column),
    Index(u32, Index),
}

/// A record's value.
pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, String> {
    let mut value = vec![FORMAT];
    serde_json::to_writer(&mut value, record).map_err(|error| error.to_string())?;
    Ok(value)
}

/// Reads a record's value.
pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    match value {
        [FORMAT, json @ ..] => serde_json::from_slice(json).map_err(|error| error.to_string()),
        [found, ..] => Err(format!("it has format {found}; this program reads format {FORMAT}")),
        [] => Err("it is empty".to_owned()),
    }
}

/// Reads a row of the catalog.
pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Record, String> {
    let number = |at: usize| Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?));
    let short = || "its key has a wrong length".to_owned();
    match (key.first(), key.len()) {
        (Some(&NAME), _) => {
            let name = String::from_utf8(key[1..].to_vec()).map_err(|_| "its name isn't UTF-8".to_owned())?;
            Ok(Record::Name(name, decode(value)?))
        }
        (Some(&TABLE), 5) => Ok(Record::Table(number(1).ok_or_else(short)?, decode(value)?)),
        (Some(&COLUMN), 7) => Ok(Record::Column(number(1).ok_or_else(short)?, u16::from_be_bytes([key[5], key[6]]), decode(value)?)),
        (Some(&INDEX), 9) => {
            let (table, id) = (number(1).ok_or_else(short)?, number(5).ok_or_else(short)?);
            let index: Index = decode(value)?;
            if index.id != id {
                return Err(format!("its key says index {id}, its value {}", index.id));
            }
            Ok(Record::Index(table, index))
        }
        (Some(&(TABLE | COLUMN | INDEX)), _) => Err(short()),
        (kind, _) => Err(format!("it is of unknown kind {kind:?}")),
    }
}
