//! Histories of a store that exists only here: serializable in real time, snapshot isolation, or
//! read committed, and nothing wrong otherwise. They are what the checker must let pass at the
//! store's level, what violations are planted into, and what its speed is measured with.
//!
//! Sessions take turns by dice. A serializable transaction happens at one moment between its
//! invocation and its completion; at snapshot it reads what was committed at its first moment, and
//! fails if somebody committed a write of one of its keys since; at read committed each read sees
//! what is committed at that moment. Keys are retired after a number of writes, so that lists stay
//! as short as asked for however long the history is.

use std::num::NonZeroU64;

use crate::dice::Dice;
use crate::history::{
    Base, History, Key, Level, Operation, Outcome, Predicate, Transaction, Value,
};

/// What a simulated store's clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Appends to lists, and reads.
    Lists,
    /// Writes of registers that were mostly read before, and reads.
    Registers,
    /// The same with deletions and reads by a predicate.
    Items,
}

/// A simulation.
#[derive(Clone, Copy, Debug)]
pub struct Simulation {
    /// What clients do.
    pub shape: Shape,
    /// What the store promises: serializable, snapshot or read-committed.
    pub base: Base,
    /// How many transactions.
    pub transactions: usize,
    /// How many sessions take turns.
    pub sessions: usize,
    /// How many keys are in use at a time.
    pub keys: usize,
    /// After how many writes a key is retired.
    pub writes_per_key: usize,
    /// At most so many operations a transaction; twice the mean, less one half.
    pub operations_max: usize,
    /// How many of a thousand transactions abort by themselves.
    pub aborted: usize,
    /// How many of a thousand transactions have an outcome that nobody learns.
    pub unknown: usize,
    /// Which run.
    pub seed: u64,
}

impl Default for Simulation {
    fn default() -> Simulation {
        Simulation {
            shape: Shape::Lists,
            base: Base::Serializable,
            transactions: 1000,
            sessions: 20,
            keys: 10,
            writes_per_key: 32,
            operations_max: 7,
            aborted: 30,
            unknown: 10,
            seed: 1,
        }
    }
}

impl Simulation {
    /// Its history, with commit timestamps.
    pub fn run(&self) -> History {
        let mut run = Run::new(*self);
        let mut begun = 0;
        let mut open = 0;
        while begun < self.transactions || open > 0 {
            let session = run.dice.below(self.sessions.max(1));
            match run.sessions[session].take() {
                None if begun < self.transactions => {
                    begun += 1;
                    open += 1;
                    run.begin(session);
                }
                None => {}
                Some(live) => open -= usize::from(!run.step(session, live)),
            }
        }
        run.history.finish();
        run.history
    }

    /// The strongest level that the history keeps.
    pub fn level(&self) -> Level {
        let order = match self.base {
            Base::Serializable | Base::Snapshot => crate::history::Order::RealTime,
            _ => crate::history::Order::Any,
        };
        Level::new(self.base, order)
    }
}

/// A key of the store, with what was committed to it: when and what.
struct Slot {
    key: Key,
    committed: Vec<(u64, Value)>,
    /// The next value that somebody will write.
    next: i64,
}

/// What a transaction is about to do.
#[derive(Clone, Copy)]
enum Plan {
    Read(usize),
    Write(usize, Value),
    Where(Predicate),
}

/// What a transaction did. Lists that it read go into the history only if it commits.
#[derive(Clone, Copy)]
enum Done {
    Other(Operation),
    List {
        slot: usize,
        /// How much of what was committed it saw.
        committed: usize,
        /// How many of its own writes it had made.
        own: usize,
    },
}

/// A transaction on its way.
struct Live {
    about: Transaction,
    plans: Vec<Plan>,
    done: Vec<Done>,
    snapshot: u64,
    /// What it has written, by slot.
    written: Vec<(usize, Value)>,
    ended: bool,
}

struct Run {
    simulation: Simulation,
    dice: Dice,
    history: History,
    slots: Vec<Slot>,
    /// Slots in use.
    active: Vec<usize>,
    sessions: Vec<Option<Live>>,
    events: u32,
    clock: u64,
    scratch: Vec<Value>,
}

/// Values fall into so many groups, which predicates ask for.
const GROUPS: i64 = 4;

impl Run {
    fn new(simulation: Simulation) -> Run {
        let mut run = Run {
            simulation,
            dice: Dice::new(simulation.seed),
            history: History::new(),
            slots: Vec::new(),
            active: Vec::new(),
            sessions: (0..simulation.sessions.max(1)).map(|_| None).collect(),
            events: 0,
            clock: 0,
            scratch: Vec::new(),
        };
        for _ in 0..simulation.keys.max(1) {
            let slot = run.slot();
            run.active.push(slot);
        }
        run
    }

    fn slot(&mut self) -> usize {
        let key = self.history.integer_key(self.slots.len() as i64);
        self.slots.push(Slot { key, committed: Vec::new(), next: 1 });
        self.slots.len() - 1
    }

    fn event(&mut self) -> u32 {
        self.events += 1;
        self.events
    }

    fn begin(&mut self, session: usize) {
        let invoked = self.event();
        let count = 1 + self.dice.below(self.simulation.operations_max.max(1));
        let mut plans = Vec::with_capacity(count);
        for _ in 0..count {
            self.plan(&mut plans);
        }
        let about = Transaction { invoked, ..Transaction::of(session as u32) };
        let (snapshot, written) = (self.clock, Vec::new());
        let live = Live { about, plans, done: Vec::new(), snapshot, written, ended: false };
        self.sessions[session] = Some(live);
    }

    fn plan(&mut self, plans: &mut Vec<Plan>) {
        // Low places are picked more often.
        let keys = self.active.len();
        let place = self.dice.below(keys).min(self.dice.below(keys));
        let slot = self.active[place];
        let kind = self.dice.below(8);
        match self.simulation.shape {
            Shape::Items if kind == 7 => {
                let rest = self.dice.below(GROUPS as usize) as i64;
                return plans.push(Plan::Where(Predicate::Modulo(GROUPS, rest)));
            }
            Shape::Items if kind == 6 => return plans.push(Plan::Write(slot, Value::NIL)),
            Shape::Registers | Shape::Items if kind < 4 && self.dice.is(7, 8) => {
                plans.push(Plan::Read(slot));
            }
            _ if kind >= 4 => return plans.push(Plan::Read(slot)),
            _ => {}
        }
        let next = &mut self.slots[slot].next;
        let value = Value::small(*next).unwrap_or(Value::NIL);
        *next += 1;
        if *next > self.simulation.writes_per_key as i64 {
            self.active[place] = self.slot();
        }
        plans.push(Plan::Write(slot, value));
    }

    /// Goes one step; gives whether the transaction still runs.
    fn step(&mut self, session: usize, mut live: Live) -> bool {
        if live.ended {
            self.complete(live);
            return false;
        }
        let serializable = self.simulation.base == Base::Serializable;
        if serializable || live.done.len() == live.plans.len() {
            if serializable {
                live.snapshot = self.clock;
                while live.done.len() < live.plans.len() {
                    self.operate(&mut live);
                }
            }
            self.commit(&mut live);
        } else {
            self.operate(&mut live);
        }
        self.sessions[session] = Some(live);
        true
    }

    /// Does the next operation.
    fn operate(&mut self, live: &mut Live) {
        let now = match self.simulation.base {
            Base::ReadCommitted => self.clock,
            _ => live.snapshot,
        };
        let operation = match live.plans[live.done.len()] {
            Plan::Write(slot, value) => {
                live.written.push((slot, value));
                let key = self.slots[slot].key;
                match self.simulation.shape {
                    Shape::Lists => Operation::Append { key, value },
                    _ if value.is_nil() => Operation::Delete { key },
                    _ => Operation::Write { key, value },
                }
            }
            Plan::Read(slot) if self.simulation.shape == Shape::Lists => {
                let Slot { key, committed, .. } = &self.slots[slot];
                let own = live.written.len();
                let wrote = live.written.iter().any(|(of, _)| *of == slot);
                if wrote && self.simulation.base == Base::ReadCommitted {
                    // Others may still commit before it, under what it would read.
                    Operation::ReadUnknown { key: *key }
                } else {
                    let committed = committed.partition_point(|(at, _)| *at <= now);
                    return live.done.push(Done::List { slot, committed, own });
                }
            }
            Plan::Read(slot) => {
                Operation::Read { key: self.slots[slot].key, value: self.value(live, slot, now) }
            }
            Plan::Where(predicate) => {
                let found: Vec<(Key, Value)> = (0..self.slots.len())
                    .map(|slot| (self.slots[slot].key, self.value(live, slot, now)))
                    .filter(|(key, value)| predicate.matches(self.history.key_name(*key), *value))
                    .collect();
                self.history.read_where(predicate, &found)
            }
        };
        live.done.push(Done::Other(operation));
    }

    /// What a transaction sees of a register.
    fn value(&self, live: &Live, slot: usize, now: u64) -> Value {
        let own = live.written.iter().rev().find(|(of, _)| *of == slot);
        let committed = &self.slots[slot].committed;
        let upto = committed.partition_point(|(at, _)| *at <= now);
        let seen = upto.checked_sub(1).map_or(Value::NIL, |at| committed[at].1);
        own.map_or(seen, |(_, value)| *value)
    }

    fn commit(&mut self, live: &mut Live) {
        live.ended = true;
        let of_snapshot = self.simulation.base == Base::Snapshot;
        let overtaken = live.written.iter().any(|(slot, _)| {
            let last = self.slots[*slot].committed.last();
            last.is_some_and(|(at, _)| *at > live.snapshot)
        });
        if self.dice.is(self.simulation.aborted, 1000) || (of_snapshot && overtaken) {
            live.about.outcome = Outcome::Aborted;
            return;
        }
        self.clock += 1;
        for (slot, value) in &live.written {
            self.slots[*slot].committed.push((self.clock, *value));
        }
        if !live.written.is_empty() {
            live.about.commit = NonZeroU64::new(self.clock);
        }
    }

    fn complete(&mut self, mut live: Live) {
        let completed = self.event();
        live.about.completed = completed;
        if live.about.outcome == Outcome::Committed && self.dice.is(self.simulation.unknown, 1000) {
            live.about.outcome = Outcome::Unknown;
        }
        let committed = live.about.outcome == Outcome::Committed;
        if !committed {
            live.about.commit = None;
        }
        let done: Vec<Operation> =
            live.done.iter().map(|done| self.tell(&live, *done, committed)).collect();
        if live.about.outcome == Outcome::Unknown {
            live.about.completed = Transaction::NEVER;
        }
        self.history.push(live.about, &done);
    }

    /// What the history says of an operation.
    fn tell(&mut self, live: &Live, done: Done, told: bool) -> Operation {
        match done {
            Done::Other(operation) if told => operation,
            Done::Other(operation) => forgotten(operation),
            Done::List { slot, .. } if !told => {
                Operation::ReadUnknown { key: self.slots[slot].key }
            }
            Done::List { slot, committed, own } => {
                let Slot { key, committed: all, .. } = &self.slots[slot];
                self.scratch.clear();
                self.scratch.extend(all[..committed].iter().map(|(_, value)| *value));
                let own = live.written[..own].iter().filter(|(of, _)| *of == slot);
                self.scratch.extend(own.map(|(_, value)| *value));
                self.history.read_list(*key, &self.scratch)
            }
        }
    }
}

/// What nobody was told is not known.
fn forgotten(operation: Operation) -> Operation {
    match operation {
        Operation::Read { key, .. } => Operation::ReadUnknown { key },
        Operation::ReadWhere { predicate, .. } => Operation::ReadWhereUnknown { predicate },
        other => other,
    }
}
