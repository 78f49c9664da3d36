//! Who waits for whom, and what ends it: slow clients, lost clients, silence, the server's end.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::client::{Client, LOOPBACK, Setting, bind, connect, execute, parse, query, sync};
use super::fake::Witness;
use crate::base::sim::Sim;
use crate::base::{Gate, Seams};
use crate::sql::wire::options::PostgresOptions;
use crate::sql::wire::port::Stopper;
use crate::sql::wire::server::Server;

const SECOND: Duration = Duration::from_secs(1);

async fn until(seams: &Seams, what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        seams.sleep(Duration::from_millis(10)).await;
    }
    panic!("not in 10 s: {what}");
}

fn closed(witness: &Witness) -> bool {
    witness.log.lock().last().is_some_and(|last| last == "closed")
}

#[test]
fn a_statement_waits_for_a_client_that_takes_nothing() {
    let sim = Sim::new(2);
    let seams = sim.runtime();
    sim.run(async {
        let (mut client, witness) = connect(&seams, Setting { pipe: 4096, ..Setting::default() }).await;
        client.send(vec![query("rows 1000 1000")]).await;
        seams.sleep(SECOND).await;
        let given = *witness.given.lock();
        assert!((60..80).contains(&given), "{given} rows of 1000 bytes wait for a client that takes none");
        let all = client.round().await;
        assert_eq!((all.len(), &*all[1001]), (1003, "SELECT 1000"));
        // The bound counts with a row limit, too.
        client.send(vec![parse("", "rows 1000 1000"), bind("", "", None, vec![]), execute("", 900), sync()]).await;
        let all = client.round().await;
        assert_eq!((all.len(), &*all[902]), (904, "suspended"));
    });
}

#[test]
fn a_client_that_takes_nothing_for_long_is_given_up() {
    let sim = Sim::new(3);
    let seams = sim.runtime();
    sim.run(async {
        let (mut client, witness) = connect(&seams, Setting { pipe: 4096, stall: Some(10 * SECOND), ..Setting::default() }).await;
        client.send(vec![query("rows 1000 1000")]).await;
        // As long as it takes some now and then, all is well.
        for _ in 0..5 {
            seams.sleep(9 * SECOND).await;
            client.io.read_exact(&mut [0; 100]).await.expect("there is more");
        }
        assert!(!closed(&witness));
        seams.sleep(12 * SECOND).await;
        assert!(closed(&witness));
    });
}

#[test]
fn a_client_that_goes_away_stops_its_statement() {
    let sim = Sim::new(4);
    let seams = sim.runtime();
    sim.run(async {
        let (mut client, witness) = connect(&seams, Setting::default()).await;
        client.send(vec![query("begin; wait; rows 1")]).await;
        until(&seams, "the statement waits", || witness.log.lock().len() == 2).await;
        // Bytes that come meanwhile are kept, and don't hide the end behind them.
        client.send(vec![query("rows 1")]).await;
        seams.sleep(SECOND).await;
        assert_eq!(*witness.log.lock(), ["begin", "wait"]);
        drop(client);
        until(&seams, "the session ends", || closed(&witness)).await;
        assert_eq!(*witness.log.lock(), ["begin", "wait", "waited", "closed"]);
    });
}

#[test]
fn silence_ends_a_session_after_its_timeout_and_activity_puts_that_off() {
    let sim = Sim::new(5);
    let seams = sim.runtime();
    sim.run(async {
        for (first, why) in [
            ("begin", "FATAL 25P03: terminating connection due to idle-in-transaction timeout"),
            ("rows 0", "FATAL 57P05: terminating connection due to idle-session timeout"),
        ] {
            let (mut client, witness) = connect(&seams, Setting { idle: Some(10 * SECOND), ..Setting::default() }).await;
            client.query(first).await;
            for _ in 0..5 {
                seams.sleep(9 * SECOND).await;
                client.query("rows 1").await;
            }
            let before = seams.now();
            assert_eq!(client.round().await, [why, "end"]);
            let waited = seams.now().since(before);
            assert!((SECOND * 99 / 10..11 * SECOND).contains(&waited), "{waited:?}");
            assert!(closed(&witness), "the transaction is over before the client is told");
        }
    });
}

#[test]
fn a_client_that_owes_the_rest_of_something_is_given_up() {
    let sim = Sim::new(8);
    let seams = sim.runtime();
    sim.run(async {
        let unfinished: [&[u8]; 3] = [b"Q\0\0\0\x10rows", b"P\0\0\0\x08\0\0\0\0", b"Q\0\0\0\x09copy\0d\0"];
        for bytes in unfinished {
            let (mut client, witness) = connect(&seams, Setting { stall: Some(10 * SECOND), ..Setting::default() }).await;
            // Silence between two rounds is none of it.
            seams.sleep(60 * SECOND).await;
            client.send_bytes(bytes).await;
            seams.sleep(9 * SECOND).await;
            assert!(!closed(&witness));
            let words = client.round().await;
            let why = "FATAL 08006: terminating connection: the client neither takes nor sends what is due";
            assert_eq!(words[words.len() - 2..], [why, "end"]);
        }
    });
}

#[test]
fn a_session_that_is_told_to_end_does_so_waiting_working_and_writing() {
    let sim = Sim::new(6);
    let seams = sim.runtime();
    sim.run(async {
        for doing in ["", "wait", "rows 100000 1000"] {
            let (mut client, witness) = connect(&seams, Setting { pipe: 4096, ..Setting::default() }).await;
            if !doing.is_empty() {
                client.send(vec![query(doing)]).await;
            }
            seams.sleep(SECOND).await;
            witness.stop();
            until(&seams, "the session ends", || closed(&witness)).await;
            if doing.starts_with("rows") {
                continue;
            }
            assert_eq!(client.round().await, ["FATAL 57P01: terminating connection due to administrator command", "end"], "{doing}");
        }
    });
}

/// A connection to a server that is still starting.
fn knock(seams: &Seams, server: &Server) -> Client {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = server.clone();
    seams.spawn("connection", Box::pin(async move { server.serve(far, LOOPBACK).await }));
    Client::new(near)
}

fn startup(version: u32, parameters: &[u8]) -> Vec<u8> {
    let length = (9 + parameters.len()) as u32;
    [&length.to_be_bytes()[..], &version.to_be_bytes(), parameters, &[0]].concat()
}

#[test]
fn connections_begin_as_the_protocol_says() {
    let sim = Sim::new(7);
    let seams = sim.runtime();
    sim.run(async {
        let server = Server::new(seams.clone(), PostgresOptions::default(), Gate::always_open(seams.clone()));
        let early = "FATAL 57P03: the database system is starting up";
        let person = b"user\0regroup\0";
        let cases: [(Vec<u8>, &[&str]); 6] = [
            (startup(3 << 16, person), &[early, "end"]),
            (startup(3 << 16 | 2, b"user\0regroup\0_pq_.new\0x\0"), &["negotiate 196608 [\"_pq_.new\"]", early, "end"]),
            (startup(2 << 16, person), &["FATAL 0A000: unsupported frontend protocol 2.0: server supports 3.0 to 3.0", "end"]),
            (startup(3 << 16, b"database\0regroup\0"), &["FATAL 28000: no PostgreSQL user name specified in startup packet", "end"]),
            (b"GET / HTTP/1.0\r\n".to_vec(), &["FATAL 08P01: invalid length of startup packet: 1195725856", "end"]),
            // A cancel request has no answer.
            ([&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &[1; 8]].concat(), &["end"]),
        ];
        for (bytes, answer) in cases {
            let mut client = knock(&seams, &server);
            client.send_bytes(&bytes).await;
            assert_eq!(client.round().await, answer);
        }
        let mut client = knock(&seams, &server);
        for code in [80_877_103u32, 80_877_104] {
            client.send_bytes(&[8u32.to_be_bytes(), code.to_be_bytes()].concat()).await;
            assert_eq!(client.io.read_u8().await.expect("there is an answer"), b'N');
        }
        client.send_bytes(&startup(3 << 16, person)).await;
        assert_eq!(client.next().await, early);
        // Half a packet.
        let mut client = knock(&seams, &server);
        client.send_bytes(&startup(3 << 16, person)[..12]).await;
        let before = seams.now();
        assert_eq!(client.round().await, ["FATAL 08P01: canceling authentication due to timeout", "end"]);
        assert!(seams.now().since(before) >= 60 * SECOND);
        let mut client = knock(&seams, &server);
        client.send_bytes(&[0]).await;
        seams.sleep(SECOND).await;
        assert_eq!(server.connections(), (0, 1));
        server.close().await;
        assert_eq!(client.round().await, ["FATAL 57P03: the database system is shutting down", "end"]);
        assert_eq!(server.connections(), (0, 0));
    });
}

/// Whether the server sends nothing for a minute.
async fn silent(seams: &Seams, client: &mut Client) -> bool {
    let mut minute = seams.sleep(60 * SECOND);
    tokio::select! {
        biased;
        _ = client.next() => false,
        () = &mut minute => true,
    }
}

#[test]
fn a_parked_instance_begins_nothing_and_answers_nobody() {
    let sim = Sim::new(9);
    let seams = sim.runtime();
    sim.run(async {
        let gate = Gate::closed(seams.clone());
        gate.open_until(seams.now() + SECOND);
        let (mut client, witness) = connect(&seams, Setting { gate: Some(gate.clone()), pipe: 4096, ..Setting::default() }).await;
        // Its answer is longer than the pipe: the rest is still here when the lease runs out.
        client.send(vec![query("rows 1000 1000")]).await;
        seams.sleep(2 * SECOND).await;
        let mut arrived = 0;
        while !silent(&seams, &mut client).await {
            arrived += 1;
        }
        assert!((1..80).contains(&arrived), "{arrived} messages were on their way when the lease ran out");
        client.send(vec![query("note")]).await;
        assert!(silent(&seams, &mut client).await);
        assert!(!witness.log.lock().contains(&"note".to_string()), "nothing is begun");
        gate.open_until(seams.now() + 5 * SECOND);
        assert_eq!(client.round().await.len() + arrived, 1003);
        assert!(client.round().await.last().is_some_and(|last| last == "ready I"));
    });
}
