//! streams
crate::tests![];
