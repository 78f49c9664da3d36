//! What a structure check found.

use crate::base::{PageId, TreeId};
use crate::cache::CacheError;
use crate::page::slotted::CAPACITY;
use crate::table::Damage;

/// Something wrong, with the pages that show it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A node can't be read; what lies below it was not looked at.
    #[error("{tree}: node {page} can't be read: {error}")]
    Unreadable {
        /// Its tree.
        tree: TreeId,
        /// The page; none when it is the root.
        page: PageId,
        /// Why.
        error: CacheError,
    },
    /// A page isn't the node that its place asks for.
    #[error("{tree}: page {page} {damage}")]
    Node {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
        /// What is wrong.
        damage: Damage,
    },
    /// Keys in a node don't rise.
    #[error("{tree}: page {page}: the key in slot {slot} isn't above the one before")]
    Order {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
        /// The second one.
        slot: usize,
    },
    /// A key outside its node's fences.
    #[error("{tree}: page {page}: the key in slot {slot} lies outside the fences")]
    OutsideFences {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
        /// Where.
        slot: usize,
    },
    /// A cell over the limit.
    #[error("{tree}: page {page}: the cell in slot {slot} has {bytes} bytes")]
    Oversized {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
        /// Where.
        slot: usize,
        /// Key and value.
        bytes: usize,
    },
    /// The first key of an inner node isn't empty.
    #[error("{tree}: page {page}: the first key of an inner node isn't empty")]
    FirstKey {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
    },
    /// A root with fences or a sibling.
    #[error("{tree}: the root {page} has fences or a sibling")]
    RootFences {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
    },
    /// Fences that aren't the parent's separators.
    #[error("{tree}: page {page}: the fences aren't the separators in its parent {parent}")]
    Fences {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
        /// Its parent.
        parent: PageId,
    },
    /// The right link doesn't lead to the node where this one ends.
    #[error("{tree}: page {page}: its right link {right} doesn't lead to the node that goes on where it ends")]
    RightLink {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
        /// The link.
        right: PageId,
    },
    /// A page with two places.
    #[error("{tree}: page {page} is reached twice")]
    Twice {
        /// The second tree.
        tree: TreeId,
        /// The page.
        page: PageId,
    },
    /// A page in use that its space map calls free: it may be given to someone else.
    #[error("{tree}: page {page} is in use but marked as free")]
    NotMarked {
        /// Its tree.
        tree: TreeId,
        /// The page.
        page: PageId,
    },
    /// A page marked as in use that nothing leads to.
    #[error("page {page} ({tree} by its header) is marked as in use, but nothing leads to it")]
    Lost {
        /// By its header; 0 for none.
        tree: TreeId,
        /// The page.
        page: PageId,
    },
    /// A space map that can't be used.
    #[error("space map {page}: {error}")]
    Map {
        /// The map.
        page: PageId,
        /// Why.
        error: CacheError,
    },
    /// A space map marks pages that its file doesn't reach.
    #[error("space map {map} marks {page} as in use, which lies beyond the end of its file")]
    BeyondEnd {
        /// The map.
        map: PageId,
        /// The first such page.
        page: PageId,
    },
}

/// One tree, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeReport {
    /// Which.
    pub tree: TreeId,
    /// Its root.
    pub root: PageId,
    /// Its height.
    pub levels: u8,
    /// Its nodes.
    pub nodes: u64,
    /// Those of level 0.
    pub leaves: u64,
    /// Keys.
    pub entries: u64,
    /// Bytes in use in all nodes.
    pub used_bytes: u64,
    /// Bytes in use in leaves.
    pub leaf_used_bytes: u64,
}

impl TreeReport {
    pub(super) fn new(tree: TreeId, root: PageId, levels: u8) -> TreeReport {
        TreeReport { tree, root, levels, nodes: 0, leaves: 0, entries: 0, used_bytes: 0, leaf_used_bytes: 0 }
    }

    /// How full the leaves are, 0 to 1.
    pub fn leaf_fill(&self) -> f64 {
        if self.leaves == 0 { 0.0 } else { self.leaf_used_bytes as f64 / (self.leaves * CAPACITY as u64) as f64 }
    }
}

/// What a check saw.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// The trees, the directory first.
    pub trees: Vec<TreeReport>,
    /// Nodes looked at.
    pub pages: u64,
    /// Pages marked as in use, space maps included.
    pub pages_marked: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// How far a check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The tree being walked.
    pub tree: TreeId,
    /// Nodes looked at so far.
    pub pages: u64,
}
