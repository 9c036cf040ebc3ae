//! Reference models and the fault harness.
