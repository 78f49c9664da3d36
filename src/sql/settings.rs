//! Settings of a session: what SET, SHOW and RESET know, and what changes with the transaction.
//!
//! A setting has a value as text, checked when set. SET inside a transaction that rolls back is undone, SET LOCAL ends with the
//! transaction: [`Settings::mark`] and [`Settings::back_to`]. Callers: `session`, functions like `current_setting`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::SqlError;
use super::types::{Formats, Zone};
use crate::txn::Isolation;

/// The version of PostgreSQL that clients should take this for.
pub const SERVER_VERSION: &str = "15.8";
/// The same as a number.
pub const SERVER_VERSION_NUM: &str = "150008";

/// How a setting's values are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Can't be set.
    Fixed,
    /// on or off.
    Switch,
    /// A whole number in a range.
    Number(i64, i64),
    /// Milliseconds, or with a unit.
    Time,
    /// One of several words.
    Word(&'static [&'static str]),
    /// Any text.
    Text,
    /// A name of the only encoding there is.
    Encoding,
    /// A time zone with a fixed distance from UTC.
    Zone,
    /// The date style there is.
    DateStyle,
    /// An isolation level.
    Isolation,
    /// The only role there is.
    Role,
}

struct Known {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    /// Clients are told of changes.
    reported: bool,
    about: &'static str,
}

const fn known(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Known {
    Known { name, kind, default, reported: false, about }
}

const fn reported(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Known {
    Known { name, kind, default, reported: true, about }
}

const LEVELS: &[&str] = &["debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "info", "notice", "warning", "error"];

/// Every setting, in order of names.
const ALL: &[Known] = &[
    reported("application_name", Kind::Text, "", "Name of the client's program."),
    known("bytea_output", Kind::Word(&["hex", "escape"]), "hex", "How bytea looks as text."),
    reported("client_encoding", Kind::Encoding, "UTF8", "The client's encoding."),
    known("client_min_messages", Kind::Word(LEVELS), "notice", "Which notices are sent."),
    reported("DateStyle", Kind::DateStyle, "ISO, MDY", "How dates look."),
    known("default_table_access_method", Kind::Word(&["heap"]), "heap", "How tables are stored."),
    known("default_tablespace", Kind::Word(&[""]), "", "There is one place for tables."),
    known("default_transaction_isolation", Kind::Isolation, "read committed", "Isolation level of new transactions."),
    known("default_transaction_read_only", Kind::Switch, "off", "Whether new transactions refuse writes."),
    reported("default_transaction_deferrable", Kind::Switch, "off", "Has no effect: there is no serializable level."),
    known("extra_float_digits", Kind::Number(-15, 3), "1", "Digits of doubles as text."),
    known("idle_in_transaction_session_timeout", Kind::Time, "0", "How long a transaction may wait for its client."),
    known("idle_session_timeout", Kind::Time, "0", "How long a session may wait for its client."),
    reported("in_hot_standby", Kind::Fixed, "off", "Whether this is a standby."),
    reported("integer_datetimes", Kind::Fixed, "on", "Dates are integers."),
    reported("IntervalStyle", Kind::Word(&["postgres"]), "postgres", "How intervals look."),
    known("jit", Kind::Switch, "off", "Has no effect: nothing is compiled."),
    known("lock_timeout", Kind::Time, "0", "How long a statement may wait for a lock."),
    known("max_connections", Kind::Fixed, "500", "Most clients at once."),
    known("max_identifier_length", Kind::Fixed, "63", "Most bytes of a name."),
    known("regroup.on_error_rollback", Kind::Switch, "off", "After an error a transaction goes on with what it had before the statement."),
    known("role", Kind::Role, "none", "The role."),
    known("row_security", Kind::Switch, "on", "Has no effect: there are no policies."),
    known("search_path", Kind::Text, "\"$user\", public", "Has no effect: there is one schema."),
    reported("server_encoding", Kind::Fixed, "UTF8", "The database's encoding."),
    reported("server_version", Kind::Fixed, SERVER_VERSION, "The version of PostgreSQL that this compares to."),
    known("server_version_num", Kind::Fixed, SERVER_VERSION_NUM, "The same as a number."),
    reported("session_authorization", Kind::Role, "regroup", "The role of the session."),
    known("ssl", Kind::Fixed, "off", "Whether connections are encrypted."),
    reported("is_superuser", Kind::Fixed, "on", "Whether the role may do everything."),
    reported("standard_conforming_strings", Kind::Word(&["on"]), "on", "Backslashes in strings are ordinary characters."),
    known("statement_timeout", Kind::Time, "0", "How long a statement may take."),
    known("synchronous_commit", Kind::Word(&["on", "remote_write", "remote_apply", "local"]), "on", "A commit waits until it is durable."),
    reported("TimeZone", Kind::Zone, "UTC", "The time zone: UTC or a fixed distance from it."),
    known("transaction_isolation", Kind::Isolation, "read committed", "Isolation level of this transaction."),
    known("transaction_read_only", Kind::Switch, "off", "Whether this transaction refuses writes."),
    known("wal_level", Kind::Fixed, "replica", "What the log is good for."),
    known("work_mem", Kind::Text, "64MB", "Has no effect: the instance's option sets it."),
];

fn find(name: &str) -> Option<&'static Known> {
    let name = if name.eq_ignore_ascii_case("time zone") { "TimeZone" } else { name };
    ALL.iter().find(|known| known.name.eq_ignore_ascii_case(name))
}

/// A session's settings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By name as listed; those with a point in them may be any.
    values: BTreeMap<String, String>,
    /// What RESET goes back to.
    start: BTreeMap<String, String>,
    /// Set with SET LOCAL: what to go back to at the end of the transaction.
    local: BTreeMap<String, Option<String>>,
    formats: Formats,
    /// Reported ones that have changed.
    changed: Vec<&'static str>,
}

/// Settings at a place in a transaction.
#[derive(Clone, Debug)]
pub struct Mark {
    values: BTreeMap<String, String>,
    local: BTreeMap<String, Option<String>>,
}

impl Settings {
    /// A new session's; a `fixed` one tells what can't be set otherwise.
    pub fn new(fixed: &[(&str, String)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in fixed {
            settings.values.insert((*name).to_string(), value.clone());
        }
        settings.start = settings.values.clone();
        settings
    }

    /// What was set so far is what RESET goes back to.
    pub fn begin_session(&mut self) {
        self.start = self.values.clone();
        self.changed.clear();
    }

    /// A setting's value.
    pub fn get(&self, name: &str) -> Option<String> {
        let Some(known) = find(name) else { return self.values.get(&name.to_lowercase()).cloned() };
        Some(self.value(known))
    }

    fn value(&self, known: &Known) -> String {
        self.values.get(known.name).map_or_else(|| known.default.to_string(), Clone::clone)
    }

    /// A setting's name as it is written.
    pub fn proper_name(name: &str) -> String {
        find(name).map_or_else(|| name.to_lowercase(), |known| known.name.to_string())
    }

    /// All: name, value, what it is about.
    pub fn all(&self) -> Vec<(String, String, &'static str)> {
        let mut all: Vec<_> = ALL.iter().map(|known| (known.name.to_string(), self.value(known), known.about)).collect();
        let own = self.values.iter().filter(|(name, _)| find(name).is_none());
        all.extend(own.map(|(name, value)| (name.clone(), value.clone(), "")));
        all
    }

    /// Those that clients are told at the start.
    pub fn reported(&self) -> Vec<(String, String)> {
        ALL.iter().filter(|known| known.reported).map(|known| (known.name.to_string(), self.value(known))).collect()
    }

    /// Reported ones that have changed since this was last asked.
    pub fn take_changed(&mut self) -> Vec<(&'static str, String)> {
        if self.changed.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut self.changed).into_iter().map(|name| (name, self.get(name).unwrap_or_default())).collect()
    }

    /// Sets a setting; `None`: as it was when the session began.
    ///
    /// # Errors
    /// 42704, 22023, 55P02, 0A000.
    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<(), SqlError> {
        let (name, value) = match find(name) {
            Some(known) => {
                let value = match value {
                    Some(value) => Some(check(known, value, &self.value(known))?),
                    None => self.start.get(known.name).cloned(),
                };
                (known.name.to_string(), value)
            }
            None if name.contains('.') => (name.to_lowercase(), value.map_or_else(|| self.start.get(name).cloned(), |v| Some(v.into()))),
            None => return Err(unknown(name)),
        };
        let before = self.values.get(&name).cloned();
        if local {
            self.local.entry(name.clone()).or_insert(before);
        } else {
            self.local.remove(&name);
        }
        self.put(name, value);
        Ok(())
    }

    fn put(&mut self, name: String, value: Option<String>) {
        let known = find(&name);
        if let Some(known) = known.filter(|known| known.reported && value.as_ref() != self.values.get(&name)) {
            self.changed.push(known.name);
        }
        match value {
            Some(value) => self.values.insert(name, value),
            None => self.values.remove(&name),
        };
        self.format();
    }

    fn format(&mut self) {
        let text = |name: &str| self.get(name).unwrap_or_default();
        self.formats = Formats {
            zone: Zone::parse(&text("TimeZone")).unwrap_or_else(Zone::utc),
            extra_float_digits: text("extra_float_digits").parse().unwrap_or(1),
            bytea_escape: text("bytea_output") == "escape",
        };
    }

    /// All as when the session began.
    pub fn reset_all(&mut self) {
        let names: Vec<String> = self.values.keys().chain(self.start.keys()).cloned().collect();
        for name in names {
            let before = self.start.get(&name).cloned();
            self.local.remove(&name);
            self.put(name, before);
        }
    }

    /// What values look like.
    pub fn formats(&self) -> &Formats {
        &self.formats
    }

    /// Settings as they are now.
    pub fn mark(&self) -> Mark {
        Mark { values: self.values.clone(), local: self.local.clone() }
    }

    /// Settings as they were: a transaction or part of it was rolled back.
    pub fn back_to(&mut self, mark: &Mark) {
        let names: Vec<String> = self.values.keys().chain(mark.values.keys()).cloned().collect();
        for name in names {
            if self.values.get(&name) != mark.values.get(&name) {
                self.put(name.clone(), mark.values.get(&name).cloned());
            }
        }
        self.local = mark.local.clone();
    }

    /// A transaction is over: SET LOCAL ends.
    pub fn end_transaction(&mut self) {
        for (name, before) in std::mem::take(&mut self.local) {
            self.put(name, before);
        }
    }

    /// A setting that is on or off, off unless set; by its name as listed. Every transaction asks for some.
    pub fn switch(&self, name: &'static str) -> bool {
        debug_assert!(ALL.iter().any(|known| known.name == name && known.default == "off"));
        self.values.get(name).is_some_and(|value| value == "on")
    }

    /// A time; nothing when it is zero.
    pub fn time(&self, name: &'static str) -> Option<Duration> {
        let text = self.values.get(name)?;
        let ms = milliseconds(text).filter(|ms| *ms > 0)?;
        Some(Duration::from_millis(ms as u64))
    }

    /// `default_transaction_isolation`.
    pub fn default_isolation(&self) -> Isolation {
        match self.values.get("default_transaction_isolation").map(String::as_str) {
            Some("repeatable read") => Isolation::RepeatableRead,
            _ => Isolation::ReadCommitted,
        }
    }
}

fn unknown(name: &str) -> SqlError {
    SqlError::new("42704", format!("unrecognized configuration parameter \"{name}\""))
}

/// The error of asking for a setting that isn't there.
pub fn missing(name: &str) -> SqlError {
    unknown(name)
}

fn invalid(known: &Known, value: &str) -> SqlError {
    SqlError::new("22023", format!("invalid value for parameter \"{}\": \"{value}\"", known.name))
}

/// The value as it is kept.
fn check(known: &Known, value: &str, now: &str) -> Result<String, SqlError> {
    let lower = value.trim().to_lowercase();
    match known.kind {
        Kind::Fixed if value == now => Ok(value.to_string()),
        Kind::Fixed => Err(SqlError::new("55P02", format!("parameter \"{}\" cannot be changed", known.name))),
        Kind::Switch => match lower.as_str() {
            "on" | "true" | "yes" | "1" | "t" | "y" => Ok("on".into()),
            "off" | "false" | "no" | "0" | "f" | "n" => Ok("off".into()),
            _ => Err(SqlError::new("22023", format!("parameter \"{}\" requires a Boolean value", known.name))),
        },
        Kind::Number(low, high) => match lower.parse::<i64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(number.to_string()),
            Ok(number) => {
                let message = format!("{number} is outside the valid range for parameter \"{}\" ({low} .. {high})", known.name);
                Err(SqlError::new("22023", message))
            }
            Err(_) => Err(invalid(known, value)),
        },
        Kind::Time => {
            let ms = milliseconds(&lower).ok_or_else(|| invalid(known, value))?;
            match ms {
                0.. => Ok(shown_time(ms)),
                _ => {
                    let message = format!("{ms} ms is outside the valid range for parameter \"{}\" (0 ms .. 2147483647 ms)", known.name);
                    Err(SqlError::new("22023", message))
                }
            }
        }
        Kind::Word(words) => match words.iter().find(|word| **word == lower) {
            Some(word) => Ok((*word).to_string()),
            None => {
                let hint = format!("Available values: {}.", words.join(", "));
                Err(invalid(known, value).hint(hint))
            }
        },
        Kind::Text => Ok(value.to_string()),
        Kind::Encoding => match lower.replace(['-', '_'], "").as_str() {
            "utf8" | "unicode" => Ok("UTF8".into()),
            _ => Err(invalid(known, value).hint("The only encoding is UTF8.")),
        },
        Kind::Zone => match Zone::parse(value) {
            Some(_) => Ok(value.to_string()),
            None if ["local", "default"].contains(&lower.as_str()) => Ok("UTC".into()),
            None => Err(invalid(known, value).hint("Regroup has no time zone database: use UTC or a fixed distance from it, like '+02'.")),
        },
        Kind::DateStyle => match lower.split(',').map(str::trim).all(|word| ["iso", "mdy", "us", "default"].contains(&word)) {
            true => Ok("ISO, MDY".into()),
            false => Err(invalid(known, value).hint("The only date style is ISO, MDY.")),
        },
        Kind::Isolation => match lower.as_str() {
            "read committed" | "read uncommitted" => Ok("read committed".into()),
            "repeatable read" => Ok(lower),
            "serializable" => Err(super::parse::serializable()),
            _ => Err(invalid(known, value)),
        },
        Kind::Role => match lower == "none" || value == now || lower == "default" {
            true => Ok(now.to_string()),
            false => Err(SqlError::new("22023", format!("role \"{value}\" does not exist"))),
        },
    }
}

/// `30s` as milliseconds.
fn milliseconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '-' || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "" | "ms" => 1.0,
        "us" => 0.001,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let ms = (number.parse::<f64>().ok()? * factor).round();
    (ms.abs() <= f64::from(i32::MAX)).then_some(ms as i64)
}

/// Milliseconds with the largest unit that fits.
fn shown_time(ms: i64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    match units.iter().find(|(unit, _)| ms > 0 && ms % unit == 0) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms > 0 => format!("{ms}ms"),
        None => "0".into(),
    }
}
