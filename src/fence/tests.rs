//! Outcomes of the methods, alone and in order.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::desk::{Desk, Refused};
use super::guard::{Demands, Guard};
use super::lease::{Lease, wait};
use super::locks::{FileLocks, LockFiles, Locks};
use super::message::{DEMAND, REPORT, Report};
use super::*;
use crate::base::Seams;
use crate::base::sim::Sim;
use crate::disk::lock;

const VICTIM: Victim = Victim { id: ThreadId(2), incarnation: Incarnation(7), epoch: Epoch(9) };
const HERE: HostId = HostId([1; 16]);
const ELSEWHERE: HostId = HostId([2; 16]);
const ATTEMPT: Duration = Duration::from_millis(500);

/// Counts demands; may refuse them.
#[derive(Default)]
struct Line {
    demands: Mutex<Vec<Victim>>,
    broken: bool,
}

impl Demands for Line {
    fn demand(&self, victim: Victim) -> Result<(), String> {
        self.demands.lock().push(victim);
        if self.broken { Err("not connected".into()) } else { Ok(()) }
    }
}

fn guard(seams: Seams, line: &Arc<Line>, locks: Option<LockFiles>) -> Guard {
    let locks = locks.map(|files| Arc::new(FileLocks { seams: seams.clone(), files }) as Arc<dyn Locks>);
    Guard { seams, desk: Arc::new(Desk::default()), demands: line.clone(), locks, host: HERE, attempt: ATTEMPT }
}

/// An instance's files, all locked by it.
fn locked() -> (tempfile::TempDir, LockFiles, Vec<lock::Freed>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["voting.1", "redo.1", "redo.2", "data.0"].map(|name| folder.path().join(name));
    for path in &paths {
        std::fs::write(path, "x").unwrap();
    }
    let held = paths.iter().map(|path| lock::probe(path, VICTIM.id).unwrap()).collect();
    (folder, LockFiles { voting: paths[..1].to_vec(), storage: paths[1..].to_vec() }, held)
}

fn unknown(outcome: Outcome) -> (String, String) {
    match outcome {
        Outcome::Unknown { why, remedy } => (why, remedy),
        other => panic!("not unknown, but {other}"),
    }
}

#[test]
fn a_report_or_a_record_of_the_death_confirms_and_nothing_less() {
    let sim = Sim::new(1);
    let line = Arc::new(Line::default());
    let guard = guard(sim.runtime(), &line, None);
    let report = |dead, drained| Report::new(VICTIM.id, Incarnation(dead), drained).encode();
    // Dead, but not drained; an earlier incarnation; another instance's guard; not a report.
    assert!(guard.desk.heard(VICTIM.id, REPORT, &report(7, false)).unwrap().is_some());
    assert!(guard.desk.heard(VICTIM.id, REPORT, &report(6, true)).unwrap().is_some());
    assert!(matches!(guard.desk.heard(ThreadId(3), REPORT, &report(7, true)), Err(Refused::Foreign { .. })));
    assert!(matches!(guard.desk.heard(VICTIM.id, DEMAND, &report(7, true)), Err(Refused::Kind { .. })));
    assert!(matches!(guard.desk.heard(VICTIM.id, REPORT, b"nonsense"), Err(Refused::Message(_))));
    guard.desk.recorded(VICTIM.id, Incarnation(6));
    let fence = |guard: &Guard| sim.run(guard.fence(VICTIM));
    let (why, remedy) = unknown(fence(&guard));
    assert!(why.contains("not yet that its I/O has drained"), "{why}");
    assert!(remedy.contains("clusterctl fence confirm 2 --incarnation 7 --reason"), "{remedy}");
    assert!(guard.desk.heard(VICTIM.id, REPORT, &report(7, true)).unwrap().is_some());
    assert!(guard.desk.heard(VICTIM.id, REPORT, &report(7, true)).unwrap().is_none(), "no news");
    assert!(matches!(fence(&guard), Outcome::Confirmed { .. }));
    let other = self::guard(sim.runtime(), &line, None);
    assert!(other.desk.recorded(VICTIM.id, Incarnation(8)));
    assert!(matches!(fence(&other), Outcome::Confirmed { evidence, .. } if evidence.contains("voting files")));
}

#[test]
fn demands_are_repeated_and_silence_is_unknown() {
    let sim = Sim::new(2);
    let line = Arc::new(Line::default());
    let outcome = sim.run(guard(sim.runtime(), &line, None).fence(VICTIM));
    let (why, _) = unknown(outcome);
    assert!(why.contains("has not answered within 500 ms"), "{why}");
    let demands = line.demands.lock().clone();
    assert!((4..=6).contains(&demands.len()) && demands.iter().all(|victim| *victim == VICTIM), "{demands:?}");
    let line = Arc::new(Line { broken: true, ..Line::default() });
    let (why, _) = unknown(sim.run(guard(sim.runtime(), &line, None).fence(VICTIM)));
    assert!(why.contains("can't be asked: not connected"), "{why}");
}

#[test]
fn locks_prove_only_what_ran_on_this_host_in_this_incarnation() {
    let sim = Sim::new(3);
    let line = Arc::new(Line { broken: true, ..Line::default() });
    let (_folder, locks, mut held) = locked();
    let guard = guard(sim.runtime(), &line, Some(locks));
    let fence = || sim.run(guard.fence(VICTIM));
    while let Some(one) = held.pop() {
        // All others are free already; as long as one is held it isn't drained, wherever it ran.
        guard.desk.runs_on(VICTIM.id, VICTIM.incarnation, HERE);
        let (why, _) = unknown(fence());
        assert!(why.contains("still has"), "{why}");
        drop(one);
    }
    assert!(matches!(fence(), Outcome::Confirmed { evidence, .. } if evidence.contains("locks")));
    for (incarnation, host, complaint) in [(7, ELSEWHERE, "another host"), (8, HERE, "isn't known which host")] {
        guard.desk.runs_on(VICTIM.id, Incarnation(incarnation), host);
        let (why, _) = unknown(fence());
        assert!(why.contains(complaint), "{why}");
    }
}

/// Answers as it is told.
struct Scripted(&'static str, Guarantee, Outcome);

impl Method for Scripted {
    fn name(&self) -> &'static str {
        self.0
    }
    fn guarantee(&self) -> Guarantee {
        self.1
    }
    fn fence(&self, _: Victim) -> BoxFuture<Outcome> {
        let outcome = self.2.clone();
        Box::pin(async move { outcome })
    }
}

fn scripted(name: &'static str, writes: bool, answers: bool, outcome: &Outcome) -> Arc<dyn Method> {
    let ends = |it| if it { Ends::Proven } else { Ends::No };
    Arc::new(Scripted(name, Guarantee { writes: ends(writes), answers: ends(answers) }, outcome.clone()))
}

#[test]
fn a_fence_is_confirmed_when_writes_and_answers_are_ended() {
    let sim = Sim::new(4);
    let run = |methods| sim.run(async move { Fencer::new(methods).fence(VICTIM).await });
    let confirmed = Outcome::Confirmed { by: By::Guard, evidence: "sure".into() };
    let unknown_ = Outcome::Unknown { why: "dark".into(), remedy: "light".into() };
    let failed = Outcome::Failed { why: "absent".into() };
    let both = |outcome| scripted("both", true, true, outcome);
    let writes = |outcome| scripted("writes", true, false, outcome);
    let answers = |outcome| scripted("answers", false, true, outcome);
    assert_eq!(run(vec![both(&confirmed), writes(&failed)]), Outcome::Confirmed { by: By::Guard, evidence: "both: sure".into() });
    assert_eq!(
        run(vec![writes(&confirmed), answers(&confirmed)]),
        Outcome::Confirmed { by: By::Guard, evidence: "writes: sure; answers: sure".into() }
    );
    assert!(matches!(run(vec![both(&unknown_), both(&confirmed)]), Outcome::Confirmed { .. }));
    let (why, _) = unknown(run(vec![writes(&confirmed), answers(&unknown_)]));
    assert!(why.contains("its answers to clients may go on: answers: dark"), "{why}");
    let (why, _) = unknown(run(vec![both(&unknown_), answers(&confirmed)]));
    assert!(why.contains("its writes may go on"), "{why}");
    assert!(matches!(run(vec![both(&failed), writes(&failed)]), Outcome::Failed { why } if why.contains("absent")));
    assert!(matches!(run(vec![both(&failed), writes(&unknown_)]), Outcome::Unknown { .. }));
    assert!(matches!(run(vec![]), Outcome::Failed { .. }), "no method is no fence");
    let (why, _) = unknown(run(vec![answers(&confirmed)]));
    assert!(why.contains("its writes may go on"), "{why}");
}

#[test]
fn lease_waits_it_out_and_ends_writes_only_when_that_was_accepted() {
    let sim = Sim::new(5);
    let lease = Duration::from_millis(800);
    for accepted in [false, true] {
        let method = Lease::new(sim.runtime(), lease, accepted);
        assert_eq!((method.guarantee().writes.ends(), method.guarantee().answers.ends()), (accepted, true));
        let seams = sim.runtime();
        let (took, outcome) = sim.run(async move {
            let begun = seams.now();
            let outcome = Fencer::new(vec![Arc::new(method)]).fence(VICTIM).await;
            (seams.now().since(begun), outcome)
        });
        assert!(took >= wait(lease) && wait(lease) > lease * 2, "{took:?}");
        assert_eq!(matches!(outcome, Outcome::Confirmed { .. }), accepted, "{outcome}");
    }
}
