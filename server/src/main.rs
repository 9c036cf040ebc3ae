//! The `isolith` command.
fn main() {}
