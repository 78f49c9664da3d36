//! The shortest way: one row by its key, columns straight into a DataRow.

use super::{Cx, output, scan};
use crate::sql::error::SqlError;
use crate::sql::plan::{Access, Action, Expr, Plan, Program, Scan};
use crate::sql::session::Format;
use crate::sql::types::{Datum, Formats, SqlType};
use crate::table::datum::key::encode_key;
use crate::table::datum::row::decode_column;
use crate::table::tables::TablesError;

/// A query of this kind: columns of the row with a given key.
pub struct Point<'p> {
    scan: &'p Scan,
    columns: Vec<usize>,
}

/// The program as a point query, if it is one.
pub fn of(program: &Program) -> Option<Point<'_>> {
    let Action::Query(Plan::Project(input, exprs)) = &program.action else { return None };
    let Plan::Scan(scan) = &**input else { return None };
    let Access::Range(range) = &scan.access else { return None };
    let key = scan.table.key.as_ref()?;
    let fits = range.index.is_none() && range.equal.len() == key.columns.len() && scan.filter.is_none() && scan.lock.is_none();
    if !fits || !range.equal.iter().all(|expr| matches!(expr, Expr::Const(_) | Expr::Param(_))) {
        return None;
    }
    let columns = exprs.iter().map(|expr| match expr {
        Expr::Column(column) => Some(*column),
        _ => None,
    });
    Some(Point { scan, columns: columns.collect::<Option<_>>()? })
}

impl Point<'_> {
    /// Looks for the row; whether it is there, and then its DataRow body is in `out`.
    ///
    /// # Errors
    /// As any scan.
    pub async fn run(
        &self,
        types: &[SqlType],
        formats: &[Format],
        settings: &Formats,
        out: &mut Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Result<bool, SqlError> {
        let table = &self.scan.table;
        let Access::Range(range) = &self.scan.access else { return Ok(false) };
        let key_types = scan::range_types(table, None);
        let mut values = Vec::with_capacity(key_types.len());
        for (expr, ty) in range.equal.iter().zip(&key_types) {
            match scan::fitting(expr.eval(&[], &cx.env())?, *ty) {
                Some(value) => values.push(value),
                None => return Ok(false),
            }
        }
        let mut key = Vec::with_capacity(16);
        encode_key(&values, &key_types, &mut key).map_err(|error| SqlError::new("XX000", format!("a key's values: {error}")))?;
        let Some(row) = cx.tables.get(cx.txn, table, &key).await? else { return Ok(false) };
        out.clear();
        out.extend((types.len() as i16).to_be_bytes());
        for ((position, ty), format) in self.columns.iter().zip(types).zip(formats) {
            let damaged = |error| SqlError::from(TablesError::Codec { table: table.name.clone(), error });
            let value: Datum = decode_column(&row.value, &table.columns, *position).map_err(damaged)?;
            output::column(&value, *ty, *format, settings, out)?;
        }
        Ok(true)
    }
}
