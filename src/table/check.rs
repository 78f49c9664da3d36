//! Is all of it sound: every tree's structure, and space maps against what is reachable.
//!
//! Trees are walked level by level, from the top, in key order; each node is looked at with its parent latched, so what is found wrong
//! between the two is wrong, on a live store too. Pages that changed after the check began may have moved under it: they are
//! excused from what is judged across several moments (reached twice, lost). Memory: one bit a page. Never stops at the first finding; what
//! lies below an unreadable node can't be judged, and lost pages of such a tree are not reported one by one.

mod findings;
mod space_maps;

pub use findings::{CheckReport, Finding, Progress, TreeReport};

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use super::descend::root;
use super::error::{Damage, TableError};
use super::{DIRECTORY, Trees, node};
use crate::base::limits::INLINE_MAX;
use crate::base::{PageId, Scn, TreeId};
use crate::cache::wait::Footprint;
use crate::cache::{CacheError, PageRead};
use crate::page::slotted::{self, CAPACITY};
use crate::page::{header, space};

/// One bit a page.
struct Reached {
    files: Vec<Vec<u64>>,
}

impl Reached {
    /// Marks `page`; true when it was marked before.
    fn mark(&mut self, page: PageId) -> bool {
        let (word, bit) = ((page.index() / 64) as usize, page.index() % 64);
        let Some(words) = self.files.get_mut(usize::from(page.file())) else { return false };
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let before = words[word] >> bit & 1 == 1;
        words[word] |= 1 << bit;
        before
    }

    fn has(&self, page: PageId) -> bool {
        let words = self.files.get(usize::from(page.file()));
        words.and_then(|words| words.get((page.index() / 64) as usize)).is_some_and(|word| word >> (page.index() % 64) & 1 == 1)
    }
}

/// A check under way.
struct Check<'t, P> {
    trees: &'t Trees,
    /// Nothing that changed later is judged across moments.
    began: Scn,
    reached: Reached,
    /// Pages that can't be read.
    bad: BTreeMap<PageId, CacheError>,
    /// Trees whose nodes couldn't all be looked at.
    partial: BTreeSet<TreeId>,
    report: CheckReport,
    progress: P,
}

/// One node, looked at.
struct Look {
    page: PageId,
    version: Scn,
    cells: usize,
    used: usize,
    findings: Vec<Finding>,
}

/// Where the walk over a level goes on, and what it saw.
struct Step {
    look: Option<Look>,
    findings: Vec<Finding>,
    /// Something could not be looked at.
    skipped: bool,
    next: Option<Vec<u8>>,
}

impl Trees {
    /// Checks all trees and space maps. `progress` hears of it from time to time.
    ///
    /// # Errors
    /// Only when the check itself can't go on: the log or disk has ended. What is wrong with pages is in the report.
    pub async fn check(&self, progress: impl FnMut(&Progress)) -> Result<CheckReport, TableError> {
        let cache = &self.shared.cache;
        let files = cache.volume().shape().data_files;
        let mut check = Check {
            trees: self,
            began: cache.now(),
            reached: Reached { files: vec![Vec::new(); usize::from(files)] },
            bad: BTreeMap::new(),
            partial: BTreeSet::new(),
            report: CheckReport::default(),
            progress,
        };
        check.tree(DIRECTORY).await?;
        match self.directory().await {
            Ok(entries) => {
                for entry in entries {
                    if entry.condemned { check.condemned(entry.root).await? } else { check.tree(entry.tree).await? }
                }
            }
            Err(TableError::Damaged { page, damage, .. }) => {
                check.report.findings.push(Finding::Node { tree: DIRECTORY, page, damage });
                check.partial.insert(DIRECTORY);
            }
            Err(TableError::Cache(CacheError::Page(_))) => drop(check.partial.insert(DIRECTORY)),
            Err(other) => return Err(other),
        }
        check.undo_pages().await?;
        check.space_maps().await?;
        Ok(check.report)
    }
}

impl<P: FnMut(&Progress)> Check<'_, P> {
    /// Walks one tree.
    async fn tree(&mut self, tree: TreeId) -> Result<(), TableError> {
        let Some(mut report) = self.root(tree).await? else { return Ok(()) };
        let top = report.levels - 1;
        for level in (0..top).rev() {
            let mut from = Some(Vec::new());
            while let Some(key) = from.take() {
                let step = self.step(tree, level, &key).await?;
                if step.skipped {
                    self.partial.insert(tree);
                }
                self.report.findings.extend(step.findings);
                if let Some(look) = step.look {
                    self.seen(tree, level, look, &mut report);
                }
                // A bound that doesn't rise would never end; the order of the keys has been reported as wrong then.
                from = step.next.filter(|next| *next > key);
            }
        }
        self.report.trees.push(report);
        Ok(())
    }

    fn seen(&mut self, tree: TreeId, level: u8, look: Look, report: &mut TreeReport) {
        if self.reached.mark(look.page) && look.version <= self.began {
            self.report.findings.push(Finding::Twice { tree, page: look.page });
        }
        self.report.findings.extend(look.findings);
        report.nodes += 1;
        report.used_bytes += look.used as u64;
        if level == 0 {
            report.leaves += 1;
            report.entries += look.cells as u64;
            report.leaf_used_bytes += look.used as u64;
        }
        self.report.pages += 1;
        if self.report.pages.is_multiple_of(1024) {
            (self.progress)(&Progress { tree, pages: self.report.pages });
        }
    }

    /// Looks at the root of `tree` and begins its report.
    async fn root(&mut self, tree: TreeId) -> Result<Option<TreeReport>, TableError> {
        let shared = &*self.trees.shared;
        let look = || {
            let (page, view) = root(&shared.cache, &shared.roots, tree)?;
            let mut findings = contents(&view, tree, page);
            if slotted::low(&view).is_some() || slotted::high(&view).is_some() || slotted::right(&view).is_some() {
                findings.push(Finding::RootFences { tree, page });
            }
            if !is_marked(&shared.cache.read(space::map_of(page))?, page) {
                findings.push(Finding::NotMarked { tree, page });
            }
            Ok((look_of(&view, page, findings), slotted::level(&view)))
        };
        match shared.cache.run(Footprint::Path, look).await {
            Ok((look, level)) => {
                let mut report = TreeReport::new(tree, look.page, level + 1);
                self.seen(tree, level, look, &mut report);
                Ok(Some(report))
            }
            Err(TableError::UnknownTree { .. }) => Ok(None),
            Err(TableError::Damaged { page, damage, .. }) => {
                self.report.findings.push(Finding::Node { tree, page, damage });
                self.partial.insert(tree);
                Ok(None)
            }
            Err(TableError::Cache(error @ CacheError::Page(_))) => {
                self.report.findings.push(Finding::Unreadable { tree, page: PageId::NONE, error });
                self.partial.insert(tree);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Looks at the node of `tree` at `level` that covers `from`.
    async fn step(&mut self, tree: TreeId, level: u8, from: &[u8]) -> Result<Step, TableError> {
        loop {
            let asked = Mutex::new(PageId::NONE);
            let outcome = {
                let (trees, bad) = (self.trees, &self.bad);
                let once = || Walk { trees, bad, asked: &asked, tree, level }.step(from);
                trees.shared.cache.run(Footprint::Path, once).await
            };
            let page = *asked.lock();
            match outcome {
                Err(TableError::Cache(error @ (CacheError::Page(_) | CacheError::Disk(_)))) if !self.bad.contains_key(&page) => {
                    self.bad.insert(page, error);
                }
                other => return other,
            }
        }
    }

    /// Marks the pages of a tree whose drop isn't finished.
    async fn condemned(&mut self, top: PageId) -> Result<(), TableError> {
        let mut pages = vec![top];
        while let Some(page) = pages.pop() {
            if self.reached.mark(page) {
                continue;
            }
            let shared = &*self.trees.shared;
            let look = || {
                let view = shared.cache.read(page)?;
                let inner = header::of(&view).kind() == Some(header::Kind::Tree) && slotted::level(&view) > 0;
                let count = if inner { slotted::count(&view) } else { 0 };
                let children = (0..count).map(|slot| node::child(&view, header::of(&view).tree(), page, slot));
                children.collect::<Result<Vec<_>, TableError>>()
            };
            match shared.cache.run(Footprint::Path, look).await {
                Ok(children) => pages.extend(children),
                Err(TableError::Damaged { tree, page, damage }) => self.report.findings.push(Finding::Node { tree, page, damage }),
                Err(TableError::Cache(error @ CacheError::Page(_))) => {
                    self.report.findings.push(Finding::Unreadable { tree: TreeId(0), page, error });
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}

/// One descent of a check.
struct Walk<'w> {
    trees: &'w Trees,
    bad: &'w BTreeMap<PageId, CacheError>,
    /// The page last asked for: the one that can't be read when that fails.
    asked: &'w Mutex<PageId>,
    tree: TreeId,
    level: u8,
}

impl<'w> Walk<'w> {
    fn read(&self, page: PageId) -> Result<PageRead<'w>, TableError> {
        *self.asked.lock() = page;
        Ok(self.trees.shared.cache.read(page)?)
    }

    fn step(&self, from: &[u8]) -> Result<Step, TableError> {
        let shared = &*self.trees.shared;
        let (mut page, mut view) = root(&shared.cache, &shared.roots, self.tree)?;
        let mut at = slotted::level(&view);
        let (mut low, mut high): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
        while at > self.level {
            let slot = node::slot_for(&view, from);
            if slot + 1 < slotted::count(&view) {
                high = Some(slotted::key(&view, slot + 1).to_vec());
            }
            if slot > 0 {
                low = Some(slotted::key(&view, slot).to_vec());
            }
            at -= 1;
            // What is wrong further up was reported when that level was walked.
            let skip = |finding: Finding| {
                let findings = if at == self.level { vec![finding] } else { Vec::new() };
                Ok(Step { look: None, findings, skipped: true, next: high.clone() })
            };
            let child = match node::child(&view, self.tree, page, slot) {
                Err(TableError::Damaged { tree, page, damage }) => return skip(Finding::Node { tree, page, damage }),
                other => other?,
            };
            if let Some(error) = self.bad.get(&child) {
                return skip(Finding::Unreadable { tree: self.tree, page: child, error: error.clone() });
            }
            let below = self.read(child)?;
            if let Some(damage) = node::fault(&below, self.tree, at) {
                return skip(Finding::Node { tree: self.tree, page: child, damage });
            }
            if at == self.level {
                let mut findings = contents(&below, self.tree, child);
                self.fences(&below, child, page, (low.as_deref(), high.as_deref()), &mut findings);
                self.right_link(&below, child, page, &mut findings)?;
                self.marked(child, &mut findings)?;
                return Ok(Step { look: Some(look_of(&below, child, findings)), findings: Vec::new(), skipped: false, next: high });
            }
            (page, view) = (child, below);
        }
        // The tree became lower meanwhile: nothing is left on this level.
        Ok(Step { look: None, findings: Vec::new(), skipped: false, next: None })
    }

    fn fences(&self, bytes: &[u8], page: PageId, parent: PageId, bounds: (Option<&[u8]>, Option<&[u8]>), findings: &mut Vec<Finding>) {
        if (slotted::low(bytes), slotted::high(bytes)) != bounds {
            findings.push(Finding::Fences { tree: self.tree, page, parent });
        }
    }

    fn right_link(&self, bytes: &[u8], page: PageId, parent: PageId, findings: &mut Vec<Finding>) -> Result<(), TableError> {
        let right = slotted::right(bytes);
        let wrong = Finding::RightLink { tree: self.tree, page, right };
        if right.is_some() != slotted::high(bytes).is_some() || right == page || right == parent {
            findings.push(wrong);
            return Ok(());
        }
        if !right.is_some() || self.bad.contains_key(&right) {
            return Ok(());
        }
        if !self.trees.shared.cache.volume().contains(right) || space::is_map(right) {
            findings.push(wrong);
            return Ok(());
        }
        let sibling = self.read(right)?;
        if node::fault(&sibling, self.tree, self.level).is_some() || slotted::low(&sibling) != slotted::high(bytes) {
            findings.push(wrong);
        }
        Ok(())
    }

    fn marked(&self, page: PageId, findings: &mut Vec<Finding>) -> Result<(), TableError> {
        let map = space::map_of(page);
        if !self.bad.contains_key(&map) && !is_marked(&self.read(map)?, page) {
            findings.push(Finding::NotMarked { tree: self.tree, page });
        }
        Ok(())
    }
}

fn is_marked(map: &[u8], page: PageId) -> bool {
    header::of(map).kind() == Some(header::Kind::Space) && space::used(map, space::bit_of(page))
}

fn look_of(bytes: &[u8], page: PageId, findings: Vec<Finding>) -> Look {
    Look { page, version: header::of(bytes).version(), cells: slotted::count(bytes), used: CAPACITY - slotted::free(bytes), findings }
}

/// What is wrong inside one node.
fn contents(bytes: &[u8], tree: TreeId, page: PageId) -> Vec<Finding> {
    let mut findings = Vec::new();
    let inner = slotted::level(bytes) > 0;
    for slot in 0..slotted::count(bytes) {
        let key = slotted::key(bytes, slot);
        if slot > 0 && slotted::key(bytes, slot - 1) >= key {
            findings.push(Finding::Order { tree, page, slot });
        }
        if inner && slot == 0 {
            if !key.is_empty() {
                findings.push(Finding::FirstKey { tree, page });
            }
        } else if !slotted::covers(bytes, key) {
            findings.push(Finding::OutsideFences { tree, page, slot });
        }
        let length = key.len() + if inner { 0 } else { slotted::value(bytes, slot).len() };
        if length > INLINE_MAX {
            findings.push(Finding::Oversized { tree, page, slot, bytes: length });
        }
        if let Some(TableError::Damaged { damage, .. }) = inner.then(|| node::child(bytes, tree, page, slot).err()).flatten() {
            findings.push(Finding::Node { tree, page, damage });
        }
    }
    if let (Some(low), Some(high)) = (slotted::low(bytes), slotted::high(bytes))
        && low >= high
    {
        findings.push(Finding::Node { tree, page, damage: Damage::FencesCross });
    }
    findings
}
