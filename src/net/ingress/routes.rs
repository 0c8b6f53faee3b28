//! Which Service answers a request: Ingress rules compiled to a table that finds its route by hashing.
//!
//! It looks at names and paths only; whether a Service has pods is [`super::balance`]'s. Never does I/O.
//!
//! A request's host is looked for among exact hosts, then wildcard hosts (one label), then rules without a
//! host; in each an Exact path comes before the longest Prefix. What matches no rule goes to the default
//! backend of an Ingress that names the host, then to the oldest default backend of all.

mod facts;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use self::facts::{
    BackendFact, IngressFact, ObjectName, Options, PathFact, PathKind, Port, Protocol, RuleFact,
};
use super::path;

/// Where a request goes, and on whose word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub ingress: ObjectName,
    /// As a person would say it: `shop.example/api`, or `default backend`.
    pub rule: String,
    pub backend: BackendKey,
    pub redirect_to_https: bool,
    pub protocol: Option<Protocol>,
    pub response_timeout: Duration,
    pub idle_timeout: Duration,
}

/// A port of a Service, as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub service: ObjectName,
    pub port: Port,
}

/// An immutable set of routes; `R` is what a lookup yields.
#[derive(Debug, Clone)]
pub struct Table<R> {
    exact: HashMap<String, Host<R>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Host<R>>,
    any: Host<R>,
    default: Option<R>,
}

#[derive(Debug, Clone)]
struct Host<R> {
    exact: HashMap<String, R>,
    /// Without trailing slash; the root is the empty text.
    prefixes: HashMap<String, R>,
    /// Elements of the longest prefix: what is longer in a request need not be looked at.
    depth: usize,
    default: Option<R>,
}

impl<R> Default for Host<R> {
    fn default() -> Host<R> {
        Host { exact: HashMap::new(), prefixes: HashMap::new(), depth: 0, default: None }
    }
}

impl<R> Default for Table<R> {
    fn default() -> Table<R> {
        Table {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            any: Host::default(),
            default: None,
        }
    }
}

/// The table of these Ingresses, all of which are ours to serve. Where two say different things about the
/// same host and path, the oldest wins, then the first by namespace and name.
pub fn compile(ingresses: &[IngressFact]) -> Table<Arc<Route>> {
    let mut by_age: Vec<&IngressFact> = ingresses.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut table = Table::default();
    for ingress in by_age {
        let default = ingress
            .default
            .as_ref()
            .map(|backend| Arc::new(ingress.route("default backend".to_owned(), backend)));
        for rule in &ingress.rules {
            let host = table.host_entry(&rule.host);
            if host.default.is_none() && !rule.host.is_empty() {
                host.default.clone_from(&default);
            }
            for fact in &rule.paths {
                let route = ingress.route(format!("{}{}", rule.host, fact.path), &fact.backend);
                host.add(fact, Arc::new(route));
            }
        }
        if table.default.is_none() {
            table.default = default;
        }
    }
    table
}

impl<R> Table<R> {
    /// The route for a host (lower case, no port, no trailing dot) and a [normalized](path::normalize) path.
    pub fn find(&self, host: &str, path: &str) -> Option<&R> {
        let exact = self.exact.get(host);
        let wildcard = host.split_once('.').and_then(|(_label, parent)| self.wildcard.get(parent));
        let named = [exact, wildcard];
        let by_rule =
            named.iter().flatten().copied().chain([&self.any]).find_map(|host| host.find(path));
        by_rule
            .or_else(|| named.iter().flatten().find_map(|host| host.default.as_ref()))
            .or(self.default.as_ref())
    }

    /// Shows every route.
    pub fn each(&self, mut look: impl FnMut(&R)) {
        let hosts = self.exact.values().chain(self.wildcard.values()).chain([&self.any]);
        for host in hosts {
            let routes = host.exact.values().chain(host.prefixes.values());
            routes.chain(&host.default).for_each(&mut look);
        }
        self.default.iter().for_each(look);
    }

    /// The same table with other routes; called for every route once.
    pub fn map<S>(self, mut bind: impl FnMut(R) -> S) -> Table<S> {
        let mut hosts = |hosts: HashMap<String, Host<R>>| {
            hosts.into_iter().map(|(name, host)| (name, host.map(&mut bind))).collect()
        };
        let (exact, wildcard) = (hosts(self.exact), hosts(self.wildcard));
        Table {
            exact,
            wildcard,
            any: self.any.map(&mut bind),
            default: self.default.map(&mut bind),
        }
    }

    fn host_entry(&mut self, host: &str) -> &mut Host<R> {
        match (host, host.strip_prefix("*.")) {
            ("", _) => &mut self.any,
            (_, Some(parent)) => self.wildcard.entry(parent.to_ascii_lowercase()).or_default(),
            (_, None) => self.exact.entry(host.to_ascii_lowercase()).or_default(),
        }
    }
}

impl<R> Host<R> {
    fn add(&mut self, fact: &PathFact, route: R) {
        // Validation lets only absolute paths in; one without a meaning can match no request.
        let Ok(normal) = path::normalize(&fact.path) else { return };
        match fact.kind {
            PathKind::Exact => {
                self.exact.entry(normal).or_insert(route);
            }
            PathKind::Prefix => {
                let prefix = normal.trim_end_matches('/').to_owned();
                self.depth = self.depth.max(prefix.matches('/').count());
                self.prefixes.entry(prefix).or_insert(route);
            }
        }
    }

    fn find(&self, path: &str) -> Option<&R> {
        if let Some(route) = self.exact.get(path) {
            return Some(route);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        let path = path.trim_end_matches('/');
        // No longer than the longest prefix: the end of the element after its last, or of the path.
        let mut ends = path.match_indices('/').map(|(at, _)| at).skip(self.depth);
        let mut prefix = &path[..ends.next().unwrap_or(path.len())];
        loop {
            if let Some(route) = self.prefixes.get(prefix) {
                return Some(route);
            }
            prefix = &prefix[..prefix.rfind('/')?];
        }
    }

    fn map<S>(self, bind: &mut impl FnMut(R) -> S) -> Host<S> {
        let mut routes = |routes: HashMap<String, R>| {
            routes.into_iter().map(|(path, route)| (path, bind(route))).collect()
        };
        let (exact, prefixes) = (routes(self.exact), routes(self.prefixes));
        Host { exact, prefixes, depth: self.depth, default: self.default.map(bind) }
    }
}

impl IngressFact {
    fn route(&self, rule: String, backend: &BackendFact) -> Route {
        let service =
            ObjectName { namespace: self.name.namespace.clone(), name: backend.service.clone() };
        Route {
            ingress: self.name.clone(),
            rule,
            backend: BackendKey { service, port: backend.port.clone() },
            redirect_to_https: self.options.redirect_to_https,
            protocol: self.options.protocol,
            response_timeout: self.options.response_timeout,
            idle_timeout: self.options.idle_timeout,
        }
    }
}

/// The host of a request as the table knows it: lower case, without port and trailing dot.
pub fn plain_host(authority: &str) -> Cow<'_, str> {
    let host = match authority.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        Some(_) | None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

#[cfg(test)]
mod tests;
