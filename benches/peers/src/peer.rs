//! What every engine is asked for. An adapter does it the way that the engine's own documentation
//! recommends; the driver knows nothing else of it.

use std::path::Path;

/// A key: a number's sixteen bytes, mixed.
pub type Key = [u8; 16];
/// A value.
pub type Value = [u8; 100];
/// Records on their way in.
pub type Records<'r> = &'r mut dyn Iterator<Item = (Key, Value)>;

/// Opens a database in a directory, with so much memory.
pub type Open = fn(&Path, u64) -> Box<dyn Peer>;

/// One engine with one open database. Anything that fails ends the run.
pub trait Peer {
    /// Loads records that ascend by key into an empty database; all is durable afterwards.
    fn load_sorted(&self, records: Records<'_>);
    /// Writes records in any order; all is durable afterwards.
    fn load(&self, records: Records<'_>);
    /// Looks a key up: the value's length.
    fn get(&self, key: &Key) -> Option<usize>;
    /// Goes over so many records from a key on: how many there were, and the bytes of their values.
    fn scan(&self, from: &Key, records: usize) -> (usize, usize);
    /// Waits until the engine does nothing more by itself.
    fn rest(&self);
    /// Brings everything into sorted files, compacted as far as the engine offers.
    fn settle(&self);
    /// Closes the database as one should.
    fn close(self: Box<Self>);
}
