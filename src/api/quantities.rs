//! Canonical spelling of every quantity in an object: "1024Mi" becomes "1Gi".
//!
//! It never refuses; what does not parse stays as written for [`crate::api::validate`] to name.
