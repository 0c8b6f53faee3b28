//! The checks of the Pod Security Standards, in the order in which Kubernetes tells what they found (pure).
//!
//! What this server refuses in every pod needs no check: AppArmor fields, SELinux and Windows options, `procMount`,
//! `hostUsers`, other systems than Linux (`validate/unimplemented.rs`; a test holds the two together).

use std::collections::BTreeSet;

use serde_json::Value;

use super::Violation;

/// Of release 1.`version`, as are all below.
pub(super) fn baseline(pod: &Value, version: u32) -> Vec<Violation> {
    let pod = Pod(pod);
    let found = [
        app_armor(&pod),
        added_capabilities(&pod),
        host_namespaces(&pod),
        host_paths(&pod),
        host_ports(&pod),
        since(34, version, || probed_hosts(&pod)),
        privileged(&pod),
        seccomp_if_set(&pod, version),
        sysctls(&pod, version),
    ];
    found.into_iter().flatten().collect()
}

pub(super) fn restricted(pod: &Value, version: u32) -> Vec<Violation> {
    let pod = Pod(pod);
    // Stricter ones take the place of those of baseline once there are any.
    let found = [
        app_armor(&pod),
        until(22, version, || added_capabilities(&pod)),
        host_namespaces(&pod),
        host_ports(&pod),
        since(34, version, || probed_hosts(&pod)),
        privileged(&pod),
        until(19, version, || seccomp_if_set(&pod, version)),
        sysctls(&pod, version),
        since(8, version, || privilege_escalation(&pod)),
        since(22, version, || kept_capabilities(&pod)),
        volume_types(&pod),
        run_as_non_root(&pod),
        since(23, version, || run_as_root(&pod)),
        since(19, version, || seccomp(&pod)),
    ];
    found.into_iter().flatten().collect()
}

fn since(first: u32, version: u32, check: impl Fn() -> Option<Violation>) -> Option<Violation> {
    (version >= first).then(check).flatten()
}

fn until(first: u32, version: u32, check: impl Fn() -> Option<Violation>) -> Option<Violation> {
    (version < first).then(check).flatten()
}

/// A pod or a template of pods.
struct Pod<'a>(&'a Value);

impl<'a> Pod<'a> {
    fn spec(&self) -> &'a Value {
        &self.0["spec"]
    }

    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec();
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| items(&spec[list]))
    }

    /// Names of the containers that are so.
    fn those(&self, is_so: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|one| is_so(one)).map(|one| text(&one["name"])).collect()
    }

    fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let annotations = self.0["metadata"]["annotations"].as_object();
        annotations.into_iter().flatten().map(|(key, value)| (key.as_str(), text(value)))
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `"a", "b"`
fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = names.into_iter().map(|name| format!("\"{name}\"")).collect();
    all.join(", ")
}

fn plural<'a>(one: &'a str, several: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { several }
}

/// `container "a"`, `containers "a", "b"`
fn named(containers: &[&str]) -> String {
    let word = plural("container", "containers", containers.len());
    format!("{word} {}", quoted(containers.iter().copied()))
}

/// `pod and container "a"`: those who set something; `None` when nobody does.
fn setters(does_pod: bool, containers: &[&str]) -> Option<String> {
    match (does_pod, containers) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, containers) => Some(named(containers)),
        (true, containers) => Some(format!("pod and {}", named(containers))),
    }
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let is_allowed = |profile: &str| {
        matches!(profile, "" | "runtime/default") || profile.starts_with("localhost/")
    };
    let found: BTreeSet<String> = pod
        .annotations()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter(|(_, profile)| !is_allowed(profile))
        .map(|(key, profile)| format!("{key}={profile:?}"))
        .collect();
    if found.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", found.len());
    violation(reason, found.into_iter().collect::<Vec<_>>().join(", "))
}

/// What container runtimes give without being asked, NET_RAW excepted.
const USUAL_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The containers that add others than `allowed`, and which.
fn adding<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut which = BTreeSet::new();
    let mut who = Vec::new();
    for container in pod.containers() {
        let added = items(&container["securityContext"]["capabilities"]["add"]).map(text);
        let before: Vec<&str> = added.filter(|one| !allowed.contains(one)).collect();
        if !before.is_empty() {
            who.push(text(&container["name"]));
            which.extend(before);
        }
    }
    (who, which)
}

fn must_not_add(who: &[&str], which: BTreeSet<&str>) -> String {
    format!("{} must not include {} in securityContext.capabilities.add", named(who), quoted(which))
}

fn added_capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let (who, which) = adding(pod, &USUAL_CAPABILITIES);
    (!who.is_empty())
        .then(|| must_not_add(&who, which))
        .and_then(|detail| violation("non-default capabilities", detail))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec()[field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() {
        return None;
    }
    violation("host namespaces", shared.join(", "))
}

fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let volumes: Vec<&str> = items(&pod.spec()["volumes"])
        .filter(|volume| !volume["hostPath"].is_null())
        .map(|volume| text(&volume["name"]))
        .collect();
    if volumes.is_empty() {
        return None;
    }
    let word = plural("volume", "volumes", volumes.len());
    violation("hostPath volumes", format!("{word} {}", quoted(volumes)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let asked = |container: &Value| -> BTreeSet<String> {
        let ports = items(&container["ports"]).filter_map(|port| port["hostPort"].as_u64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let ports: BTreeSet<String> = pod.containers().flat_map(asked).collect();
    let who = pod.those(|container| !asked(container).is_empty());
    if who.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&who),
        plural("uses", "use", who.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

fn probed_hosts(pod: &Pod<'_>) -> Option<Violation> {
    fn hosts(container: &Value) -> BTreeSet<&str> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|at| &container[at]);
        let hooks = ["postStart", "preStop"].map(|at| &container["lifecycle"][at]);
        let actions = probes.into_iter().chain(hooks);
        let hosts =
            actions.flat_map(|action| [&action["httpGet"]["host"], &action["tcpSocket"]["host"]]);
        hosts.map(text).filter(|host| !host.is_empty()).collect()
    }
    let which: BTreeSet<&str> = pod.containers().flat_map(hosts).collect();
    let who: BTreeSet<&str> =
        pod.those(|container| !hosts(container).is_empty()).into_iter().collect();
    if who.is_empty() {
        return None;
    }
    let who: Vec<&str> = who.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        named(&who),
        plural("uses", "use", who.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", which.len()),
        quoted(which)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.those(|container| container["securityContext"]["privileged"] == true);
    if who.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.privileged=true", named(&who));
    violation("privileged", detail)
}

fn is_confined(profile: &Value) -> bool {
    matches!(text(&profile["type"]), "RuntimeDefault" | "Localhost")
}

fn is_unconfined(profile: &Value) -> bool {
    !profile.is_null() && !is_confined(profile)
}

fn seccomp_if_set(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    // Until 1.18 there was no field but an annotation, which nobody reads any more.
    if version < 19 {
        return None;
    }
    let of_pod = &pod.spec()["securityContext"]["seccompProfile"];
    let own = |container: &'_ Value| container["securityContext"]["seccompProfile"].clone();
    let who = pod.those(|container| is_unconfined(&own(container)));
    let setters = setters(is_unconfined(of_pod), &who)?;
    let profiles = pod.containers().map(own).chain([of_pod.clone()]);
    let bad: BTreeSet<String> =
        profiles.filter(is_unconfined).map(|profile| text(&profile["type"]).to_owned()).collect();
    let detail = format!(
        "{setters} must not set securityContext.seccompProfile.type to {}",
        quoted(bad.iter().map(String::as_str))
    );
    violation("seccompProfile", detail)
}

/// With the release that first allowed each.
const SAFE_SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    let is_safe =
        |name: &str| SAFE_SYSCTLS.iter().any(|(safe, since)| *safe == name && version >= *since);
    let bad: Vec<&str> = items(&pod.spec()["securityContext"]["sysctls"])
        .map(|sysctl| text(&sysctl["name"]))
        .filter(|name| !is_safe(name))
        .collect();
    if bad.is_empty() {
        return None;
    }
    violation("forbidden sysctls", bad.join(", "))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let who =
        pod.those(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if who.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&who));
    violation("allowPrivilegeEscalation != false", detail)
}

fn kept_capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let keeping = pod.those(|container| {
        let dropped = &container["securityContext"]["capabilities"]["drop"];
        !items(dropped).any(|one| one == "ALL")
    });
    let (who, which) = adding(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeping)
        ));
    }
    if !who.is_empty() {
        details.push(must_not_add(&who, which));
    }
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

/// What of a pod's volumes comes from the cluster, or goes with the pod.
const VOLUME_TYPES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volume_types(pod: &Pod<'_>) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let mut volumes = Vec::new();
    for volume in items(&pod.spec()["volumes"]) {
        let sources = volume.as_object().into_iter().flatten();
        let mut sources = sources
            .filter(|(key, source)| *key != "name" && !source.is_null())
            .map(|(key, _)| key.as_str());
        let source = sources.next().unwrap_or("unknown");
        if !VOLUME_TYPES.contains(&source) {
            types.insert(source);
            volumes.push(text(&volume["name"]));
        }
    }
    if volumes.is_empty() {
        return None;
    }
    let count = volumes.len();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", count),
        quoted(volumes),
        plural("uses", "use", count),
        plural("restricted volume type", "restricted volume types", types.len()),
        quoted(types)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = &pod.spec()["securityContext"]["runAsNonRoot"];
    let own = |container: &'_ Value| container["securityContext"]["runAsNonRoot"].as_bool();
    let who = pod.those(|container| own(container) == Some(false));
    if let Some(setters) = setters(*of_pod == false, &who) {
        return violation(
            REASON,
            format!("{setters} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = pod.those(|container| own(container).is_none());
    if *of_pod == true || silent.is_empty() {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent));
    violation(REASON, detail)
}

fn run_as_root(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.those(|container| container["securityContext"]["runAsUser"] == 0);
    let setters = setters(pod.spec()["securityContext"]["runAsUser"] == 0, &who)?;
    violation("runAsUser=0", format!("{setters} must not set runAsUser=0"))
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(bad) = seccomp_if_set(pod, u32::MAX) {
        return Some(bad);
    }
    let silent = pod.those(|container| container["securityContext"]["seccompProfile"].is_null());
    if is_confined(&pod.spec()["securityContext"]["seccompProfile"]) || silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        named(&silent)
    );
    violation("seccompProfile", detail)
}
