//! Conversations in PostgreSQL's protocol, as bytes: valid ones to start from, and what becomes of them when bytes are changed.
//!
//! Used by the tests and the fuzz target of the wire protocol. Encoded by hand, byte for byte as the protocol's documentation has it.

use regroup::base::Random;

/// A packet that opens a connection: its length, a code, a body.
pub fn opening(code: u32, body: &[u8]) -> Vec<u8> {
    [&(8 + body.len() as u32).to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

/// A StartupMessage of role `regroup` for database `regroup`.
pub fn startup() -> Vec<u8> {
    opening(3 << 16, b"user\0regroup\0database\0regroup\0client_encoding\0UTF8\0application_name\0conversation\0\0")
}

/// A CancelRequest.
pub fn cancel(pid: i32, secret: i32) -> Vec<u8> {
    opening(80_877_102, &[pid.to_be_bytes(), secret.to_be_bytes()].concat())
}

/// A message of that type.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(4 + body.len() as u32).to_be_bytes(), body].concat()
}

/// A simple query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), &[0]].concat())
}

/// Parse, with one parameter type or none.
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [name.as_bytes(), &[0], sql.as_bytes(), &[0], &(types.len() as u16).to_be_bytes()].concat();
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    message(b'P', &body)
}

/// Bind, with all parameters and columns in the format given (0 text, 1 binary).
pub fn bind(portal: &str, statement: &str, format: u16, values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), &[0], statement.as_bytes(), &[0], &1u16.to_be_bytes(), &format.to_be_bytes()].concat();
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            None => body.extend((-1i32).to_be_bytes()),
            Some(value) => body.extend([&(value.len() as i32).to_be_bytes()[..], value].concat()),
        }
    }
    body.extend([1u16.to_be_bytes(), format.to_be_bytes()].concat());
    message(b'B', &body)
}

/// Describe (`D`) or Close (`C`) of a statement (`S`) or portal (`P`).
pub fn about(kind: u8, target: u8, name: &str) -> Vec<u8> {
    message(kind, &[&[target][..], name.as_bytes(), &[0]].concat())
}

/// Execute.
pub fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), &[0], &max_rows.to_be_bytes()].concat())
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

/// Whole conversations, each from the first byte of its connection on.
pub fn corpus() -> Vec<Vec<u8>> {
    let simple = [
        startup(),
        query("CREATE TABLE talk (id int PRIMARY KEY, words text, amount numeric(10,2))"),
        query("INSERT INTO talk VALUES (1, 'one', 1.5), (2, NULL, 2) ON CONFLICT DO NOTHING; SELECT * FROM talk WHERE id = 1"),
        query("BEGIN; UPDATE talk SET words = 'two' WHERE id = 2; SAVEPOINT s"),
        query("SELECT 1/0"),
        query("ROLLBACK TO s; COMMIT"),
        query(""),
        query("SELECT id, words FROM talk ORDER BY id DESC LIMIT 5 FOR UPDATE"),
        terminate(),
    ];
    let extended = [
        startup(),
        parse("one", "SELECT id, words FROM talk WHERE id = $1", &[23]),
        about(b'D', b'S', "one"),
        bind("", "one", 1, &[Some(&[0, 0, 0, 1])]),
        about(b'D', b'P', ""),
        execute("", 0),
        sync(),
        parse("", "INSERT INTO talk VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET words = $2 RETURNING id", &[]),
        bind("p", "", 0, &[Some(b"7"), None]),
        execute("p", 1),
        execute("p", 0),
        about(b'C', b'P', "p"),
        message(b'H', b""),
        about(b'C', b'S', "one"),
        sync(),
        parse("", "wrong", &[]),
        bind("", "", 0, &[]),
        execute("", 0),
        sync(),
    ];
    let copy = [
        startup(),
        query("COPY talk FROM STDIN"),
        message(b'd', b"11\televen\t1\n12\t"),
        message(b'd', b"twelve\t\\N\n"),
        message(b'c', b""),
        query("COPY talk (id) FROM STDIN"),
        message(b'd', b"13\n"),
        message(b'f', b"enough\0"),
        parse("", "COPY talk (id) FROM STDIN", &[]),
        bind("", "", 0, &[]),
        execute("", 0),
        message(b'd', b"14\n"),
        message(b'c', b""),
        sync(),
    ];
    let negotiation = [
        opening(80_877_103, b""),
        opening(80_877_104, b""),
        opening(3 << 16 | 2, b"user\0regroup\0options\0-c statement_timeout=1000 --application-name=x\\ y\0_pq_.more\0yes\0\0"),
        message(b'F', &[0; 14]),
        query("SHOW server_version"),
        message(b'p', b"password\0"),
    ];
    vec![simple.concat(), extended.concat(), copy.concat(), negotiation.concat(), cancel(1, 2)]
}

/// Numbers at which decoders go wrong.
const EDGES: [u64; 12] = [0, 1, 7, 8, 63, 64, 4095, 4096, 8191, 8192, 0x7fff_ffff, u64::MAX];

/// Changes up to six places of `bytes`: bits, bytes, numbers in network order, cuts, pieces of `other`.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.index(6) {
        let at = random.index(bytes.len().max(1));
        let take = random.index(other.len().min(64) + 1);
        let from = random.index(other.len() - take + 1);
        match random.index(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.index(8),
            1 if at < bytes.len() => bytes[at] = random.bits() as u8,
            2 | 3 => {
                let width = [1, 2, 4][random.index(3)];
                let value = random.pick(&EDGES).wrapping_add(random.below(3)).wrapping_sub(1).to_be_bytes();
                for (to, from) in bytes.iter_mut().skip(at).zip(&value[8 - width..]) {
                    *to = *from;
                }
            }
            4 => {
                let at = at.min(bytes.len());
                bytes.splice(at..at, other[from..from + take].iter().copied());
            }
            5 => {
                for (to, byte) in bytes.iter_mut().skip(at).zip(&other[from..from + take]) {
                    *to = *byte;
                }
            }
            _ => {
                let end = (at + random.index(32)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
        }
    }
}
