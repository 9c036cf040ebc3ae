//! The keyspaces of a database, by name and by number, and what each was asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use isolith_txn::{Space, SpaceId};

use crate::core::SYSTEM_SPACE;

mod options;

pub use options::KeyspaceOptions;
pub(crate) use options::{Definition, put_expiry};

/// Dropped keyspaces that may be remembered without a look whether anybody uses them.
const DROPPED_KEPT: usize = 32;

/// The keyspaces by name and number.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) by_name: BTreeMap<Arc<str>, Arc<Space>>,
    /// Those that were dropped and that somebody still uses included.
    pub(crate) all: HashMap<SpaceId, (Arc<str>, Weak<Space>)>,
    /// Those of living keyspaces that are not the defaults.
    options: HashMap<SpaceId, Arc<KeyspaceOptions>>,
    /// The number of the next keyspace: never given twice.
    pub(crate) next: SpaceId,
}

impl Catalog {
    pub(crate) fn new() -> Self {
        Self {
            by_name: BTreeMap::new(),
            all: HashMap::new(),
            options: HashMap::new(),
            next: SYSTEM_SPACE + 1,
        }
    }

    /// A number for a new keyspace. It is taken before the keyspace is named: whoever writes the names to a
    /// file meanwhile knows that it was given.
    pub(crate) fn next_number(&mut self) -> SpaceId {
        let next = self.next;
        self.next = next.saturating_add(1);
        next
    }

    pub(crate) fn insert(&mut self, name: &str, space: Arc<Space>, options: KeyspaceOptions) {
        let name: Arc<str> = name.into();
        self.set_options(&space, options);
        self.next = self.next.max(space.id.saturating_add(1));
        if self.all.len() > 2 * self.by_name.len() + DROPPED_KEPT {
            self.all.retain(|_, (_, space)| space.strong_count() > 0);
        }
        self.all.insert(space.id, (Arc::clone(&name), Arc::downgrade(&space)));
        self.by_name.insert(name, space);
    }

    /// Removes a name; its number keeps it while somebody uses the keyspace, for messages.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Space>> {
        let removed = self.by_name.remove(name)?;
        self.options.remove(&removed.id);
        Some(removed)
    }

    /// Gives a keyspace other options.
    pub(crate) fn set_options(&mut self, space: &Space, options: KeyspaceOptions) {
        space.set_ttl_ms(options.ttl_ms());
        if options == KeyspaceOptions::default() {
            self.options.remove(&space.id);
        } else {
            self.options.insert(space.id, Arc::new(options));
        }
    }

    /// The options of a keyspace; the defaults once it is dropped.
    pub(crate) fn options(&self, space: SpaceId) -> Arc<KeyspaceOptions> {
        self.options.get(&space).map(Arc::clone).unwrap_or_default()
    }

    pub(crate) fn space(&self, name: &str) -> Option<&Arc<Space>> {
        self.by_name.get(name)
    }

    /// Every keyspace that takes memory: dropped ones, too, as long as somebody uses them.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Space>> {
        self.all.values().filter_map(|(_, space)| space.upgrade())
    }
}
