//! L2: what a page is, how it is verified, and where it lives.
//!
//! `header` is the stamp that every page carries, `slotted` the body of tree pages, `space` the body of space map pages,
//! `superblock` the description at the head of every storage file, `restore` gives a damaged copy of it back, `volume` the map from page ids to file offsets.
//! Layouts: `docs/formats/page.md`. This layer moves no redo and holds no cache.

pub mod header;
pub mod restore;
pub mod slotted;
pub mod space;
pub mod superblock;
pub mod verify;
pub mod volume;

pub use header::{Kind, PageHeader};
pub use verify::{PageFault, verify};
