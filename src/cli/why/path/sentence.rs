//! What policies say of a connection, in words (pure).

use crate::net::policy::{Asked, Explanation, Flow, Side};

use super::target::word;

/// The whole answer in one sentence.
pub fn reason(found: &Explanation, who: &str, whom: &str, flow: Flow) -> String {
    let what = match flow.asked {
        Asked::Port(protocol, port) => format!("{} {port}", word(protocol)),
        Asked::Echo | Asked::Other => "it".to_owned(),
    };
    match (&found.egress, &found.ingress) {
        (Side::Denied { policies }, _) => {
            format!("{} {who} and no egress rule allows {what} to {whom}", isolate(policies))
        }
        (_, Side::Denied { policies }) => {
            format!("{} {whom} and no ingress rule allows {what} from {who}", isolate(policies))
        }
        (egress, ingress) => {
            let said: Vec<String> = [(egress, "egress"), (ingress, "ingress")]
                .into_iter()
                .filter_map(|(side, direction)| match side {
                    Side::Allowed { policy, rule } => Some(format!(
                        "{direction} rule {} of NetworkPolicy {policy} allows it",
                        rule + 1
                    )),
                    Side::NoPod | Side::Open | Side::Denied { .. } => None,
                })
                .collect();
            match said.is_empty() {
                true => "no NetworkPolicy isolates either end".to_owned(),
                false => said.join(", "),
            }
        }
    }
}

/// One end's part, as evidence.
pub fn side(side: &Side, who: &str, direction: &str) -> String {
    match side {
        Side::NoPod => format!("{who} is no pod that a policy could isolate"),
        Side::Open => format!("no policy isolates {who}"),
        Side::Allowed { policy, rule } => {
            format!("{direction} rule {} of {policy} allows it", rule + 1)
        }
        Side::Denied { policies } => {
            format!("denied: {} {who}, and no {direction} rule allows it", isolate(policies))
        }
    }
}

/// `NetworkPolicy a/b isolates`, or several that isolate.
pub fn isolate(policies: &[String]) -> String {
    match policies {
        [one] => format!("NetworkPolicy {one} isolates"),
        several => format!("NetworkPolicies {} isolate", several.join(", ")),
    }
}
