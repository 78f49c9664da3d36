//! Pages that recovery gave up, and that the log then makes anew.

use std::path::PathBuf;

use super::harness::{Plan, simulate};
use crate::base::{Lsn, PageId};
use crate::cache::{CacheError, Load};
use crate::disk::DiskError;
use crate::page::PageFault;

#[test]
fn a_page_given_up_for_its_home_is_had_again_when_the_log_makes_it_anew() {
    // When there are more pages than recovery has memory for, it looks at a torn home for changes that a later one makes pointless (rules 8 and 15).
    simulate(60, Plan::default(), async |store| {
        let (cache, page) = (&store.cache, PageId::new(0, 40));
        let fresh = [(page, Load::Fresh)];
        cache.hold(page, Lsn(5), CacheError::Page(PageFault::Blank { page }));
        assert!(cache.load_many(&fresh).await.remove(0).is_err());
        cache.forgive(page);
        assert!(cache.load_many(&fresh).await.remove(0).is_ok());
        assert!(cache.quarantined().is_empty() && !cache.is_unwritable(page));
        // One that can't be written stays what it is.
        let page = PageId::new(0, 41);
        let error = DiskError::Full { file: PathBuf::from("data0"), offset: 0, length: 8192 };
        cache.hold(page, Lsn(5), CacheError::Unwritable { page, error });
        cache.forgive(page);
        assert!(cache.load_many(&[(page, Load::Fresh)]).await.remove(0).is_err());
        assert!(cache.is_unwritable(page));
    });
}
