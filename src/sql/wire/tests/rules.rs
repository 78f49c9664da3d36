//! What follows what: queries, the extended protocol, errors, COPY.

use bytes::Bytes;
use pgwire::messages::PgWireFrontendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyFail};

use super::client::{Client, Setting, bind, close, connect, describe, execute, flush, parse, query, sync};
use crate::base::sim::Sim;

/// Runs `test` with a client that has been greeted.
fn with(test: impl AsyncFnOnce(&mut Client)) {
    let sim = Sim::new(1);
    sim.run(async {
        let (mut client, _) = connect(&sim.runtime(), Setting::default()).await;
        test(&mut client).await;
    });
}

fn data(text: &'static str) -> PgWireFrontendMessage {
    PgWireFrontendMessage::CopyData(CopyData::new(Bytes::from_static(text.as_bytes())))
}

fn copy_done() -> PgWireFrontendMessage {
    PgWireFrontendMessage::CopyDone(CopyDone::new())
}

#[test]
fn a_simple_query_gives_each_statement_s_results_and_one_ready() {
    with(async |client| {
        assert_eq!(client.query("rows 2").await, ["columns n:0", "row r", "row r", "SELECT 2", "ready I"]);
        assert_eq!(client.query("begin; rows 1; note").await, ["BEGIN", "columns n:0", "row r", "SELECT 1", "WARNING", "NOTE", "ready T"]);
        assert_eq!(client.query("set me").await, ["SET", "application_name=me", "ready T"]);
        assert_eq!(client.query("note; error; rows 1").await, ["WARNING", "NOTE", "ERROR 22012: division by zero", "ready E"]);
        assert_eq!(client.query("commit").await, ["COMMIT", "ready I"]);
        assert_eq!(client.query(" ; ;").await, ["empty", "ready I"]);
        assert_eq!(client.query("copyout").await, ["copy out 1", "data line", "copy done", "COPY 1", "ready I"]);
        assert_eq!(client.query("what").await, ["ERROR 42601: no such word: what", "ready I"]);
    });
}

#[test]
fn the_extended_protocol_prepares_binds_describes_and_executes() {
    with(async |client| {
        client.send(vec![parse("one", "give $1"), describe(b'S', "one"), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "parameters [25]", "columns n:0", "ready I"]);
        let values = [Some(&b"x"[..]), Some(b"yz")];
        for value in values {
            client.send(vec![bind("", "one", value, vec![1]), describe(b'P', ""), execute("", 0), sync()]).await;
            let row = format!("row {}", String::from_utf8_lossy(value.unwrap_or_default()));
            assert_eq!(client.round().await, ["bound", "columns n:1", &row, "SELECT 1", "ready I"]);
        }
        client.send(vec![close(b'S', "one"), close(b'S', "one"), describe(b'S', "one"), sync()]).await;
        assert_eq!(client.round().await, ["closed", "closed", "ERROR 26000: prepared statement \"one\" does not exist", "ready I"]);
        client
            .send(vec![parse("", "begin"), describe(b'S', ""), bind("", "", None, vec![]), describe(b'P', ""), execute("", 0), sync()])
            .await;
        assert_eq!(client.round().await, ["parsed", "parameters []", "no data", "bound", "no data", "BEGIN", "ready T"]);
        client.send(vec![parse("", ""), bind("", "", None, vec![]), execute("", 0), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "bound", "empty", "ready T"]);
    });
}

#[test]
fn a_portal_gives_as_many_rows_as_asked_for_and_lives_as_long_as_its_transaction() {
    with(async |client| {
        assert_eq!(client.query("begin").await, ["BEGIN", "ready T"]);
        client.send(vec![parse("", "rows 5"), bind("p", "", None, vec![]), execute("p", 2), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "bound", "row r", "row r", "suspended", "ready T"]);
        client.send(vec![execute("p", 2), execute("p", 7), sync()]).await;
        assert_eq!(client.round().await, ["row r", "row r", "suspended", "row r", "SELECT 1", "ready T"]);
        client.send(vec![bind("p", "", None, vec![]), sync()]).await;
        assert_eq!(client.round().await, ["ERROR 42P03: cursor \"p\" already exists", "ready E"]);
        assert_eq!(client.query("commit").await, ["COMMIT", "ready I"]);
        client.send(vec![execute("p", 0), sync()]).await;
        assert_eq!(client.round().await, ["ERROR 34000: portal \"p\" does not exist", "ready I"]);
        // Without a block the transaction ends at Sync.
        client.send(vec![parse("", "rows 5"), bind("q", "", None, vec![]), execute("q", 1), sync(), execute("q", 1), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "bound", "row r", "suspended", "ready I"]);
        assert_eq!(client.round().await, ["ERROR 34000: portal \"q\" does not exist", "ready I"]);
        client.send(vec![parse("s", "rows 1"), parse("s", "rows 2"), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "ERROR 42P05: prepared statement \"s\" already exists", "ready I"]);
    });
}

#[test]
fn after_an_error_everything_up_to_sync_is_skipped() {
    with(async |client| {
        client
            .send(vec![parse("", "unreadable"), bind("", "", None, vec![]), execute("", 0), query("rows 1"), flush(), parse("t", "rows 1")])
            .await;
        // The error comes without waiting for Sync.
        assert_eq!(client.next().await, "ERROR 42601: syntax error");
        client.send(vec![sync(), bind("", "t", None, vec![]), sync()]).await;
        assert_eq!(client.round().await, ["ready I"]);
        assert_eq!(client.round().await, ["ERROR 26000: prepared statement \"t\" does not exist", "ready I"]);
        // A query forgets the statement without a name.
        client.send(vec![parse("", "rows 1"), query("rows 0"), bind("", "", None, vec![]), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "columns n:0", "SELECT 0", "ready I"]);
        assert_eq!(client.round().await, ["ERROR 26000: unnamed prepared statement does not exist", "ready I"]);
        client.send(vec![parse("", "rows 1"), flush()]).await;
        assert_eq!(client.next().await, "parsed");
    });
}

#[test]
fn deallocated_names_are_free() {
    with(async |client| {
        client.send(vec![parse("a", "rows 1"), parse("b", "rows 1"), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "parsed", "ready I"]);
        assert_eq!(client.query("forget a").await, ["DEALLOCATE", "ready I"]);
        client.send(vec![parse("a", "rows 1"), parse("b", "rows 1"), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "ERROR 42P05: prepared statement \"b\" already exists", "ready I"]);
        assert_eq!(client.query("forget").await, ["DEALLOCATE ALL", "ready I"]);
        client.send(vec![parse("a", "rows 1"), parse("b", "rows 1"), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "parsed", "ready I"]);
    });
}

#[test]
fn copy_in_takes_data_and_its_errors_leave_the_session_whole() {
    with(async |client| {
        client.send(vec![query("copy")]).await;
        assert_eq!(client.next().await, "copy in 2");
        client.send(vec![data("a\n"), data("b"), flush(), data("c\nd\n"), copy_done()]).await;
        assert_eq!(client.round().await, ["COPY 3", "ready I"]);
        // The client hears of the error only after it has sent more.
        client.send(vec![query("copy; rows 1"), data("bad"), data("more"), copy_done()]).await;
        assert_eq!(client.round().await, ["copy in 2", "ERROR 22P02: bad line", "ready I"]);
        client.send(vec![query("copy"), data("a\n"), PgWireFrontendMessage::CopyFail(CopyFail::new("enough".into()))]).await;
        assert_eq!(client.round().await, ["copy in 2", "ERROR 57014: COPY from stdin failed: enough", "ready I"]);
        let extended = || vec![parse("", "copy"), bind("", "", None, vec![]), execute("", 0), sync()];
        client.send(extended()).await;
        client.send(vec![data("a\n"), copy_done(), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "bound", "copy in 2", "COPY 1", "ready I"]);
        client.send(extended()).await;
        client.send(vec![data("bad\n"), data("a"), copy_done(), sync()]).await;
        assert_eq!(client.round().await, ["parsed", "bound", "copy in 2", "ERROR 22P02: bad line", "ready I"]);
        client.send(vec![query("copy"), query("rows 1")]).await;
        assert_eq!(client.round().await, ["copy in 2", "FATAL 08P01: unexpected message type 0x51 during COPY from stdin", "end"]);
    });
}

#[test]
fn text_that_is_no_utf_8_is_an_error_and_other_garbage_the_end() {
    with(async |client| {
        client.query("begin").await;
        client.send_bytes(b"Q\0\0\0\x0brows \xff\0").await;
        assert_eq!(client.round().await, ["ERROR 22021: invalid byte sequence for encoding \"UTF8\": 0xff", "ready E"]);
        client.send_bytes(b"Q\0\0\0\x09rows").await;
        client.send_bytes(b"!").await;
        assert_eq!(client.round().await, ["FATAL 08P01: invalid string in message", "end"]);
    });
    let wrong: [(&[u8], &str); 6] = [
        (b"\x16\x03\x01", "invalid frontend message type 22"),
        (b"Q\xff\xff\xff\xff", "invalid length -1 of a message of type 'Q' (at most 1048576)"),
        (b"S\0\0\x40\0", "invalid length 16384 of a message of type 'S' (at most 10000)"),
        (b"S\0\0\0\x05x", "invalid message format"),
        (b"B\0\0\0\x0c\0\0\0\0\xff\xff\0\0", "insufficient data left in message"),
        (b"C\0\0\0\x06q\0", "invalid message subtype 113"),
    ];
    for (bytes, why) in wrong {
        with(async |client| {
            client.send_bytes(bytes).await;
            assert_eq!(client.round().await, [format!("FATAL 08P01: {why}"), "end".to_string()]);
        });
    }
}
