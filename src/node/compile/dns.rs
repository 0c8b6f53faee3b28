//! A pod's resolv.conf from `dnsPolicy`, `dnsConfig`, the cluster's DNS and the host's resolvers (S37).
//!
//! Pure: the host's files are read by whoever asks.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

/// What the host resolves by, as texts of its files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostDns {
    /// /etc/resolv.conf.
    pub resolv_conf: String,
    /// /run/systemd/resolve/resolv.conf: the upstreams behind the stub at 127.0.0.53.
    pub stub_upstreams: Option<String>,
}

/// The cluster's own DNS.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterDns {
    pub server: Option<IpAddr>,
    pub domain: String,
}

/// A rendered file and what is to be told about it in a DNSConfigForming Event.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvConf {
    pub text: String,
    pub warnings: Vec<String>,
}

/// resolv.conf(5) and glibc: three servers, and Kubernetes' own bounds of 32 domains and 2048 characters.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

#[derive(Debug, Clone, Default, PartialEq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The file of one pod.
pub(super) fn resolv_conf(pod: &core::Pod, cluster: &ClusterDns, host: &HostDns) -> ResolvConf {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut warnings = Vec::new();
    let wants_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network,
        _ => false,
    };
    let mut resolver = match (policy, cluster.server) {
        ("None", _) => Resolver::default(),
        (_, Some(server)) if wants_cluster => {
            let own = host_resolver(host, host_network, &mut Vec::new());
            let domain = &cluster.domain;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(own.searches);
            Resolver {
                servers: vec![server.to_string()],
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => host_resolver(host, host_network, &mut warnings),
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        merge(&mut resolver, config);
    }
    dedup(&mut resolver.servers);
    dedup(&mut resolver.searches);
    limit(&mut resolver, &mut warnings);
    ResolvConf { text: render(&resolver), warnings }
}

/// The host's resolvers as a pod can use them: loopback ones answer only on the host.
fn host_resolver(host: &HostDns, host_network: bool, warnings: &mut Vec<String>) -> Resolver {
    let mut own = parse(&host.resolv_conf);
    let is_loopback =
        |server: &String| server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if host_network || !own.servers.iter().any(is_loopback) {
        return own;
    }
    own.servers.retain(|server| !is_loopback(server));
    if own.servers.is_empty()
        && let Some(text) = &host.stub_upstreams
    {
        own.servers = parse(text).servers;
        own.servers.retain(|server| !is_loopback(server));
    }
    if own.servers.is_empty() {
        warnings.push(
            "the host resolves names through a loopback address only and names no upstreams, so this pod has \
             no name server"
                .into(),
        );
    }
    own
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
            // The last one counts.
            Some("search" | "domain") => {
                resolver.searches = words
                    .map(|word| if word == "." { word } else { word.trim_end_matches('.') })
                    .map(str::to_owned)
                    .collect();
            }
            Some("options") => resolver.options.extend(words.map(str::to_owned)),
            Some(_) | None => {}
        }
    }
    resolver
}

fn merge(resolver: &mut Resolver, config: &core::PodDNSConfig) {
    resolver.servers.extend(config.nameservers.iter().flatten().cloned());
    resolver.searches.extend(config.searches.iter().flatten().cloned());
    for option in config.options.iter().flatten() {
        let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else {
            continue;
        };
        resolver.options.retain(|held| held.split(':').next() != Some(name));
        resolver.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn limit(resolver: &mut Resolver, warnings: &mut Vec<String>) {
    if resolver.servers.len() > MAX_SERVERS {
        resolver.servers.truncate(MAX_SERVERS);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line \
             is: {}",
            resolver.servers.join(" ")
        ));
    }
    let before = resolver.searches.len();
    resolver.searches.truncate(MAX_SEARCHES);
    while resolver.searches.join(" ").chars().count() > MAX_SEARCH_CHARACTERS {
        resolver.searches.pop();
    }
    if resolver.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line \
             is: {}",
            resolver.searches.join(" ")
        ));
    }
}

fn render(resolver: &Resolver) -> String {
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        text.push_str(&format!("search {}\n", resolver.searches.join(" ")));
    }
    for server in &resolver.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !resolver.options.is_empty() {
        text.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    text
}
