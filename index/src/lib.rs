//! Keeps versions of keys.
