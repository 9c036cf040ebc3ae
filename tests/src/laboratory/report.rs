//! All of it for people and programs.
