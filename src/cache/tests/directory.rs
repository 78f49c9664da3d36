//! A directory that is one table: requests of a page are served one after the other in the order of their arrival, as `docs/protocols/cache.md` says, with
//! calls where that has messages, each after a random while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::base::{BoxFuture, PageId, Scn, Seams};
use crate::cache::{Cache, CacheError, Contents, Grant, Grants, Mode, Yielded};
use crate::redo::LogError;

struct Request {
    who: usize,
    mode: Mode,
    tell: oneshot::Sender<Result<Grant, CacheError>>,
}

/// What is known of a page.
#[derive(Default)]
struct Entry {
    holders: BTreeMap<usize, Mode>,
    /// Who owes the write of a page that isn't held exclusively, and of which version.
    owner: Option<(usize, Scn)>,
    images: BTreeMap<usize, Scn>,
    unaware: BTreeSet<usize>,
    queue: VecDeque<Request>,
    serving: bool,
}

/// The table.
pub(super) struct Directory {
    seams: Seams,
    entries: Mutex<BTreeMap<PageId, Entry>>,
    /// Newest versions known durable at home.
    pub(super) durable: Mutex<BTreeMap<PageId, Scn>>,
    pub(super) caches: OnceLock<Vec<Cache>>,
    pub(super) wants: Mutex<u64>,
    pub(super) transfers: Mutex<u64>,
    this: Weak<Directory>,
}

/// The directory as one instance sees it.
pub(super) struct Seat {
    pub(super) directory: Arc<Directory>,
    pub(super) me: usize,
}

impl Directory {
    pub(super) fn new(seams: Seams) -> Arc<Directory> {
        Arc::new_cyclic(|this| Directory {
            seams,
            entries: Mutex::default(),
            durable: Mutex::default(),
            caches: OnceLock::new(),
            wants: Mutex::default(),
            transfers: Mutex::default(),
            this: this.clone(),
        })
    }

    fn cache(&self, who: usize) -> Cache {
        self.caches.get().expect("the caches are there")[who].clone()
    }

    /// Who is served and who waits.
    pub(super) fn describe(&self) {
        for (page, entry) in self.entries.lock().iter().filter(|(_, entry)| entry.serving) {
            let queue: Vec<(usize, Mode)> = entry.queue.iter().map(|request| (request.who, request.mode)).collect();
            eprintln!("{page}: holders {:?} owner {:?} then {queue:?}", entry.holders, entry.owner);
        }
    }

    /// The way of a message.
    async fn travel(&self) {
        self.seams.sleep(Duration::from_nanos(self.seams.random() % 100_000)).await;
    }

    fn with<T>(&self, page: PageId, act: impl FnOnce(&mut Entry) -> T) -> T {
        act(self.entries.lock().entry(page).or_default())
    }

    async fn serve(&self, page: PageId) {
        loop {
            self.travel().await;
            let next = self.with(page, |entry| {
                let next = entry.queue.pop_front();
                entry.serving = next.is_some();
                next
            });
            let Some(Request { who, mode, tell }) = next else { return };
            let grant = match mode {
                Mode::Exclusive => self.exclusive(page, who).await,
                _ => self.shared(page, who).await,
            };
            self.travel().await;
            self.with(page, |entry| {
                entry.holders.insert(who, mode);
                if mode == Mode::Exclusive {
                    entry.owner = None;
                    entry.unaware.remove(&who);
                } else if grant.unwritten {
                    entry.unaware.insert(who);
                }
                // What came back, or is durable, isn't a past image any more.
                if mode == Mode::Exclusive || !grant.unwritten {
                    entry.images.remove(&who);
                }
            });
            // Whoever asked may have been killed by the test.
            drop(tell.send(Ok(grant)));
        }
    }

    /// Has `holder` go down to `to`; nothing when it has evicted the page.
    async fn ask(&self, page: PageId, holder: usize, to: Mode, copy: bool) -> Option<Yielded> {
        self.travel().await;
        let yielded = self.cache(holder).yield_page(page, to, copy).await.expect("no log fails");
        let Some(yielded) = yielded else {
            assert!(self.with(page, |entry| !entry.holders.contains_key(&holder)), "instance {holder} has {page} and doesn't know");
            return None;
        };
        self.with(page, |entry| {
            if to == Mode::None {
                entry.holders.remove(&holder);
                entry.unaware.remove(&holder);
                if yielded.image {
                    entry.images.insert(holder, yielded.version);
                }
                if entry.owner.is_some_and(|(owner, _)| owner == holder) {
                    entry.owner = None;
                }
            } else {
                entry.holders.insert(holder, to);
                if yielded.dirty {
                    entry.owner = Some((holder, yielded.version));
                }
            }
        });
        self.travel().await;
        *self.transfers.lock() += u64::from(copy);
        Some(yielded)
    }

    async fn shared(&self, page: PageId, who: usize) -> Grant {
        loop {
            let source = self.with(page, |entry| entry.holders.keys().copied().find(|holder| *holder != who));
            let Some(source) = source else {
                let own = self.with(page, |entry| entry.holders.get(&who).copied());
                assert_eq!(own, None, "nobody asks for less than it has");
                return Grant { mode: Mode::Shared, contents: Contents::Disk, unwritten: false };
            };
            let Some(yielded) = self.ask(page, source, Mode::Shared, true).await else { continue };
            let contents = yielded.copy.map_or(Contents::Disk, Contents::Copy);
            return Grant { mode: Mode::Shared, contents, unwritten: yielded.unwritten };
        }
    }

    async fn exclusive(&self, page: PageId, who: usize) -> Grant {
        let mut unwritten = self.with(page, |entry| entry.unaware.contains(&who) || entry.owner.is_some_and(|(owner, _)| owner == who));
        loop {
            let (others, own) = self.with(page, |entry| {
                let others: Vec<usize> = entry.holders.keys().copied().filter(|holder| *holder != who).collect();
                (others, entry.holders.contains_key(&who))
            });
            let Some((last, readers)) = others.split_last() else {
                let contents = if own { Contents::Own } else { Contents::Disk };
                return Grant { mode: Mode::Exclusive, contents, unwritten };
            };
            for reader in readers {
                let yielded = self.ask(page, *reader, Mode::None, false).await;
                unwritten |= yielded.is_some_and(|yielded| yielded.unwritten);
            }
            let Some(yielded) = self.ask(page, *last, Mode::None, !own).await else { continue };
            unwritten |= yielded.unwritten;
            let still_own = self.with(page, |entry| entry.holders.contains_key(&who));
            assert_eq!(own, still_own, "a page that is asked for isn't evicted");
            let contents = match yielded.copy {
                Some(copy) => Contents::Copy(copy),
                None if own => Contents::Own,
                None => Contents::Disk,
            };
            return Grant { mode: Mode::Exclusive, contents, unwritten };
        }
    }

    /// Tells all who wait for it that `version` is durable.
    fn durable(&self, page: PageId, version: Scn) {
        let told = self.with(page, |entry| {
            entry.images.retain(|_, image| *image > version);
            if entry.owner.is_some_and(|(_, owned)| owned <= version) {
                entry.owner = None;
            }
            self.caches.get().map_or(0, Vec::len)
        });
        for who in 0..told {
            let directory = self.this.upgrade().expect("it is called");
            self.seams.spawn(
                "notice",
                Box::pin(async move {
                    directory.travel().await;
                    directory.cache(who).written_elsewhere(page, version);
                    directory.with(page, |entry| {
                        if entry.owner.is_none() {
                            entry.unaware.remove(&who);
                        }
                    });
                }),
            );
        }
    }
}

impl Grants for Seat {
    fn acquire(&self, page: PageId, mode: Mode, have: bool) -> BoxFuture<Result<Grant, CacheError>> {
        let (tell, answer) = oneshot::channel();
        let (directory, who) = (self.directory.clone(), self.me);
        let begin = self.directory.with(page, |entry| {
            assert!(!have || entry.holders.contains_key(&who), "a usable copy is one under a grant");
            entry.queue.push_back(Request { who, mode, tell });
            !std::mem::replace(&mut entry.serving, true)
        });
        if begin {
            let task = directory.clone();
            directory.seams.spawn("directory", Box::pin(async move { task.serve(page).await }));
        }
        Box::pin(async move { answer.await.unwrap_or(Err(LogError::Closed.into())) })
    }

    fn released(&self, page: PageId) {
        self.directory.with(page, |entry| {
            assert!(entry.holders.remove(&self.me).is_some(), "instance {} released {page}, which it hasn't", self.me);
            entry.unaware.remove(&self.me);
            assert!(entry.owner.is_none_or(|(owner, _)| owner != self.me), "the owner of {page} released it");
        });
    }

    fn written(&self, pages: &[(PageId, Scn)]) {
        for (page, version) in pages {
            let before = self.directory.durable.lock().insert(*page, *version);
            assert!(before.is_none_or(|before| before <= *version), "the home of {page} went back from {before:?} to {version}");
            self.directory.durable(*page, *version);
        }
    }

    fn want_written(&self, page: PageId) {
        *self.directory.wants.lock() += 1;
        let directory = self.directory.clone();
        self.directory.seams.spawn(
            "write wanted",
            Box::pin(async move {
                directory.travel().await;
                let known = directory.durable.lock().get(&page).copied();
                if let Some(version) = known {
                    directory.durable(page, version);
                }
                let holders: Vec<usize> = directory.with(page, |entry| entry.holders.keys().copied().collect());
                holders.into_iter().for_each(|holder| directory.cache(holder).write_soon(page));
            }),
        );
    }
}
