//! Tests of the simulator: order, time, processes, what it finds.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::base::runtime::{join_all, run_job};

/// A bit of everything: tasks, timers, jobs, channels, locks. Returns the order in which things happened.
fn busy(sim: &Sim) -> Vec<u64> {
    let seams = sim.runtime();
    let order = Arc::new(Mutex::new(Vec::new()));
    sim.run(async {
        let gate = Arc::new(tokio::sync::Mutex::new(()));
        let mut ends = Vec::new();
        for n in 0..8u64 {
            let (seams_inside, order, gate) = (seams.clone(), order.clone(), gate.clone());
            let (send, receive) = tokio::sync::oneshot::channel();
            seams.spawn(
                "worker",
                Box::pin(async move {
                    seams_inside.sleep(Duration::from_micros(seams_inside.random() % 50)).await;
                    let _held = gate.lock().await;
                    let square = run_job(&seams_inside, move || n * n).await;
                    order.lock().push(square);
                    let _ = send.send(());
                }),
            );
            ends.push(Box::pin(async move { receive.await.unwrap() }) as BoxFuture<()>);
        }
        join_all(ends).await;
    });
    order.lock().clone()
}

#[test]
fn the_same_seed_gives_the_same_trace_and_others_differ() {
    let run = |seed| {
        let sim = Sim::new(seed);
        let order = busy(&sim);
        (sim.trace_hash(), order, sim.now())
    };
    let first = run(1);
    assert_eq!(first, run(1));
    let others: Vec<_> = (2..20).map(run).collect();
    assert!(others.iter().all(|other| other.0 != first.0));
    assert!(others.iter().any(|other| other.1 != first.1), "some seed orders things otherwise");
}

#[test]
fn events_of_the_caller_are_in_the_trace() {
    let hash = |bytes: &[u8]| {
        let sim = Sim::new(1);
        sim.trace(bytes);
        sim.trace_hash()
    };
    assert_eq!(hash(b"one"), hash(b"one"));
    assert_ne!(hash(b"one"), hash(b"two"));
}

#[test]
fn timers_end_in_order_of_time_and_never_early() {
    let sim = Sim::new(3).step_time_max(Duration::ZERO);
    let seams = sim.runtime();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for ms in [30u64, 10, 20, 0] {
        let (seams_inside, seen) = (seams.clone(), seen.clone());
        seams.spawn(
            "sleeper",
            Box::pin(async move {
                seams_inside.sleep(Duration::from_millis(ms)).await;
                seen.lock().push((ms, seams_inside.now()));
            }),
        );
    }
    sim.run(seams.sleep(Duration::from_millis(40)));
    let expected: Vec<(u64, Instant)> = [0, 10, 20, 30].iter().map(|&ms| (ms, Instant(ms * 1_000_000))).collect();
    assert_eq!(*seen.lock(), expected);
    assert_eq!(sim.now(), Instant(40_000_000));
    assert_eq!(seams.wall_ms(), WALL_START_MS + 40);
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    let sim = Sim::new(3).step_time_max(Duration::ZERO);
    let seams = sim.runtime();
    sim.run(async {
        let mut long = seams.sleep(Duration::from_secs(10));
        let mut short = seams.sleep(Duration::from_secs(1));
        std::future::poll_fn(|context| {
            assert!(long.as_mut().poll(context).is_pending());
            short.as_mut().poll(context)
        })
        .await;
    });
    assert_eq!(sim.now(), Instant(1_000_000_000));
    assert!(sim.shared.state.lock().timers.is_empty());
}

fn message(run: impl FnOnce()) -> String {
    panic_text(&*catch_unwind(AssertUnwindSafe(run)).unwrap_err()).to_owned()
}

#[test]
fn a_deadlock_names_seed_time_and_tasks() {
    let said = message(|| {
        let sim = Sim::new(0xabc);
        sim.process("node 2").seams().spawn("stuck reader", Box::pin(std::future::pending()));
        sim.run(std::future::pending::<()>());
    });
    for part in ["0xabc", "deadlock", "virtual time", "node 2/stuck reader", "test/main future"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn a_livelock_and_endless_time_are_found() {
    let said = message(|| {
        let sim = Sim::new(5).step_limit(1000);
        sim.run(std::future::poll_fn::<(), _>(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        }));
    });
    assert!(said.contains("livelock") && said.contains("0x5"), "{said}");
    let said = message(|| {
        let sim = Sim::new(5).time_limit(Duration::from_secs(10));
        let seams = sim.runtime();
        sim.run(async {
            loop {
                seams.sleep(Duration::from_secs(1)).await;
            }
        });
    });
    assert!(said.contains("virtual time is reached"), "{said}");
}

#[test]
fn a_panic_names_task_and_seed() {
    let said = message(|| {
        let sim = Sim::new(0x77);
        sim.process("node").seams().spawn("page writer", Box::pin(async { panic!("{}", "bad page") }));
        sim.run(std::future::pending::<()>());
    });
    assert!(said.contains("node/page writer panicked: bad page") && said.contains("0x77"), "{said}");
    let said = message(|| Sim::new(0x78).run(async { panic!("in main") }));
    assert!(said.contains("in main") && said.contains("0x78"), "{said}");
    let said = message(|| {
        let sim = Sim::new(0x79);
        sim.runtime().work(Box::new(|| panic!("in a job")));
        sim.run(std::future::pending::<()>());
    });
    assert!(said.contains("worker job panicked: in a job"), "{said}");
}

/// When dropped, does all that a destructor may do to the simulator.
struct Nasty {
    seams: Seams,
    other: Seams,
    wake: Arc<tokio::sync::Notify>,
    spawned: Arc<AtomicU64>,
    drops: Arc<AtomicU64>,
}

impl Drop for Nasty {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_waiters();
        for seams in [&self.seams, &self.other] {
            let spawned = self.spawned.clone();
            seams.spawn(
                "of a destructor",
                Box::pin(async move {
                    spawned.fetch_add(1, Ordering::SeqCst);
                }),
            );
            seams.work(Box::new(|| {}));
            drop(seams.sleep(Duration::from_secs(1)));
        }
    }
}

#[test]
fn a_killed_process_runs_nothing_more_and_its_destructors_do_no_harm() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let (victim, other) = (sim.process("victim"), sim.process("other"));
        let (ticks, spawned, drops) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let wake = Arc::new(tokio::sync::Notify::new());
        for _ in 0..10 {
            let nasty =
                Nasty { seams: victim.seams(), other: other.seams(), wake: wake.clone(), spawned: spawned.clone(), drops: drops.clone() };
            let ticks = ticks.clone();
            victim.seams().spawn(
                "ticker",
                Box::pin(async move {
                    loop {
                        tokio::select! { biased;
                            () = nasty.wake.notified() => {}
                            () = nasty.seams.sleep(Duration::from_micros(10)) => {}
                        }
                        ticks.fetch_add(1, Ordering::SeqCst);
                    }
                }),
            );
        }
        victim.seams().work(Box::new(|| {}));
        sim.run(sim.runtime().sleep(Duration::from_micros(200)));
        let before = ticks.load(Ordering::SeqCst);
        assert!(before > 0 && drops.load(Ordering::SeqCst) == 0);
        sim.kill(&victim);
        assert!(!victim.is_alive() && other.is_alive());
        assert_eq!(drops.load(Ordering::SeqCst), 10, "everything is dropped at once");
        sim.run(sim.runtime().sleep(Duration::from_micros(200)));
        assert_eq!(ticks.load(Ordering::SeqCst), before);
        assert_eq!(spawned.load(Ordering::SeqCst), 10, "only what was spawned in the other process runs");
        assert_eq!(sim.pending(), Vec::<String>::new());
        // A dead runtime sleeps forever and starts nothing.
        let seams = victim.seams();
        let ran = sim.run_until(seams.sleep(Duration::from_micros(1)), |sim| {
            sim.steps() > 10_000 || sim.pending().len() == 1 && sim.shared.state.lock().ready.is_empty()
        });
        assert!(ran.is_none());
    }
}

#[test]
fn a_task_may_kill_its_own_process() {
    let sim = Sim::new(11);
    let process = sim.process("suicidal");
    let reached = Arc::new(AtomicU64::new(0));
    let (victim, count, seams) = (process.clone(), reached.clone(), process.seams());
    process.seams().spawn(
        "killer",
        Box::pin(async move {
            victim.kill();
            count.fetch_add(1, Ordering::SeqCst);
            seams.sleep(Duration::ZERO).await;
            count.fetch_add(1, Ordering::SeqCst);
        }),
    );
    sim.run(sim.runtime().sleep(Duration::from_millis(1)));
    assert_eq!(reached.load(Ordering::SeqCst), 1);
    assert!(sim.pending().is_empty());
}

#[test]
fn a_run_can_be_stopped_at_any_step_and_everything_killed() {
    let whole = {
        let sim = Sim::new(21);
        busy(&sim);
        sim.steps()
    };
    for stop_at in 0..whole {
        let sim = Sim::new(21);
        let seams = sim.runtime();
        let ran = sim.run_until(
            async {
                let mut jobs: Vec<BoxFuture<u64>> = Vec::new();
                for n in 0..8 {
                    let seams = seams.clone();
                    jobs.push(Box::pin(async move { run_job(&seams, move || n).await }));
                }
                join_all(jobs).await;
                std::future::pending::<()>().await;
            },
            |sim| sim.steps() >= stop_at.min(10),
        );
        assert!(ran.is_none());
        assert_eq!(sim.steps(), stop_at.min(10));
        sim.kill_all();
        assert!(sim.pending().is_empty());
        // Life goes on in a new process.
        busy(&sim);
    }
}

#[test]
fn jobs_run_in_any_order() {
    let orders: std::collections::BTreeSet<Vec<u64>> = (0..40)
        .map(|seed| {
            let sim = Sim::new(seed);
            let seams = sim.runtime();
            let order = Arc::new(Mutex::new(Vec::new()));
            for n in 0..3 {
                let order = order.clone();
                seams.work(Box::new(move || order.lock().push(n)));
            }
            sim.run(seams.sleep(Duration::from_millis(1)));
            order.lock().clone()
        })
        .collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn a_stopped_process_does_nothing_until_it_goes_on() {
    let sim = Sim::new(5);
    let (main, process) = (sim.runtime(), sim.process("stopped"));
    let seams = process.seams();
    let beats = Arc::new(AtomicU64::new(0));
    let counted = beats.clone();
    let clock = seams.clone();
    seams.spawn(
        "beats",
        Box::pin(async move {
            loop {
                clock.sleep(Duration::from_millis(10)).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }),
    );
    sim.run(async {
        main.sleep(Duration::from_millis(105)).await;
        let before = beats.load(Ordering::Relaxed);
        assert!((9..=10).contains(&before), "{before}");
        process.pause();
        process.pause();
        main.sleep(Duration::from_secs(10)).await;
        assert_eq!(beats.load(Ordering::Relaxed), before);
        process.resume();
        main.sleep(Duration::from_millis(5)).await;
        assert_eq!(beats.load(Ordering::Relaxed), before + 1, "a timer that went off meanwhile counts once");
        main.sleep(Duration::from_millis(100)).await;
        assert!(beats.load(Ordering::Relaxed) > before + 8);
        process.pause();
        process.kill();
        process.resume();
        main.sleep(Duration::from_millis(100)).await;
        assert!(!process.is_alive());
    });
}

#[test]
fn clocks_of_a_process_can_be_moved() {
    let sim = Sim::new(6);
    let (main, process) = (sim.runtime(), sim.process("suspended"));
    let seams = process.seams();
    sim.run(async {
        main.sleep(Duration::from_secs(1)).await;
        process.advance_clock(Duration::from_secs(3600));
        process.set_wall_clock(-5000);
        let ahead = seams.now().since(main.now());
        assert!(ahead >= Duration::from_secs(3600) && ahead < Duration::from_secs(3601));
        assert!(main.wall_ms() - seams.wall_ms() >= 4999);
        let began = main.now();
        seams.sleep(Duration::from_secs(1)).await;
        assert!(main.now().since(began) < Duration::from_millis(1100), "timers keep their time");
    });
}
