//! How membership stands, for people and `clusterctl status`.

use std::path::PathBuf;

use serde::Serialize;

use crate::membership::view::View;
use crate::membership::{ParkReason, StopReason};

/// An identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Life {
    /// The instance.
    pub id: u16,
    /// Its life.
    pub incarnation: u64,
}

/// How a voting file stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Answers.
    Ok,
    /// Open, but doesn't answer or isn't believed.
    Failed,
    /// Couldn't be opened.
    Absent,
}

/// A voting file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FileStatus {
    /// Where it is.
    pub path: PathBuf,
    /// Its id; null until it could be opened.
    pub id: Option<String>,
    /// How it stands.
    pub state: FileState,
    /// Why it doesn't serve.
    pub reason: Option<String>,
}

/// What is heard of a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub peer: u16,
    /// Since the last heartbeat over the network, in milliseconds; null: none yet.
    pub network_age_ms: Option<u64>,
    /// Since its heartbeat on the voting files last changed, in milliseconds; null: it never did.
    pub disk_age_ms: Option<u64>,
    /// Whether it is suspected of being dead.
    pub suspected: bool,
}

/// An unconfirmed fence, and what is missing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FenceStatus {
    /// Who was evicted.
    #[serde(flatten)]
    pub victim: Life,
    /// What the last attempt came to; null before the first has ended.
    pub outcome: Option<String>,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MemberStatus {
    /// The epoch of the newest view installed here; 0 before the first.
    pub epoch: u64,
    /// Who belongs to it.
    pub members: Vec<Life>,
    /// Who proposed it.
    pub coordinator: Option<u16>,
    /// Why this instance doesn't serve now; null: it does.
    pub parked: Option<String>,
    /// Who was evicted, and isn't proven to be fenced.
    pub evicted: Vec<FenceStatus>,
    /// The voting files.
    pub voting: Vec<FileStatus>,
    /// What is heard of the other members.
    pub heartbeats: Vec<PeerStatus>,
    /// Version of the configuration.
    pub configuration: u64,
}

/// Why nobody is served, for people.
pub(super) fn park_text(reason: ParkReason) -> &'static str {
    match reason {
        ParkReason::Starting => "not a member yet",
        ParkReason::NoMajority => "no majority of the voting files answers",
        ParkReason::Stalled => "this process did not run for a while, and looks first whether it is still a member",
        ParkReason::LosingSide => "another side of a network split is better connected",
    }
}

/// Why a life has ended, for people.
pub(super) fn stop_text(reason: &StopReason) -> String {
    match reason {
        StopReason::Evicted { by } => format!("the view of epoch {} evicted it", by.epoch.0),
        StopReason::Left { by: Some(view) } => format!("it left with epoch {}", view.epoch.0),
        StopReason::Left { by: None } => "it left".into(),
        StopReason::Displaced { by } => format!("incarnation {} of it lives", by.0),
        StopReason::LiveIdentity { incarnation } => {
            format!("incarnation {} of it is alive: its heartbeat on the voting files changes", incarnation.0)
        }
        StopReason::Unproven { incarnation, .. } => format!(
            "nothing proves that its incarnation {} is dead: it ran on another host. Start it there, or make sure that this host is off and say so with `clusterctl fence confirm`",
            incarnation.0
        ),
        StopReason::FilesFailed => "a majority of the voting files failed a write".into(),
    }
}

/// The members of a view.
pub(super) fn lives(view: &View) -> Vec<Life> {
    view.members.iter().map(|member| Life { id: member.id.0, incarnation: member.incarnation.0 }).collect()
}
