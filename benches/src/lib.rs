//! isolith's workload generators, contention driver, statistics and reports.

pub mod contention;
pub mod paired;
pub mod scratch;
pub mod zipf;
