//! Torn pages come back from the double-write area.
//!
//! Every page of the last batch is looked at, whether the log concerns it or not. An image replaces a home only when the home isn't
//! whole, the batch isn't voided, the image is whole and its version isn't below one that the log says was durable at home
//! (rule 15). Writing it again is harmless, so this can be cut off anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::RecoveryError;
use super::progress::Meter;
use super::segment::Pages;
use crate::base::limits::PAGE_SIZE;
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, PageId, Scn};
use crate::cache::double_write::DoubleWrite;
use crate::disk::{Buffer, DiskError, IoOutcome};
use crate::page::header;
use crate::page::verify;
use crate::page::volume::Volume;

/// A page whose home isn't whole and whose image is.
struct Torn {
    page: PageId,
    version: Scn,
    image: Buffer,
    /// What reading the home said, when that failed.
    unread: Option<DiskError>,
}

/// Restores what is torn; returns how many pages that was.
pub(super) async fn restore(volume: &Arc<Volume>, area: &DoubleWrite, pages: &Pages, meter: &mut Meter) -> Result<u64, RecoveryError> {
    let Some(batch) = area.read().await?.filter(|batch| !batch.voided) else { return Ok(0) };
    meter.at(batch.items.len() as u64);
    // Each step for all pages at once: one page after the other would take as long as reading a hundred times as many.
    let torn = torn(volume, area, pages, batch.items).await?;
    let mut lost: BTreeMap<u16, DiskError> = BTreeMap::new();
    let writes = torn.iter().map(|torn| {
        let (volume, page, image) = (volume.clone(), torn.page, Buffer::copy_of(&torn.image));
        Box::pin(async move { volume.write(page, image).await }) as BoxFuture<IoOutcome>
    });
    let written = join_all(writes.collect()).await;
    for file in torn.iter().map(|torn| torn.page.file()).collect::<BTreeSet<u16>>() {
        if let Err((file, error)) = volume.sync([file]).await {
            lost.insert(file, error);
        }
    }
    let mut restored = 0;
    for (Torn { page, version, unread, .. }, (_, written)) in torn.into_iter().zip(written) {
        let durable = lost.get(&page.file()).map_or(Ok(()), |error| Err(error.clone()));
        match (written.and(durable), unread) {
            (Ok(()), _) => {}
            (Err(error), Some(_)) => {
                tracing::error!(%page, %error, "the page's home can be neither read nor written");
                continue;
            }
            (Err(error), None) => return Err(error.into()),
        }
        tracing::info!(%page, %version, "torn page restored from the double-write area");
        restored += 1;
    }
    Ok(restored)
}

/// Those of the batch's pages that are to be restored.
async fn torn(volume: &Arc<Volume>, area: &DoubleWrite, pages: &Pages, items: Vec<(PageId, Scn)>) -> Result<Vec<Torn>, RecoveryError> {
    let homes = items.iter().map(|(page, _)| {
        let (volume, page) = (volume.clone(), *page);
        Box::pin(async move { volume.read(page, Buffer::zeroed(PAGE_SIZE)).await }) as BoxFuture<IoOutcome>
    });
    let homes = join_all(homes.collect()).await;
    let mut doubtful = Vec::new();
    for (index, ((page, version), (home, outcome))) in items.into_iter().zip(homes).enumerate() {
        let unread = outcome.err();
        match &unread {
            None if verify(&home, page, volume.tag()).is_ok() => continue,
            // A home that isn't there is dealt with when redo or a reader needs it.
            Some(DiskError::Short { .. }) => continue,
            // One that can't be read is as torn: the image is lost once the area is used again, and writing often mends a bad sector.
            None | Some(DiskError::Io { .. }) => {}
            Some(other) => return Err(other.clone().into()),
        }
        doubtful.push((index, page, version, unread));
    }
    let images = doubtful.iter().map(|(index, ..)| area.read_image(*index));
    let images = join_all(images.collect()).await;
    let mut torn = Vec::new();
    for ((_, page, version, unread), image) in doubtful.into_iter().zip(images) {
        let image = image?;
        let whole = verify(&image, page, volume.tag()).is_ok() && header::of(&image).version() == version;
        if !whole || version < pages.written(page) {
            continue;
        }
        torn.push(Torn { page, version, image, unread });
    }
    Ok(torn)
}
