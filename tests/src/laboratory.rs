//! The anomaly laboratory: small scenarios of concurrent transactions, played through all their
//! interleavings against a target, and judged.
//!
//! | module | its one job |
//! |---|---|
//! | [`scenario`] | a scenario: setup, sessions, steps, what is to hold; and its text form |
//! | [`expression`] | what a scenario computes and asks |
//! | [`provenance`] | who wrote a value |
//! | [`catalogue`] | the named anomalies as scenarios |
//! | [`target`] | the seam: whatever runs transactions and can be asked how far they are |
//! | [`embedded`] | the engine behind it, one step at a time |
//! | [`resp`] | targets across a network: isolith, and whoever else speaks the Redis protocol |
//! | [`weak`] | stores that promise little, to compare with |
//! | [`play`] | plays a scenario once |
//! | [`explore`] | through all schedules |
//! | [`judge`] | what happened: who depends on whom, and what must not be |
//! | [`faults`] | what is wrong with a run |
//! | [`examine`] | one scenario through all its interleavings, counted |
//! | [`matrix`] | every scenario at every level under every control |
//! | [`shrink`] | the smallest scenario and schedule that still show something |
//! | [`drawing`] | a run as a picture |
//! | [`files`] | scenario files in, pages and tests out |
//! | [`report`] | all of it for people and programs |

pub mod expression;
pub mod provenance;
pub mod scenario;

pub mod catalogue;

pub mod target;

pub mod embedded;
pub mod resp;
pub mod weak;

pub mod play;

pub mod explore;

pub mod judge;

pub mod faults;

pub mod examine;

pub mod matrix;

pub mod shrink;

pub mod drawing;

pub mod files;
pub mod report;
