//! What an error says about the transaction it met.

use super::history::Outcome;

/// What is known after `error`, met before COMMIT was sent (`committing` false) or as its answer.
///
/// Before COMMIT nothing can make the transaction commit any more. As COMMIT's answer, an ERROR is the server's word that it was rolled
/// back; a lost connection, or a server that says it is going down, says nothing.
pub fn of(error: &tokio_postgres::Error, committing: bool) -> Outcome {
    let refused = error.as_db_error().is_some_and(|report| report.severity() == "ERROR");
    if committing && !refused { Outcome::Unknown } else { Outcome::Failed }
}

/// The connection is of no use any more.
pub fn is_end_of_connection(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.as_db_error().is_none_or(|report| report.severity() != "ERROR")
}

/// The error is one that clients must expect when they compete or when the server is killed: 40001, 40P01, 57P01 to 57P03, 08xxx, or no
/// answer at all.
pub fn is_expected(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error().map(|report| report.code().code()) {
        // Not what a client makes of an answer that it doesn't understand.
        None => error.is_closed() || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>()),
        Some(code) => matches!(code, "40001" | "40P01" | "57P01" | "57P02" | "57P03") || code.starts_with("08"),
    }
}
