//! The closed sets of words that Kubernetes' documents name (`enum`), for `kubectl explain`.
//!
//! k8s-openapi's schemas leave them out. Validation does not read this: it has its own, with its own texts.

/// The words a member may hold, sorted as Kubernetes sorts them; empty if its set is open or unknown.
pub(super) fn of(type_name: &str, member: &str) -> &'static [&'static str] {
    let is_it = |one: &&str| one.rsplit_once('.') == Some((type_name, member));
    let found = TABLE.iter().find(|(members, _)| members.iter().any(is_it));
    found.map_or(&[], |(_, words)| words)
}

/// Members that share a set, and the set.
type Row = (&'static [&'static str], &'static [&'static str]);

/// Source: the types marked `+enum` in k8s.io/api.
pub(super) const TABLE: &[Row] = &[
    (
        &["core.v1.Container.imagePullPolicy", "core.v1.EphemeralContainer.imagePullPolicy"],
        &["Always", "IfNotPresent", "Never"],
    ),
    (&["core.v1.PodSpec.restartPolicy"], &["Always", "Never", "OnFailure"]),
    (
        &["core.v1.PodSpec.dnsPolicy"],
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    ),
    (
        &[
            "core.v1.ContainerPort.protocol",
            "core.v1.EndpointPort.protocol",
            "core.v1.ServicePort.protocol",
            "discovery.v1.EndpointPort.protocol",
            "networking.v1.NetworkPolicyPort.protocol",
        ],
        &["SCTP", "TCP", "UDP"],
    ),
    (
        &[
            "core.v1.Container.terminationMessagePolicy",
            "core.v1.EphemeralContainer.terminationMessagePolicy",
        ],
        &["FallbackToLogsOnError", "File"],
    ),
    (&["core.v1.HTTPGetAction.scheme"], &["HTTP", "HTTPS"]),
    (&["core.v1.ServiceSpec.type"], &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
    (&["core.v1.ServiceSpec.sessionAffinity"], &["ClientIP", "None"]),
    (
        &["core.v1.ServiceSpec.externalTrafficPolicy", "core.v1.ServiceSpec.internalTrafficPolicy"],
        &["Cluster", "Local"],
    ),
    (
        &["core.v1.ServiceSpec.ipFamilyPolicy"],
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    ),
    (
        &["core.v1.HostPathVolumeSource.type"],
        &[
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ],
    ),
    (&["core.v1.PodStatus.phase"], &["Failed", "Pending", "Running", "Succeeded", "Unknown"]),
    (&["core.v1.PodStatus.qosClass"], &["BestEffort", "Burstable", "Guaranteed"]),
    (&["core.v1.NamespaceStatus.phase"], &["Active", "Terminating"]),
    (
        &["core.v1.Taint.effect", "core.v1.Toleration.effect"],
        &["NoExecute", "NoSchedule", "PreferNoSchedule"],
    ),
    (
        &["core.v1.AppArmorProfile.type", "core.v1.SeccompProfile.type"],
        &["Localhost", "RuntimeDefault", "Unconfined"],
    ),
    (&["core.v1.SecurityContext.procMount"], &["Default", "Unmasked"]),
    (
        &["core.v1.PodSpec.preemptionPolicy", "scheduling.v1.PriorityClass.preemptionPolicy"],
        &["Never", "PreemptLowerPriority"],
    ),
    (&["core.v1.TopologySpreadConstraint.whenUnsatisfiable"], &["DoNotSchedule", "ScheduleAnyway"]),
    (
        &[
            "core.v1.TopologySpreadConstraint.nodeAffinityPolicy",
            "core.v1.TopologySpreadConstraint.nodeTaintsPolicy",
        ],
        &["Honor", "Ignore"],
    ),
    (
        &["core.v1.NodeSelectorRequirement.operator"],
        &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"],
    ),
    (&["core.v1.VolumeMount.mountPropagation"], &["Bidirectional", "HostToContainer", "None"]),
    (
        &[
            "core.v1.PersistentVolumeClaimSpec.volumeMode",
            "core.v1.PersistentVolumeSpec.volumeMode",
        ],
        &["Block", "Filesystem"],
    ),
    (&["core.v1.PersistentVolumeClaimStatus.phase"], &["Bound", "Lost", "Pending"]),
    (
        &["core.v1.PersistentVolumeSpec.persistentVolumeReclaimPolicy"],
        &["Delete", "Recycle", "Retain"],
    ),
    (&["core.v1.PodSecurityContext.fsGroupChangePolicy"], &["Always", "OnRootMismatch"]),
    (&["core.v1.PodSecurityContext.supplementalGroupsPolicy"], &["Merge", "Strict"]),
    (&["apps.v1.DeploymentStrategy.type"], &["Recreate", "RollingUpdate"]),
    (
        &["apps.v1.DaemonSetUpdateStrategy.type", "apps.v1.StatefulSetUpdateStrategy.type"],
        &["OnDelete", "RollingUpdate"],
    ),
    (&["apps.v1.StatefulSetSpec.podManagementPolicy"], &["OrderedReady", "Parallel"]),
    (&["batch.v1.CronJobSpec.concurrencyPolicy"], &["Allow", "Forbid", "Replace"]),
    (&["batch.v1.JobSpec.completionMode"], &["Indexed", "NonIndexed"]),
    (&["batch.v1.JobSpec.podReplacementPolicy"], &["Failed", "TerminatingOrFailed"]),
    (&["networking.v1.HTTPIngressPath.pathType"], &["Exact", "ImplementationSpecific", "Prefix"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::{self, Item, Shape};

    #[test]
    fn every_row_names_string_members_and_sorted_words() {
        for (members, words) in TABLE {
            assert!(words.is_sorted(), "{words:?}");
            for member in *members {
                let (type_name, name) = member.rsplit_once('.').unwrap();
                let field = schema::by_name(type_name).and_then(|known| known.field(name));
                let field = field.unwrap_or_else(|| panic!("no member {member}"));
                assert_eq!(field.shape, Shape::One(Item::String), "{member}");
                assert_eq!(of(type_name, name), *words);
            }
        }
        assert!(of("core.v1.Container", "name").is_empty());
    }
}
