//! What the transactions of each workload do.
//!
//! Keys are used for a while and then left, so that their version orders close: as a thread goes
//! through its part of a window, the few keys that it draws from move along. All threads move at the
//! same pace, so they meet.
//!
//! | workload | transactions | what must hold besides |
//! |---|---|---|
//! | append | put elements behind lists, read lists | |
//! | register | read and overwrite keys | |
//! | rmw | read keys, and overwrite what they read | |
//! | predicate | scan groups of keys; move a token from one key of a group to another | a group has as many tokens as ever |
//! | bank | move money between accounts; look at all accounts | the total |
//! | long-fork | insert a key; read a whole group | what two readers saw of a group is comparable |
//! | queue | put an item behind the last; take the first | each item is taken once, in order |
//!
//! Values carry what the invariant needs in their low bits ([`pack`]).

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use isolith::Isolation;

use super::client::{Abilities, Answer, Client, Failure, Reading, Terms, bytes_of, value_of};
use super::tape::{ABSENT, Key, Operation, Tape, Value};
use crate::dice::Dice;
use crate::finding::Finding;

/// What kind of transactions a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Lists, to whose end elements are put.
    Append,
    /// Registers, written blindly.
    Register,
    /// Registers, read before they are written.
    Rmw,
    /// Groups of keys, scanned, and keys that come and go.
    Predicate,
    /// Accounts.
    Bank,
    /// Keys inserted one by one, and readers of several.
    LongFork,
    /// Queues.
    Queue,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 7] = [
        Workload::Append,
        Workload::Register,
        Workload::Rmw,
        Workload::Predicate,
        Workload::Bank,
        Workload::LongFork,
        Workload::Queue,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Append => "append",
            Workload::Register => "register",
            Workload::Rmw => "rmw",
            Workload::Predicate => "predicate",
            Workload::Bank => "bank",
            Workload::LongFork => "long-fork",
            Workload::Queue => "queue",
        }
    }

    /// So many low bits of a key do not matter for which keyspace it lies in: ranges that are scanned
    /// lie in one.
    pub fn shift(self) -> u32 {
        match self {
            Workload::Queue => QUEUE_BITS,
            Workload::Predicate | Workload::Bank => GROUP_BITS,
            _ => 0,
        }
    }

    /// Whether a window begins with keys that have values.
    pub fn has_first_state(self) -> bool {
        matches!(self, Workload::Bank | Workload::Predicate)
    }

    /// How many keys, groups, banks or queues a window of so many transactions uses in turn.
    fn places(self, transactions: usize) -> usize {
        let each = match self {
            Workload::Append => 8,
            Workload::Register | Workload::Rmw => 16,
            Workload::Predicate => 64,
            Workload::Bank => 512,
            Workload::LongFork => 12,
            Workload::Queue => 128,
        };
        (transactions / each).clamp(1, PLACES_MAX)
    }

    /// How many of them are drawn from at a time.
    fn active(self) -> usize {
        match self {
            Workload::Append | Workload::Register | Workload::Rmw => 12,
            Workload::Predicate => 3,
            Workload::Bank | Workload::LongFork => 2,
            Workload::Queue => 2,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(word: &str) -> Result<Workload, String> {
        Workload::ALL.into_iter().find(|workload| workload.name() == word).ok_or_else(|| {
            let names = Workload::ALL.map(Workload::name).join(", ");
            format!("'{word}' is no workload; there are {names}")
        })
    }
}

/// Keys of a group, of an account's bank.
const GROUP_BITS: u32 = 4;
/// Keys of a group.
pub const GROUP: Key = 1 << GROUP_BITS;
/// Tokens of a group.
pub const TOKENS: usize = 6;
/// Accounts of a bank.
pub const ACCOUNTS: Key = 6;
/// What each account holds at first.
pub const MONEY: Value = 100;
/// Keys of a group of the long-fork workload.
pub const FORK: Key = 4;
/// Keys of a queue: the first is its tail's, the others are its items'.
pub const QUEUE_BITS: u32 = 12;
/// Places of a window at most; the low bits of a value can tell them.
const PLACES_MAX: usize = 4_096;
/// Low bits of a value that carry what the invariant needs.
const PAYLOAD_BITS: u32 = 20;

/// A value that no other write writes, with its payload.
pub fn pack(number: u64, payload: Value) -> Value {
    (number as Value) << PAYLOAD_BITS | payload
}

/// What a value carries.
pub fn payload(value: Value) -> Value {
    value & ((1 << PAYLOAD_BITS) - 1)
}

/// The group that a key of the predicate, bank or long-fork workload belongs to.
pub fn group_of(workload: Workload, key: Key) -> Key {
    match workload {
        Workload::LongFork => key / FORK,
        Workload::Queue => key >> QUEUE_BITS,
        _ => key >> GROUP_BITS,
    }
}

/// The keys of a group.
pub fn keys_of(workload: Workload, group: Key) -> Range<Key> {
    match workload {
        Workload::LongFork => group * FORK..(group + 1) * FORK,
        Workload::Bank => group << GROUP_BITS..(group << GROUP_BITS) + ACCOUNTS,
        Workload::Queue => group << QUEUE_BITS..(group + 1) << QUEUE_BITS,
        _ => group << GROUP_BITS..(group + 1) << GROUP_BITS,
    }
}

/// Where a thread is in its part of a window.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// The workload.
    pub workload: Workload,
    /// Keys, groups, banks or queues of the window.
    pub places: usize,
    /// Those drawn from now: from here on.
    first: usize,
    active: usize,
}

impl Course {
    /// The course of a window of so many transactions.
    pub fn of(workload: Workload, transactions: usize) -> Course {
        let places = workload.places(transactions);
        Course { workload, places, first: 0, active: workload.active().min(places) }
    }

    /// Where one is after `done` of `of` transactions.
    pub fn at(self, done: usize, of: usize) -> Course {
        let first = (self.places - self.active) * done / of.max(1);
        Course { first, ..self }
    }

    fn draw(&self, dice: &mut Dice) -> Key {
        (self.first + dice.below(self.active)) as Key
    }

    /// Every key that may be there at the window's end, but for those of queues.
    pub fn keys(&self) -> Range<Key> {
        let places = self.places as Key;
        match self.workload {
            Workload::LongFork => 0..places * FORK,
            Workload::Predicate | Workload::Bank => 0..places << GROUP_BITS,
            Workload::Queue => 0..0,
            _ => 0..places,
        }
    }

    /// The groups, banks or queues.
    pub fn groups(&self) -> Range<Key> {
        0..self.places as Key
    }
}

/// Numbers of a thread that no other thread of the run draws.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    next: u64,
    step: u64,
}

impl Numbers {
    /// Those of the `thread`-th of so many.
    pub fn new(thread: usize, threads: usize) -> Numbers {
        Numbers { next: thread as u64 + 1, step: threads as u64 }
    }

    fn draw(&mut self) -> u64 {
        let number = self.next;
        self.next += self.step;
        number
    }
}

/// What a transaction works with: it does an operation and writes it down.
pub struct Hand<'a, C> {
    /// The session; a transaction is open.
    pub client: &'a mut C,
    /// What is written down.
    pub tape: &'a mut Tape,
    /// What the transaction is protected from.
    pub terms: Terms,
    /// What decides its choices.
    pub dice: &'a mut Dice,
    /// What it writes.
    pub numbers: &'a mut Numbers,
    /// Bytes read.
    pub bytes: &'a mut Vec<u8>,
    /// Pairs found.
    pub found: &'a mut Vec<(Key, Value)>,
}

impl<C: Client> Hand<'_, C> {
    fn abilities(&self) -> Abilities {
        self.client.abilities()
    }

    /// Now and then lets others in.
    fn pause(&mut self) {
        if self.dice.is(1, 64) {
            std::thread::yield_now();
        }
    }

    fn read(&mut self, key: Key, reading: Reading) -> Answer<Value> {
        self.pause();
        let value = match self.client.get(key, reading, self.bytes)? {
            true => value_of(self.bytes)?,
            false => ABSENT,
        };
        self.tape.note(Operation::Read(key, value));
        Ok(value)
    }

    /// A read of what is going to be written. At read committed a plain read protects nothing.
    fn read_to_write(&mut self, key: Key) -> Answer<Value> {
        let for_update = self.terms.isolation == Isolation::ReadCommitted || self.dice.is(1, 4);
        self.read(key, if for_update { Reading::ForUpdate } else { Reading::Plain })
    }

    fn write(&mut self, key: Key, payload: Value) -> Answer {
        self.pause();
        let value = pack(self.numbers.draw(), payload);
        self.client.put(key, &bytes_of(value))?;
        self.tape.note(Operation::Write(key, value));
        Ok(())
    }

    fn delete(&mut self, key: Key) -> Answer {
        self.pause();
        self.client.delete(key)?;
        self.tape.note(Operation::Delete(key));
        Ok(())
    }

    fn scan(&mut self, keys: Range<Key>) -> Answer {
        self.pause();
        self.client.scan(keys.clone(), usize::MAX, self.found)?;
        let elements = self.found.iter().flat_map(|&(key, value)| [Value::from(key), value]);
        let elements = self.tape.keep(elements);
        self.tape.note(Operation::Scan(keys.start, keys.end, elements));
        Ok(())
    }

    /// Reads a list; its bytes are left in `self.bytes`.
    fn list(&mut self, key: Key, reading: Reading) -> Answer {
        self.pause();
        if !self.client.get(key, reading, self.bytes)? {
            self.bytes.clear();
        }
        let elements = self.bytes.chunks_exact(8);
        if !elements.remainder().is_empty() {
            let torn = format!("a torn list at key {key}: {:?}", self.bytes);
            return Err(Failure::Wrong(Finding::new(torn)));
        }
        let number = |chunk: &[u8]| Value::from_be_bytes(chunk.try_into().expect("eight bytes"));
        let elements = self.tape.keep(elements.map(number));
        self.tape.note(Operation::List(key, elements));
        Ok(())
    }

    /// Puts an element behind a list: blindly where that can be had and the level does not say that
    /// the first committer wins, otherwise after reading it.
    fn append(&mut self, key: Key) -> Answer {
        let value = self.numbers.draw() as Value;
        let level = self.terms.isolation;
        let blind = self.abilities().append && self.dice.is(1, 2);
        if !blind || level == Isolation::Snapshot {
            let for_update = level == Isolation::ReadCommitted || self.dice.is(1, 4);
            self.list(key, if for_update { Reading::ForUpdate } else { Reading::Plain })?;
        }
        if blind {
            self.client.append(key, &bytes_of(value))?;
        } else {
            self.bytes.extend_from_slice(&bytes_of(value));
            self.client.put(key, self.bytes)?;
        }
        self.tape.note(Operation::Append(key, value));
        Ok(())
    }
}

/// Runs one transaction's operations. `reads_only`: it was decided that it writes nothing.
pub fn transaction<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    match course.workload {
        Workload::Append => append(hand, course, reads_only),
        Workload::Register => register(hand, course, reads_only),
        Workload::Rmw => rmw(hand, course, reads_only),
        Workload::Predicate => predicate(hand, course, reads_only),
        Workload::Bank => bank(hand, course, reads_only),
        Workload::LongFork => long_fork(hand, course, reads_only),
        Workload::Queue => queue(hand, course, reads_only),
    }
}

/// The state that a window begins with.
pub fn set_up<C: Client>(hand: &mut Hand<'_, C>, course: &Course) -> Answer {
    match course.workload {
        Workload::Bank => {
            for account in course.groups().flat_map(|bank| keys_of(Workload::Bank, bank)) {
                hand.write(account, MONEY)?;
            }
        }
        Workload::Predicate => {
            for group in course.groups() {
                for key in keys_of(Workload::Predicate, group).take(TOKENS) {
                    hand.write(key, group.into())?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Reads everything at the end of a window, group by group: what is lost is missed.
pub fn audit<C: Client>(hand: &mut Hand<'_, C>, course: &Course, group: Key) -> Answer {
    match course.workload {
        Workload::Append => hand.list(group, Reading::Plain),
        Workload::Register | Workload::Rmw => hand.read(group, Reading::Plain).map(drop),
        Workload::LongFork => keys_of(Workload::LongFork, group)
            .try_for_each(|key| hand.read(key, Reading::Plain).map(drop)),
        Workload::Bank => look_at_bank(hand, group),
        Workload::Predicate | Workload::Queue => hand.scan(keys_of(course.workload, group)),
    }
}

fn append<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    for _ in 0..=hand.dice.below(6) {
        let key = course.draw(hand.dice);
        if !reads_only && hand.dice.is(1, 2) {
            hand.append(key)?;
            continue;
        }
        // At read committed others may come between what was blindly put behind a list and the
        // commit: who reads the list before must keep them out.
        let own = hand.terms.isolation == Isolation::ReadCommitted && hand.tape.has_appended(key);
        hand.list(key, if own { Reading::ForUpdate } else { Reading::Plain })?;
    }
    Ok(())
}

fn register<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    for _ in 0..=hand.dice.below(7) {
        let key = course.draw(hand.dice);
        match reads_only || hand.dice.is(1, 2) {
            true => drop(hand.read(key, Reading::Plain)?),
            false => hand.write(key, 0)?,
        }
    }
    Ok(())
}

fn rmw<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    for _ in 0..=hand.dice.below(4) {
        let key = course.draw(hand.dice);
        match reads_only || hand.dice.is(1, 3) {
            true => drop(hand.read(key, Reading::Plain)?),
            false => {
                hand.read_to_write(key)?;
                hand.write(key, 0)?;
            }
        }
    }
    Ok(())
}

fn predicate<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    let group = course.draw(hand.dice);
    let keys = keys_of(Workload::Predicate, group);
    if reads_only || hand.dice.is(1, 3) {
        let other = course.draw(hand.dice);
        hand.scan(keys)?;
        return hand.scan(keys_of(Workload::Predicate, other));
    }
    let (from, to) = match hand.dice.is(1, 2) {
        true => {
            hand.scan(keys.clone())?;
            if hand.found.is_empty() {
                return Ok(());
            }
            let from = hand.dice.pick(hand.found).0;
            (from, keys.start + hand.dice.below(GROUP as usize) as Key)
        }
        false => {
            let mut any = || keys.start + hand.dice.below(GROUP as usize) as Key;
            (any(), any())
        }
    };
    // Whatever the scan said, the two keys are looked at: that is what every level protects.
    if from == to || hand.read_to_write(from)? == ABSENT || hand.read_to_write(to)? != ABSENT {
        return Ok(());
    }
    hand.delete(from)?;
    hand.write(to, group.into())
}

fn look_at_bank<C: Client>(hand: &mut Hand<'_, C>, bank: Key) -> Answer {
    let accounts = keys_of(Workload::Bank, bank);
    if hand.abilities().scan && hand.dice.is(1, 2) {
        return hand.scan(accounts);
    }
    accounts.into_iter().try_for_each(|account| hand.read(account, Reading::Plain).map(drop))
}

fn bank<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    let bank = course.draw(hand.dice);
    if reads_only || hand.dice.is(1, 4) {
        return look_at_bank(hand, bank);
    }
    let accounts = keys_of(Workload::Bank, bank).start;
    let from = hand.dice.below(ACCOUNTS as usize) as Key;
    let to = (from + 1 + hand.dice.below(ACCOUNTS as usize - 1) as Key) % ACCOUNTS;
    let (from, to) = (accounts + from, accounts + to);
    let (old_from, old_to) = (hand.read_to_write(from)?, hand.read_to_write(to)?);
    let amount = (hand.dice.below(20) as Value).min(payload(old_from));
    hand.write(from, payload(old_from) - amount)?;
    hand.write(to, payload(old_to) + amount)
}

fn long_fork<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    let group = course.draw(hand.dice);
    let keys = keys_of(Workload::LongFork, group);
    if !reads_only && hand.dice.is(1, 2) {
        // A key is only ever inserted: who finds it there leaves it.
        let key = keys.start + hand.dice.below(FORK as usize) as Key;
        return match hand.read_to_write(key)? {
            ABSENT => hand.write(key, 0),
            _ => Ok(()),
        };
    }
    let turn = hand.dice.below(FORK as usize) as Key;
    for place in 0..FORK {
        hand.read(keys.start + (turn + place) % FORK, Reading::Plain)?;
    }
    Ok(())
}

fn queue<C: Client>(hand: &mut Hand<'_, C>, course: &Course, reads_only: bool) -> Answer {
    let queue = course.draw(hand.dice);
    let keys = keys_of(Workload::Queue, queue);
    if reads_only {
        return hand.read(keys.start, Reading::Plain).map(drop);
    }
    // A little less is put in than is asked for, so that queues stay short.
    if hand.dice.is(12, 25) {
        let last = payload(hand.read_to_write(keys.start)?);
        hand.write(keys.start, last + 1)?;
        return hand.write(keys.start + 1 + last as Key, last);
    }
    hand.pause();
    hand.client.scan(keys.start + 1..keys.end, 1, hand.found)?;
    let Some(&(first, value)) = hand.found.first() else {
        return Ok(());
    };
    if hand.terms.isolation == Isolation::ReadCommitted {
        // At this level nothing else says that it is still there.
        if hand.read(first, Reading::ForUpdate)? == ABSENT {
            return Ok(());
        }
    } else {
        hand.tape.note(Operation::Read(first, value));
    }
    hand.delete(first)
}
