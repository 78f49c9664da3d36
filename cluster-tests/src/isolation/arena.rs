//! A server that is crashed under many clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::endpoint::{Connection, Endpoint};

/// A server that tests may kill.
pub trait Crashable {
    /// Where it listens now.
    fn endpoint(&self) -> Endpoint;

    /// Kills it without warning, starts it again, and returns when it serves.
    fn crash(&mut self);
}

/// What clients share.
#[derive(Clone)]
pub struct Arena {
    endpoint: Arc<Mutex<Endpoint>>,
    stopping: Arc<AtomicBool>,
    unexpected: Arc<Mutex<Vec<String>>>,
}

/// How long a server may take to serve again.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// How long any answer may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl Arena {
    /// Around this server.
    pub fn new(endpoint: Endpoint) -> Arena {
        Arena { endpoint: Arc::new(Mutex::new(endpoint)), stopping: Arc::default(), unexpected: Arc::default() }
    }

    /// Clients are to end.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// What should never be said, by a server or about one.
    pub fn unexpected(&self, what: String) {
        self.unexpected.lock().push(what);
    }

    /// All of that.
    pub fn complaints(&self) -> Vec<String> {
        self.unexpected.lock().clone()
    }

    /// A connection, waited for while the server restarts.
    pub async fn connect(&self) -> Option<Connection> {
        let deadline = Instant::now() + BACK_WITHIN;
        loop {
            let endpoint = self.endpoint.lock().clone();
            match endpoint.connect().await {
                Ok(connection) => return Some(connection),
                Err(error) if Instant::now() > deadline => {
                    self.unexpected(format!("no connection within {BACK_WITHIN:?}: {error}"));
                    return None;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Lets clients work: `work` for each number, on `runtime`, for `duration` after each of `crashes` crashes and before the first.
    /// Returns when all have ended.
    pub fn run<F>(&self, server: &mut dyn Crashable, runtime: &tokio::runtime::Runtime, duration: Duration, crashes: u32, work: Vec<F>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let clients: Vec<_> = work.into_iter().map(|client| runtime.spawn(client)).collect();
        std::thread::sleep(duration);
        for _ in 0..crashes {
            server.crash();
            *self.endpoint.lock() = server.endpoint();
            std::thread::sleep(duration);
        }
        self.stopping.store(true, Ordering::SeqCst);
        for client in clients {
            runtime.block_on(client).expect("a client doesn't panic");
        }
    }
}
