//! Why something from a peer is refused, and how often that and other things happened.

use std::fmt;

/// Why a connection, hello or frame was refused. It had no effect: nothing of it reached the layers above.
///
/// The numbers go over the wire, in the refusal of a hello and when a connection is closed for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// Not signed by the cluster's authority.
    Authority = 1,
    /// The certificate's time is over, or has not begun.
    Expired = 2,
    /// TLS failed otherwise: no certificate, no TLS 1.3, another protocol.
    Tls = 3,
    /// The certificate names no cluster and instance, or more than one.
    Name = 4,
    /// Certificate or hello are another cluster's.
    Cluster = 5,
    /// The hello names another instance than the certificate, or one speaks as this process itself.
    Instance = 6,
    /// The hello is for another process than this one.
    Misdirected = 7,
    /// Another version of the protocol.
    Version = 8,
    /// A newer incarnation of the peer was heard.
    OldIncarnation = 9,
    /// Of an epoch that is over.
    StaleEpoch = 10,
    /// A sequence number that came before.
    Replay = 11,
    /// Longer than its lane allows.
    Oversized = 12,
    /// Not a frame: wrong magic, checksum, lane, reserved bytes, or not where one is expected.
    Garbage = 13,
    /// No complete hello in time.
    Late = 14,
    /// More connections or handshakes than a peer may have.
    Handshakes = 15,
    /// More frames or bytes than a peer may have waiting here (heartbeats only: others are held back instead).
    Quota = 16,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; 16] = [
        Refusal::Authority,
        Refusal::Expired,
        Refusal::Tls,
        Refusal::Name,
        Refusal::Cluster,
        Refusal::Instance,
        Refusal::Misdirected,
        Refusal::Version,
        Refusal::OldIncarnation,
        Refusal::StaleEpoch,
        Refusal::Replay,
        Refusal::Oversized,
        Refusal::Garbage,
        Refusal::Late,
        Refusal::Handshakes,
        Refusal::Quota,
    ];

    /// The reason with this number, if there is one.
    pub fn from_number(number: u64) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|reason| *reason as u64 == number)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Authority => "certificate not of this cluster's authority",
            Refusal::Expired => "certificate expired or not yet valid",
            Refusal::Tls => "TLS handshake failed",
            Refusal::Name => "certificate names no instance",
            Refusal::Cluster => "of another cluster",
            Refusal::Instance => "not the instance that it says",
            Refusal::Misdirected => "meant for another process",
            Refusal::Version => "another version of the protocol",
            Refusal::OldIncarnation => "of an old incarnation",
            Refusal::StaleEpoch => "of an epoch that is over",
            Refusal::Replay => "a repeated sequence number",
            Refusal::Oversized => "too long",
            Refusal::Garbage => "not a frame",
            Refusal::Late => "no hello in time",
            Refusal::Handshakes => "too many connections",
            Refusal::Quota => "over its quota",
        })
    }
}

/// What happened on a link since it was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Refused, by reason: `Refusal as usize - 1`.
    pub refused: [u64; Refusal::ALL.len()],
    /// Frames given to the transport.
    pub sent: u64,
    /// Frames handed to the layers above, answers to requests included.
    pub received: u64,
    /// Frames queued here that never left: their epoch ended or their connection broke.
    pub dropped: u64,
    /// Connections that both sides agreed on, made by us.
    pub connected: u64,
    /// Connections that both sides agreed on, made by peers.
    pub accepted: u64,
}

impl Counters {
    /// How often `reason` occurred.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize - 1]
    }

    /// All refusals.
    pub fn refusals(&self) -> u64 {
        self.refused.iter().sum()
    }
}
