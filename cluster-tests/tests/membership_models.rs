//! Models of membership, checked exhaustively within bounds (stateright): Disk Paxos over voting files, and eviction with fencing.
//!
//! The state machine inside is the product's own (`regroup::membership::paxos`, and `View::next` for the second model), not a retelling.
//! What the model adds is everything that the world may do: in which order writes land and reads return, which files never answer, crashes
//! with writes in flight that land, don't, or tear, restarts that remember nothing. Each property has known-bad models, with one rule
//! left out, in which the checker must find the violation.

mod disk_paxos {
    use std::collections::{BTreeMap, BTreeSet};

    use regroup::base::{Epoch, ThreadId};
    use regroup::membership::VotingId;
    use regroup::membership::paxos::{Block, Paxos, Step};
    use stateright::{Checker, Model, Property};

    /// A rule left out.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Bad {
        Nothing,
        /// An unreadable sector counts as an empty one.
        UnreadableIsEmpty,
        /// A restarted instance doesn't look at its own blocks.
        ForgetsOwnBallots,
        /// The second phase doesn't look at what others have tried.
        BlindSecondRead,
        /// A write of the dead life is still in flight when the next one begins.
        LateWrite,
        /// Whoever sees a higher ballot goes on nevertheless, after reading from a minority.
        ForgetsToRead,
    }

    /// One instance's sector on one file.
    #[derive(Clone, Hash, PartialEq, Eq, Debug)]
    enum Cell {
        Whole(Block<u8>),
        Torn,
    }

    #[derive(Clone, Hash, PartialEq, Eq, Debug)]
    struct Process {
        paxos: Paxos<u8>,
        /// Per file: number and contents of the write in flight; whether a read is.
        writing: Vec<Option<(u64, Block<u8>)>>,
        reading: Vec<bool>,
        /// Files that are to be read although no proposal asks for it.
        look: Vec<bool>,
        /// Newest epoch known decided.
        known: u64,
        second: bool,
        /// The epoch of its last proposal, and how many there were.
        epoch: u64,
        begun: u8,
        /// Writes of the dead life that are still in flight (known bad only).
        late: Vec<(usize, Block<u8>)>,
    }

    #[derive(Clone, Hash, PartialEq, Eq, Debug)]
    struct State {
        cells: Vec<Vec<Cell>>,
        /// View sectors: written before the ballot sector on the same file.
        views: Vec<Vec<u64>>,
        processes: Vec<Process>,
        chosen: BTreeMap<u64, BTreeSet<u8>>,
        crashes: u8,
        preempted: bool,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Action {
        Begin(usize),
        Lands(usize, usize),
        Answers(usize, usize),
        /// The process dies. Bits say which of its writes in flight land; tearing takes the first that doesn't.
        Crash { who: usize, land: u8, tear: bool },
        Late(usize),
    }

    struct DiskPaxos {
        processes: usize,
        /// Voting files of epoch 1, 2, ...
        voters: Vec<Vec<usize>>,
        files: usize,
        /// Proposals that each process begins, crashes in all.
        begins: [u8; 2],
        crashes: u8,
        tear: bool,
        bad: Bad,
    }

    fn file(at: usize) -> VotingId {
        VotingId(at as u64 + 1)
    }

    impl DiskPaxos {
        fn fresh(&self, who: usize, begun: u8) -> Process {
            Process {
                paxos: Paxos::new(ThreadId(who as u16 + 1)),
                writing: vec![None; self.files],
                reading: vec![false; self.files],
                look: vec![true; self.files],
                known: 0,
                second: false,
                epoch: 0,
                begun,
                late: Vec::new(),
            }
        }

        /// What a driver does at once: begins the writes and reads that are wanted. Waiting is in when they end.
        fn pump(&self, process: &mut Process) {
            for at in 0..self.files {
                if process.writing[at].is_none()
                    && let Some(block) = process.paxos.to_write(file(at)).cloned()
                {
                    let stamp = process.paxos.write_begins(file(at));
                    process.writing[at] = Some((stamp, block));
                }
                if !process.reading[at] && (process.look[at] || process.paxos.to_read(file(at))) {
                    process.look[at] = false;
                    process.reading[at] = true;
                    process.paxos.read_begins(file(at));
                }
            }
        }

        fn answer(&self, state: &mut State, who: usize, at: usize) {
            let bad = self.bad;
            let process = &mut state.processes[who];
            process.reading[at] = false;
            let mut blocks = Vec::new();
            for (other, cell) in state.cells[at].iter().enumerate() {
                let block = match cell {
                    Cell::Whole(block) => block.clone(),
                    Cell::Torn if bad == Bad::UnreadableIsEmpty => Block::default(),
                    // The file did not answer.
                    Cell::Torn => return,
                };
                let blind = bad == Bad::BlindSecondRead && process.second && other != who;
                let forgotten = bad == Bad::ForgetsOwnBallots && other == who && process.paxos.proposing().is_none();
                blocks.push((ThreadId(other as u16 + 1), if blind || forgotten { Block::default() } else { block }));
            }
            process.known = process.known.max(state.views[at].iter().copied().max().unwrap_or(0));
            if bad == Bad::ForgetsToRead && process.second {
                blocks.iter_mut().for_each(|(_, block)| block.tried = block.accepted);
            }
            match process.paxos.read(file(at), &blocks) {
                Step::Waiting => {}
                Step::Phase2 => process.second = true,
                Step::Chosen(value) => {
                    process.known = process.known.max(process.epoch);
                    state.chosen.entry(process.epoch).or_default().insert(value);
                }
                Step::Preempted(_) => state.preempted = true,
                Step::Superseded(_) => process.look.fill(true),
            }
        }
    }

    impl Model for DiskPaxos {
        type State = State;
        type Action = Action;

        fn init_states(&self) -> Vec<State> {
            let mut processes: Vec<Process> = (0..self.processes).map(|who| self.fresh(who, 0)).collect();
            processes.iter_mut().for_each(|process| self.pump(process));
            // The first reads are of empty files: done before anything else, in every order the same.
            let mut state = State {
                cells: vec![vec![Cell::Whole(Block::default()); self.processes]; self.files],
                views: vec![vec![0; self.processes]; self.files],
                processes,
                chosen: BTreeMap::new(),
                crashes: 0,
                preempted: false,
            };
            for who in 0..self.processes {
                (0..self.files).for_each(|at| self.answer(&mut state, who, at));
            }
            vec![state]
        }

        fn actions(&self, state: &State, actions: &mut Vec<Action>) {
            for (who, process) in state.processes.iter().enumerate() {
                if process.begun < self.begins[who] && process.paxos.proposing().is_none() && (process.known as usize) < self.voters.len() {
                    actions.push(Action::Begin(who));
                }
                actions.extend((0..self.files).filter(|at| process.writing[*at].is_some()).map(|at| Action::Lands(who, at)));
                actions.extend((0..self.files).filter(|at| process.reading[*at]).map(|at| Action::Answers(who, at)));
                if state.crashes < self.crashes {
                    let writes = process.writing.iter().filter(|write| write.is_some()).count();
                    for land in 0..1u8 << writes {
                        actions.push(Action::Crash { who, land, tear: false });
                        if self.tear && land != (1 << writes) - 1 {
                            actions.push(Action::Crash { who, land, tear: true });
                        }
                    }
                }
                if !process.late.is_empty() {
                    actions.push(Action::Late(who));
                }
            }
        }

        fn next_state(&self, last: &State, action: Action) -> Option<State> {
            let mut state = last.clone();
            match action {
                Action::Begin(who) => {
                    let process = &mut state.processes[who];
                    let voters: Vec<VotingId> = self.voters[process.known as usize].iter().map(|at| file(*at)).collect();
                    let value = (who as u8 + 1) * 10 + process.begun;
                    process.begun += 1;
                    process.epoch = process.known + 1;
                    process.second = false;
                    if process.paxos.begin(Epoch(process.known + 1), &voters, value).is_err() {
                        process.look.fill(true);
                    }
                }
                Action::Lands(who, at) => {
                    let process = &mut state.processes[who];
                    let (stamp, block) = process.writing[at].take()?;
                    state.views[at][who] = state.views[at][who].max(block.epoch.0 - 1);
                    state.cells[at][who] = Cell::Whole(block);
                    process.paxos.written(file(at), stamp);
                }
                Action::Answers(who, at) => self.answer(&mut state, who, at),
                Action::Crash { who, land, mut tear } => {
                    state.crashes += 1;
                    let process = state.processes[who].clone();
                    let mut late = Vec::new();
                    let writes = process.writing.into_iter().enumerate().filter_map(|(at, write)| Some((at, write?.1)));
                    for (number, (at, block)) in writes.enumerate() {
                        if land >> number & 1 == 1 {
                            state.views[at][who] = state.views[at][who].max(block.epoch.0 - 1);
                            state.cells[at][who] = Cell::Whole(block);
                        } else if std::mem::take(&mut tear) {
                            state.cells[at][who] = Cell::Torn;
                        } else if self.bad == Bad::LateWrite {
                            late.push((at, block));
                        }
                    }
                    state.processes[who] = self.fresh(who, process.begun);
                    state.processes[who].late = late;
                }
                Action::Late(who) => {
                    let (at, block) = state.processes[who].late.pop()?;
                    state.cells[at][who] = Cell::Whole(block);
                }
            }
            state.processes.iter_mut().for_each(|process| self.pump(process));
            Some(state)
        }

        fn properties(&self) -> Vec<Property<Self>> {
            let epochs = self.voters.len();
            let mut properties = vec![
                Property::always("one value per epoch", |_, state: &State| state.chosen.values().all(|values| values.len() == 1)),
                Property::sometimes("somebody gives way", |_, state: &State| state.preempted),
            ];
            if epochs > 1 {
                properties.push(Property::sometimes("two epochs", |_, state: &State| state.chosen.len() > 1));
            }
            if self.crashes > 0 {
                properties.push(Property::sometimes("decided after a crash", |_, state: &State| state.crashes > 0 && !state.chosen.is_empty()));
            }
            properties
        }
    }

    const MODEL: DiskPaxos =
        DiskPaxos { processes: 2, voters: Vec::new(), files: 3, begins: [2; 2], crashes: 0, tear: false, bad: Bad::Nothing };

    fn holds(name: &str, model: DiskPaxos) {
        let start = std::time::Instant::now();
        let checker = model.checker().threads(2).spawn_bfs().join();
        let (all, distinct) = (checker.state_count(), checker.unique_state_count());
        println!("disk paxos, {name}: {all} states, {distinct} distinct, {:.1} s", start.elapsed().as_secs_f64());
        checker.assert_properties();
    }

    fn is_caught(name: &str, model: DiskPaxos) {
        let bad = model.bad;
        let checker = model.checker().threads(2).spawn_bfs().join();
        let path = checker.discovery("one value per epoch");
        println!("disk paxos, {name}, {bad:?}: {} distinct states", checker.unique_state_count());
        assert!(path.is_some(), "{bad:?} isn't noticed");
    }

    #[test]
    fn two_proposers_over_three_files() {
        holds("two proposers", DiskPaxos { voters: vec![vec![0, 1, 2]], begins: [2, 1], ..MODEL });
    }

    #[test]
    fn restarts_and_torn_sectors() {
        holds("a crash", DiskPaxos { voters: vec![vec![0, 1, 2]], crashes: 1, tear: true, begins: [1; 2], ..MODEL });
        holds("crashes on one file", DiskPaxos { voters: vec![vec![0]], files: 1, crashes: 2, tear: true, begins: [3; 2], ..MODEL });
    }

    #[test]
    fn epochs_follow_each_other_and_slow_proposers_learn() {
        holds("epochs", DiskPaxos { voters: vec![vec![0]; 3], files: 1, begins: [3; 2], crashes: 1, ..MODEL });
    }

    #[test]
    fn a_file_is_replaced() {
        holds("a file replaced", DiskPaxos { voters: vec![vec![0], vec![1]], files: 2, begins: [3; 2], crashes: 1, ..MODEL });
    }

    #[test]
    fn what_each_rule_is_for() {
        let one = |bad| DiskPaxos { voters: vec![vec![0]], files: 1, begins: [2; 2], bad, ..MODEL };
        is_caught("one file", one(Bad::BlindSecondRead));
        is_caught("one file", DiskPaxos { crashes: 1, ..one(Bad::ForgetsOwnBallots) });
        is_caught("one file", DiskPaxos { crashes: 1, begins: [3; 2], ..one(Bad::LateWrite) });
        let three = |bad| DiskPaxos { voters: vec![vec![0, 1, 2]], begins: [2; 2], crashes: 1, tear: true, bad, ..MODEL };
        is_caught("one file", DiskPaxos { files: 1, voters: vec![vec![0]], ..three(Bad::UnreadableIsEmpty) });
        is_caught("one file", one(Bad::ForgetsToRead));
    }
}
