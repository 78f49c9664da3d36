//! Definitions as SQL: what `pg_get_indexdef` and the like give.

use super::world::World;
use crate::table::catalog::Table;

/// A name as SQL writes it: in quotes unless it is plain.
pub fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match plain && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() {
        true => name.to_string(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

fn columns(table: &Table, positions: &[u16]) -> String {
    let names = positions.iter().map(|position| quoted(&table.columns[usize::from(*position)].name));
    names.collect::<Vec<_>>().join(", ")
}

/// The index or key of that number: its table, its name, its columns, whether it is unique.
fn find(world: &World, id: u32) -> Option<(&Table, &str, &[u16], bool)> {
    world.catalog.tables.iter().find_map(|table| {
        let key = table.key.as_ref().filter(|key| key.id == id);
        let key = key.map(|key| (&**table, key.name.as_str(), key.columns.as_slice(), true));
        key.or_else(|| {
            let index = table.indexes.iter().find(|index| index.id == id)?;
            Some((&**table, index.name.as_str(), index.columns.as_slice(), index.unique))
        })
    })
}

/// An index; with `column` > 0 only that column.
pub fn index(world: &World, id: u32, column: i64) -> Option<String> {
    let (table, name, positions, unique) = find(world, id)?;
    if column > 0 {
        let position = positions.get(column as usize - 1);
        return Some(position.map_or_else(String::new, |position| quoted(&table.columns[usize::from(*position)].name)));
    }
    let unique = if unique { "UNIQUE " } else { "" };
    let (name, on) = (quoted(name), quoted(&table.name));
    Some(format!("CREATE {unique}INDEX {name} ON public.{on} USING btree ({})", columns(table, positions)))
}

/// A constraint.
pub fn constraint(world: &World, id: u32) -> Option<String> {
    let (table, _, positions, _) = find(world, id)?;
    let is_key = table.key.as_ref().is_some_and(|key| key.id == id);
    Some(format!("{} ({})", if is_key { "PRIMARY KEY" } else { "UNIQUE" }, columns(table, positions)))
}
