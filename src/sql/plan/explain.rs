//! Plans as text: EXPLAIN.

use std::ops::Bound;

use super::{Access, Action, JoinKind, Plan, Program, Scan};

/// The lines of a program's plan.
pub fn lines(program: &Program) -> Vec<String> {
    let mut out = Vec::new();
    match &program.action {
        Action::Query(plan) => node(plan, 0, &mut out),
        Action::Insert(insert) => {
            put(0, format!("Insert on {}", insert.table.name), &mut out);
            node(&insert.source, 1, &mut out);
        }
        Action::Update(update) => {
            put(0, format!("Update on {}", update.target.scan.table.name), &mut out);
            scan(&update.target.scan, 1, &mut out);
            update.target.from.iter().for_each(|plan| node(plan, 1, &mut out));
        }
        Action::Delete(delete) => {
            put(0, format!("Delete on {}", delete.target.scan.table.name), &mut out);
            scan(&delete.target.scan, 1, &mut out);
            delete.target.from.iter().for_each(|plan| node(plan, 1, &mut out));
        }
    }
    for (number, subplan) in program.subplans.iter().enumerate().filter(|(_, subplan)| !subplan.wanted.is_function()) {
        put(1, format!("SubPlan {}", number + 1), &mut out);
        node(&subplan.plan, 2, &mut out);
    }
    out
}

fn put(depth: usize, text: String, out: &mut Vec<String>) {
    match depth {
        0 => out.push(text),
        _ => out.push(format!("{}->  {text}", " ".repeat(depth * 6 - 4))),
    }
}

fn scan(scan: &Scan, depth: usize, out: &mut Vec<String>) {
    let table = &scan.table;
    let called = if scan.alias == table.name { table.name.clone() } else { format!("{} {}", table.name, scan.alias) };
    let backward = if scan.backward { " Backward" } else { "" };
    let filter = if scan.filter.is_some() { " (filtered)" } else { "" };
    let text = match &scan.access {
        Access::All => format!("Seq Scan{backward} on {called}{filter}"),
        Access::Range(range) => {
            let (name, columns) = match (range.index, &table.key) {
                (Some(index), _) => (&table.indexes[index].name, &table.indexes[index].columns),
                (None, Some(key)) => (&key.name, &key.columns),
                (None, None) => return put(depth, format!("Seq Scan on {called}"), out),
            };
            let mut bounds: Vec<String> =
                columns.iter().take(range.equal.len()).map(|at| format!("{} =", table.columns[usize::from(*at)].name)).collect();
            if let Some(at) = columns.get(range.equal.len()) {
                let column = &table.columns[usize::from(*at)].name;
                if range.among.is_some() {
                    bounds.push(format!("{column} IN"));
                }
                match &range.low {
                    Bound::Included(_) => bounds.push(format!("{column} >=")),
                    Bound::Excluded(_) => bounds.push(format!("{column} >")),
                    Bound::Unbounded => {}
                }
                match &range.high {
                    Bound::Included(_) => bounds.push(format!("{column} <=")),
                    Bound::Excluded(_) => bounds.push(format!("{column} <")),
                    Bound::Unbounded => {}
                }
            }
            let cond = if bounds.is_empty() { String::new() } else { format!(" ({})", bounds.join(", ")) };
            format!("Index Scan{backward} using {name} on {called}{cond}{filter}")
        }
    };
    put(depth, text, out);
}

fn node(plan: &Plan, depth: usize, out: &mut Vec<String>) {
    let mut over = |text: String, inputs: &[&Plan]| {
        put(depth, text, out);
        inputs.iter().for_each(|input| node(input, depth + 1, out));
    };
    match plan {
        Plan::Once => over("Result".into(), &[]),
        Plan::Values(rows) => over(format!("Values Scan ({} rows)", rows.len()), &[]),
        Plan::Scan(one) => scan(one, depth, out),
        Plan::View(view) => over(format!("Catalog Scan on {}", view.name), &[]),
        Plan::Series { .. } => over("Function Scan".into(), &[]),
        // What changes only columns isn't worth a line.
        Plan::Project(input, _) => node(input, depth, out),
        Plan::ProjectSet(input, _) => over("ProjectSet".into(), &[input]),
        Plan::Filter(input, _) => over("Filter".into(), &[input]),
        Plan::Join(join) => {
            let how = match (join.lateral, join.keys.is_empty()) {
                (true, _) => "Lateral",
                (false, true) => "Nested Loop",
                (false, false) if join.lookup.is_some() => "Lookup or Hash",
                (false, false) => "Hash",
            };
            let kind = match join.kind {
                JoinKind::Inner => "Join",
                JoinKind::Left => "Left Join",
                JoinKind::Full => "Full Join",
            };
            over(format!("{how} {kind}"), &[&join.left, &join.right]);
        }
        Plan::Aggregate(aggregate) => over(if aggregate.whole { "Aggregate" } else { "HashAggregate" }.into(), &[&aggregate.input]),
        Plan::Sort(input, ..) => over("Sort".into(), &[input]),
        Plan::Distinct(input, None) => over("HashAggregate".into(), &[input]),
        Plan::Distinct(input, Some(_)) => over("Unique".into(), &[input]),
        Plan::Limit(input, _) => over("Limit".into(), &[input]),
        Plan::Append(inputs) => over("Append".into(), &inputs.iter().collect::<Vec<_>>()),
        Plan::Combine { left, right, except, .. } => over(if *except { "Except" } else { "Intersect" }.into(), &[left, right]),
    }
}
