//! The attacker of everything that the other crates build: reference models, histories and their
//! judges, exhaustive interleavings, crash enumeration, planted bugs.
//!
//! The library holds what the integration tests share; it uses isolith's public API and the seams
//! made for tests (storage, clock, stepped commits), and nothing behind them. `docs/testing.md` says
//! what each test target proves and how to repeat a failure.
//!
//! | module | its one job |
//! |---|---|
//! | [`dice`] | seeds, and how long a run looks |
//! | [`finding`] | a broken promise as a value |
//! | [`model`] | what any read at any timestamp must give |
//! | [`operations`] | the embedded API as a language for random programs |
//! | [`machine`] | runs such a program on engine and model, and compares |
//! | [`programs`] | small transactions, and what they do alone |
//! | [`oracle`] | judges a history of them by brute force |
//! | [`anomalies`] | finds the named anomalies in a history |
//! | [`refusals`] | whether a refusal says the truth |
//! | [`explorer`] | drives them through every interleaving |
//! | [`enumeration`] | all cases of small transactions, without those that cannot differ |
//! | [`acknowledged`] | the same for what is decided and not yet acknowledged |
//! | [`parts`] | compactions in parts, against a map |
//! | [`crash`] | ends a database's life at any storage call, and says what must be true afterwards |
//! | [`stress`] | random transactions by real threads, judged while they run |
//! | [`threads`] | loads for real threads, and the invariants that they keep |
//! | [`contention`] | the same where all want the same things |
//! | [`picture`] | an anomaly as data, and as prose, lanes, a page and a test |
//! | [`executor`] | waits for futures, in thirty lines |
//! | [`history`] | a recorded history as data |
//! | [`checker`] | judges one at an isolation level |
//! | [`laboratory`] | scenarios, played through all their interleavings against a target |
//! | [`resp`] | speaks the Redis protocol with servers that nobody vouches for |
//! | [`server`] | starts the real binary and speaks to it |
//! | [`redis`] | starts Redis, to compare with |

#![forbid(unsafe_code)]

pub mod dice;
pub mod finding;

pub mod model;

pub mod operations;

pub mod sizes;

pub mod machine;

pub mod programs;

pub mod oracle;

pub mod anomalies;

pub mod refusals;

pub mod explorer;

pub mod enumeration;

pub mod acknowledged;

pub mod freezes;

pub mod parts;

pub mod crash;

pub mod laboratory;

pub mod stress;

pub mod threads;

pub mod contention;

pub mod picture;

pub mod executor;

pub mod history;

pub mod checker;

pub mod resp;

pub mod server;

pub mod redis;

pub use finding::{Checked, Finding};
