//! A thread that compresses the blocks of a file while another makes them.
//!
//! 1. Whoever waits for a group packs what nobody has begun: both are busy for as long as there is something to
//!    do, and without the thread all is done by whoever waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use isolith_index::sstable::{Group, Packing};
use parking_lot::{Condvar, Mutex};

/// Groups under way, and the thread.
#[derive(Debug, Default)]
pub(super) struct Packer {
    shared: Arc<Shared>,
    /// Begun with the first group.
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    given: u64,
    waiting: VecDeque<(u64, Group)>,
    packed: BTreeMap<u64, Group>,
    /// The one that the thread has.
    underway: Option<u64>,
    over: bool,
}

impl Shared {
    /// What the thread does.
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.over {
            let Some((number, mut group)) = state.waiting.pop_front() else {
                self.changed.wait(&mut state);
                continue;
            };
            state.underway = Some(number);
            drop(state);
            let under_way = UnderWay(self);
            group.pack();
            state = self.state.lock();
            state.packed.insert(number, group);
            drop(state);
            drop(under_way);
            state = self.state.lock();
        }
    }
}

/// However it ends, nobody waits for it any longer.
struct UnderWay<'s>(&'s Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state.lock().underway = None;
        self.0.changed.notify_all();
    }
}

impl Packing for Packer {
    fn give(&self, group: Group) -> u64 {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let named = thread::Builder::new().name("isolith-pack".into());
            // Where a thread is not to be had the caller does all.
            *thread = named.spawn(move || shared.run()).ok();
        }
        let mut state = self.shared.state.lock();
        let number = state.given;
        state.given += 1;
        state.waiting.push_back((number, group));
        drop(state);
        self.shared.changed.notify_all();
        number
    }

    fn take(&self, number: u64) -> Option<Group> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(group) = state.packed.remove(&number) {
                return Some(group);
            }
            if let Some((other, mut group)) = state.waiting.pop_front() {
                drop(state);
                group.pack();
                if other == number {
                    return Some(group);
                }
                state = self.shared.state.lock();
                state.packed.insert(other, group);
            } else if state.underway == Some(number) {
                self.shared.changed.wait(&mut state);
            } else {
                return None;
            }
        }
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.shared.state.lock().over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.get_mut().take() {
            // A panic in there was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use isolith_index::Kind;
    use isolith_index::sstable::{FileId, SstableOptions, SstableWriter};
    use isolith_wal::{DatabaseId, Lsn};

    use super::*;

    fn write(packing: Option<Arc<dyn Packing>>) -> Vec<u8> {
        let (database, options) = (DatabaseId(1), SstableOptions::default());
        let writer = SstableWriter::new(Vec::new(), database, FileId(1), options);
        let mut writer = writer.expect("memory");
        if let Some(packing) = packing {
            writer = writer.pack_by(packing);
        }
        for number in 0..20_000_u64 {
            let (key, value) = (number.to_be_bytes(), (number * number).to_be_bytes().repeat(9));
            writer.add(&key, Lsn::new(1, 1), Kind::Put, 0, &value).expect("memory");
        }
        writer.finish().expect("memory").0
    }

    #[test]
    fn files_have_the_same_bytes_whoever_packs() {
        let alone = write(None);
        let packer = Arc::new(Packer::default());
        for _ in 0..4 {
            assert!(write(Some(Arc::clone(&packer) as _)) == alone);
        }
        // The thread has ended: whoever waits does all.
        packer.shared.state.lock().over = true;
        packer.shared.changed.notify_all();
        assert!(write(Some(packer)) == alone);
    }

    #[test]
    fn a_group_that_was_lost_is_not_waited_for() {
        let packer = Packer::default();
        assert!(packer.take(0).is_none());
    }
}
