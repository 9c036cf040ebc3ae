//! isolith's workload generators, contention driver, statistics and reports.

pub mod paired;
