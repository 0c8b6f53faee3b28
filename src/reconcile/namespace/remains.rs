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

/// What has come of one round of emptying a namespace.
#[derive(Debug, Clone, PartialEq)]
pub enum Round {
    /// This was left when it began.
    Left(Remains),
    /// It is not known which kinds there are, and why not.
    NotDiscovered(String),
    /// What could not be counted or deleted, and why, an entry each.
    NotDeleted(Vec<String>),
}

impl Round {
    /// How the conditions read now, those of others and times of what has not changed kept. What a failed round has
    /// not found out stays as it was. `None` when nothing changes.
    pub fn conditions(
        &self,
        held: &[NamespaceCondition],
        now: Timestamp,
    ) -> Option<Vec<NamespaceCondition>> {
        let mut all = held.to_vec();
        for (kind, [fine, all_is_well], wrong, told) in [
            (
                "NamespaceDeletionDiscoveryFailure",
                ["ResourcesDiscovered", "All resources successfully discovered"],
                "DiscoveryFailed",
                self.not_discovered(),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                ["ParsedGroupVersions", "All legacy kube types successfully parsed"],
                "GroupVersionParsingFailed",
                // Discovery here has parsed them already.
                Some(String::new()),
            ),
            (
                "NamespaceDeletionContentFailure",
                [
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization",
                ],
                "ContentDeletionFailed",
                self.not_deleted(),
            ),
            (
                "NamespaceContentRemaining",
                ["ContentRemoved", "All content successfully removed"],
                "SomeResourcesRemain",
                self.resources(),
            ),
            (
                "NamespaceFinalizersRemaining",
                ["ContentHasNoFinalizers", "All content-preserving finalizers finished"],
                "SomeFinalizersRemain",
                self.finalizers(),
            ),
        ] {
            let Some(told) = told else { continue };
            let (status, reason, message) = match told.is_empty() {
                true => ("False", fine, all_is_well.to_owned()),
                false => ("True", wrong, told),
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

    fn not_discovered(&self) -> Option<String> {
        Some(match self {
            Round::NotDiscovered(why) => {
                format!("Discovery failed for some groups, 1 failing: {why}")
            }
            Round::Left(_) | Round::NotDeleted(_) => String::new(),
        })
    }

    fn not_deleted(&self) -> Option<String> {
        match self {
            Round::NotDiscovered(_) => None,
            Round::Left(_) => Some(String::new()),
            Round::NotDeleted(why) => Some(format!(
                "Failed to delete all resource types, {} remaining: {}",
                why.len(),
                why.join(", ")
            )),
        }
    }

    fn resources(&self) -> Option<String> {
        let Round::Left(remains) = self else { return None };
        let mut all = remains.others.clone();
        if remains.pods > 0 {
            all.insert("pods.".to_owned(), remains.pods);
        }
        Some(counted("Some resources are remaining: ", &all, "has"))
    }

    fn finalizers(&self) -> Option<String> {
        let Round::Left(remains) = self else { return None };
        let prefix = "Some content in the namespace has finalizers remaining: ";
        Some(counted(prefix, &remains.finalizers, "in"))
    }
}

/// Nothing when there are none.
fn counted(prefix: &str, all: &BTreeMap<String, usize>, verb: &str) -> String {
    let words: Vec<String> = all
        .iter()
        .map(|(name, count)| format!("{name} {verb} {count} resource instances"))
        .collect();
    match words.is_empty() {
        true => String::new(),
        false => format!("{prefix}{}", words.join(", ")),
    }
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

    fn remains_of(pods: usize) -> Remains {
        Remains {
            pods,
            others: [("configmaps.".to_owned(), 1), ("deployments.apps".to_owned(), 3)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
        }
    }

    #[test]
    fn what_remains_is_told_in_the_words_of_kubernetes() {
        let at = |seconds| Timestamp::from_unix(seconds, 0);
        let first = Round::Left(remains_of(2)).conditions(&[], at(10)).expect("there was nothing");
        assert_eq!(
            show(&first),
            [
                "NamespaceDeletionDiscoveryFailure=False since 10: ResourcesDiscovered: All resources successfully discovered",
                "NamespaceDeletionGroupVersionParsingFailure=False since 10: ParsedGroupVersions: All legacy kube types successfully parsed",
                "NamespaceDeletionContentFailure=False since 10: ContentDeleted: All content successfully deleted, may be waiting on finalization",
                "NamespaceContentRemaining=True since 10: SomeResourcesRemain: Some resources are remaining: configmaps. has 1 resource instances, deployments.apps has 3 resource instances, pods. has 2 resource instances",
                "NamespaceFinalizersRemaining=True since 10: SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
            ]
        );
        let same = Round::Left(remains_of(2)).conditions(&first, at(11));
        assert_eq!(same, None, "nothing has changed");
        let later = Round::Left(Remains { pods: 1, ..Remains::default() });
        let second = later.conditions(&first, at(12)).expect("less remains");
        assert_eq!(
            show(&second)[3..],
            [
                "NamespaceContentRemaining=True since 10: SomeResourcesRemain: Some resources are remaining: pods. has 1 resource instances",
                "NamespaceFinalizersRemaining=False since 12: ContentHasNoFinalizers: All content-preserving finalizers finished",
            ]
        );
    }

    #[test]
    fn a_round_that_fails_is_told_and_what_it_has_not_found_out_stays() {
        let at = |seconds| Timestamp::from_unix(seconds, 0);
        let before = Round::Left(remains_of(2)).conditions(&[], at(10)).expect("there was nothing");
        let failed = Round::NotDeleted(vec!["configmaps.: no disk".into(), "pods.: no".into()]);
        let during = failed.conditions(&before, at(20)).expect("it has failed");
        assert_eq!(
            show(&during)[2],
            "NamespaceDeletionContentFailure=True since 20: ContentDeletionFailed: Failed to delete all resource types, 2 remaining: configmaps.: no disk, pods.: no"
        );
        assert_eq!((&during[..2], &during[3..]), (&before[..2], &before[3..]));
        let blind = Round::NotDiscovered("no answer".into());
        let blind = blind.conditions(&during, at(30)).expect("it has failed otherwise");
        assert_eq!(
            show(&blind)[0],
            "NamespaceDeletionDiscoveryFailure=True since 30: DiscoveryFailed: Discovery failed for some groups, 1 failing: no answer"
        );
        assert_eq!(blind[1..], during[1..]);
        let after = Round::Left(remains_of(2)).conditions(&blind, at(40)).expect("all is well");
        assert_eq!(
            show(&after)[2],
            "NamespaceDeletionContentFailure=False since 40: ContentDeleted: All content successfully deleted, may be waiting on finalization"
        );
    }
}
