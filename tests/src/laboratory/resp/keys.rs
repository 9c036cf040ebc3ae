//! The keys that a target's runs use: each run has a prefix of its own, and nothing else is touched.

use crate::laboratory::target::{Contents, Encoded, Failure, Span};
use crate::resp::{own_prefix, told};

/// The prefix of the present run.
#[derive(Debug)]
pub(super) struct Keys {
    /// Of all runs of this target.
    of_target: String,
    of_run: String,
    run: u64,
}

impl Keys {
    /// A prefix that nobody else uses.
    pub(super) fn new() -> Keys {
        let of_target = own_prefix();
        Keys { of_run: of_target.clone(), of_target, run: 0 }
    }

    /// What users are told.
    pub(super) fn remark(&self) -> String {
        "only keys that begin with isolith-laboratory: and a random number are touched, and they \
         are deleted after each run"
            .to_owned()
    }

    /// A failure of the target, with what it leaves behind.
    pub(super) fn told(&self, failure: Failure, dirty: bool) -> Failure {
        match failure {
            Failure::Target(why) if dirty => Failure::Target(told(&why, &self.of_target)),
            failure => failure,
        }
    }

    /// A new run begins.
    pub(super) fn next_run(&mut self) {
        self.run += 1;
        self.of_run = format!("{}{}:", self.of_target, self.run);
    }

    /// A key as the target sees it.
    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        [self.of_run.as_bytes(), name.as_bytes()].concat()
    }

    /// A key of a reply as the scenario knows it.
    pub(super) fn name(&self, key: &[u8]) -> Option<String> {
        let name = key.strip_prefix(self.of_run.as_bytes())?;
        String::from_utf8(name.to_vec()).ok()
    }

    /// The bounds of a range: the first key, and the first beyond.
    pub(super) fn bounds(&self, span: &Span) -> (Vec<u8>, Vec<u8>) {
        let mut end = self.key(&span.upper);
        if span.inclusive {
            end.push(0);
        }
        (self.key(&span.lower), end)
    }

    /// The bounds of all keys of the run.
    pub(super) fn whole_run(&self) -> (Vec<u8>, Vec<u8>) {
        let start = self.of_run.as_bytes().to_vec();
        let mut end = start.clone();
        // The colon at the end becomes what follows it.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (start, end)
    }

    /// `MSET` of what is there at first; none if nothing is.
    pub(super) fn set_up(&self, setup: &Contents) -> Option<Vec<Vec<u8>>> {
        let pairs = setup.iter().flat_map(|(key, value)| [self.key(key), encoded(*value)]);
        (!setup.is_empty()).then(|| std::iter::once(b"MSET".to_vec()).chain(pairs).collect())
    }
}

/// A value as it is stored.
pub(super) fn encoded(value: Encoded) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A value that was stored; `None` if it is no number.
pub(super) fn decoded(bytes: &[u8]) -> Option<Encoded> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
