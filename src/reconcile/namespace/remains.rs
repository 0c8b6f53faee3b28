//! What is left in a namespace that is being deleted, and how its conditions tell it (pure).
//!
//! Types, reasons and messages are those of Kubernetes' namespace controller (`status_condition_utils.go`), which people search for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::time::Timestamp;

/// What is left in a namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remains {
    pub pods: usize,
    /// By resource and group, such as `deployments.apps`, `configmaps.` without one; only those that hold something.
    pub others: BTreeMap<String, usize>,
    /// By finalizer, how many objects it holds.
    pub finalizers: BTreeMap<String, usize>,
}

impl Remains {
    /// How the conditions read now, those of others and times of what has not changed kept. `None` when nothing changes.
    pub fn conditions(
        &self,
        held: &[NamespaceCondition],
        now: Timestamp,
    ) -> Option<Vec<NamespaceCondition>> {
        let mut all = held.to_vec();
        for (kind, [fine, all_is_well], [wrong, prefix], told) in [
            (
                "NamespaceContentRemaining",
                ["ContentRemoved", "All content successfully removed"],
                ["SomeResourcesRemain", "Some resources are remaining: "],
                self.resources(),
            ),
            (
                "NamespaceFinalizersRemaining",
                ["ContentHasNoFinalizers", "All content-preserving finalizers finished"],
                [
                    "SomeFinalizersRemain",
                    "Some content in the namespace has finalizers remaining: ",
                ],
                counted(&self.finalizers, "in", "resource instances"),
            ),
        ] {
            let (status, reason, message) = match told.is_empty() {
                true => ("False", fine, all_is_well.to_owned()),
                false => ("True", wrong, format!("{prefix}{told}")),
            };
            let place = all.iter().position(|condition| condition.type_ == kind);
            let since = place.map(|place| &all[place]).filter(|old| old.status == status);
            let since = since.and_then(|old| old.last_transition_time.clone());
            let condition = NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: since.or_else(|| Some(Time(now.whole_seconds().as_jiff()))),
            };
            match place {
                Some(place) => all[place] = condition,
                None => all.push(condition),
            }
        }
        (all != held).then_some(all)
    }

    fn resources(&self) -> String {
        let mut all = self.others.clone();
        if self.pods > 0 {
            all.insert("pods.".to_owned(), self.pods);
        }
        counted(&all, "has", "resource instances")
    }
}

fn counted(all: &BTreeMap<String, usize>, verb: &str, what: &str) -> String {
    let words: Vec<String> =
        all.iter().map(|(name, count)| format!("{name} {verb} {count} {what}")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(conditions: &[NamespaceCondition]) -> Vec<String> {
        let time = |c: &NamespaceCondition| {
            let time = c.last_transition_time.as_ref();
            time.map_or(0, |time| time.0.as_second())
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        conditions
            .iter()
            .map(|c| {
                let (reason, message) = (text(&c.reason), text(&c.message));
                format!("{}={} since {}: {reason}: {message}", c.type_, c.status, time(c))
            })
            .collect()
    }

    #[test]
    fn what_remains_is_told_in_the_words_of_kubernetes() {
        let at = |seconds| Timestamp::from_unix(seconds, 0);
        let remains = Remains {
            pods: 2,
            others: [("configmaps.".to_owned(), 1), ("deployments.apps".to_owned(), 3)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
        };
        let first = remains.conditions(&[], at(10)).expect("there was nothing");
        assert_eq!(
            show(&first),
            [
                "NamespaceContentRemaining=True since 10: SomeResourcesRemain: Some resources are remaining: configmaps. has 1 resource instances, deployments.apps has 3 resource instances, pods. has 2 resource instances",
                "NamespaceFinalizersRemaining=True since 10: SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
            ]
        );
        assert_eq!(remains.conditions(&first, at(11)), None, "nothing has changed");
        let later = Remains { pods: 1, ..Remains::default() };
        let second = later.conditions(&first, at(12)).expect("less remains");
        assert_eq!(
            show(&second),
            [
                "NamespaceContentRemaining=True since 10: SomeResourcesRemain: Some resources are remaining: pods. has 1 resource instances",
                "NamespaceFinalizersRemaining=False since 12: ContentHasNoFinalizers: All content-preserving finalizers finished",
            ]
        );
    }
}
