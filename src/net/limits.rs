//! What one pod may take from all: entries of the host's connection tracking (pure).
//!
//! A pod that opens connections without end would fill the table, and nobody else could connect to anything
//! (security D12). Beyond its share the first packets of its new connections are dropped; those that it has live on.

use std::collections::BTreeMap;

use super::part::{LIMITS, PartPlan};
use super::program::{Declaration, Expression, Kind, Register};

/// Connections of a pod at once, an eighth of the 262,144 that the kernel's table holds on a machine of 4 GiB
/// (nf_conntrack_max). An ended one counts for two minutes more (nf_conntrack_tcp_timeout_time_wait), so it is more than
/// the 28,232 ports that a client has towards one address (ip_local_port_range): honest load never meets it there.
pub const CONNECTIONS: u32 = 32_768;
/// Pods, at most; a range of pods has no more addresses.
const PODS: u32 = 65_536;
const BY_POD: &str = "limits_by_pod";

/// Pods that it should take at least to fill the table of the host.
const GREEDY: u64 = 4;

/// What a table of so many connections (nf_conntrack_max) is too small for; `None` when it is large enough. Below
/// 4 GiB of memory the kernel makes a smaller one; it is the host's, so we tell and do not change it.
pub fn shortage(table: u64) -> Option<String> {
    let share = u64::from(CONNECTIONS);
    let few = match table.div_ceil(share) {
        0 | 1 => "one pod fills".to_owned(),
        pods => format!("{pods} pods fill"),
    };
    (table < GREEDY * share).then(|| {
        format!(
            "the host tracks {table} connections at once and a pod may have {CONNECTIONS}: {few} the table, and nobody connects any more"
        )
    })
}

/// A table that is large enough.
pub const ENOUGH: u64 = 8 * CONNECTIONS as u64;

pub fn compile() -> PartPlan {
    let pod = Register(0);
    let rule = vec![
        Expression::SourceAddress(pod),
        Expression::Exceed { set: BY_POD, key: pod, most: CONNECTIONS },
        Expression::Drop,
    ];
    let counted = Declaration { counts: Some(PODS), ..Declaration::set(vec![Kind::Address]) };
    PartPlan {
        programs: BTreeMap::from([(LIMITS.to_owned(), vec![rule])]),
        declarations: BTreeMap::from([(BY_POD.into(), counted)]),
        ..PartPlan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_a_few_pods_fill_is_told() {
        for (table, words) in [
            (16_384, Some("one pod fills")),
            (65_536, Some("2 pods fill")),
            (100_000, Some("4 pods fill")),
            (131_072, None),
            (ENOUGH, None),
        ] {
            let told = shortage(table);
            assert_eq!(told.is_some(), words.is_some(), "{table}");
            assert!(words.is_none_or(|words| told.unwrap().contains(words)), "{table}");
        }
    }
}
