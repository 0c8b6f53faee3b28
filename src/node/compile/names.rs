//! How a pod is called inside: its host name, /etc/hostname and /etc/hosts (S37).
//!
//! Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::Refusal;

/// Linux' HOST_NAME_MAX; also a DNS label's.
const LABEL_MAX: usize = 63;

/// The host name of a pod and, with a subdomain, its full name.
#[derive(Debug, Clone, PartialEq)]
pub struct Names {
    pub hostname: String,
    /// `hostname.subdomain.namespace.svc.domain`.
    pub full: Option<String>,
}

/// `hostnameOverride`, `hostname`, or the pod's name cut to 63; the full name on request.
pub(super) fn names(
    pod: &core::Pod,
    cluster_domain: &str,
    node_name: &str,
) -> Result<Names, Refusal> {
    let spec = pod.spec.as_ref();
    let given = |text: Option<&String>| text.filter(|t| !t.is_empty()).cloned();
    if spec.and_then(|s| s.host_network).unwrap_or(false) {
        // The UTS namespace is still the pod's own, but it is to look like the host.
        return Ok(Names { hostname: cut(node_name), full: None });
    }
    if let Some(name) = given(spec.and_then(|s| s.hostname_override.as_ref())) {
        return Ok(Names { hostname: name, full: None });
    }
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let hostname = given(spec.and_then(|s| s.hostname.as_ref())).unwrap_or_else(|| cut(own));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = given(spec.and_then(|s| s.subdomain.as_ref()))
        .map(|subdomain| format!("{hostname}.{subdomain}.{namespace}.svc.{cluster_domain}"));
    if spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false)
        && let Some(full) = &full
    {
        if full.len() > LABEL_MAX {
            return Err(Refusal::config(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 \
                 characters is the max, {} characters requested)",
                full.len()
            )));
        }
        return Ok(Names { hostname: full.clone(), full: Some(full.clone()) });
    }
    Ok(Names { hostname, full })
}

fn cut(name: &str) -> String {
    let end = name.len().min(LABEL_MAX);
    name.get(..end).unwrap_or(name).trim_end_matches(['-', '.']).to_owned()
}

/// The pod's /etc/hosts; a pod in the host's network gets the host's own file with its aliases.
pub(super) fn hosts(
    pod: &core::Pod,
    names: &Names,
    address: Option<IpAddr>,
    host_file: &str,
) -> String {
    let spec = pod.spec.as_ref();
    let mut text = if spec.and_then(|s| s.host_network).unwrap_or(false) {
        let newline = if host_file.is_empty() || host_file.ends_with('\n') { "" } else { "\n" };
        format!("# The host's own /etc/hosts.\n{host_file}{newline}")
    } else {
        let mut text = String::from(
            "# Written for this pod.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        if let Some(address) = address {
            let label = names.hostname.split('.').next().unwrap_or_default();
            match &names.full {
                Some(full) => text.push_str(&format!("{address}\t{full}\t{label}\n")),
                None => text.push_str(&format!("{address}\t{}\n", names.hostname)),
            }
        }
        text
    };
    let aliases = spec.into_iter().flat_map(|s| s.host_aliases.iter().flatten());
    let mut first = true;
    for alias in aliases {
        if first {
            text.push_str("\n# Entries added by HostAliases.\n");
            first = false;
        }
        let hostnames = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
        text.push_str(&format!("{}\t{hostnames}\n", alias.ip));
    }
    text
}
