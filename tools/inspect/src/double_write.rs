//! Double-write areas.

use std::collections::BTreeMap;

use regroup::base::{PageId, Scn};
use regroup::cache::double_write::DoubleWrite;
use regroup::page::{header, verify};
use serde_json::json;

use crate::files::{Store, name};
use crate::output::Output;

/// Shows each area's header and images; returns the whole images of batches that aren't voided, by page. An image of such a batch that isn't
/// whole is no finding: a crash tears the area before it touches a home.
///
/// # Errors
/// The disk's.
pub(crate) async fn show(store: &Store, out: &mut Output) -> Result<BTreeMap<PageId, Scn>, String> {
    let mut images = BTreeMap::new();
    for (thread, at) in &store.redo {
        let file = store.file(*at);
        let area = DoubleWrite::new(store.disk().clone(), file.file, store.tag(), *thread);
        let batch = match area.read().await {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                out.fact(&format!("double-write {thread}: no batch"), json!({ "double_write": thread.0, "batch": null }));
                continue;
            }
            Err(error) => {
                out.finding("double-write", &name(&file.path), &error.to_string());
                continue;
            }
        };
        let state = if batch.voided { "voided: its pages are durable at home" } else { "not voided" };
        let text = format!("double-write {thread}: batch {}, {} images, {state}", batch.batch, batch.items.len());
        out.fact(&text, json!({ "double_write": thread.0, "batch": batch.batch, "voided": batch.voided, "images": batch.items.len() }));
        for (index, (page, version)) in batch.items.iter().enumerate() {
            let fault = match area.read_image(index).await {
                Err(error) => Some(error.to_string()),
                Ok(image) => match verify(&image, *page, store.tag()) {
                    Err(fault) => Some(fault.to_string()),
                    Ok(()) if header::of(&image).version() != *version => Some("of another version than the header says".into()),
                    Ok(()) => None,
                },
            };
            let text = format!("  image {index}: {page} {version}, {}", fault.as_deref().unwrap_or("whole"));
            out.fact(&text, json!({ "image": index, "page": page.to_string(), "version": version.0, "fault": fault }));
            if fault.is_none() && !batch.voided {
                images.insert(*page, *version);
            }
        }
    }
    Ok(images)
}
