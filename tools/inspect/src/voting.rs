//! Sectors of voting files: heartbeat, ballot, view and guard record of each instance.

use regroup::base::ThreadId;
use regroup::disk::Buffer;
use regroup::membership::View;
use regroup::membership::heartbeat::Host;
use regroup::membership::paxos::Block;
use regroup::membership::sector::{Head, SECTORS_AT, VotingId, region_bytes};
use regroup::membership::survey::{Sectors, Snapshot};
use serde_json::{Value, json};

use crate::files::{Store, name};
use crate::output::Output;

/// Shows what stands in every sector that was ever written, in all voting files. A sector that isn't whole is a finding: its file doesn't answer.
///
/// # Errors
/// The disk's.
pub(crate) async fn show(store: &Store, out: &mut Output) -> Result<(), String> {
    for (id, at) in &store.voting {
        let file = store.file(*at);
        let threads = store.shape.threads;
        let (region, read) = store.disk().read(file.file, SECTORS_AT, Buffer::zeroed(region_bytes(threads))).await;
        if let Err(error) = read {
            out.finding("voting", &name(&file.path), &error.to_string());
            continue;
        }
        let snapshot = Snapshot::decode(store.shape.cluster, *id, threads, &region);
        for (instance, kind, fault) in &snapshot.faults {
            out.finding("voting", &name(&file.path), &format!("{kind} sector of instance {}: {fault}", instance.0));
        }
        for (instance, sectors) in (1..).map(ThreadId).zip(&snapshot.instances) {
            show_instance(*id, instance, sectors, out);
        }
    }
    Ok(())
}

fn show_instance(file: VotingId, instance: ThreadId, sectors: &Sectors, out: &mut Output) {
    let mut say = |kind: &str, head: &Head, text: &str, mut object: Value| {
        let (life, number, epoch) = (head.incarnation.0, head.sequence, head.epoch.0);
        let line = format!("voting {file} instance {} {kind}: incarnation {life}, write {number}, in epoch {epoch}: {text}", instance.0);
        object["voting"] = json!(file.to_string());
        object["instance"] = json!(instance.0);
        object["sector"] = json!(kind);
        object["incarnation"] = json!(life);
        object["sequence"] = json!(number);
        object["in_epoch"] = json!(epoch);
        out.fact(&line, object);
    };
    if let Some((head, beat)) = sectors.heartbeat.as_ref().filter(|(head, _)| head.sequence > 0) {
        let standing = format!("{:?}", beat.standing).to_lowercase();
        let hears: Vec<u16> = (1..=64).filter(|id| beat.hears & (1 << (id - 1)) != 0).collect();
        let address = beat.address.map(|address| address.to_string());
        let (boot, machine) = host(&beat.host);
        let text = format!("{standing}, hears {hears:?}, at {}, boot {boot}", address.as_deref().unwrap_or("no address"));
        let object = json!({ "standing": standing, "hears": hears, "address": address, "boot": boot, "machine": machine });
        say("heartbeat", head, &text, object);
    }
    if let Some((head, block)) = sectors.ballot.as_ref().filter(|(head, _)| head.sequence > 0) {
        let Block { epoch, tried, accepted, value } = block;
        let proposed = value.as_ref().map_or_else(|| "nothing yet".to_string(), show_view);
        let text = format!("decides epoch {}, tried {tried}, accepted {accepted}: {proposed}", epoch.0);
        let object = json!({
            "epoch": epoch.0, "tried": tried.to_string(), "accepted": accepted.to_string(), "proposed": value.as_ref().map(view_object),
        });
        say("ballot", head, &text, object);
    }
    if let Some((head, view)) = &sectors.view
        && (head.sequence > 0 || view.is_some())
    {
        let text = view.as_ref().map_or_else(|| "none known".to_string(), show_view);
        say("view", head, &text, json!({ "view": view.as_ref().map(view_object) }));
    }
    if let Some((head, record)) = sectors.guard.as_ref().filter(|(head, _)| head.sequence > 0) {
        let child = format!("{:?}", record.child).to_lowercase();
        let address = record.address.map(|address| address.to_string());
        let (boot, machine) = host(&record.host);
        let (life, killed) = (record.incarnation.0, record.killed.0);
        let at = address.as_deref().unwrap_or("no address");
        let text = format!("its instance's incarnations up to {life}: {child}, killed for epoch {killed}, at {at}, boot {boot}");
        let object =
            json!({ "child": child, "child_incarnation": life, "killed": killed, "address": address, "boot": boot, "machine": machine });
        say("guard", head, &text, object);
    }
}

fn host(host: &Host) -> (String, String) {
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    (hex(&host.boot), hex(&host.machine))
}

fn show_view(view: &View) -> String {
    let list = |all: Vec<String>| if all.is_empty() { "none".to_string() } else { all.join(", ") };
    let members = list(view.members.iter().map(ToString::to_string).collect());
    let unconfirmed = list(view.unconfirmed.iter().map(ToString::to_string).collect());
    let (epoch, coordinator) = (view.epoch.0, view.coordinator.0);
    format!(
        "epoch {epoch} by instance {coordinator}: members {members}; fences to be confirmed: {unconfirmed}; {} voting files",
        view.voting.len()
    )
}

fn view_object(view: &View) -> Value {
    let lives = |list: &[regroup::membership::view::Identity]| {
        list.iter().map(|one| json!({ "id": one.id.0, "incarnation": one.incarnation.0 })).collect::<Vec<_>>()
    };
    let confirmed = view.confirmed.iter();
    let confirmed = confirmed.map(|one| json!({ "id": one.id.0, "incarnation": one.incarnation.0, "method": format!("{:?}", one.method) }));
    json!({
        "epoch": view.epoch.0, "coordinator": view.coordinator.0, "members": lives(&view.members), "unconfirmed": lives(&view.unconfirmed),
        "confirmed": confirmed.collect::<Vec<_>>(), "configuration": view.configuration,
        "voting": view.voting.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
