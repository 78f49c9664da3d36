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
        again: bool,
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
        Crash {
            who: usize,
            land: u8,
            tear: bool,
        },
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
        /// Files that answer each process, in its first life and in later ones.
        reach: [[&'static [usize]; 2]; 2],
        bad: Bad,
    }

    fn file(at: usize) -> VotingId {
        VotingId(at as u64 + 1)
    }

    impl DiskPaxos {
        fn fresh(&self, who: usize, begun: u8, again: bool) -> Process {
            Process {
                paxos: Paxos::new(ThreadId(who as u16 + 1)),
                writing: vec![None; self.files],
                reading: vec![false; self.files],
                look: vec![true; self.files],
                known: 0,
                again,
                second: false,
                epoch: 0,
                begun,
                late: Vec::new(),
            }
        }

        /// What a driver does at once: begins the writes and reads that are wanted. Waiting is in when they end.
        fn pump(&self, who: usize, process: &mut Process) {
            for at in self.reach[who][usize::from(process.again)].iter().copied().filter(|at| *at < self.files) {
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
            let mut processes: Vec<Process> = (0..self.processes).map(|who| self.fresh(who, 0, false)).collect();
            processes.iter_mut().enumerate().for_each(|(who, process)| self.pump(who, process));
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
                (0..self.files).filter(|at| self.reach[who][0].contains(at)).for_each(|at| self.answer(&mut state, who, at));
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
                if state.crashes < self.crashes && process.begun > 0 {
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
                    state.processes[who] = self.fresh(who, process.begun, true);
                    state.processes[who].late = late;
                }
                Action::Late(who) => {
                    let (at, block) = state.processes[who].late.pop()?;
                    state.cells[at][who] = Cell::Whole(block);
                }
            }
            state.processes.iter_mut().enumerate().for_each(|(who, process)| self.pump(who, process));
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
                properties
                    .push(Property::sometimes("decided after a crash", |_, state: &State| state.crashes > 0 && !state.chosen.is_empty()));
            }
            properties
        }
    }

    const MODEL: DiskPaxos = DiskPaxos {
        processes: 2,
        voters: Vec::new(),
        files: 3,
        begins: [2; 2],
        crashes: 0,
        tear: false,
        reach: [[&[0, 1, 2]; 2]; 2],
        bad: Bad::Nothing,
    };

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
        holds("two proposers", DiskPaxos { voters: vec![vec![0, 1, 2]], begins: [1; 2], ..MODEL });
    }

    #[test]
    fn restarts_and_torn_sectors() {
        // Any two majorities share one file, and here no more: what was accepted must be found there, or by adoption.
        let reach: [[&[usize]; 2]; 2] = [[&[0, 1], &[1, 2]], [&[0, 2], &[0, 2]]];
        holds("a crash", DiskPaxos { voters: vec![vec![0, 1, 2]], crashes: 1, tear: true, begins: [2, 1], reach, ..MODEL });
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
        is_caught("one file", DiskPaxos { crashes: 2, tear: true, begins: [2, 1], ..one(Bad::UnreadableIsEmpty) });
    }
}

mod fencing {
    use std::collections::BTreeMap;

    use regroup::base::{Epoch, Incarnation, ThreadId};
    use regroup::membership::paxos::{Block, Paxos, Step};
    use regroup::membership::view::{Change, Confirmation, Identity, Method};
    use regroup::membership::{View, VotingId};
    use stateright::{Checker, Model, Property};

    const FILE: VotingId = VotingId(1);
    /// The one that writes, dies and restarts; both evict each other.
    const VICTIM: usize = 1;

    /// A rule left out.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Bad {
        Nothing,
        /// A fence that can't be confirmed counts as confirmed.
        UnknownIsConfirmed,
        /// Redo begins with the evicting view.
        RedoAtEviction,
        /// A killed process counts as drained.
        DeadIsDrained,
        /// A new life begins, and is the proof of its predecessor's death, before the old one has drained.
        StartsTooEarly,
    }

    /// One life of an instance, and what the world may still do in its name.
    #[derive(Clone, Hash, PartialEq, Eq, Debug)]
    struct Process {
        life: u64,
        alive: bool,
        /// A write to shared storage in flight, and of which life.
        in_flight: Option<u64>,
        paxos: Paxos<View>,
        writing: Option<(u64, Block<View>)>,
        reading: bool,
        /// Newest view known; as a member it has installed it.
        view: View,
        asked: u8,
        /// Fences that this life holds for confirmed.
        confirmed: Vec<Identity>,
    }

    #[derive(Clone, Hash, PartialEq, Eq, Debug)]
    struct State {
        blocks: Vec<Block<View>>,
        views: Vec<View>,
        processes: Vec<Process>,
        /// Every view ever chosen.
        chosen: BTreeMap<Epoch, Vec<View>>,
        /// Lives whose log somebody has begun to redo, and whether one of them could still write then.
        redone: bool,
        redone_too_early: bool,
        installed_backwards: bool,
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Action {
        /// Proposes a view without the other, rightly or not; a confirmation, when there is one; and itself, when it isn't a member.
        Propose(usize),
        Lands(usize),
        Answers(usize),
        /// Issues a write to shared storage; it ends some time.
        Write(usize),
        Ends(usize),
        Dies(usize),
        Starts(usize),
        /// The fence of an unconfirmed life gets an outcome: the truth, or unknown.
        Confirm(usize),
        Unknown(usize),
        Redo(usize),
    }

    struct Fencing {
        proposals: [u8; 2],
        lives: u64,
        bad: Bad,
    }

    fn identity(who: usize, life: u64) -> Identity {
        Identity::new(ThreadId(who as u16 + 1), Incarnation(life))
    }

    impl Process {
        fn fresh(who: usize, life: u64, view: View) -> Process {
            Process {
                life,
                alive: true,
                in_flight: None,
                paxos: Paxos::new(ThreadId(who as u16 + 1)),
                writing: None,
                reading: false,
                view,
                asked: 0,
                confirmed: Vec::new(),
            }
        }

        fn pump(&mut self) {
            if !self.alive {
                return;
            }
            if self.writing.is_none()
                && let Some(block) = self.paxos.to_write(FILE).cloned()
            {
                self.writing = Some((self.paxos.write_begins(FILE), block));
            }
            if !self.reading && self.paxos.to_read(FILE) {
                self.paxos.read_begins(FILE);
                self.reading = true;
            }
        }
    }

    impl Fencing {
        fn answer(&self, state: &mut State, who: usize) {
            let blocks: Vec<(ThreadId, Block<View>)> = (1..).map(ThreadId).zip(state.blocks.iter().cloned()).collect();
            let newest = state.views.iter().max_by_key(|view| view.epoch).cloned();
            let process = &mut state.processes[who];
            process.reading = false;
            let step = process.paxos.read(FILE, &blocks);
            let mut learned: Vec<View> = newest.into_iter().collect();
            if let Step::Chosen(view) = step {
                state.chosen.entry(view.epoch).or_default().push(view.clone());
                state.views[who] = view.clone();
                learned.push(view);
            }
            for view in learned {
                if view.epoch > process.view.epoch {
                    process.view = view;
                }
            }
            // Whoever reads that it is evicted exits. (Its writes in flight don't.)
            let me = identity(who, process.life);
            if process.view.unconfirmed.contains(&me) || process.view.proves(me) {
                process.alive = false;
            }
        }

        /// Whether some life of the instance up to this one can still write.
        fn can_write(state: &State, whose: Identity) -> bool {
            let process = &state.processes[usize::from(whose.id.0) - 1];
            process.in_flight.is_some_and(|life| life <= whose.incarnation.0) || (process.alive && process.life <= whose.incarnation.0)
        }

        fn change(&self, state: &State, who: usize) -> Change {
            let process = &state.processes[who];
            let mut change = Change::default();
            for member in process.view.members.iter().filter(|member| **member != identity(who, process.life)) {
                let successor = member.id.0 as usize == who + 1;
                change.evict.push((*member, successor.then_some(Method::Successor)));
            }
            for out in &process.view.unconfirmed {
                let successor = out.id.0 as usize == who + 1;
                if process.confirmed.contains(out) || successor {
                    let method = if successor { Method::Successor } else { Method::Guard };
                    change.confirm.push(Confirmation { id: out.id, incarnation: out.incarnation, method });
                }
            }
            if !process.view.has(identity(who, process.life)) {
                change.join.push(identity(who, process.life));
            }
            change
        }
    }

    impl Model for Fencing {
        type State = State;
        type Action = Action;

        fn init_states(&self) -> Vec<State> {
            // Both are members; epoch 1 was decided.
            let first =
                View::genesis(&[FILE]).next(ThreadId(1), &Change { join: vec![identity(0, 1), identity(1, 1)], ..Change::default() });
            let processes = (0..2).map(|who| Process::fresh(who, 1, first.clone())).collect();
            let blocks = vec![Block { epoch: Epoch(1), ..Block::default() }; 2];
            let mut state = State {
                blocks,
                views: vec![first.clone(); 2],
                processes,
                chosen: BTreeMap::from([(Epoch(1), vec![first])]),
                redone: false,
                redone_too_early: false,
                installed_backwards: false,
            };
            (0..2).for_each(|who| self.answer(&mut state, who));
            vec![state]
        }

        fn actions(&self, state: &State, actions: &mut Vec<Action>) {
            for (who, process) in state.processes.iter().enumerate() {
                if process.in_flight.is_some() {
                    actions.push(Action::Ends(who));
                }
                if process.writing.is_some() {
                    actions.push(Action::Lands(who));
                }
                let drained = process.in_flight.is_none() && process.writing.is_none();
                if !process.alive {
                    if process.life < self.lives && (drained || self.bad == Bad::StartsTooEarly) {
                        actions.push(Action::Starts(who));
                    }
                    continue;
                }
                if who == VICTIM {
                    actions.push(Action::Dies(who));
                }
                if process.reading {
                    actions.push(Action::Answers(who));
                }
                if who == VICTIM && process.in_flight.is_none() && process.view.has(identity(who, process.life)) {
                    actions.push(Action::Write(who));
                }
                if process.asked < self.proposals[who] && process.paxos.proposing().is_none() && !self.change(state, who).is_empty() {
                    actions.push(Action::Propose(who));
                }
                for out in process.view.unconfirmed.iter().filter(|out| !process.confirmed.contains(out)) {
                    let victim = &state.processes[usize::from(out.id.0) - 1];
                    let dead = !victim.alive || victim.life > out.incarnation.0;
                    if dead && (victim.in_flight.is_none() || self.bad == Bad::DeadIsDrained) {
                        actions.push(Action::Confirm(who));
                    }
                    actions.push(Action::Unknown(who));
                }
                actions.push(Action::Redo(who));
            }
        }

        fn next_state(&self, last: &State, action: Action) -> Option<State> {
            let mut state = last.clone();
            match action {
                Action::Propose(who) => {
                    let change = self.change(last, who);
                    let process = &mut state.processes[who];
                    process.asked += 1;
                    let next = process.view.next(ThreadId(who as u16 + 1), &change);
                    // Refused: it has to read first.
                    if process.paxos.begin(next.epoch, &[FILE], next).is_err() && !process.reading {
                        process.paxos.read_begins(FILE);
                        process.reading = true;
                    }
                }
                Action::Lands(who) => {
                    let (stamp, block) = state.processes[who].writing.take()?;
                    // The view before stands in the view sector first.
                    if state.views[who].epoch.0 + 1 < block.epoch.0 {
                        state.views[who] = state.processes[who].view.clone();
                    }
                    state.blocks[who] = block;
                    state.processes[who].paxos.written(FILE, stamp);
                }
                Action::Answers(who) => self.answer(&mut state, who),
                Action::Write(who) => state.processes[who].in_flight = Some(state.processes[who].life),
                Action::Ends(who) => state.processes[who].in_flight = None,
                Action::Dies(who) => {
                    let process = &mut state.processes[who];
                    process.alive = false;
                    process.reading = false;
                }
                Action::Starts(who) => {
                    let old = &state.processes[who];
                    let (life, in_flight) = (old.life + 1, old.in_flight);
                    let newest = state.views.iter().max_by_key(|view| view.epoch)?.clone();
                    state.processes[who] = Process { in_flight, ..Process::fresh(who, life, newest) };
                    self.answer(&mut state, who);
                }
                Action::Confirm(who) => {
                    let process = &mut state.processes[who];
                    process.confirmed = process.view.unconfirmed.clone();
                }
                Action::Unknown(who) => {
                    if self.bad != Bad::UnknownIsConfirmed {
                        return None;
                    }
                    let process = &mut state.processes[who];
                    process.confirmed = process.view.unconfirmed.clone();
                }
                Action::Redo(who) => {
                    let process = &state.processes[who];
                    let view = &process.view;
                    let me = identity(who, process.life);
                    if !view.has(me) {
                        return None;
                    }
                    // The right to redo: evicted and confirmed by a view, or replaced by a newer life.
                    let confirmed = view.confirmed.iter().map(|done| Identity::new(done.id, done.incarnation));
                    let early = view.unconfirmed.iter().copied().filter(|_| self.bad == Bad::RedoAtEviction);
                    // The own last life too.
                    let successors = view.members.iter().filter(|member| member.incarnation.0 > 1);
                    let replaced = successors.map(|member| Identity::new(member.id, Incarnation(member.incarnation.0 - 1)));
                    let rights: Vec<Identity> = confirmed.chain(early).chain(replaced).collect();
                    if rights.is_empty() || state.redone {
                        return None;
                    }
                    state.redone = true;
                    state.redone_too_early = rights.iter().any(|whose| Fencing::can_write(last, *whose));
                }
            }
            state.processes.iter_mut().for_each(Process::pump);
            let back = |(old, new): (&Process, &Process)| new.life == old.life && new.view.epoch < old.view.epoch;
            state.installed_backwards |= last.processes.iter().zip(&state.processes).any(back);
            Some(state)
        }

        fn properties(&self) -> Vec<Property<Self>> {
            vec![
                Property::always("one view per epoch", |_, state: &State| {
                    state.chosen.values().all(|views| views.iter().all(|view| *view == views[0]))
                }),
                Property::always("one coordinator per epoch", |_, state: &State| {
                    let coordinators = state.processes.iter().filter(|process| process.view.coordinator.0 > 0);
                    coordinators.clone().all(|one| {
                        coordinators
                            .clone()
                            .all(|other| one.view.epoch != other.view.epoch || one.view.coordinator == other.view.coordinator)
                    })
                }),
                Property::always("epochs follow each other and none comes back", |_, state: &State| {
                    let epochs: Vec<u64> = state.chosen.keys().map(|epoch| epoch.0).collect();
                    !state.installed_backwards && epochs.windows(2).all(|pair| pair[1] == pair[0] + 1)
                }),
                Property::always("no redo before the fence", |_, state: &State| !state.redone_too_early),
                Property::sometimes("redo", |_, state: &State| state.redone),
                Property::sometimes("a second life is a member", |_, state: &State| {
                    state.processes.iter().any(|process| process.view.members.iter().any(|member| member.incarnation.0 > 1))
                }),
            ]
        }
    }

    fn checked(model: Fencing) -> impl Checker<Fencing> {
        let (bad, start) = (model.bad, std::time::Instant::now());
        let checker = model.checker().threads(2).spawn_bfs().join();
        let (all, distinct) = (checker.state_count(), checker.unique_state_count());
        println!("fencing, {bad:?}: {all} states, {distinct} distinct, {:.1} s", start.elapsed().as_secs_f64());
        checker
    }

    #[test]
    fn no_redo_before_a_confirmed_fence() {
        checked(Fencing { proposals: [2, 1], lives: 2, bad: Bad::Nothing }).assert_properties();
    }

    #[test]
    fn what_each_rule_is_for() {
        for bad in [Bad::UnknownIsConfirmed, Bad::RedoAtEviction, Bad::DeadIsDrained, Bad::StartsTooEarly] {
            let checker = checked(Fencing { proposals: [2, 1], lives: 2, bad });
            assert!(checker.discovery("no redo before the fence").is_some(), "{bad:?} isn't noticed");
        }
    }
}
