//! Sectors of voting files on disk: golden bytes, every bit flip, and what a reader does with a sector of another place.
//!
//! A changed layout is a new format version (docs/formats/README.md): raise `sector::VERSION`, run with `REGROUP_GOLDEN=write`, look at the
//! difference.

use std::path::PathBuf;

use cluster_tests::{samples, voting};
use regroup::base::{ClusterId, ThreadId, checksum};
use regroup::membership::sector::{self, Place, SECTOR, SectorFault, SectorKind, VotingId, format_region, region_bytes};
use regroup::membership::survey::{Snapshot, Survey};
use regroup::membership::{View, view};

/// Lines of `offset: 32 bytes`, without those that are all zero.
fn dump(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0));
    let hex = |chunk: &[u8]| chunk.chunks(4).map(|four| four.iter().map(|byte| format!("{byte:02x}")).collect()).collect::<Vec<String>>();
    let text: String = lines.map(|(line, chunk)| format!("{:04x}: {}\n", line * 32, hex(chunk).join(" "))).collect();
    text + &format!("{:04x}: end\n", bytes.len())
}

#[test]
fn golden_bytes() {
    for kind in SectorKind::ALL {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "golden", &format!("{kind}.hex")].iter().collect();
        let found = dump(&voting::sample(kind)[..]);
        if std::env::var("REGROUP_GOLDEN").is_ok_and(|wish| wish == "write") {
            std::fs::write(&path, &found).expect("golden bytes are written");
        }
        let expected = std::fs::read_to_string(&path).expect("golden bytes are there");
        assert!(found == expected, "{kind} has another layout:\nexpected\n{expected}\nfound\n{found}");
    }
}

#[test]
fn every_bit_flip_is_found() {
    for kind in SectorKind::ALL {
        let good = voting::sample(kind);
        assert!(sector::decode(&voting::place(kind), &good[..]).is_ok());
        for bit in 0..SECTOR * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(sector::decode(&voting::place(kind), &bad[..]).is_err(), "flip of bit {bit} in a {kind} sector");
        }
    }
}

#[test]
fn a_sector_of_another_place_is_refused_by_name() {
    let good = voting::sample(SectorKind::Ballot);
    let here = voting::place(SectorKind::Ballot);
    for (place, field) in [
        (Place { kind: SectorKind::View, ..here }, "kind"),
        (Place { instance: ThreadId(3), ..here }, "instance"),
        (Place { cluster: ClusterId([1; 16]), ..here }, "cluster"),
        (Place { cluster: ClusterId(*b"golden regroup 2"), ..here }, "cluster, second half"),
        (Place { file: VotingId(2), ..here }, "voting file"),
    ] {
        match sector::decode(&place, &good[..]) {
            Err(SectorFault::Field { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let mut moved = good.clone();
    moved[32] ^= 1;
    checksum::seal(&mut moved[..]);
    assert!(matches!(sector::decode(&here, &moved[..]), Err(SectorFault::Field { field: "own offset", .. })));
}

#[test]
fn zeroes_and_tears_mean_that_the_file_did_not_answer() {
    let ids = [VotingId(1), VotingId(2), VotingId(3)];
    let genesis = View::genesis(&ids);
    let mut region = format_region(samples::CLUSTER, ids[0], Some(&genesis));
    region.truncate(region_bytes(2));
    let read = |region: &[u8]| Snapshot::decode(samples::CLUSTER, ids[0], 2, region);
    let whole = read(&region);
    assert!(whole.faults.is_empty() && whole.blocks().is_some_and(|blocks| blocks.len() == 2));
    assert_eq!(whole.newest(), Some(&genesis));
    let ballot = SECTOR;
    let mut zeroed = region.clone();
    zeroed[ballot..ballot + SECTOR].fill(0);
    assert!(read(&zeroed).blocks().is_none());
    let mut torn = region.clone();
    torn[ballot + 512..ballot + 1024].fill(7);
    assert!(read(&torn).blocks().is_none());
    assert!(read(&region[..region.len() - SECTOR]).faults.len() == 1, "a short read lacks the last sector");
    // One of three whole answers is no majority; two are.
    let file = |id, damaged: bool| {
        let mut region = format_region(samples::CLUSTER, id, Some(&genesis));
        if damaged {
            region[ballot..ballot + SECTOR].fill(0);
        }
        Snapshot::decode(samples::CLUSTER, id, 2, &region)
    };
    assert!(!Survey::of([file(ids[0], false), file(ids[1], true), file(ids[2], true)]).is_certain());
    assert!(Survey::of([file(ids[0], false), file(ids[1], true), file(ids[2], false)]).is_certain());
}

#[test]
fn a_view_reads_back() {
    let view = voting::sample_view();
    assert_eq!(view.validate(), Ok(()));
    let sector_bytes = voting::sample(SectorKind::View);
    let found = sector::decode(&voting::place(SectorKind::View), &sector_bytes[..]).expect("whole");
    assert_eq!(view::decode_body(&found), Ok(Some(view)));
}
