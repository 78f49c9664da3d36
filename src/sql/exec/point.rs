//! The shortest way: one row by its key, columns straight into a DataRow.

use std::sync::Arc;

use super::{Cx, output, scan};
use crate::sql::error::SqlError;
use crate::sql::plan::{Access, Action, Expr, Plan, Program};
use crate::sql::session::Format;
use crate::sql::types::{Datum, Formats, SqlType, Type};
use crate::table::catalog::Table;
use crate::table::datum::key::encode_part;
use crate::table::datum::row::decode_column;
use crate::table::tables::TablesError;

/// A query of this kind: columns of the row with a given key. Kept with the plan, so that an execution has nothing to find out.
#[derive(Debug)]
pub struct Point {
    table: Arc<Table>,
    /// The key's values and types.
    key: Vec<(Expr, Type)>,
    columns: Vec<usize>,
}

/// The program as a point query, if it is one.
pub fn of(program: &Program) -> Option<Point> {
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
    let columns = columns.collect::<Option<_>>()?;
    let types = scan::range_types(&scan.table, None);
    let key = range.equal.iter().cloned().zip(types).collect();
    Some(Point { table: scan.table.clone(), key, columns })
}

impl Point {
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
        let table = &self.table;
        let mut key = Vec::with_capacity(16);
        for (expr, ty) in &self.key {
            match scan::fitting(expr.eval(&[], &cx.env())?, *ty) {
                Some(value) => {
                    encode_part(&value, *ty, &mut key).map_err(|error| SqlError::new("XX000", format!("a key's values: {error}")))?;
                }
                None => return Ok(false),
            }
        }
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
