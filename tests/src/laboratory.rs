//! The anomaly laboratory: small scenarios of concurrent transactions, played through all their
//! interleavings against a target, and judged.
//!
//! | module | its one job |
//! |---|---|
//! | [`scenario`] | a scenario: setup, sessions, steps, what is to hold; and its text form |
//! | [`catalogue`] | the named anomalies as scenarios |
//! | [`expression`] | what a scenario computes and asks |
//! | [`resp`] | targets across a network: isolith, and whoever else speaks the Redis protocol |
//! | [`provenance`] | who wrote a value |
//! | [`target`] | the seam: whatever runs transactions and can be asked how far they are |
//! | [`embedded`] | the engine behind it, one step at a time |
//! | [`weak`] | stores that promise little, to compare with |
//! | [`play`] | plays a scenario once |
//! | [`explore`] | through all schedules |
//! | [`judge`] | what happened: who depends on whom, and what must not be |
//! | [`matrix`] | every scenario at every level under every control |

pub mod expression;
pub mod provenance;
pub mod scenario;

pub mod resp;
pub mod catalogue;

pub mod target;

pub mod embedded;
pub mod weak;

pub mod play;

pub mod explore;

pub mod judge;

pub mod matrix;
