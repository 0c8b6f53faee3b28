//! YAML bodies, as the JSON they mean: YAML 1.1 booleans and octals, no merge keys, one document.
//!
//! Aliases are allowed within a small budget (CVE-2019-11253); duplicate keys are errors.

use std::cell::RefCell;

use serde::de::DeserializeSeed;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};

use super::path::Path;
use super::tree::{Run, Seed};
use super::{DecodeError, Decoded, MAX_DEPTH, MAX_NODES, TOO_DEEP, TOO_MANY};

/// How many nodes aliases may add.
const MAX_ALIASED_NODES: usize = 10_000;
/// Bytes that aliases may add.
const MAX_ALIASED_BYTES: usize = 3 << 20;

/// Decodes the only document of the body; an empty body is null.
///
/// # Errors
/// [`DecodeError::Yaml`] with line and column, [`DecodeError::TooDeep`], [`DecodeError::TooMany`].
pub fn decode(body: &[u8]) -> Result<Decoded, DecodeError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        DecodeError::Yaml(format!("invalid UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.flow_nesting_limit = MAX_DEPTH;
    budget.max_nodes = MAX_NODES;
    budget.max_events = 2 * MAX_NODES;
    budget.max_documents = 1;
    budget.max_recorded_anchor_events = 10 * MAX_ALIASED_NODES;
    budget.max_recorded_anchor_bytes = MAX_ALIASED_BYTES;
    budget.max_aliases = MAX_ALIASED_NODES;
    budget.max_anchors = MAX_ALIASED_NODES;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    options.merge_keys = MergeKeyPolicy::Error;
    options.legacy_octal_numbers = true;
    options.alias_limits.max_total_replayed_events = MAX_ALIASED_NODES;
    options.alias_limits.max_replay_stack_depth = 16;
    options.with_snippet = false;
    let run = RefCell::new(Run::default());
    let seed = Seed { run: &run, path: &Path::ROOT, depth: 0 };
    let decoded = serde_saphyr::with_deserializer_from_str_with_options(text, options, |one| {
        seed.deserialize(one)
    });
    let value = decoded.map_err(|error| {
        let text = error.to_string();
        if text.contains(TOO_DEEP) {
            DecodeError::TooDeep
        } else if text.contains(TOO_MANY) {
            DecodeError::TooMany
        } else {
            DecodeError::Yaml(text)
        }
    })?;
    let duplicates = run.into_inner().duplicates.into_paths();
    Ok(Decoded { value, duplicates })
}
