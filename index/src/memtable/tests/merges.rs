//! Merges against a model that applies one after the other and never prunes.

use std::collections::BTreeMap;

use super::*;
use crate::merge::{MergeError, MergeOperators, MergedValue};

/// Text operators: 0 adds decimal numbers, 1 appends, 2 puts brackets around, which never combines.
struct Text;

impl MergeOperators for Text {
    fn merge(
        &self,
        operator: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError> {
        match operator {
            0 => add(existing.unwrap_or(b"0"), operand),
            1 => Ok([existing.unwrap_or_default(), operand].concat()),
            // Bounded, so that the model does not drown.
            _ => {
                let inner = existing.unwrap_or_default();
                let inner = &inner[inner.len().saturating_sub(100)..];
                Ok([b"(", inner, operand, b")"].concat())
            }
        }
    }

    fn combine(&self, operator: u16, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        match operator {
            0 => add(earlier, later),
            1 => Ok([earlier, later].concat()),
            _ => Err(MergeError::new("brackets do not combine")),
        }
    }
}

fn add(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MergeError> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
    match (number(a), number(b)) {
        (Some(a), Some(b)) => Ok((a + b).to_string().into()),
        _ => Err(MergeError::new("not a number")),
    }
}

fn merge(memtable: &Arc<Memtable>, key: &[u8], operator: u16, operand: &[u8], stamp: u64) {
    let mut write = memtable.prepare(1);
    write.add(key, Kind::Merge { operator }, Value::new(operand), 0);
    write.install(at(stamp));
}

/// The value and its expiry; the text of the error.
type Outcome = Result<Option<(Vec<u8>, u64)>, String>;

fn outcome(lookup: Lookup<'_>) -> Outcome {
    match lookup.found {
        Found::Absent => Ok(None),
        Found::Put(version) => Ok(Some((version.value().to_vec(), version.expires_at()))),
        Found::Merged(merged) => match merged.fold(&Text) {
            Ok(MergedValue { value, expires_at }) => {
                assert_eq!(merged.expires_at(), expires_at);
                Ok(Some((value, expires_at)))
            }
            Err(failure) => Err(failure.error.to_string()),
        },
        Found::Stored(_) | Found::Lent(_) | Found::Run(_) => {
            unreachable!("a memtable has no file")
        }
    }
}

fn text(memtable: &Memtable, key: &[u8], read: u64) -> String {
    match outcome(memtable.lookup(key, at(read), &pin())) {
        Ok(Some((value, _))) => String::from_utf8(value).expect("text"),
        Ok(None) => "nothing".into(),
        Err(why) => why,
    }
}

fn chain_len(memtable: &Memtable, key: &[u8]) -> usize {
    let guard = pin();
    let node = memtable.sidecar.find(memtable.hasher.hash(key), key, &guard);
    // SAFETY: reached under the pin.
    #[expect(unsafe_code, reason = "walks a chain")]
    let newest =
        node.and_then(NodePtr::newest_version).map(|version| unsafe { VersionRef::new(version) });
    std::iter::successors(newest, |version| version.older()).count()
}

fn prune(memtable: &Memtable, horizon: u64, needed: &[u64]) -> Freed {
    let view = PruneView::new(at(horizon), needed.iter().map(|&n| at(n)));
    memtable.prune_range(ALL, &view, &Text, &pin())
}

#[test]
fn a_read_folds_the_merges_at_its_timestamp_into_what_they_stand_on() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"k", b"7", 10);
    merge(&memtable, b"k", 0, b"5", 20);
    merge(&memtable, b"k", 0, b"-2", 30);
    merge(&memtable, b"k", 1, b"!", 40);
    delete_all(&memtable, 50);
    merge(&memtable, b"k", 0, b"1", 60);
    merge(&memtable, b"other", 0, b"1", 60);
    let seen = |read| text(&memtable, b"k", read);
    assert_eq!([seen(9), seen(10), seen(25), seen(30)], ["nothing", "7", "12", "10"]);
    assert_eq!([seen(40), seen(50), seen(60)], ["10!", "nothing", "1"]);
    assert_eq!(text(&memtable, b"other", 60), "1");
    let guard = pin();
    assert_eq!(memtable.newest(b"k", &guard), at(60));
    let lookup = memtable.lookup(b"k", at(35), &guard);
    assert_eq!((lookup.observed, lookup.skipped_newer), (at(30), true));
    assert!(lookup.put().is_none());
}

#[test]
fn a_merge_in_the_commit_of_a_range_delete_comes_after_it() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"k", b"7", 10);
    let mut write = memtable.prepare(1);
    write.add_range_delete(ALL);
    write.add(b"k", Kind::Merge { operator: 0 }, Value::new(b"1"), 0);
    assert_eq!(write.kind(0), Kind::Merge { operator: 0 });
    write.install(at(20));
    assert_eq!(text(&memtable, b"k", 20), "1");
    assert_eq!(prune(&memtable, 20, &[]).versions, 1, "the value that the range delete hides");
    assert_eq!(text(&memtable, b"k", 20), "1");
}

#[test]
fn a_merge_conflicts_with_nobody_and_a_put_with_a_newer_merge() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"k", b"7", 10);
    let mut blind = memtable.prepare(1);
    blind.add(b"k", Kind::Merge { operator: 0 }, Value::new(b"1"), 0);
    assert_eq!(blind.newest_above(at(5)), None);
    delete_all(&memtable, 20);
    assert_eq!(blind.newest_above(at(5)), None);
    merge(&memtable, b"k", 0, b"1", 30);
    let mut over = memtable.prepare(1);
    over.add(b"k", Kind::Put, Value::new(b"1"), 0);
    assert_eq!(over.newest_above(at(29)), Some(0));
    let mut watched = memtable.watch();
    watched.add(b"k");
    assert_eq!(watched.changed_since(at(29)), Some(0));
    assert_eq!(watched.changed_since(at(30)), None);
}

#[test]
fn pruning_leaves_one_put_of_a_counter_and_one_for_each_reader() {
    let memtable = Arc::new(Memtable::new(1));
    for stamp in 1..=100 {
        merge(&memtable, b"k", 0, b"1", stamp);
    }
    assert_eq!(chain_len(&memtable, b"k"), 100);
    prune(&memtable, 90, &[40]);
    // Ten above the horizon, one for it, one for the reader.
    assert_eq!(chain_len(&memtable, b"k"), 12);
    assert_eq!(
        [40, 90, 95, 100].map(|read| text(&memtable, b"k", read)),
        ["40", "90", "95", "100"]
    );
    assert_eq!(memtable.newest(b"k", &pin()), at(100));
    prune(&memtable, 100, &[]);
    assert_eq!(chain_len(&memtable, b"k"), 1);
    let guard = pin();
    let put = memtable.lookup(b"k", at(100), &guard).put().expect("a put");
    assert_eq!((put.value(), put.stamp()), (&b"100"[..], at(100)));
}

#[test]
fn where_all_history_is_kept_a_read_of_the_newest_has_a_short_way() {
    let memtable = Arc::new(Memtable::new(1));
    for stamp in 1..=10_000 {
        let mut write = memtable.prepare(1);
        write.add(b"k", Kind::Merge { operator: 0 }, Value::new(b"1"), 0);
        write.install(at(stamp));
        // The last one is not visible yet.
        let view = PruneView::new(Lsn::ZERO, []).with_linked(at(stamp - 1));
        write.fold(&view, &Text, &pin());
    }
    assert_eq!(chain_len(&memtable, b"k"), 10_000);
    let guard = pin();
    for read in [1, 63, 64, 65, 5000, 9999, 10_000] {
        let lookup = memtable.lookup(b"k", at(read), &guard);
        if let Found::Merged(merged) = lookup.found {
            assert!(merged.parts().1.len() <= 66, "at {read}");
        }
        assert_eq!(text(&memtable, b"k", read), read.to_string());
    }
}

#[test]
fn appends_to_a_long_value_do_not_copy_it_each_time() {
    let memtable = Arc::new(Memtable::new(1));
    let long = vec![b'x'; 100_000];
    put(&memtable, b"k", &long, 1);
    let mut puts = 0;
    for stamp in 2..=3000 {
        merge(&memtable, b"k", 1, b"0123456789", stamp);
        prune(&memtable, stamp, &[]);
        let len = chain_len(&memtable, b"k");
        assert!(len <= 12, "{len} versions after {stamp}");
        puts += usize::from(len == 1);
    }
    assert!((1..=2).contains(&puts), "folded into the base {puts} times");
    assert_eq!(text(&memtable, b"k", 3000).len(), 100_000 + 2999 * 10);
}

#[test]
fn merges_that_cannot_be_applied_combine_and_stay() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"k", b"seven", 1);
    for stamp in 2..=100 {
        merge(&memtable, b"k", 0, b"1", stamp);
    }
    prune(&memtable, 100, &[]);
    assert_eq!(chain_len(&memtable, b"k"), 2);
    assert_eq!(text(&memtable, b"k", 100), "not a number");
    assert_eq!(text(&memtable, b"k", 1), "seven");
    put(&memtable, b"k", b"7", 101);
    merge(&memtable, b"k", 0, b"1", 102);
    assert_eq!(text(&memtable, b"k", 102), "8");
    prune(&memtable, 102, &[]);
    assert_eq!(chain_len(&memtable, b"k"), 1);
}

#[test]
fn a_panicking_operator_leaves_a_chain_that_can_be_pruned() {
    struct Panics;
    impl MergeOperators for Panics {
        fn merge(&self, _: u16, _: Option<&[u8]>, _: &[u8]) -> Result<Vec<u8>, MergeError> {
            panic!("on purpose")
        }
        fn combine(&self, _: u16, _: &[u8], _: &[u8]) -> Result<Vec<u8>, MergeError> {
            panic!("on purpose")
        }
    }
    let memtable = Arc::new(Memtable::new(1));
    merge(&memtable, b"k", 0, b"1", 1);
    merge(&memtable, b"k", 0, b"1", 2);
    let view = PruneView::new(at(2), []);
    let panics = || memtable.prune_range(ALL, &view, &Panics, &pin());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert_eq!(text(&memtable, b"k", 2), "2");
    prune(&memtable, 2, &[]);
    assert_eq!((chain_len(&memtable, b"k"), text(&memtable, b"k", 2)), (1, "2".into()));
}

#[test]
fn pruning_beside_a_writer_folds_under_what_came_on_top() {
    // A writer's merges come on top while another thread folds under them.
    const STAMPS: u64 = 20_000;
    let memtable = Arc::new(Memtable::new(1));
    let visible = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seen = visible.load(std::sync::atomic::Ordering::Acquire);
                    prune(&memtable, seen, &[]);
                    let found = memtable.lookup(b"k", Lsn::MAX, &pin()).observed;
                    assert!(found >= at(seen) || seen == 0);
                    if seen == STAMPS {
                        break;
                    }
                }
            });
        }
        for stamp in 1..=STAMPS {
            merge(&memtable, b"k", 0, b"1", stamp);
            visible.store(stamp, std::sync::atomic::Ordering::Release);
        }
    });
    prune(&memtable, STAMPS, &[]);
    assert_eq!(text(&memtable, b"k", STAMPS), STAMPS.to_string());
    assert_eq!(chain_len(&memtable, b"k"), 1);
    while memtable.retired_bytes() > 0 {
        pin().flush();
        std::thread::yield_now();
    }
}

/// What one commit did to one key.
#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>, u64),
    Delete,
    Merge(u16, Vec<u8>, u64),
}

#[derive(Default)]
struct Model {
    /// By key, by stamp: in the order in which the commit made them.
    keys: BTreeMap<Vec<u8>, BTreeMap<u64, Vec<Change>>>,
}

impl Model {
    fn add(&mut self, key: &[u8], stamp: u64, change: Change) {
        self.keys.entry(key.to_vec()).or_default().entry(stamp).or_default().push(change);
    }

    /// One change after the other, as the words say.
    fn at(&self, key: &[u8], read: u64) -> Outcome {
        let mut state: Outcome = Ok(None);
        let changes = self.keys.get(key).into_iter().flat_map(|key| key.range(..=read));
        for change in changes.flat_map(|(_, changes)| changes) {
            state = match change {
                Change::Put(value, expires_at) => Ok(Some((value.clone(), *expires_at))),
                Change::Delete => Ok(None),
                // A later merge that finds the base expired does not care that this one failed: so
                // failures are found by asking what they would have come to with the base.
                Change::Merge(operator, operand, now) => match state {
                    Err(why) => Err(why),
                    Ok(existing) => {
                        let existing =
                            existing.filter(|&(_, expires)| expires == 0 || *now < expires);
                        let expires_at = existing.as_ref().map_or(0, |&(_, expires)| expires);
                        let value = existing.as_ref().map(|(value, _)| &value[..]);
                        Text.merge(*operator, value, operand)
                            .map(|value| Some((value, expires_at)))
                            .map_err(|error| error.to_string())
                    }
                },
            };
        }
        state
    }
}

#[test]
fn any_chain_of_merges_reads_as_the_model_however_it_is_pruned() {
    let mut random = Random::from_environment("merges");
    for round in 0..60 {
        let memtable = Arc::new(Memtable::new(random.next()));
        let mut model = Model::default();
        let mut needed: Vec<u64> = Vec::new();
        let mut horizon = 0;
        let mut stale: Option<PruneView> = None;
        // Values that expire never go with merges that fail: what a failed merge leaves for a later
        // one that finds it expired is nobody's promise.
        let (expiring, failing) = (round % 3 == 0, round % 3 == 1);
        let operators = if round % 2 == 0 { 3 } else { 1 };
        for stamp in 1..=250u64 {
            let mut write = memtable.prepare(0);
            if random.below(20) == 0 {
                let (a, b) = ([b'a' + random.below(4) as u8], [b'a' + random.below(4) as u8]);
                let (start, end) = (a.min(b), a.max(b));
                write.add_range_delete((Bound::Included(&start), Bound::Excluded(&end)));
                for key in start[0]..end[0] {
                    model.add(&[key], stamp, Change::Delete);
                }
            }
            for _ in 0..1 + random.below(3) {
                let key = [b'a' + random.below(3) as u8];
                let change = match random.below(12) {
                    0 => Change::Delete,
                    1 | 2 => {
                        let value = match random.below(4) {
                            0 if failing => b"words".to_vec(),
                            1 if operators > 1 => vec![b'1'; 1 + random.below(3000)],
                            _ => random.below(1000).to_string().into(),
                        };
                        let expires = if expiring { stamp + random.below(30) as u64 } else { 0 };
                        Change::Put(value, expires)
                    }
                    _ => {
                        let operand = (random.below(2000) as i64 - 1000).to_string();
                        // Begun a while before it commits.
                        let now = stamp.saturating_sub(random.below(20) as u64);
                        let operator = match operators {
                            1 => 0,
                            _ if failing => random.below(3) as u16,
                            _ => 1 + random.below(2) as u16,
                        };
                        Change::Merge(operator, operand.into(), now)
                    }
                };
                match change.clone() {
                    Change::Put(value, expires) => {
                        write.add(&key, Kind::Put, Value::new(&value), expires);
                    }
                    Change::Delete => write.add(&key, Kind::Delete, Value::empty(), 0),
                    Change::Merge(operator, operand, now) => {
                        write.add(&key, Kind::Merge { operator }, Value::new(&operand), now);
                    }
                }
                model.add(&key, stamp, change);
            }
            write.install(at(stamp));
            match random.below(12) {
                0 => needed.push(stamp),
                1 if !needed.is_empty() => {
                    needed.remove(random.below(needed.len()));
                }
                _ => {}
            }
            if random.below(3) > 0 {
                horizon = horizon.max(stamp - random.below(8.min(stamp as usize)) as u64);
                let view = PruneView::new(at(horizon), needed.iter().map(|&n| at(n)));
                // Views may be stale.
                let used = stale.take().unwrap_or_else(|| view.clone());
                match random.below(5) {
                    4 => write.fold(&used.with_linked(at(stamp)), &Text, &pin()),
                    0 => drop(memtable.prune_range(ALL, &used, &Text, &pin())),
                    _ => drop(write.prune(&used, &Text, &pin())),
                }
                stale = (random.below(3) == 0).then_some(view);
            }
            if random.below(4) == 0 {
                for read in needed.iter().copied().chain(horizon..=stamp) {
                    for key in model.keys.keys() {
                        let seen = outcome(memtable.lookup(key, at(read), &pin()));
                        let expected = model.at(key, read);
                        assert_eq!(seen, expected, "{key:?} at {read}, after {stamp}");
                    }
                }
            }
        }
        let guard = pin();
        prune(&memtable, 250, &[]);
        for key in model.keys.keys() {
            assert_eq!(outcome(memtable.lookup(key, at(250), &guard)), model.at(key, 250));
            let len = chain_len(&memtable, key);
            assert!(len <= if operators == 1 { 2 } else { 70 }, "{len} versions");
        }
    }
}
