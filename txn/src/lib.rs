//! Decides who sees and who may change which version.
