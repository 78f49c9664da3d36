//! What the configuration file says of each option: meaning, default, range. Tests of `template` hold these lists against the options' types.

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

/// Every option of `[fence]`. A test holds this against `fence::options::FenceOptions`.
pub const FENCE: &[Explained] = &[
    Explained {
        name: "methods",
        meaning: &[
            "How an evicted instance is fenced before its log is redone; tried in this order until its writes and its answers are ended:",
            "  \"guard\"  its guard kills it and proves that it is dead and its I/O has drained; ends writes and answers",
            "  \"lease\"  waits until it must have stopped by its own clock; ends answers, and writes only under assumptions (below)",
        ],
        default: "[\"guard\"]",
        range: "\"guard\", \"lease\", each once; \"lease\" alone only when all that it assumes is accepted",
    },
    Explained {
        name: "guard_attempt_ms",
        meaning: &["Longest time of one attempt with method \"guard\", in milliseconds. Attempts are repeated until one confirms."],
        default: "2000",
        range: "100 to 600000",
    },
    Explained {
        name: "accept_lease_assumptions",
        meaning: &[
            "What you accept without proof for \"lease\" to end writes, too. If one is not true, a woken instance may overwrite data:",
            "  \"clock-rate\"  the clocks of any two hosts run at rates that differ by less than 10 %",
            "  \"no-pause\"    no instance is paused (SIGSTOP, VM pause, swap) while it issues a write",
            "  \"bounded-io\"  no write reaches the storage later than one lease time after it was issued",
        ],
        default: "[]",
        range: "\"clock-rate\", \"no-pause\", \"bounded-io\"",
    },
];

/// Every option of `[guard]`. A test holds this against `node::guard::options::GuardOptions`.
pub const GUARD: &[Explained] = &[
    Explained {
        name: "restarts_max",
        meaning: &["How often in a row an instance that dies is started again; then its guard gives up and ends. 0: never."],
        default: "8",
        range: "0 to 1000000",
    },
    Explained {
        name: "restart_pause_ms",
        meaning: &["Pause before the second restart in a row, in milliseconds (the first comes at once); it doubles each time."],
        default: "200",
        range: "1 to 60000",
    },
    Explained {
        name: "restart_pause_max_ms",
        meaning: &["Longest pause between restarts, in milliseconds."],
        default: "10000",
        range: "1 to 3600000",
    },
    Explained {
        name: "restart_forget_ms",
        meaning: &[
            "An instance that has lived so long before it died is started again at once, as if it were the first time, in milliseconds.",
        ],
        default: "60000",
        range: "1 to 86400000",
    },
];

/// Every option of `[membership]`. A test holds this against `membership::Options`.
pub const MEMBERSHIP: &[Explained] = &[
    Explained {
        name: "tick_ms",
        meaning: &["How often membership looks at the clock, in milliseconds."],
        default: "25",
        range: "1 to 1000",
    },
    Explained {
        name: "network_interval_ms",
        meaning: &["Between two heartbeats over the interconnect, in milliseconds."],
        default: "100",
        range: "10 to 10000",
    },
    Explained {
        name: "disk_interval_ms",
        meaning: &["Between two heartbeats on the voting files, and two looks of a guard at them, in milliseconds."],
        default: "200",
        range: "10 to 10000",
    },
    Explained {
        name: "suspicion_floor_ms",
        meaning: &[
            "Least silence, by interconnect and voting files, before an instance is suspected to be dead, in milliseconds.",
            "Jitter that was seen makes it longer by itself.",
        ],
        default: "600",
        range: "3 network intervals and 2.5 disk intervals or more, up to 600000",
    },
    Explained {
        name: "suspicion_ceiling_ms",
        meaning: &["Silence after which an instance is suspected however much jitter there was, in milliseconds."],
        default: "5000",
        range: "suspicion_floor_ms to 600000",
    },
    Explained {
        name: "suspicion_phi",
        meaning: &["How sure a suspicion must be: with 8, so long a silence has a chance of 10^-8 if the instance lives."],
        default: "8",
        range: "1 to 16",
    },
    Explained {
        name: "lease_ms",
        meaning: &[
            "An instance that has not written to and read from a majority of voting files for so long serves nobody until it has,",
            "in milliseconds. Shorter than any suspicion, so that it has stopped answering before others go on without it.",
        ],
        default: "500",
        range: "2 disk intervals to 9/10 of suspicion_floor_ms",
    },
    Explained {
        name: "stall_ms",
        meaning: &["An instance that did not run for so long looks first whether it is still a member, in milliseconds."],
        default: "300",
        range: "2 ticks to lease_ms",
    },
    Explained {
        name: "settle_ms",
        meaning: &["How long who hears whom must stay unchanged before a network split is decided by it, in milliseconds."],
        default: "450",
        range: "2 disk intervals to 600000",
    },
    Explained {
        name: "storage_timeout_ms",
        meaning: &[
            "An instance that is heard over the interconnect, but doesn't write to the voting files, is evicted after this, in milliseconds.",
        ],
        default: "10000",
        range: "2 suspicion floors to 600000",
    },
    Explained {
        name: "stagger_ms",
        meaning: &["Between two instances that could propose a view, so that they don't collide, in milliseconds."],
        default: "50",
        range: "1 to 10000",
    },
    Explained {
        name: "fence_retry_ms",
        meaning: &["Between two attempts to fence an evicted instance, in milliseconds."],
        default: "1000",
        range: "10 to 600000",
    },
];
