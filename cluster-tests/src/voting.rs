//! Sectors of voting files: samples for golden bytes, and the fuzz target `sector`.

use regroup::base::{Epoch, Incarnation, Lsn, ThreadId, checksum};
use regroup::fence::Victim;
use regroup::fence::message::{Demand, Report};
use regroup::membership::ballot;
use regroup::membership::guard::{Child, GuardRecord};
use regroup::membership::heartbeat::{Heartbeat, Host, Standing, head};
use regroup::membership::messages::Beat;
use regroup::membership::paxos::{Ballot, Block};
use regroup::membership::sector::{self, Head, Place, SECTOR, SectorFault, SectorKind, VotingId};
use regroup::membership::survey::Snapshot;
use regroup::membership::view::{self, Change, Identity, LogEnd, Method, View};

use crate::samples::CLUSTER;

const FILE: VotingId = VotingId(0x0123_4567_89ab_cdef);
const HOST: Host = Host { machine: *b"machine id golds", boot: *b"boot id of golds" };

/// Where the sample of this kind belongs.
pub fn place(kind: SectorKind) -> Place {
    Place { cluster: CLUSTER, file: FILE, instance: ThreadId(2), kind }
}

fn sample_head() -> Head {
    head(Incarnation(7), 4711, Epoch(9), &[(FILE, 4710), (VotingId(2), 4709)])
}

/// A view with something in every field.
pub fn sample_view() -> View {
    let life = |id, incarnation| Identity::new(ThreadId(id), Incarnation(incarnation));
    let genesis = View::genesis(&[FILE, VotingId(2), VotingId(3)]);
    let all = Change { join: vec![life(1, 5), life(2, 7), life(3, 1), life(64, 2)], ..Change::default() };
    let first = View { epoch: Epoch(7), ..genesis.next(ThreadId(1), &all) };
    let out = Change { evict: vec![(life(3, 1), None), (life(64, 2), Some(Method::Operator(5)))], ..Change::default() };
    let mut view = first.next(ThreadId(2), &Change { replace: Some((1, VotingId(22))), ..out });
    view.log_ends.push(LogEnd { thread: ThreadId(64), incarnation: Incarnation(2), end: Lsn(40960) });
    view
}

/// A sector of each kind.
pub fn sample(kind: SectorKind) -> Box<[u8; SECTOR]> {
    let (place, head) = (place(kind), sample_head());
    match kind {
        SectorKind::Heartbeat => {
            let address = Some(([10, 1, 2, 3], 7001).into());
            Heartbeat { standing: Standing::Parked, hears: 0x8000_0000_0000_0003, host: HOST, address }.encode(&place, &head)
        }
        SectorKind::Ballot => {
            let ballot = |round| Ballot { round, by: ThreadId(2) };
            let block = Block { epoch: Epoch(8), tried: ballot(6), accepted: ballot(5), value: Some(sample_view()) };
            ballot::encode_sector(&block, &place, &head)
        }
        SectorKind::View => view::encode_sector(Some(&sample_view()), &place, &head),
        SectorKind::Guard => {
            let address = Some(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 7002).into());
            let record = GuardRecord { child: Child::Drained, incarnation: Incarnation(7), killed: Epoch(8), host: HOST, address };
            record.encode(&place, &head)
        }
    }
}

/// What the fuzz target starts from: a number that chooses the kind, and a sector of it.
pub fn corpus() -> Vec<Vec<u8>> {
    let with_kind = |(number, kind): (usize, SectorKind)| [&[number as u8][..], &sample(kind)[..]].concat();
    let mut corpus: Vec<Vec<u8>> = SectorKind::ALL.into_iter().enumerate().map(with_kind).collect();
    let beat = Beat { incarnation: Incarnation(3), epoch: Epoch(4), sequence: 5, hears: 6, standing: Standing::Member };
    corpus.push([&[0][..], &beat.encode()].concat());
    corpus.push([&[0][..], &Demand::of(Victim { id: ThreadId(2), incarnation: Incarnation(3), epoch: Epoch(4) }).encode()].concat());
    corpus.push([&[0][..], &Report::new(ThreadId(2), Incarnation(3), true).encode()].concat());
    corpus
}

/// A sector of any kind and the bodies of messages: what is accepted reads back as the same bytes, and is possible.
///
/// # Panics
/// When something doesn't hold.
pub fn fuzz(data: &[u8]) {
    let Some((number, data)) = data.split_first() else { return };
    if let Ok(beat) = Beat::decode(data) {
        assert_eq!(Beat::decode(&beat.encode()), Ok(beat));
    }
    if let Ok(demand) = Demand::decode(data) {
        assert_eq!(Demand::decode(&demand.encode()), Ok(demand));
    }
    if let Ok(report) = Report::decode(data) {
        assert_eq!(Report::decode(&report.encode()), Ok(report));
    }
    let kind = SectorKind::ALL[usize::from(*number) % 4];
    let mut raw = [0; SECTOR];
    let length = data.len().min(SECTOR);
    raw[..length].copy_from_slice(&data[..length]);
    let _ = again(kind, &raw);
    // With checksum and identity repaired, so that bodies are reached.
    let mut whole = raw;
    whole[4..40].copy_from_slice(&sample(kind)[4..40]);
    checksum::seal(&mut whole);
    if let Ok(again) = again(kind, &whole) {
        assert!(again[..] == whole[..], "a {kind} sector that reads back as other bytes");
    }
    let snapshot = Snapshot::decode(CLUSTER, FILE, 2, &whole);
    assert!(snapshot.faults.len() >= 7 && snapshot.blocks().is_none(), "one sector isn't a file");
}

/// Decodes and encodes.
fn again(kind: SectorKind, bytes: &[u8; SECTOR]) -> Result<Box<[u8; SECTOR]>, SectorFault> {
    let place = place(kind);
    let found = sector::decode(&place, bytes)?;
    Ok(match kind {
        SectorKind::Heartbeat => Heartbeat::decode(&found)?.encode(&place, &found.head),
        SectorKind::Ballot => {
            let block = ballot::decode_body(&found)?;
            assert!(block.accepted <= block.tried && block.value.is_some() == (block.accepted.round > 0));
            ballot::encode_sector(&block, &place, &found.head)
        }
        SectorKind::View => {
            let view = view::decode_body(&found)?;
            if let Some(view) = &view {
                assert_eq!(view.validate(), Ok(()));
                // The next view of any accepted one is possible too.
                let change = Change { join: vec![Identity::new(ThreadId(9), Incarnation(1))], ..Change::default() };
                assert_eq!(view.next(ThreadId(9), &change).validate(), Ok(()));
            }
            view::encode_sector(view.as_ref(), &place, &found.head)
        }
        SectorKind::Guard => GuardRecord::decode(&found)?.encode(&place, &found.head),
    })
}
