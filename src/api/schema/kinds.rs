//! The built-in kinds whose shape is known, by group and version: one list for tables and documents.
//!
//! Which of them are served is the catalog's decision, not this file's.

use k8s_openapi::Resource;
use k8s_openapi::api::*;
use schemars::{JsonSchema, SchemaGenerator};

/// A built-in kind and the name of its schema, as `io.k8s.api.core.v1.Pod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltIn {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub schema: String,
    /// Whether a list kind goes with it.
    pub is_listed: bool,
}

fn add<T: Resource + JsonSchema>(
    is_listed: bool,
    generator: &mut SchemaGenerator,
    found: &mut Vec<BuiltIn>,
) {
    generator.subschema_for::<T>();
    found.push(BuiltIn {
        api_version: T::API_VERSION,
        kind: T::KIND,
        schema: T::schema_name().into_owned(),
        is_listed,
    });
}

macro_rules! kinds {
    ($($group_version:literal: $group:ident::$version:ident { $($kind:ident),* $(,)? } { $($listed:ident),* $(,)? })*) => {
        /// Every group and version that has built-in kinds, as `v1` and `apps/v1`.
        pub const GROUP_VERSIONS: &[&str] = &[$($group_version),*];

        /// Adds the schemas of all kinds of `group_version` (and everything they refer to) to `generator`, and names the kinds; empty for an unknown version.
        pub fn register(group_version: &str, generator: &mut SchemaGenerator) -> Vec<BuiltIn> {
            let mut found = Vec::new();
            match group_version {
                $($group_version => {
                    $(add::<$group::$version::$kind>(false, generator, &mut found);)*
                    $(add::<$group::$version::$listed>(true, generator, &mut found);)*
                })*
                _ => {}
            }
            found
        }
    };
}

// First the kinds without lists (requests, subresources), then those with.
kinds! {
    "v1": core::v1 { Binding } {
        ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node,
        PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController,
        ResourceQuota, Secret, Service, ServiceAccount,
    }
    "apps/v1": apps::v1 {} { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    "authentication.k8s.io/v1": authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview } {}
    "authorization.k8s.io/v1": authorization::v1 {
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    } {}
    "autoscaling/v1": autoscaling::v1 { Scale } { HorizontalPodAutoscaler }
    "autoscaling/v2": autoscaling::v2 {} { HorizontalPodAutoscaler }
    "batch/v1": batch::v1 {} { CronJob, Job }
    "certificates.k8s.io/v1": certificates::v1 {} { CertificateSigningRequest }
    "coordination.k8s.io/v1": coordination::v1 {} { Lease }
    "discovery.k8s.io/v1": discovery::v1 {} { EndpointSlice }
    "events.k8s.io/v1": events::v1 {} { Event }
    "networking.k8s.io/v1": networking::v1 {} {
        IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR,
    }
    "node.k8s.io/v1": node::v1 {} { RuntimeClass }
    "policy/v1": policy::v1 { Eviction } { PodDisruptionBudget }
    "rbac.authorization.k8s.io/v1": rbac::v1 {} { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    "scheduling.k8s.io/v1": scheduling::v1 {} { PriorityClass }
    "storage.k8s.io/v1": storage::v1 {} {
        CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
    }
}
