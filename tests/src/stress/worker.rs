//! One thread of a stress: transaction after transaction, each decided by the seed, each written down.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isolith::{Durability, Isolation};

use super::client::{Answer, Client, Failure, Terms, bytes_of, mark_of};
use super::mix::Mix;
use super::tape::{End, Entry, Key, Tape, Value};
use super::workload::{self, Course, Hand, Numbers};
use crate::dice::Dice;

/// What all threads of a window share.
#[derive(Debug)]
pub struct Job<'a> {
    /// What the transactions do.
    pub course: Course,
    /// How they are protected.
    pub mix: &'a Mix,
    /// When they are acknowledged: each draws one of these.
    pub durabilities: &'a [Durability],
    /// Counts what happens, in its order.
    pub clock: &'a AtomicU64,
    /// Set when the run is to end.
    pub stop: &'a AtomicBool,
}

/// One thread's part of a window.
#[derive(Debug)]
pub struct Worker {
    /// Its number among the threads.
    process: u16,
    /// The last mark that it left.
    mark: Value,
    dice: Dice,
    numbers: Numbers,
    /// What it has done.
    pub tape: Tape,
    done: usize,
    of: usize,
    bytes: Vec<u8>,
    found: Vec<(Key, Value)>,
}

impl Worker {
    /// The thread of this number, that writes these numbers.
    pub fn new(process: u16, numbers: Numbers) -> Worker {
        let dice = Dice::new(0);
        let (tape, bytes, found) = (Tape::default(), Vec::new(), Vec::new());
        Worker { process, mark: 0, dice, numbers, tape, done: 0, of: 0, bytes, found }
    }

    /// Its number among the threads.
    pub fn process(&self) -> u16 {
        self.process
    }

    /// Begins its part of a window: so many transactions, decided by `seed`.
    pub fn begin_window(&mut self, seed: u64, transactions: usize) {
        self.dice = Dice::new(seed);
        (self.done, self.of) = (0, transactions);
    }

    /// Whether its part is done.
    pub fn is_done(&self) -> bool {
        self.done >= self.of
    }

    /// Runs the rest of its part, unless the database goes away or the run is to end.
    pub fn run<C: Client>(&mut self, client: &mut C, job: &Job<'_>) -> Answer {
        // Relaxed: only when to stop.
        while !self.is_done() && !job.stop.load(Ordering::Relaxed) {
            let course = job.course.at(self.done, self.of);
            let share = job.mix.draw(&mut self.dice);
            let protection = job.mix.shares()[share];
            let reads_only = self.dice.is(1, 4);
            let read_only = reads_only && client.abilities().read_only && self.dice.is(1, 2);
            let terms = Terms {
                isolation: protection.isolation,
                concurrency: protection.concurrency,
                durability: *self.dice.pick(job.durabilities),
                read_only,
            };
            let gives_up = self.dice.is(1, 64);
            self.done += 1;
            self.transaction(client, job, terms, share, |hand| {
                workload::transaction(hand, &course, reads_only).map(|()| !gives_up)
            })?;
        }
        Ok(())
    }

    /// One transaction: commits if `body` says so.
    pub fn transaction<C: Client>(
        &mut self,
        client: &mut C,
        job: &Job<'_>,
        terms: Terms,
        share: usize,
        body: impl FnOnce(&mut Hand<'_, C>) -> Answer<bool>,
    ) -> Answer {
        // A read-only transaction sees one acknowledged state, whatever its level.
        let level = if terms.read_only { Isolation::Serializable } else { terms.isolation };
        // AcqRel, here and below: who counts later has seen what was done by who counted before.
        let invoked = job.clock.fetch_add(1, Ordering::AcqRel);
        let mut entry = Entry::begun(invoked, level, terms.durability, share);
        entry.read_only = terms.read_only;
        let (end, answer) = match client.begin(&terms) {
            Err(failure) => (End::Aborted, Err(failure)),
            Ok(()) => {
                entry.read_timestamp = client.read_timestamp();
                let Worker { dice, numbers, tape, bytes, found, .. } = self;
                let mut hand = Hand { client, tape, terms, dice, numbers, bytes, found };
                match body(&mut hand) {
                    Ok(true) => match self.leave_mark(client, &mut entry) {
                        Ok(()) => commit(client, &mut entry),
                        Err(failure) => (End::Aborted, Err(failure)),
                    },
                    Ok(false) => {
                        client.roll_back();
                        (End::Aborted, Ok(()))
                    }
                    Err(failure) => (End::Aborted, Err(failure)),
                }
            }
        };
        entry.completed = job.clock.fetch_add(1, Ordering::AcqRel);
        entry.end = end;
        self.tape.end(entry);
        match answer {
            Err(Failure::Refused) => Ok(()),
            other => other,
        }
    }
}

impl Worker {
    /// Leaves a mark, if the transaction under way writes and the target wants it.
    fn leave_mark<C: Client>(&mut self, client: &mut C, entry: &mut Entry) -> Answer {
        if !client.abilities().marks || !self.tape.will_write() {
            return Ok(());
        }
        self.mark += 1;
        entry.mark = Some(self.mark);
        client.put(mark_of(self.process), &bytes_of(self.mark))
    }
}

fn commit<C: Client>(client: &mut C, entry: &mut Entry) -> (End, Answer) {
    match client.commit() {
        Ok(ended) => {
            entry.read_timestamp = ended.observed.or(entry.read_timestamp);
            (ended.end, ended.then)
        }
        // It was handed in: who knows.
        Err(failure) => (End::Unknown(None), Err(failure)),
    }
}
