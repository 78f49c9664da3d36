//! What doesn't touch the disk: reading from the cache, verifying pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use regroup::base::options::LogMode;
use regroup::base::{PageId, TreeId, checksum};
use regroup::page::header::{self, Kind};
use regroup::page::slotted;
use regroup::page::verify::verify as verify_page;

use super::rig::{Numbers, Rig, TREE, World, create, fill, open, options, scatter, seconds};

const ROWS: u64 = 1_000_000;

/// Point reads of random rows that are all in the cache, by two threads.
pub(crate) fn reads(rig: &Rig) -> Numbers {
    let world = World::new();
    let folder = rig.folder("reads");
    let rows = rig.scaled(ROWS);
    world.runtime.block_on(async {
        create(&world.seams, &folder, 256 << 20).await;
        let store = open(&world.seams, &folder, options(512 << 20, LogMode::None)).await;
        store.trees().create_tree(TREE).await.expect("a tree");
        fill(&store, rows, 100).await;
        let store = Arc::new(store);
        let time = Duration::from_secs(1);
        let start = Instant::now();
        let tasks: Vec<_> = (0..2u64)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    let (mut done, mut sum) = (0u64, 0usize);
                    while done % 1024 != 0 || start.elapsed() < time {
                        let key = (scatter(done * 2 + task) % rows).to_be_bytes();
                        let length = store.trees().get_with(TREE, &key, |value| value.map_or(0, <[u8]>::len)).await.expect("read");
                        sum += length;
                        done += 1;
                    }
                    assert_eq!(sum, done as usize * 100, "every row is there");
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.expect("the task ends");
        }
        vec![("reads_per_second", done as f64 / start.elapsed().as_secs_f64()), ("rows", rows as f64)]
    })
}

/// Verifying pages by two threads, against summing the same memory by two threads.
pub(crate) fn verify(rig: &Rig) -> Numbers {
    const PAGE: usize = 8192;
    let pages = rig.scaled(32_768) as usize;
    let mut memory = vec![0u8; pages * PAGE];
    for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
        header::format(page, PageId(number as u64), Kind::Tree, TreeId(1), 77);
        slotted::init(page, 0);
        for row in 0..60u64 {
            slotted::insert(page, row as usize, &row.to_be_bytes(), &[7; 100]).expect("it fits");
        }
        checksum::seal(page);
    }
    let half = pages / 2 * PAGE;
    let two = |work: &(dyn Fn(usize, &[u8]) + Sync)| {
        seconds(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| work(0, &memory[..half]));
                scope.spawn(|| work(half / PAGE, &memory[half..]));
            });
        })
    };
    let sweep = two(&|_, part| {
        let sum =
            part.chunks_exact(8).fold(0u64, |sum, eight| sum.wrapping_add(u64::from_le_bytes(eight.try_into().expect("eight bytes"))));
        std::hint::black_box(sum);
    });
    let checked = two(&|first, part| {
        for (number, page) in part.chunks_exact(PAGE).enumerate() {
            verify_page(page, PageId((first + number) as u64), 77).expect("the page is whole");
        }
    });
    let summed = two(&|_, part| {
        std::hint::black_box(part.chunks_exact(PAGE).fold(0, |sum, page| sum ^ checksum::of_block(page)));
    });
    let gigabytes = (pages * PAGE) as f64 / 1e9;
    vec![
        ("ratio", sweep / checked),
        ("sweep_gb_per_second", gigabytes / sweep),
        ("verify_gb_per_second", gigabytes / checked),
        ("checksum_gb_per_second", gigabytes / summed),
    ]
}
