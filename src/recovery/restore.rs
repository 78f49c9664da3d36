//! Torn pages come back from the double-write area.
//!
//! Every page of the last batch is looked at, whether the log concerns it or not. An image replaces a home only when the home isn't
//! whole, the batch isn't voided, the image is whole and its version isn't below one that the log says was durable at home
//! (rule 15). Writing it again is harmless, so this can be cut off anywhere.

use std::sync::Arc;

use super::RecoveryError;
use super::progress::Meter;
use super::segment::Pages;
use crate::base::BoxFuture;
use crate::base::limits::PAGE_SIZE;
use crate::base::runtime::join_all;
use crate::cache::double_write::DoubleWrite;
use crate::disk::{Buffer, DiskError, IoOutcome};
use crate::page::header;
use crate::page::verify;
use crate::page::volume::Volume;

/// Restores what is torn; returns how many pages that was.
pub(super) async fn restore(volume: &Arc<Volume>, area: &DoubleWrite, pages: &Pages, meter: &mut Meter) -> Result<u64, RecoveryError> {
    let Some(batch) = area.read().await?.filter(|batch| !batch.voided) else { return Ok(0) };
    let mut restored = 0;
    // All at once: a batch is small, and one after the other would take as long as reading many times as many.
    let homes: Vec<BoxFuture<IoOutcome>> = batch
        .items
        .iter()
        .map(|(page, _)| {
            let (volume, page) = (volume.clone(), *page);
            Box::pin(async move { volume.read(page, Buffer::zeroed(PAGE_SIZE)).await }) as BoxFuture<IoOutcome>
        })
        .collect();
    let homes = join_all(homes).await;
    for (index, ((page, version), (home, outcome))) in batch.items.into_iter().zip(homes).enumerate() {
        meter.at(index as u64);
        let unread = outcome.err();
        match &unread {
            None if verify(&home, page, volume.tag()).is_ok() => continue,
            // A home that isn't there is dealt with when redo or a reader needs it.
            Some(DiskError::Short { .. }) => continue,
            // One that can't be read is as torn: the image is lost once the area is used again, and writing often mends a bad sector.
            None | Some(DiskError::Io { .. }) => {}
            Some(other) => return Err(other.clone().into()),
        }
        let image = area.read_image(index).await?;
        let whole = verify(&image, page, volume.tag()).is_ok() && header::of(&image).version() == version;
        if !whole || version < pages.written(page) {
            continue;
        }
        let written = volume.write(page, image).await.1;
        let durable = volume.sync([page.file()]).await.map_err(|(_, error)| error);
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
