//! YAML bodies, as the JSON they mean: YAML 1.1 booleans and octals, no merge keys, one document.
//!
//! Aliases are allowed within a small budget (CVE-2019-11253); duplicate keys are errors.

use std::cell::RefCell;

use serde::de::DeserializeSeed;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};

use super::path::Path;
use super::tree::{Run, Seed};
use super::{DecodeError, Decoded, TOO_DEEP, TOO_MANY, json};

/// How deep YAML proper may nest: the parser's frames are large (some 20 KiB a level in a debug build), and
/// the deepest real manifests, CustomResourceDefinitions, need about 40.
const MAX_DEPTH: usize = 64;
/// How many values a document may hold.
const MAX_NODES: usize = 100_000;
/// How many nodes aliases may add.
const MAX_ALIASED_NODES: usize = 10_000;
/// Bytes that aliases may add.
const MAX_ALIASED_BYTES: usize = 3 << 20;

/// How Kubernetes reads YAML, on both sides: YAML 1.1 booleans and octals (`0400`), no duplicate keys.
pub fn dialect() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    options.legacy_octal_numbers = true;
    options
}

/// Decodes the only document of the body; an empty body is null. JSON is YAML: kubectl's server-side
/// apply sends it, and it keeps its own, larger depth and its duplicates.
///
/// # Errors
/// [`DecodeError::Yaml`] with line and column, [`DecodeError::TooDeep`], [`DecodeError::TooMany`].
pub fn decode(body: &[u8]) -> Result<Decoded, DecodeError> {
    if body.first() == Some(&b'{')
        && let Ok(decoded) = json::decode(body)
    {
        return Ok(decoded);
    }
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
    let mut options = dialect();
    options.budget = Some(budget);
    options.merge_keys = MergeKeyPolicy::Error;
    options.alias_limits.max_total_replayed_events = MAX_ALIASED_NODES;
    options.alias_limits.max_replay_stack_depth = 16;
    options.with_snippet = false;
    let run = RefCell::new(Run::default());
    let seed = Seed { run: &run, path: &Path::ROOT, depth: 0 };
    let decoded = serde_saphyr::with_deserializer_from_str_with_options(text, options, |one| {
        seed.deserialize(one)
    });
    let value = decoded.map_err(|error| refusal(&error.to_string()))?;
    let duplicates = run.into_inner().duplicates.into_paths();
    Ok(Decoded { value, duplicates })
}

fn refusal(text: &str) -> DecodeError {
    let begins = |starts: &[&str]| starts.iter().any(|start| text.starts_with(start));
    if begins(&[TOO_DEEP, "recursion limit exceeded", "budget breached: Depth"]) {
        return DecodeError::TooDeep;
    }
    if begins(&[TOO_MANY, "budget breached: Nodes", "budget breached: Events"]) {
        return DecodeError::TooMany;
    }
    // The library's advice to programmers is no use to whoever wrote the manifest.
    let text = text.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    let text = text.replace(" by configured policy", "");
    let text = match text.split_once("Documents { documents: 2 }") {
        Some((_, place)) => format!("more than one document{place}"),
        None => text,
    };
    DecodeError::Yaml(text)
}
