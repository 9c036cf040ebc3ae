//! The anomaly laboratory: small scenarios of concurrent transactions, played through all their
//! interleavings against a target, and judged.
//!
//! | module | its one job |
//! |---|---|
//! | [`scenario`] | a scenario: setup, sessions, steps, what is to hold; and its text form |
//! | [`expression`] | what a scenario computes and asks |
//! | [`resp`] | targets across a network: isolith, and whoever else speaks the Redis protocol |
//! | [`target`] | the seam: whatever runs transactions and can be asked how far they are |

pub mod expression;
pub mod scenario;

pub mod resp;
pub mod target;
