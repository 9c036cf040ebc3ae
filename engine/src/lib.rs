//! A concurrent embedded storage engine with MVCC.
