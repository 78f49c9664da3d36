//! The checkers of histories find what they are for: histories with one known anomaly each, and good ones beside them (issue 3, item 10).

use std::collections::BTreeMap;

use cluster_tests::isolation::Level::{self, ReadCommitted, RepeatableRead};
use cluster_tests::isolation::bank::{self, ACCOUNTS, Books, Ledger, OPENING, Transfer};
use cluster_tests::isolation::checks::{Violation, violations};
use cluster_tests::isolation::history::Outcome::{self, Committed, Failed, Unknown};
use cluster_tests::isolation::history::{History, Micro, Transaction, adya_findings};

fn append(key: i64, value: i64) -> Micro {
    Micro::Append { key, value }
}

fn read(key: i64, found: &[i64]) -> Micro {
    Micro::Read { key, asked: 0, found: Some(found.to_vec()) }
}

/// A transaction from moment `span.0` to `span.1`; each starts a client of its own, so that only real time orders them.
fn transaction(span: (u64, u64), outcome: Outcome, micros: &[Micro]) -> Transaction {
    let mut micros = micros.to_vec();
    for micro in &mut micros {
        if let Micro::Read { asked, .. } = micro {
            *asked = span.0;
        }
    }
    Transaction { client: span.0, began: span.0, ended: span.1, outcome, micros }
}

fn model(level: Level) -> &'static str {
    match level {
        ReadCommitted => "strong-read-committed",
        RepeatableRead => "strong-snapshot-isolation",
    }
}

/// Judges transactions after which the lists are `last`: what our checker says, and what adya says.
fn judged(level: Level, transactions: &[Transaction], last: &[(i64, &[i64])]) -> (Vec<Violation>, String) {
    let history = History { transactions: transactions.to_vec() };
    let last: BTreeMap<i64, Vec<i64>> = last.iter().map(|(key, list)| (*key, list.to_vec())).collect();
    (violations(&history, level, &last), adya_findings(&history, model(level)).join("\n"))
}

/// Our checker finds a violation of this kind.
macro_rules! ours {
    ($judged:expr, $kind:ident) => {
        assert!(
            $judged.0.iter().any(|violation| matches!(violation, Violation::$kind { .. })),
            "not {}: {:?}",
            stringify!($kind),
            $judged.0
        )
    };
}

/// adya names this anomaly.
fn theirs(judged: &(Vec<Violation>, String), kind: &str) {
    assert!(judged.1.contains(&format!("adya: {kind}")), "not {kind}: {}", judged.1);
}

#[test]
fn good_histories_pass() {
    // Write skew is what snapshot isolation allows; seeing more as time goes on is what read committed allows.
    let skew = [
        transaction((1, 10), Committed, &[read(1, &[]), read(2, &[]), append(1, 11)]),
        transaction((2, 11), Committed, &[read(1, &[]), read(2, &[]), append(2, 12)]),
        transaction((20, 21), Committed, &[read(1, &[11]), read(2, &[12])]),
    ];
    let (ours, theirs) = judged(RepeatableRead, &skew, &[(1, &[11]), (2, &[12])]);
    assert!(ours.is_empty() && theirs.is_empty(), "{ours:?} {theirs}");
    let growing = [
        transaction((1, 5), Committed, &[append(1, 11), append(2, 12)]),
        transaction((2, 9), Committed, &[read(1, &[]), read(2, &[12]), read(1, &[11])]),
        transaction((3, 10), Unknown, &[append(1, 13)]),
        transaction((4, 11), Failed, &[append(1, 14)]),
        transaction((20, 21), Committed, &[read(1, &[11, 13])]),
    ];
    let (ours, theirs) = judged(ReadCommitted, &growing, &[(1, &[11, 13]), (2, &[12])]);
    // adya's "internal" is not part of read committed; it must not complain.
    assert!(ours.is_empty() && theirs.is_empty(), "{ours:?} {theirs}");
}

#[test]
fn dirty_writes_are_found() {
    let history = [
        transaction((1, 5), Committed, &[append(1, 11), append(2, 12)]),
        transaction((2, 6), Committed, &[append(1, 21), append(2, 22)]),
        transaction((10, 11), Committed, &[read(1, &[11, 21]), read(2, &[22, 12])]),
    ];
    theirs(&judged(ReadCommitted, &history, &[(1, &[11, 21]), (2, &[22, 12])]), "G0");
}

#[test]
fn aborted_reads_are_found() {
    let history = [transaction((1, 5), Failed, &[append(1, 11)]), transaction((2, 3), Committed, &[read(1, &[11])])];
    let judged = judged(ReadCommitted, &history, &[]);
    ours!(judged, Aborted);
    theirs(&judged, "G1a");
}

#[test]
fn intermediate_reads_are_found() {
    let history = [transaction((1, 5), Committed, &[append(1, 11), append(1, 12)]), transaction((2, 3), Committed, &[read(1, &[11])])];
    let judged = judged(ReadCommitted, &history, &[(1, &[11, 12])]);
    ours!(judged, Intermediate);
    theirs(&judged, "G1b");
}

#[test]
fn circular_information_flow_is_found() {
    let history = [
        transaction((1, 5), Committed, &[append(1, 11), read(2, &[22])]),
        transaction((2, 6), Committed, &[append(2, 22), read(1, &[11])]),
    ];
    theirs(&judged(ReadCommitted, &history, &[(1, &[11]), (2, &[22])]), "G1c");
}

#[test]
fn read_skew_is_found() {
    let history = [
        transaction((1, 5), Committed, &[append(1, 11), append(2, 12)]),
        transaction((2, 6), Committed, &[read(1, &[]), read(2, &[12])]),
        transaction((10, 12), Committed, &[read(1, &[11])]),
    ];
    let judged = judged(RepeatableRead, &history, &[(1, &[11]), (2, &[12])]);
    ours!(judged, Fractured);
    theirs(&judged, "G-single-item");
}

#[test]
fn lost_updates_are_found() {
    let history = [
        transaction((1, 5), Committed, &[read(1, &[]), append(1, 11)]),
        transaction((2, 6), Committed, &[read(1, &[]), append(1, 12)]),
        transaction((10, 12), Committed, &[read(1, &[11, 12])]),
    ];
    let judged = judged(RepeatableRead, &history, &[(1, &[11, 12])]);
    ours!(judged, LostUpdate);
    assert!(judged.1.contains("adya: G-single-item") || judged.1.contains("adya: lost-update"), "{}", judged.1);
}

#[test]
fn long_forks_are_found() {
    let history = [
        transaction((1, 20), Committed, &[append(1, 11)]),
        transaction((2, 21), Committed, &[append(2, 22)]),
        transaction((3, 22), Committed, &[read(1, &[11]), read(2, &[])]),
        transaction((4, 23), Committed, &[read(1, &[]), read(2, &[22])]),
    ];
    theirs(&judged(RepeatableRead, &history, &[(1, &[11]), (2, &[22])]), "G-nonadjacent-item");
}

#[test]
fn stale_snapshots_are_found() {
    let history = [transaction((1, 2), Committed, &[append(1, 11)]), transaction((5, 6), Committed, &[read(1, &[])])];
    for level in [ReadCommitted, RepeatableRead] {
        ours!(judged(level, &history, &[(1, &[11])]), MissesAcknowledged);
    }
    let linked = [&history[..], &[transaction((10, 12), Committed, &[read(1, &[11])])]].concat();
    theirs(&judged(RepeatableRead, &linked, &[(1, &[11])]), "G-single-item-realtime");
}

#[test]
fn unrepeatable_reads_are_found() {
    let history = [transaction((1, 5), Committed, &[append(1, 11)]), transaction((2, 9), Committed, &[read(1, &[]), read(1, &[11])])];
    let judged = judged(RepeatableRead, &history, &[(1, &[11])]);
    ours!(judged, Unrepeatable);
    theirs(&judged, "internal");
}

#[test]
fn nonsense_is_found() {
    let base = transaction((1, 5), Committed, &[append(1, 11), append(1, 12)]);
    let last: &[(i64, &[i64])] = &[(1, &[11, 12])];
    let reading = |found: &[i64]| judged(ReadCommitted, &[base.clone(), transaction((2, 6), Committed, &[read(1, found)])], last);
    ours!(reading(&[99]), NeverWritten);
    ours!(reading(&[11, 12, 11]), Twice);
    ours!(reading(&[12, 11]), Disordered);
    let own = [transaction((1, 5), Committed, &[append(1, 11), read(1, &[])])];
    ours!(judged(ReadCommitted, &own, &[(1, &[11])]), MissesOwn);
    // Also what a transaction saw that failed later counts.
    let failed = [base.clone(), transaction((2, 6), Failed, &[read(1, &[11, 12, 99])])];
    ours!(judged(ReadCommitted, &failed, last), NeverWritten);
}

#[test]
fn what_a_crash_may_not_take_is_missed() {
    let acknowledged = [transaction((1, 5), Committed, &[append(1, 11)])];
    ours!(judged(ReadCommitted, &acknowledged, &[]), Lost);
    let half = [transaction((1, 5), Unknown, &[append(1, 11), append(2, 12)])];
    ours!(judged(ReadCommitted, &half, &[(1, &[11])]), HalfThere);
    let undead = [transaction((1, 5), Failed, &[append(1, 11)])];
    ours!(judged(ReadCommitted, &undead, &[(1, &[11])]), Aborted);
}

#[test]
fn bad_books_are_found() {
    let even: bank::Snapshot = (0..ACCOUNTS).map(|account| (account, OPENING)).collect();
    let mut moved = even.clone();
    moved.insert(0, OPENING - 5);
    moved.insert(1, OPENING + 5);
    let transfer = |outcome| Transfer { id: 1, outcome };
    let ledger = |outcome, snapshot: &bank::Snapshot| Ledger { transfers: vec![transfer(outcome)], snapshots: vec![snapshot.clone()] };
    let books = |balances: &bank::Snapshot, rows: usize| Books { balances: balances.clone(), transfers: vec![(1, 0, 1, 5); rows] };
    for outcome in [Committed, Unknown] {
        assert_eq!(bank::findings(&ledger(outcome, &even), &books(&moved, 1)), [""; 0]);
    }
    assert_eq!(bank::findings(&ledger(Failed, &even), &books(&even, 0)), [""; 0]);
    let mut half = even.clone();
    half.insert(0, OPENING - 5);
    let mut short = even.clone();
    short.remove(&3);
    let bad = [
        (ledger(Committed, &half), books(&moved, 1), "a snapshot with half a transfer"),
        (ledger(Committed, &short), books(&moved, 1), "a snapshot without an account"),
        (ledger(Committed, &even), books(&even, 0), "an acknowledged transfer that is gone"),
        (ledger(Committed, &even), books(&moved, 2), "a transfer that is there twice"),
        (ledger(Failed, &even), books(&moved, 1), "a transfer that failed and is there"),
        (ledger(Unknown, &even), books(&moved, 0), "money moved without a transfer"),
        (ledger(Committed, &even), books(&half, 1), "half a transfer"),
        (Ledger::default(), books(&moved, 1), "a transfer that nobody made"),
    ];
    for (ledger, books, what) in bad {
        assert_ne!(bank::findings(&ledger, &books), [""; 0], "{what}");
    }
}
