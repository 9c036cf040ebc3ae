//! What records of the log are applied to, and how.

use std::collections::HashMap;
use std::sync::Arc;

use isolith_index::{Kind, Prepared, PruneView, Value, pin};
use isolith_txn::{Space, SpaceId};
use isolith_wal::Lsn;

use crate::core::SYSTEM_SPACE;
use crate::merge::{Calm, Operators};
use crate::record::{Named, Operation, Operations};

/// Keyspaces, operators, and what files have.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) spaces: HashMap<SpaceId, Arc<Space>>,
    /// Those that are registered, and the names of others that the log has.
    pub(super) operators: Operators,
    /// Up to where each keyspace has in files what the log says.
    pub(super) flushed: HashMap<SpaceId, Lsn>,
}

/// A share of all keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) number: usize,
    pub(super) of: usize,
}

impl Share {
    /// The share that a key is in, of so many.
    fn of_key(space: SpaceId, key: &[u8], of: usize) -> usize {
        // Any even spread does, as long as it is the same for every version of a key.
        const MIXER: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut hash = u64::from(space).wrapping_mul(MIXER);
        for part in key.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(MIXER);
            hash ^= hash >> 29;
        }
        (hash % of as u64) as usize
    }
}

impl Known {
    /// Whether the files have what a record of this LSN says of a keyspace. Of one that is not known: it
    /// was dropped before the names were flushed.
    pub(super) fn is_flushed(&self, lsn: Lsn, id: SpaceId) -> bool {
        let through = |id| self.flushed.get(&id).copied().unwrap_or(Lsn::ZERO);
        lsn <= through(id) || !self.spaces.contains_key(&id) && lsn <= through(SYSTEM_SPACE)
    }

    /// In which of so many shares a record writes, as bits, if that is all that it does: `None` for one that is
    /// to be applied as a whole, with all before it applied and none behind it. Takes note of the write.
    pub(super) fn shares_of(&self, lsn: Lsn, record: &[u8], of: usize) -> Option<u64> {
        let mut bits = 0;
        let mut operations = Operations::new(record);
        // What is wrong with it is told by who applies it as a whole.
        while let Some(operation) = operations.next().ok()? {
            let id = operation.space();
            if self.is_flushed(lsn, id) {
                continue;
            }
            let known = |operator| match operator {
                Named::Number(_) => true,
                Named::Name(name) => self.operators.interned(name).is_some(),
            };
            let key = match operation {
                _ if id == SYSTEM_SPACE => return None,
                Operation::Put { key, .. } | Operation::Delete { key, .. } => key,
                Operation::Merge { key, operator, .. } if known(operator) => key,
                _ => return None,
            };
            self.spaces.get(&id)?.note_write(lsn);
            bits |= 1 << Share::of_key(id, key, of);
        }
        Some(bits)
    }

    /// Adds what an operation writes to what is to be installed.
    pub(super) fn add(
        &self,
        shares: &mut Vec<(SpaceId, Prepared)>,
        operation: Operation<'_>,
    ) -> Result<(), String> {
        let id = operation.space();
        let space = self.spaces.get(&id).ok_or("it writes to an unknown keyspace")?;
        if shares.last().is_none_or(|(last, _)| *last != id) {
            shares.push((id, space.prepare(1)));
        }
        let Some((_, prepared)) = shares.last_mut() else { return Ok(()) };
        match operation {
            Operation::Put { key, value, expires_at, .. } => {
                if expires_at != 0 {
                    space.note_expiring();
                }
                prepared.add(key, Kind::Put, Value::new(value), expires_at);
            }
            Operation::Delete { key, .. } => {
                prepared.add(key, Kind::Delete, Value::empty(), 0);
            }
            Operation::DeleteRange { lower, upper, .. } => {
                prepared.add_range_delete((lower, upper));
            }
            Operation::Merge { key, operator, operand, at_ms, .. } => {
                let operator = match operator {
                    Named::Number(number) => Some(number),
                    Named::Name(name) => self.operators.interned(name),
                };
                let operator = operator.ok_or("it merges by an unknown operator")?;
                space.note_merging();
                prepared.add(key, Kind::Merge { operator }, Value::new(operand), at_ms);
            }
            Operation::Ingest { .. } => {}
        }
        Ok(())
    }

    /// Installs what was added, and prunes what it is over.
    pub(super) fn install(&self, lsn: Lsn, shares: &[(SpaceId, Prepared)]) {
        let guard = pin();
        let view = PruneView::newest_only();
        for (_, prepared) in shares {
            prepared.install(lsn);
            prepared.prune(&view, &Calm(&self.operators), &guard);
        }
    }

    /// Installs what a record writes in a share of the keys.
    pub(super) fn apply_share(&self, lsn: Lsn, record: &[u8], share: Share) -> Result<(), String> {
        let mut shares = Vec::new();
        let mut operations = Operations::new(record);
        while let Some(operation) = operations.next()? {
            let id = operation.space();
            let (Operation::Put { key, .. }
            | Operation::Delete { key, .. }
            | Operation::Merge { key, .. }) = operation
            else {
                // The files have what it says: nothing else of the kind is shared.
                continue;
            };
            if !self.is_flushed(lsn, id) && Share::of_key(id, key, share.of) == share.number {
                self.add(&mut shares, operation)?;
            }
        }
        self.install(lsn, &shares);
        Ok(())
    }
}
