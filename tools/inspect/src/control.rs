//! Control slots.

use std::collections::BTreeMap;

use regroup::base::ThreadId;
use regroup::redo::control::{Control, ControlFile, ThreadState};
use serde_json::json;

use crate::files::{Store, name};
use crate::output::Output;

/// Shows both slots of every redo file and returns the valid control blocks. A slot that isn't whole is a finding.
///
/// # Errors
/// The disk's.
pub(crate) async fn show(store: &Store, out: &mut Output) -> Result<BTreeMap<ThreadId, Control>, String> {
    slots(store, out, true).await
}

/// As [`show`], printing nothing but findings.
///
/// # Errors
/// The disk's.
pub(crate) async fn read(store: &Store, out: &mut Output) -> Result<BTreeMap<ThreadId, Control>, String> {
    slots(store, out, false).await
}

async fn slots(store: &Store, out: &mut Output, print: bool) -> Result<BTreeMap<ThreadId, Control>, String> {
    let mut found = BTreeMap::new();
    for (thread, at) in &store.redo {
        let file = store.file(*at);
        let control_file = ControlFile::new(store.disk().clone(), file.file, store.tag(), *thread);
        for slot in [0, 1] {
            let control = match control_file.read_slot(slot).await {
                Ok(Ok(control)) => control,
                Ok(Err(fault)) => {
                    out.finding("control", &name(&file.path), &format!("slot {slot}: {fault}"));
                    continue;
                }
                Err(error) => {
                    out.finding("control", &name(&file.path), &error.to_string());
                    continue;
                }
            };
            if print {
                show_slot(*thread, slot, &control, out);
            }
            let newest = found.entry(*thread).or_insert(control);
            if control.generation > newest.generation {
                *newest = control;
            }
        }
    }
    Ok(found)
}

fn show_slot(thread: ThreadId, slot: u8, control: &Control, out: &mut Output) {
    let Control { generation, state, writer, checkpoint, durable, end, end_crc, clock, forecast } = control;
    let (rates, foretold) = (forecast.rates, forecast.foretold);
    let end_text = if *state == ThreadState::Open { "open".to_string() } else { format!("{end} (crc {end_crc:08x})") };
    let text = format!(
        "control {thread} slot {slot}: generation {generation}, {state}, {} {}, checkpoint {checkpoint}, durable {durable}, end {end_text}, clock {clock}, \
         recovery foretold {:.3} s",
        writer.incarnation,
        writer.epoch,
        foretold.total_us as f64 / 1e6,
    );
    let object = json!({
        "control": thread.0, "slot": slot, "generation": generation, "state": state.to_string(), "incarnation": writer.incarnation.0,
        "epoch": writer.epoch.0, "checkpoint": checkpoint.0, "durable": durable.0, "end": end.0, "end_crc": end_crc, "clock": clock.0,
        "scan_bytes_per_second": rates.scan_bytes, "read_pages_per_second": rates.read_pages, "apply_bytes_per_second": rates.apply_bytes,
        "restore_us": rates.restore_us, "open_us": rates.open_us, "foretold_us": foretold.total_us, "foretold_pages": foretold.pages,
        "foretold_at": foretold.position, "recovery_time_target_ms": foretold.target_ms,
    });
    out.fact(&text, object);
}
