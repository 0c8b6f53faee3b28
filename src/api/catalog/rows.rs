//! The rows: what is served, with which names, verbs and paths below.
//!
//! It never looks anything up.

use super::{
    DeleteAnswer, Generation, GroupVersionKind, Keeping, Kind, Measured, Purpose, PutAbsent,
    Review, Scope, Subresource, Verb,
};

const ALL: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
/// Namespaces are emptied by a controller, never many at once.
const NO_COLLECTION: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
const CREATE: &[Verb] = &[Verb::Create];
const GET: &[Verb] = &[Verb::Get];
const READ: &[Verb] = &[Verb::Get, Verb::List];
const UPDATE: &[Verb] = &[Verb::Update];
/// WebSocket comes as GET, SPDY as POST.
const CONNECT: &[Verb] = &[Verb::Create, Verb::Get];
/// Whatever a pod is asked for over HTTP.
const ANY_METHOD: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

const fn core(kind: &'static str) -> GroupVersionKind {
    GroupVersionKind { group: "", version: "v1", kind }
}

const fn status(kind: &'static str) -> Subresource {
    status_of(core(kind))
}

const fn status_of(kind: GroupVersionKind) -> Subresource {
    Subresource { name: "status", purpose: Purpose::Status, kind, verbs: READ_WRITE }
}

const fn apps(kind: &'static str) -> GroupVersionKind {
    GroupVersionKind { group: "apps", version: "v1", kind }
}

const fn autoscaler(version: &'static str) -> GroupVersionKind {
    GroupVersionKind { group: "autoscaling", version, kind: "HorizontalPodAutoscaler" }
}

const SCALE: Subresource = Subresource {
    name: "scale",
    purpose: Purpose::Scale,
    kind: GroupVersionKind { group: "autoscaling", version: "v1", kind: "Scale" },
    verbs: READ_WRITE,
};

/// A namespaced core kind without subresources; rows override what differs.
const PLAIN: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL,
    subresources: &[],
    delete_answer: DeleteAnswer::Status,
    put_absent: PutAbsent::NotFound,
    generation: Generation::Absent,
    keeping: Keeping::Stored,
    storage_group: None,
};

const AUTOSCALER: Kind = Kind {
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    ..PLAIN
};

/// What `custom.metrics.k8s.io` has for everybody; pods have figures of their own beside.
const FIGURE: Kind = Kind {
    group: "custom.metrics.k8s.io",
    version: "v1beta2",
    kind: "MetricValueList",
    verbs: GET,
    keeping: Keeping::Measured(Measured::Figure),
    ..PLAIN
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        ..PLAIN
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        put_absent: PutAbsent::Creates,
        ..PLAIN
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        put_absent: PutAbsent::Creates,
        ..PLAIN
    },
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        verbs: NO_COLLECTION,
        subresources: &[
            Subresource {
                name: "finalize",
                purpose: Purpose::Finalize,
                kind: core("Namespace"),
                verbs: UPDATE,
            },
            status("Namespace"),
        ],
        ..PLAIN
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[status("Node")],
        ..PLAIN
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource {
                name: "attach",
                purpose: Purpose::Attach,
                kind: core("PodAttachOptions"),
                verbs: CONNECT,
            },
            Subresource {
                name: "binding",
                purpose: Purpose::Binding,
                kind: core("Binding"),
                verbs: CREATE,
            },
            Subresource {
                name: "ephemeralcontainers",
                purpose: Purpose::EphemeralContainers,
                kind: core("Pod"),
                verbs: &[],
            },
            Subresource {
                name: "eviction",
                purpose: Purpose::Eviction,
                kind: GroupVersionKind { group: "policy", version: "v1", kind: "Eviction" },
                verbs: CREATE,
            },
            Subresource {
                name: "exec",
                purpose: Purpose::Exec,
                kind: core("PodExecOptions"),
                verbs: CONNECT,
            },
            Subresource { name: "log", purpose: Purpose::Log, kind: core("Pod"), verbs: GET },
            Subresource {
                name: "portforward",
                purpose: Purpose::PortForward,
                kind: core("PodPortForwardOptions"),
                verbs: CONNECT,
            },
            Subresource {
                name: "proxy",
                purpose: Purpose::Proxy,
                kind: core("PodProxyOptions"),
                verbs: ANY_METHOD,
            },
            status("Pod"),
        ],
        delete_answer: DeleteAnswer::Object,
        generation: Generation::Counted,
        ..PLAIN
    },
    Kind { kind: "Secret", plural: "secrets", singular: "secret", ..PLAIN },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[
            Subresource {
                name: "proxy",
                purpose: Purpose::Proxy,
                kind: core("ServiceProxyOptions"),
                verbs: ANY_METHOD,
            },
            status("Service"),
        ],
        delete_answer: DeleteAnswer::Object,
        ..PLAIN
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[Subresource {
            name: "token",
            purpose: Purpose::Token,
            kind: GroupVersionKind {
                group: "authentication.k8s.io",
                version: "v1",
                kind: "TokenRequest",
            },
            verbs: CREATE,
        }],
        delete_answer: DeleteAnswer::Object,
        ..PLAIN
    },
    Kind {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        put_absent: PutAbsent::Creates,
        storage_group: Some(""),
        ..PLAIN
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, status_of(apps("Deployment"))],
        generation: Generation::Counted,
        ..PLAIN
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, status_of(apps("ReplicaSet"))],
        generation: Generation::Counted,
        ..PLAIN
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        keeping: Keeping::Review(Review::WhoAmI),
        ..PLAIN
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        keeping: Keeping::Review(Review::Access),
        ..PLAIN
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        keeping: Keeping::Review(Review::Rules),
        ..PLAIN
    },
    Kind {
        group: "autoscaling",
        version: "v2",
        subresources: &[status_of(autoscaler("v2"))],
        ..AUTOSCALER
    },
    Kind { group: "autoscaling", subresources: &[status_of(autoscaler("v1"))], ..AUTOSCALER },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        put_absent: PutAbsent::Creates,
        ..PLAIN
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        generation: Generation::Counted,
        ..PLAIN
    },
    Kind {
        group: "networking.k8s.io",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        scope: Scope::Cluster,
        generation: Generation::Counted,
        ..PLAIN
    },
    Kind {
        group: "networking.k8s.io",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        subresources: &[status_of(GroupVersionKind {
            group: "networking.k8s.io",
            version: "v1",
            kind: "Ingress",
        })],
        generation: Generation::Counted,
        ..PLAIN
    },
    Kind {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        generation: Generation::Counted,
        ..PLAIN
    },
    // Last, so that a plain "pods" means the core group's.
    Kind {
        group: "metrics.k8s.io",
        version: "v1beta1",
        kind: "NodeMetrics",
        plural: "nodes",
        singular: "node",
        scope: Scope::Cluster,
        verbs: READ,
        keeping: Keeping::Measured(Measured::NodeUsage),
        ..PLAIN
    },
    Kind {
        group: "metrics.k8s.io",
        version: "v1beta1",
        kind: "PodMetrics",
        plural: "pods",
        singular: "pod",
        verbs: READ,
        keeping: Keeping::Measured(Measured::PodUsage),
        ..PLAIN
    },
    Kind { plural: "ingresses.networking.k8s.io/requests-per-second", ..FIGURE },
    Kind { plural: "pods/requests-per-second", ..FIGURE },
    Kind { plural: "services/requests-per-second", ..FIGURE },
];
