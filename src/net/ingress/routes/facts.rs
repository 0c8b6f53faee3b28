//! What the route table is compiled from: Ingresses in the proxy's own words.
//!
//! [`super::super::observe`] makes them from the API's objects; nothing here decides.

use std::fmt;
use std::time::Duration;

/// A namespaced object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(namespace: &str, name: &str) -> ObjectName {
        ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An Ingress that is ours to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressFact {
    pub name: ObjectName,
    /// Seconds since 1970.
    pub created: i64,
    pub rules: Vec<RuleFact>,
    pub default: Option<BackendFact>,
    pub options: Options,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFact {
    /// Empty: every host. `*.example.com`: one label before it.
    pub host: String,
    pub paths: Vec<PathFact>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathFact {
    pub path: String,
    pub kind: PathKind,
    pub backend: BackendFact,
}

/// `ImplementationSpecific` is a Prefix here, as in most controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    Exact,
    /// Element-wise: `/foo` is `/foo`, `/foo/` and `/foo/bar`, not `/foobar`.
    Prefix,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendFact {
    pub service: String,
    pub port: Port,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    Number(u16),
    Name(String),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Number(number) => number.fmt(f),
            Port::Name(name) => name.fmt(f),
        }
    }
}

/// What is spoken to the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2 without TLS, prior knowledge (KEP-3726 `kubernetes.io/h2c`); what gRPC needs.
    H2c,
}

/// What annotations can say about an Ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub redirect_to_https: bool,
    /// `None`: as the Service's `appProtocol` says.
    pub protocol: Option<Protocol>,
    /// From the whole request sent to the head of the answer.
    pub response_timeout: Duration,
    /// Silence in a body or in a tunnel.
    pub idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            redirect_to_https: false,
            protocol: None,
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(600),
        }
    }
}
