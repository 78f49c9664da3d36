//! A table of numbered rows for the scenarios: filled in bulk, and checked as a whole.
//!
//! ```text
//! stock (id bigint PRIMARY KEY, amount bigint, label text, pad text), index on label
//! ```
//! Row `id` begins with amount `id` and label `l<id>`. Used by `tests/scenarios.rs`.

use std::time::{Duration, Instant};

use crate::wire::Client;

/// Makes the table and its index.
///
/// # Panics
/// It can't be made.
pub fn make(client: &mut Client) {
    for sql in [
        "CREATE TABLE stock (id bigint PRIMARY KEY, amount bigint NOT NULL, label text, pad text)",
        "CREATE INDEX stock_label ON stock (label)",
    ] {
        must(client, sql);
    }
}

/// Performs a statement that has to succeed.
///
/// # Panics
/// It fails; with what was said.
pub fn must(client: &mut Client, sql: &str) {
    let shown: String = sql.chars().take(200).collect();
    match client.sqlstate(sql) {
        Ok(None) => {}
        Ok(Some(state)) => panic!("{state} from {shown}"),
        Err(error) => panic!("{error} from {shown}"),
    }
}

/// The statement that inserts these rows, each with `pad` bytes.
pub fn insertion(ids: std::ops::Range<u64>, pad: usize) -> String {
    let pad = "x".repeat(pad);
    let rows: Vec<String> = ids.map(|id| format!("({id}, {id}, 'l{id}', '{pad}')")).collect();
    format!("INSERT INTO stock VALUES {}", rows.join(", "))
}

/// Inserts these rows, hundreds at a time.
///
/// # Panics
/// A statement fails.
pub fn fill(client: &mut Client, ids: std::ops::Range<u64>, pad: usize) {
    let mut from = ids.start;
    while from < ids.end {
        let to = (from + 500).min(ids.end);
        must(client, &insertion(from..to, pad));
        from = to;
    }
}

/// Inserts these rows through COPY: the fast way.
///
/// # Panics
/// It fails.
pub fn copy(client: &mut Client, ids: std::ops::Range<u64>, pad: usize) {
    let pad = "x".repeat(pad);
    let mut data = String::new();
    for id in ids {
        data.push_str(&format!("{id}\t{id}\tl{id}\t{pad}\n"));
    }
    let events = client.simple("COPY stock FROM STDIN", data.as_bytes()).expect("COPY is answered");
    let failure = events.iter().find(|event| matches!(event, crate::wire::Event::Failure(_)));
    assert!(failure.is_none(), "COPY: {failure:?}");
}

/// Rows and the sum of amounts.
///
/// # Panics
/// They can't be read.
pub fn totals(client: &mut Client) -> (u64, u64) {
    let row = client.rows("SELECT count(*), sum(amount) FROM stock").expect("the table can be read").remove(0);
    let number = |index: usize| row[index].as_deref().map_or(0, |text| text.parse().expect("a number"));
    (number(0), number(1))
}

/// The table holds exactly the rows of these ids as they were inserted, by its key and by its index.
///
/// # Panics
/// It doesn't.
pub fn holds(client: &mut Client, ids: std::ops::Range<u64>) {
    let count = ids.end - ids.start;
    let sum: u64 = ids.clone().sum();
    assert_eq!(totals(client), (count, sum), "rows and sum of amounts");
    let probes = [ids.start, ids.start + count / 2, ids.end.saturating_sub(1)];
    for id in probes.into_iter().filter(|id| ids.contains(id)) {
        let by_index = client.rows(&format!("SELECT id, amount FROM stock WHERE label = 'l{id}'")).expect("the index can be read");
        assert_eq!(by_index, vec![vec![Some(id.to_string()), Some(id.to_string())]], "row {id} by its index");
    }
    for id in [ids.end, ids.end + 1, ids.end + 1000] {
        let by_index = client.rows(&format!("SELECT id FROM stock WHERE label = 'l{id}'")).expect("the index can be read");
        assert!(by_index.is_empty(), "row {id} is in the index");
    }
}

/// Waits until `reached`.
///
/// # Panics
/// It isn't within `within`.
pub fn eventually(what: &str, within: Duration, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !reached() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
