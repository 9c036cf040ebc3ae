//! Replay by several threads comes to what replay by one does.

use std::collections::BTreeMap;
use std::sync::Arc;

use isolith_wal::{MemoryStorage, random_seed};

use crate::merge::{MergeError, MergeOperator};
use crate::{Builder, Database, Durability, PutOptions, Slice, Transaction};

/// One that goes by name.
struct Mine;

impl MergeOperator for Mine {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        Ok([existing.unwrap_or_default(), b"+", operand].concat())
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        Ok([earlier, b"+", later].concat())
    }
}

/// In Unix milliseconds: far away.
const LATER: u64 = 1 << 50;

fn builder(storage: &Arc<MemoryStorage>) -> Builder {
    Builder::new(None).storage(Arc::clone(storage) as _).merge_operator("mine", Mine)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Writes of every kind, of one key and of many, in keyspaces that come and go.
fn write(database: &Database, random: &mut Random, writes: u64) {
    for number in 0..writes {
        let name = ["a", "b", "c"][random.below(3) as usize];
        let keyspace = database.keyspace(name).expect("a keyspace");
        let key = |random: &mut Random| format!("key{:03}", random.below(200));
        let value = format!("{number};");
        match random.below(64) {
            0 => drop(database.drop_keyspace("c").expect("dropped, if it is there")),
            1 => {
                let (from, to) = (key(random), key(random));
                keyspace.delete_range(from..to).expect("deleted");
            }
            2..12 => keyspace.delete(key(random)).expect("deleted"),
            12..20 => keyspace.merge(key(random), "append", &value).expect("merged"),
            20..28 => keyspace.merge(key(random), "mine", &value).expect("merged"),
            28..32 => {
                let options = PutOptions { expires_at: Some(LATER), ..PutOptions::default() };
                keyspace.put_with(key(random), &value, options).expect("put");
            }
            32..44 => {
                let other = database.keyspace("a").expect("a keyspace");
                let keys: Vec<String> = (0..6).map(|_| key(random)).collect();
                let all = |tx: &mut Transaction| {
                    keys.iter().enumerate().try_for_each(|(at, key)| match at % 3 {
                        0 => tx.delete(&other, key),
                        1 => tx.put(&keyspace, key, &value),
                        _ => tx.put(&other, key, &value),
                    })
                };
                database.transact(all).expect("a commit");
            }
            _ => keyspace.put(key(random), &value).expect("put"),
        }
    }
}

type State = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// What an open with so many threads finds; it writes nothing.
fn found(storage: &Arc<MemoryStorage>, threads: usize) -> State {
    let builder = builder(storage).read_only(true).threads(threads > 1);
    let database = builder.background_threads(threads).open().expect("it opens");
    let mut state = State::new();
    for name in database.keyspaces() {
        let keyspace = database.keyspace(&name).expect("a keyspace");
        let pairs = keyspace.range(..).map(|pair| pair.expect("readable"));
        let mut add = |(key, value): (Slice, Slice)| {
            assert_eq!(keyspace.get(&key).expect("readable").as_deref(), Some(&*value));
            state.insert((name.to_string(), key.to_vec()), value.to_vec());
        };
        pairs.for_each(&mut add);
    }
    state
}

#[test]
fn replay_by_threads_is_replay_by_one() {
    let seed = random_seed();
    let mut random = Random(seed | 1);
    for memtable_bytes in [16 << 20, 16 << 20, 24 << 10] {
        let storage = Arc::new(MemoryStorage::new());
        let builder = builder(&storage).threads(false).durability(Durability::Buffered);
        let database = builder.memtable_bytes(memtable_bytes).open().expect("it opens");
        write(&database, &mut random, 3000);
        database.close().expect("closed");
        drop(database);
        let by_one = found(&storage, 1);
        assert!(by_one.len() > 100);
        for threads in [2, 3, 7] {
            assert!(found(&storage, threads) == by_one, "{threads} threads, seed {seed}");
        }
    }
}
