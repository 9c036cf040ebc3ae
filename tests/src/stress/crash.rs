//! The library on a disk that crashes: power cuts, killed processes, failing calls and orderly closes
//! in the middle of the load, and recovery after each.
//!
//! The disk is [`FaultyStorage`]: after a crash it is left in one of the states in which a power cut
//! may legally leave it. Lives nest: recovery is crashed, too, now and then.
//!
//! What must hold after a recovery, besides what the judges say of the whole history:
//! 1. The database opens.
//! 2. Every commit that was acknowledged at a durability that covers the end of the life before is
//!    there, and so is whatever a life before has recovered.
//! 3. What is there ends with one commit: all before it are there, none after it is.
//! 4. No commit timestamp is given out twice, by any life.
//!
//! One thread and a seed make the same run, call by call: then the engine has no threads of its own.

use std::sync::Arc;
use std::time::Duration;

use isolith::storage::faulty::{Fault, FaultyStorage, Survival};
use isolith::{Builder, Database, Durability, ManualClock, OpenError};

use super::client::{Answer, Failure};
use super::embedded::{self, Embedded, Place};
use super::{Recovery, Target};
use crate::crash::{DISKS, NOW, SEGMENT_BYTES};
use crate::dice::Dice;
use crate::finding::Finding;

/// How a life is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// At a storage call of its own.
    Crash,
    /// A call fails; the database is opened again on the same boot, or the power is cut after all.
    Fault,
    /// With the window, whatever happens then.
    Window,
}

/// A database whose lives end.
#[derive(Debug)]
pub struct Lives {
    dice: Dice,
    disk: FaultyStorage,
    place: Option<Place>,
    shift: u32,
    /// Whether the engine runs no threads of its own.
    alone: bool,
    /// When transactions of this window are acknowledged.
    durabilities: Vec<Durability>,
    /// What a life has recovered is safe from then on.
    floor: u64,
    /// What may happen next.
    ending: Ending,
}

/// Storage calls until a crash, at most: some hundred transactions make as many.
const CALLS_MAX: usize = 400;
/// How long a commit waits for room in the log: a disk that has crashed will never give any.
const STALL_TIMEOUT: Duration = Duration::from_millis(100);
/// Windows of one database: then a new one is taken, since a log only grows.
const WINDOWS_MAX: u64 = 16;

impl Lives {
    /// A new database on a disk of its own. `alone`: one thread will use it, and all is repeatable.
    ///
    /// # Errors
    /// If it does not open.
    pub fn new(seed: u64, shift: u32, alone: bool) -> Answer<Lives> {
        let mut dice = Dice::new(seed);
        let disk = FaultyStorage::new(*dice.pick(&DISKS));
        let mut lives = Lives {
            dice,
            disk,
            place: None,
            shift,
            alone,
            durabilities: vec![Durability::Sync],
            floor: 0,
            ending: Ending::Window,
        };
        let db = lives.open().map_err(does_not_open)?;
        lives.settle(db)?;
        Ok(lives)
    }

    fn open(&mut self) -> Result<Database, OpenError> {
        let builder = Builder::in_memory()
            .storage(self.disk.as_storage())
            .clock(Arc::new(ManualClock::new(NOW)))
            .segment_bytes(SEGMENT_BYTES)
            .threads(!self.alone);
        // Without threads nobody but the caller would free what it waits for.
        let builder =
            builder.stall_timeout(if self.alone { Duration::ZERO } else { STALL_TIMEOUT });
        embedded::with_limits(builder).open()
    }

    /// Takes a database that was opened.
    fn settle(&mut self, db: Database) -> Answer {
        self.floor = db.visible().bits();
        match Place::new(db, self.shift) {
            Ok(place) => {
                self.place = Some(place);
                Ok(())
            }
            Err(error) => Err(Failure::Gone(error.to_string())),
        }
    }

    fn survival(&mut self) -> Survival {
        match self.dice.below(10) {
            0..3 => Survival::ProcessKilled(self.dice.roll()),
            3..6 => Survival::Random(self.dice.roll()),
            _ => *self.dice.pick(&Survival::EXTREMES),
        }
    }

    /// Crashes the disk, unless it has crashed, and gives it power again.
    fn reboot(&mut self, end: &mut End) {
        let survival = self.survival();
        // What the old life still writes while it is dropped reaches a disk that is gone.
        let disk = self.disk.reboot(survival);
        self.place = None;
        self.disk = disk;
        let killed = matches!(survival, Survival::ProcessKilled(_));
        end.power_was_cut |= !killed;
        let what = if killed { "a killed process" } else { "a power cut" };
        end.tell(&format!("{what} ({survival:?})"));
    }

    /// Decides how the life under way ends: within so many storage calls, or with the window.
    fn arm(&mut self, calls_max: usize) {
        let call = self.disk.call_count() + 1 + self.dice.below(calls_max) as u64;
        self.ending = match self.dice.below(4) {
            0 => Ending::Window,
            1 => {
                self.disk.fail_call(call, *self.dice.pick(&[Fault::Io, Fault::Io, Fault::NoSpace]));
                Ending::Fault
            }
            _ => {
                self.disk.crash_at(call);
                Ending::Crash
            }
        };
    }

    /// Ends the life in order.
    fn close(&mut self, end: &mut End) -> Answer {
        let closed = self.place.take().map_or(Ok(()), |place| place.db.close());
        closed.map_err(embedded::failure)?;
        end.was_closed = true;
        end.tell("an orderly close");
        Ok(())
    }

    /// Opens the log that failed again on the same boot.
    fn reopen_after_fault(&mut self, end: &mut End) {
        self.place = None;
        end.tell("a call that failed");
        if self.dice.is(1, 2) {
            // The kernel may drop what a failed sync has left in its cache, at any time.
            self.disk.drop_clean_pages();
            end.power_was_cut = true;
            end.tell("the cache dropped");
        }
    }

    /// Opens the next life, and crashes it before it is there, now and then.
    fn next_life(&mut self, mut end: End) -> Answer<Recovery> {
        let floor = self.floor;
        loop {
            if self.dice.is(1, 4) {
                let call = self.disk.call_count() + 1 + self.dice.below(30) as u64;
                self.disk.crash_at(call);
            }
            let opened = self.open().map_err(does_not_open);
            let settled = opened.and_then(|db| {
                let last = db.visible().bits();
                self.settle(db).map(|()| last)
            });
            self.disk.crash_at(u64::MAX);
            match settled {
                _ if self.disk.has_crashed() => self.reboot(&mut end),
                Ok(last) => {
                    let promised = end.promised();
                    let (ended, last) = (end.told, Some(last));
                    return Ok(Recovery { ended, last, marks: None, promised, floor });
                }
                Err(Failure::Wrong(finding)) => {
                    return Err(Failure::Wrong(finding.after(format!("after {}", end.told))));
                }
                Err(other) => return Err(other),
            }
        }
    }
}

/// How a life, or several of them, ended.
#[derive(Debug, Default)]
struct End {
    told: String,
    power_was_cut: bool,
    was_closed: bool,
}

impl End {
    fn tell(&mut self, what: &str) {
        let comma = if self.told.is_empty() { "" } else { ", then " };
        self.told.push_str(comma);
        self.told.push_str(what);
    }

    /// What was acknowledged at one of these is there all the same.
    fn promised(&self) -> Vec<Durability> {
        match (self.power_was_cut, self.was_closed) {
            (true, _) => vec![Durability::Sync],
            (false, false) => vec![Durability::Sync, Durability::Os],
            (false, true) => vec![Durability::Sync, Durability::Os, Durability::Buffered],
        }
    }
}

fn does_not_open(error: OpenError) -> Failure {
    Failure::Wrong(Finding::new(format!("the database does not open: {error}: {error:?}")))
}

impl Target for Lives {
    type Client = Embedded;

    fn client(&self) -> Answer<Embedded> {
        let place = self.place.clone();
        place.map(Embedded::new).ok_or_else(|| Failure::Gone("it is closed".to_owned()))
    }

    fn durabilities(&self) -> Vec<Durability> {
        self.durabilities.clone()
    }

    fn clear(&mut self, window: u64) -> Answer<bool> {
        let all = [Durability::Sync, Durability::Os, Durability::Buffered];
        self.durabilities = all[..1 + self.dice.below(3)].to_vec();
        // The log only grows.
        if window.is_multiple_of(WINDOWS_MAX) {
            self.place = None;
            self.disk = FaultyStorage::new(*self.dice.pick(&DISKS));
            let db = self.open().map_err(does_not_open)?;
            self.settle(db)?;
            return Ok(true);
        }
        let by_range = self.dice.is(1, 2);
        match self.place.as_ref().map(|place| place.wipe(by_range)) {
            Some(Ok(())) => Ok(false),
            Some(Err(error)) => Err(embedded::failure(error)),
            None => Err(Failure::Gone("it is closed".to_owned())),
        }
    }

    fn unleash(&mut self) -> Answer<Option<Recovery>> {
        if self.dice.is(3, 4) {
            self.arm(CALLS_MAX);
            return Ok(None);
        }
        // What follows an orderly close at once must not be taken for the close.
        let mut end = End::default();
        self.close(&mut end)?;
        let recovery = self.next_life(end)?;
        self.arm(8);
        Ok(Some(recovery))
    }

    fn recover(&mut self) -> Answer<Recovery> {
        let mut end = End::default();
        let on_same_boot = self.ending == Ending::Fault && self.dice.is(1, 2);
        match on_same_boot && !self.disk.has_crashed() {
            true => self.reopen_after_fault(&mut end),
            false => self.reboot(&mut end),
        }
        let recovery = self.next_life(end)?;
        self.arm(CALLS_MAX);
        Ok(recovery)
    }

    fn end_of_window(&mut self) -> Answer<Option<Recovery>> {
        // From here on nothing is to happen but what is decided now. The engine's own threads may
        // have met a crash that no transaction has; a fault that was not met yet would be, later.
        self.disk.crash_at(u64::MAX);
        let mut end = End::default();
        let must = self.disk.has_crashed() || self.ending == Ending::Fault;
        match self.dice.below(4) {
            0 if !must => return Ok(None),
            1 | 2 if !must => {
                self.close(&mut end)?;
                if self.dice.is(1, 2) {
                    // What was closed in order is on the disk, whatever comes.
                    let power_was_cut = end.power_was_cut;
                    self.reboot(&mut end);
                    end.power_was_cut = power_was_cut;
                }
            }
            _ => self.reboot(&mut end),
        }
        self.next_life(end).map(Some)
    }

    fn inspect(&self) -> Answer {
        self.place.as_ref().map_or(Ok(()), Place::inspect)
    }
}
