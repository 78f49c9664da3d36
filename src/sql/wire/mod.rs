//! The PostgreSQL door: the protocol (version 3.0) that `psql`, `pgbench` and every driver speak, over TCP.
//!
//! ```text
//!            server    listens, counts connections, says what phase the instance is in, ends sessions when it stops
//!              |
//!            startup   SSLRequest, CancelRequest, StartupMessage; who may come in
//!              |
//!            conversation   one session: simple and extended queries, COPY (copy), errors and ReadyForQuery
//!            /   |    \
//!     stream     |     port   what a conversation asks of a session (session::Session, or a stand-in in tests)
//!     /   \      |
//! frontend  backend    bytes <-> messages
//! ```
//! Callers: the daemon ([`server::Server`]) and tests, which run [`server::Server::serve`] over any byte stream.
//!
//! Invariants:
//! - Nothing that a client sends makes a thread panic, or reserves more memory than it has sent (twice over): lengths are checked before
//!   they are believed, and buffers grow as bytes come in.
//! - What doesn't follow the protocol ends its connection with 08P01 and one line in the log.
//! - A session's output waits in memory only up to a bound; then the statement waits for the client.
//! - A session ends, and its transaction with it, when its client is gone, also in the middle of a statement.
//!
//! pgwire names the message types, and its codec checks ours in the tests. Its decoder isn't used on what clients send: it panics on a body
//! that is shorter than it says, reads on into the next message, and turns bytes that aren't UTF-8 into others.

mod backend;
mod conversation;
mod copy;
mod frontend;
pub mod options;
mod port;
pub mod server;
mod startup;
mod stream;
#[cfg(test)]
mod tests;
