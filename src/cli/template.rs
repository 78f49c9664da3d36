//! The configuration file that `clusterctl init` writes: every option with its meaning, default and range, so that the file can be
//! edited without a manual. What was chosen stands as a value; what wasn't stands as a comment with its default.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::size::show_size;

/// One option, explained.
pub struct Explained {
    /// Its name in its section.
    pub name: &'static str,
    /// What it does, in lines.
    pub meaning: &'static [&'static str],
    /// Its default, as it stands in the file.
    pub default: &'static str,
    /// What is allowed.
    pub range: &'static str,
}

/// Every option of `[options]`. A test holds this against `base::options::Options`.
pub const OPTIONS: &[Explained] = &[
    Explained {
        name: "cache_bytes",
        meaning: &["Page cache of each instance, in bytes. The more of the data fits, the fewer reads."],
        default: "67108864",
        range: "2097152 (2 MiB) to 2^44",
    },
    Explained {
        name: "log_mode",
        meaning: &[
            "When a commit is acknowledged:",
            "  \"commit\"  when its redo is durable: nothing acknowledged is ever lost",
            "  \"batch\"   at once; a crash loses at most the last log_batch_interval_ms",
            "  \"none\"    at once; a crash loses all since the log buffer last filled or a checkpoint was taken",
        ],
        default: "\"commit\"",
        range: "\"commit\", \"batch\", \"none\"",
    },
    Explained {
        name: "log_batch_interval_ms",
        meaning: &["With log_mode \"batch\": longest time until redo is durable, in milliseconds."],
        default: "100",
        range: "1 to 10000",
    },
    Explained {
        name: "checkpoint_interval_ms",
        meaning: &[
            "Longest time between two checkpoints while there is something to write, in milliseconds.",
            "Shorter: more page writes, faster recovery.",
        ],
        default: "30000",
        range: "10 to 3600000",
    },
    Explained {
        name: "checkpoint_log_percent",
        meaning: &["Redo kept behind the checkpoint before page writing is stepped up, in percent of the ring."],
        default: "50",
        range: "5 to 80",
    },
    Explained {
        name: "recovery_time_target_ms",
        meaning: &[
            "Longest time that recovery after a crash may be predicted to take, in milliseconds; 0 for any. Pages are written early enough for it,",
            "as far as the disk manages; commits are not slowed down for it. The prediction comes from rates measured on this machine.",
        ],
        default: "10000",
        range: "0, or 500 to 3600000",
    },
    Explained {
        name: "double_write",
        meaning: &[
            "Whether pages go through the double-write area, which mends pages that a power failure tore:",
            "  \"auto\"  unless the device promises atomic writes of a page",
            "  \"on\"    always",
        ],
        default: "\"auto\"",
        range: "\"auto\", \"on\"",
    },
    Explained {
        name: "disk",
        meaning: &["Disk driver: \"auto\" is io_uring, or threads (with a warning) where the kernel refuses it."],
        default: "\"auto\"",
        range: "\"auto\", \"uring\", \"threads\"",
    },
    Explained { name: "page_io_depth", meaning: &["Reads or writes of pages in flight at once."], default: "64", range: "1 to 1024" },
    Explained {
        name: "recovery_memory_bytes",
        meaning: &["Memory that recovery may use beyond the page cache, in bytes; more means fewer readings of a long log."],
        default: "67108864",
        range: "16777216 (16 MiB) to 2^40",
    },
    Explained {
        name: "undo_bytes_max",
        meaning: &["Undo kept for snapshots, in bytes: beyond it the oldest is used again, and old snapshots may get an error."],
        default: "4294967296",
        range: "1048576 (1 MiB) to 2^50",
    },
    Explained { name: "recovery_workers", meaning: &["Parallel redo jobs; 0 is one per processor core."], default: "0", range: "0 to 256" },
];

/// Every option of `[postgres]` but `listen`. A test holds this against `sql::wire::options::PostgresOptions`.
pub const POSTGRES: &[Explained] = &[
    Explained {
        name: "max_connections",
        meaning: &["Sessions at once, of each instance; a client that comes then is told 53300."],
        default: "100",
        range: "1 to 10000",
    },
    Explained {
        name: "idle_session_timeout_ms",
        meaning: &["How long a session may wait for its client outside of a transaction, in milliseconds (57P05); 0 is for ever."],
        default: "0",
        range: "0 to 2^31",
    },
    Explained {
        name: "idle_in_transaction_session_timeout_ms",
        meaning: &[
            "How long a session may wait for its client inside a transaction, which holds locks and undo, in milliseconds (25P03);",
            "0 is for ever.",
        ],
        default: "600000",
        range: "0 to 2^31",
    },
    Explained {
        name: "send_timeout_ms",
        meaning: &["How long a client may take no byte of what is there for it, in milliseconds; 0 is for ever."],
        default: "600000",
        range: "0 to 2^31",
    },
    Explained {
        name: "authentication_timeout_ms",
        meaning: &["How long a client may take to say who it is, in milliseconds."],
        default: "60000",
        range: "1 to 600000",
    },
    Explained {
        name: "tcp_keepalives_idle_s",
        meaning: &["Silence on a connection before the system asks whether the client's machine is there, in seconds; 0 never asks."],
        default: "60",
        range: "0 to 32767",
    },
    Explained {
        name: "tcp_keepalives_interval_s",
        meaning: &["Time between two such questions, in seconds."],
        default: "10",
        range: "1 to 32767",
    },
    Explained {
        name: "tcp_keepalives_count",
        meaning: &["Questions without an answer until the connection is given up."],
        default: "6",
        range: "1 to 127",
    },
    Explained {
        name: "message_bytes_max",
        meaning: &["Longest message that a client may send, in bytes."],
        default: "268435456",
        range: "65536 to 1073741822",
    },
    Explained {
        name: "work_bytes_max",
        meaning: &[
            "Memory that one sort, hash table or list of rows of a statement may take, in bytes; beyond it the statement gets 53200.",
        ],
        default: "67108864",
        range: "65536 to 2^40",
    },
    Explained {
        name: "work_total_bytes_max",
        meaning: &["Memory that those of all statements of an instance may take together, in bytes."],
        default: "268435456",
        range: "1048576 to 2^44",
    },
];

/// What is chosen when a cluster is made.
pub struct Chosen<'c> {
    /// The cluster's id.
    pub cluster: String,
    /// Redo files, relative to the configuration.
    pub redo: Vec<String>,
    /// Data files, relative to the configuration.
    pub data: Vec<String>,
    /// Options that aren't to have their default: name and value as they stand in the file.
    pub options: &'c [(&'static str, String)],
    /// Where clients find instance 1.
    pub listen: SocketAddr,
}

/// The file's text.
pub fn render(chosen: &Chosen<'_>) -> String {
    let mut text = format!(
        "# Regroup cluster {}: the configuration of all its instances, written by `clusterctl init`.\n\
         #\n\
         # Read when an instance starts: after a change, stop and start it. A value out of range, or a name that isn't known, is refused\n\
         # with its line. Lines that begin with # and a name show the default; take the # away to change it.\n\
         # `clusterctl config` shows what is in effect.\n",
        chosen.cluster
    );
    let list = |files: &[String]| files.iter().map(|file| format!("{file:?}")).collect::<Vec<_>>().join(", ");
    let _ = write!(
        text,
        "\n[storage]\n\
         # The storage files, relative to this file, in order: the first redo file is instance 1's, the first data file is number 0. Each file\n\
         # knows its place, so a wrong order or a file of another cluster is refused. Files may be moved while all instances are stopped.\n\
         redo = [{}]\n\
         data = [{}]\n",
        list(&chosen.redo),
        list(&chosen.data)
    );
    let _ = write!(
        text,
        "\n[postgres]\n\
         # Where PostgreSQL clients find instance 1: address and port; instance 2 has the next port, and so on. Port 0 is any free one,\n\
         # which `clusterctl status` shows. A fresh cluster lets role \"regroup\" into database \"regroup\" without a password, from this host\n\
         # only. Default: without this section no clients are served.\n\
         listen = \"{}\"\n",
        chosen.listen
    );
    explain(&mut text, POSTGRES, &[]);
    text.push_str("\n[options]\n");
    explain(&mut text, OPTIONS, chosen.options);
    text
}

/// Writes each of `options`, with its value where one is chosen.
fn explain(text: &mut String, options: &[Explained], chosen: &[(&'static str, String)]) {
    for option in options {
        text.push('\n');
        for line in option.meaning {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "# Default {}{}; allowed: {}.", option.default, in_units(option, option.default), option.range);
        match chosen.iter().find(|(name, _)| *name == option.name) {
            Some((name, value)) => {
                let _ = writeln!(text, "{name} = {value}{}", in_units(option, value).replace(" (", "  # ").replace(')', ""));
            }
            None => {
                let _ = writeln!(text, "# {} = {}", option.name, option.default);
            }
        }
    }
}

/// A number of bytes in larger units, in parentheses; nothing for other options.
fn in_units(option: &Explained, value: &str) -> String {
    let bytes = option.name.contains("_bytes").then(|| value.parse().ok()).flatten();
    bytes.map_or_else(String::new, |bytes| format!(" ({})", show_size(bytes)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::options::Options;
    use crate::cli::config::Config;
    use crate::sql::wire::options::PostgresOptions;

    fn sample(options: &[(&'static str, String)]) -> String {
        render(&Chosen {
            cluster: "c0ffee".into(),
            redo: vec!["storage/redo.1".into()],
            data: vec!["storage/data.0".into(), "storage/a \"b\"".into()],
            options,
            listen: "127.0.0.1:7432".parse().unwrap(),
        })
    }

    fn explained_truly(options: &[Explained], defaults: &toml::Table, elsewhere: &[&str]) {
        for name in defaults.keys().filter(|name| !elsewhere.contains(&name.as_str())) {
            assert!(options.iter().any(|option| option.name == name), "{name} isn't explained in this file's lists");
        }
        for option in options {
            let said: toml::Table = toml::from_str(&format!("{} = {}", option.name, option.default)).unwrap();
            assert_eq!(Some(&said[option.name]), defaults.get(option.name), "{}", option.name);
        }
    }

    #[test]
    fn every_option_is_explained_with_its_true_default() {
        explained_truly(OPTIONS, &toml::Table::try_from(Options::default()).unwrap(), &[]);
        explained_truly(POSTGRES, &toml::Table::try_from(PostgresOptions::default()).unwrap(), &["listen"]);
    }

    #[test]
    fn the_file_says_what_was_chosen() {
        let text = sample(&[("cache_bytes", (128u64 << 20).to_string()), ("disk", "\"threads\"".into())]);
        let config = Config::parse(&text, Path::new("/d/regroup.toml")).unwrap();
        let expected = Options { cache_bytes: 128 << 20, disk: crate::base::options::DiskKind::Threads, ..Options::default() };
        assert_eq!(config.options, expected);
        assert_eq!(config.storage.redo, [Path::new("/d/storage/redo.1")]);
        assert_eq!(config.storage.data[1], Path::new("/d/storage/a \"b\""));
        assert_eq!(config.listen(), Some("127.0.0.1:7432".parse().unwrap()));
        assert!(text.contains("cache_bytes = 134217728  # 128 MiB"), "{text}");
    }

    #[test]
    fn the_file_still_parses_with_every_comment_sign_before_an_option_taken_away() {
        let text = sample(&[]);
        let names = |line: &str| OPTIONS.iter().chain(POSTGRES).any(|option| line.starts_with(&format!("# {} = ", option.name)));
        let uncommented: String = text.lines().map(|line| format!("{}\n", if names(line) { &line[2..] } else { line })).collect();
        assert_ne!(uncommented, text);
        let config = Config::parse(&uncommented, Path::new("/d/regroup.toml")).unwrap();
        assert_eq!(config.options, Options::default());
        let listen = "127.0.0.1:7432".parse().unwrap();
        assert_eq!(config.postgres, Some(PostgresOptions { listen, ..PostgresOptions::default() }));
    }
}
