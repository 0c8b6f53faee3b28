//! pods
crate::tests![];
