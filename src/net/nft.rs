//! Whole rulesets, through the `nftables` crate and with it the `nft` program.
//!
//! Milliseconds a call: it runs at start and reset only. It speaks of one table and never touches another's.

use std::path::Path;

use nftables::helper::{DEFAULT_ARGS, NftablesError, apply_ruleset_raw, get_current_ruleset_raw};
use serde_json::{Value, json};

/// Daemons are often started without the administrator's directories in `PATH`.
fn program() -> &'static str {
    ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nft")
}

/// What `nft` had to say, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Complaint(String);

impl From<NftablesError> for Complaint {
    fn from(error: NftablesError) -> Complaint {
        Complaint(match &error {
            NftablesError::NftFailed { stderr, .. } => {
                let words: Vec<_> = stderr.split_whitespace().collect();
                match words.is_empty() {
                    true => "nft ended without a word; it was killed".to_owned(),
                    false => words.join(" "),
                }
            }
            NftablesError::NftExecution { .. }
            | NftablesError::NftOutputEncoding { .. }
            | NftablesError::NftInvalidJson(_) => error.to_string(),
        })
    }
}

/// Applies a transaction.
pub fn apply(transaction: &Value) -> Result<(), Complaint> {
    let text = transaction.to_string();
    apply_ruleset_raw(&text, Some(program()), DEFAULT_ARGS)?;
    Ok(())
}

/// The table as the kernel has it; `None` when there is none.
pub fn list(table: &str) -> Result<Option<Value>, Complaint> {
    match get_current_ruleset_raw(Some(program()), ["list", "table", "inet", table]) {
        Ok(text) => Ok(Some(parse(&text)?)),
        Err(NftablesError::NftFailed { stderr, .. }) if stderr.contains("No such file") => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// Every table of every program, to find who drops our packets.
pub fn list_all() -> Result<Value, Complaint> {
    let text = get_current_ruleset_raw(Some(program()), ["list", "ruleset"])?;
    parse(&text)
}

/// Removes the table if it is there.
pub fn delete(table: &str) -> Result<(), Complaint> {
    apply(&removal(table))
}

/// The transaction that does so.
pub fn removal(table: &str) -> Value {
    // "add" first makes the deletion succeed either way.
    let name = json!({"family": "inet", "name": table});
    json!({"nftables": [{"add": {"table": name}}, {"delete": {"table": name}}]})
}

fn parse(text: &str) -> Result<Value, Complaint> {
    Ok(serde_json::from_str(text).map_err(NftablesError::NftInvalidJson)?)
}
