//! The asking side of an admin socket.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{ANSWER_MAX, Answer, Request, Status, short_name};
use crate::base::Seams;

/// Longest wait for the state: an instance answers this at once, whatever else it does.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// Longest silence in an answer that takes long: progress comes every second.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("the instance's process has no admin socket: {0}")]
    Absent(std::io::Error),
    /// The connection broke.
    #[error("the instance's process ended the connection: {0}")]
    Broken(std::io::Error),
    /// It doesn't answer.
    #[error("the instance's process doesn't answer within {} s: is it stopped, or its host overloaded?", patience.as_secs())]
    Silent {
        /// How long was waited.
        patience: Duration,
    },
    /// The answer can't be understood.
    #[error("the instance's process answers {line:?}, which this version doesn't understand: {error}")]
    Nonsense {
        /// Its beginning.
        line: String,
        /// Why not.
        error: serde_json::Error,
    },
    /// It said why it can't.
    #[error("{0}")]
    Refused(String),
}

/// Asks, tells `hear` of each line but the last, and returns the last.
///
/// # Errors
/// [`AskError`].
pub async fn ask(
    seams: &Seams,
    socket: &Path,
    request: &Request,
    mut hear: impl FnMut(&Answer) + Send,
) -> Result<serde_json::Value, AskError> {
    ask_within(seams, socket, request, SILENCE_MAX, &mut hear).await
}

/// What the instance is doing.
///
/// # Errors
/// [`AskError`].
pub async fn status(seams: &Seams, socket: &Path) -> Result<Status, AskError> {
    let done = ask_within(seams, socket, &Request::Status {}, STATUS_PATIENCE, &mut |_| {}).await?;
    serde_json::from_value(done.clone()).map_err(|error| AskError::Nonsense { line: done.to_string(), error })
}

async fn ask_within(
    seams: &Seams,
    socket: &Path,
    request: &Request,
    patience: Duration,
    hear: &mut (dyn FnMut(&Answer) + Send),
) -> Result<serde_json::Value, AskError> {
    let (_folder, name) = short_name(socket).map_err(AskError::Absent)?;
    let mut stream = UnixStream::connect(&name).await.map_err(AskError::Absent)?;
    let mut line = serde_json::to_vec(request).map_err(|error| AskError::Nonsense { line: format!("{request:?}"), error })?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(AskError::Broken)?;
    let mut answers = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut answers).take(ANSWER_MAX as u64);
        tokio::select! {
            biased;
            read = bounded.read_until(b'\n', &mut line) => read.map_err(AskError::Broken)?,
            () = seams.sleep(patience) => return Err(AskError::Silent { patience }),
        };
        if line.last() != Some(&b'\n') {
            return Err(AskError::Broken(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let answer = serde_json::from_slice(&line).map_err(|error| {
            let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            AskError::Nonsense { line: shown, error }
        })?;
        match answer {
            Answer::Done(value) => return Ok(value),
            Answer::Error(why) => return Err(AskError::Refused(why)),
            more => hear(&more),
        }
    }
}
