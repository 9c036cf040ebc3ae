//! Workload generators and reports.
