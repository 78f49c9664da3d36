//! The least of PostgreSQL's protocol (version 3.0) that tells whether a server serves: start up without password, simple queries.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest message believed, in bytes.
const MESSAGE_MAX: usize = 1 << 20;

/// A connection.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and starts up; `limit` is for each read.
    pub(crate) fn connect(address: SocketAddr, user: &str, database: &str, limit: Duration) -> Result<Client, String> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(limit))).map_err(|error| error.to_string())?;
        let mut client = Client { stream };
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for text in ["user", user, "database", database, "application_name", "peers"] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        client.send(None, &body)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Runs `sql` and returns the first column of the first row, as text.
    pub(crate) fn query(&mut self, sql: &str) -> Result<Option<String>, String> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.until_ready()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), String> {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).map_err(|error| error.to_string())
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), String> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).map_err(|error| error.to_string())?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..=MESSAGE_MAX).contains(&length) {
            return Err(format!("the server sent a message of {length} bytes"));
        }
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).map_err(|error| error.to_string())?;
        Ok((head[0], body))
    }

    /// Takes messages until the server is ready for a query.
    fn until_ready(&mut self) -> Result<Option<String>, String> {
        let (mut first, mut error) = (None, None);
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'Z' => return error.map_or(Ok(first), Err),
                b'R' if body != [0; 4] => return Err("the server wants a password".to_string()),
                b'E' => {
                    let said = fields(&body);
                    // Before it is ready for the first time, an error ends the connection.
                    if said.starts_with("FATAL") {
                        return Err(said);
                    }
                    error = Some(said);
                }
                b'D' if first.is_none() => first = column(&body),
                _ => {}
            }
        }
    }
}

/// Severity and message of an error.
fn fields(body: &[u8]) -> String {
    let all: Vec<String> = body.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    let of = |kind: char| all.iter().find_map(|field| field.strip_prefix(kind)).unwrap_or_default().to_string();
    format!("{} {}: {}", of('S'), of('C'), of('M'))
}

/// The first column of a row, if it isn't null.
fn column(body: &[u8]) -> Option<String> {
    let length = i32::from_be_bytes(body.get(2..6)?.try_into().ok()?);
    let bytes = body.get(6..6 + usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_errors_are_read_and_hostile_ones_are_nothing() {
        assert_eq!(column(&[0, 1, 0, 0, 0, 2, b'4', b'2']), Some("42".to_string()));
        assert_eq!(column(&[0, 1, 255, 255, 255, 255]), None);
        assert_eq!(column(&[0, 1, 127, 255, 255, 255, 1]), None);
        assert_eq!(fields(b"SFATAL\0C57P03\0Mstarting up\0\0"), "FATAL 57P03: starting up");
    }
}
