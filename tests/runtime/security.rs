//! security
crate::tests![];
