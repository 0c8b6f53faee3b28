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

pub fn compile() -> PartPlan {
    let pod = Register(0);
    let rule = vec![
        Expression::SourceAddress(pod),
        Expression::Exceed { set: BY_POD, key: pod, most: CONNECTIONS },
        Expression::Drop,
    ];
    let counted =
        Declaration { key: vec![Kind::Address], value: vec![], memory: None, counts: Some(PODS) };
    PartPlan {
        programs: BTreeMap::from([(LIMITS.to_owned(), vec![rule])]),
        declarations: BTreeMap::from([(BY_POD.into(), counted)]),
        ..PartPlan::default()
    }
}
