//! Whom the taints of a node keep away or send away, and when.
//!
//! Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;

/// What a taint does to those who do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nobody new comes.
    NoSchedule,
    /// Nobody new comes, and who is there goes.
    NoExecute,
}

impl Effect {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::NoSchedule => "NoSchedule",
            Effect::NoExecute => "NoExecute",
        }
    }
}

/// How long a pod may stay on a node that has taints of [`Effect::NoExecute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    Unlimited,
    For(Duration),
    /// It tolerates one of them not at all.
    Over,
}

/// The first taint of one of the effects that the pod does not tolerate.
pub fn untolerated<'a>(
    taints: &'a [core::Taint],
    pod: &core::Pod,
    effects: &[Effect],
) -> Option<&'a core::Taint> {
    taints.iter().find(|taint| {
        effects.iter().any(|effect| effect.as_str() == taint.effect)
            && !tolerations(pod).any(|toleration| tolerates(toleration, taint))
    })
}

/// Whether the pod tolerates the taint that a node has while it is cordoned.
pub fn tolerates_cordon(pod: &core::Pod) -> bool {
    let cordon = core::Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: Effect::NoSchedule.as_str().into(),
        ..core::Taint::default()
    };
    tolerations(pod).any(|toleration| tolerates(toleration, &cordon))
}

/// How long the pod may stay: as long as the shortest of the tolerations that it needs says.
pub fn stay(taints: &[core::Taint], pod: &core::Pod) -> Stay {
    if untolerated(taints, pod, &[Effect::NoExecute]).is_some() {
        return Stay::Over;
    }
    let sends_away = |taint: &&core::Taint| taint.effect == Effect::NoExecute.as_str();
    taints
        .iter()
        .filter(sends_away)
        // Of several tolerations of one taint the first counts.
        .filter_map(|taint| tolerations(pod).find(|toleration| tolerates(toleration, taint)))
        .filter_map(|toleration| toleration.toleration_seconds)
        .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        .min()
        .map_or(Stay::Unlimited, Stay::For)
}

fn tolerations(pod: &core::Pod) -> impl Iterator<Item = &core::Toleration> {
    pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten())
}

fn tolerates(toleration: &core::Toleration, taint: &core::Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() && exists || key == taint.key)
        && (exists || value == taint.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn taints(list: Value) -> Vec<core::Taint> {
        serde_json::from_value(list).unwrap()
    }

    fn pod(tolerations: Value) -> core::Pod {
        let spec = json!({"containers": [], "tolerations": tolerations});
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn only_a_toleration_of_the_same_key_value_and_effect_helps() {
        let held = taints(json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]));
        let both = [Effect::NoSchedule, Effect::NoExecute];
        for (toleration, is_tolerated) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "gpu", "operator": "Exists"}), true),
            (json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}), true),
            (json!({"key": "gpu", "value": "no"}), false),
            (json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "cpu", "operator": "Exists"}), false),
        ] {
            let pod = pod(json!([toleration]));
            assert_eq!(untolerated(&held, &pod, &both).is_none(), is_tolerated, "{toleration}");
            assert!(untolerated(&held, &pod, &[Effect::NoExecute]).is_none());
        }
    }

    #[test]
    fn a_pod_stays_as_long_as_its_shortest_toleration_allows() {
        let held = taints(json!([
            {"key": "a", "effect": "NoExecute"},
            {"key": "b", "effect": "NoExecute"},
            {"key": "c", "effect": "NoSchedule"},
        ]));
        let tolerates = |key: &str, seconds: Option<i64>| {
            json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                   "tolerationSeconds": seconds})
        };
        let seconds = |n| Stay::For(Duration::from_secs(n));
        for (tolerations, expected) in [
            (json!([]), Stay::Over),
            (json!([tolerates("a", None)]), Stay::Over),
            (json!([tolerates("a", None), tolerates("b", None)]), Stay::Unlimited),
            (json!([tolerates("a", Some(60)), tolerates("b", None)]), seconds(60)),
            (json!([tolerates("a", Some(60)), tolerates("b", Some(5))]), seconds(5)),
            (json!([tolerates("a", Some(-1)), tolerates("b", Some(5))]), seconds(0)),
            (json!([{"operator": "Exists"}]), Stay::Unlimited),
        ] {
            assert_eq!(stay(&held, &pod(tolerations.clone())), expected, "{tolerations}");
        }
        assert_eq!(stay(&[], &pod(json!([]))), Stay::Unlimited);
    }
}
