//! Facts for the proxy out of the API's objects, and what is wrong with those. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};

use super::classes::{self, Claim, ClassFact};
use super::resolve::{ServiceFact, ServicePortFact, SliceFact};
use super::routes::{
    BackendFact, IngressFact, ObjectName, Options, PathFact, PathKind, Port, Protocol, RuleFact,
};
use super::tls::Certificates;
use super::tls::certificate::{self, SOON_DAYS, Unusable};
use crate::model::time::Timestamp;

/// Something about an Ingress that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    pub ingress: ObjectName,
    pub reason: &'static str,
    pub message: String,
}

pub fn class(class: &IngressClass) -> ClassFact {
    let says_default = class.metadata.annotations.as_ref().and_then(|annotations| {
        annotations.get(classes::DEFAULT_ANNOTATION).map(|value| value == "true")
    });
    ClassFact {
        name: class.metadata.name.clone().unwrap_or_default(),
        controller: class.spec.as_ref().and_then(|s| s.controller.clone()).unwrap_or_default(),
        is_default: says_default.unwrap_or(false),
        created: created(&class.metadata),
    }
}

/// Whose the Ingress is.
pub fn claim(ingress: &Ingress, classes: &[ClassFact]) -> Claim {
    let field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let old = annotation(ingress, classes::OLD_ANNOTATION);
    classes::claim(field.or(old), classes)
}

/// The Ingress in the proxy's words.
pub fn ingress(ingress: &Ingress) -> (IngressFact, Vec<Trouble>) {
    let mut troubles = Vec::new();
    let name = name(&ingress.metadata);
    let options = options(ingress, &name, &mut troubles);
    let spec = ingress.spec.as_ref();
    let mut backend = |backend: &IngressBackend| {
        let service = backend.service.as_ref();
        if service.is_none() {
            troubles.push(Trouble {
                ingress: name.clone(),
                reason: "BackendNotSupported",
                message: "a backend that is a resource is not served; name a Service".to_owned(),
            });
        }
        let service = service?;
        let port = service.port.as_ref()?;
        let port = match (&port.name, port.number) {
            (_, Some(number)) => Port::Number(u16::try_from(number).ok()?),
            (Some(name), None) => Port::Name(name.clone()),
            (None, None) => return None,
        };
        Some(BackendFact { service: service.name.clone(), port })
    };
    let rules = spec.and_then(|spec| spec.rules.as_ref()).into_iter().flatten().map(|rule| {
        let paths = rule.http.as_ref().map_or(&[][..], |http| &http.paths);
        RuleFact {
            host: rule.host.clone().unwrap_or_default(),
            paths: paths
                .iter()
                .filter_map(|path| {
                    Some(PathFact {
                        path: path.path.clone().unwrap_or_else(|| "/".to_owned()),
                        kind: match path.path_type.as_str() {
                            "Exact" => PathKind::Exact,
                            _ => PathKind::Prefix,
                        },
                        backend: backend(&path.backend)?,
                    })
                })
                .collect(),
        }
    });
    let rules = rules.collect();
    let default = spec.and_then(|spec| spec.default_backend.as_ref()).and_then(backend);
    let created = created(&ingress.metadata);
    (IngressFact { name, created, rules, default, options }, troubles)
}

fn options(ingress: &Ingress, name: &ObjectName, troubles: &mut Vec<Trouble>) -> Options {
    let mut options = Options::default();
    // The nginx controller's names are what people have in their manifests.
    let said = |ours: &'static str, theirs: &'static str| {
        [format!("joey.dev/{ours}"), format!("nginx.ingress.kubernetes.io/{theirs}")]
            .into_iter()
            .find_map(|key| annotation(ingress, &key).map(|value| (key, value.to_owned())))
    };
    let mut wrong = |key: &str, value: &str, wanted: &str| {
        troubles.push(Trouble {
            ingress: name.clone(),
            reason: "AnnotationNotUsed",
            message: format!("annotation {key}: {value:?} is not {wanted}"),
        });
    };
    const REDIRECTS: [&str; 3] = [
        "joey.dev/ssl-redirect",
        "nginx.ingress.kubernetes.io/ssl-redirect",
        "nginx.ingress.kubernetes.io/force-ssl-redirect",
    ];
    for key in REDIRECTS {
        match annotation(ingress, key) {
            Some("true") => options.redirect_to_https = true,
            Some("false") | None => {}
            Some(value) => wrong(key, value, "true or false"),
        }
    }
    match said("backend-protocol", "backend-protocol") {
        None => {}
        Some((key, value)) => match value.to_ascii_uppercase().as_str() {
            "HTTP" => options.protocol = Some(Protocol::Http1),
            "GRPC" | "H2C" => options.protocol = Some(Protocol::H2c),
            _ => wrong(&key, &value, "HTTP, H2C or GRPC"),
        },
    }
    for (ours, theirs, place) in [
        ("response-timeout", "proxy-read-timeout", &mut options.response_timeout),
        ("idle-timeout", "proxy-send-timeout", &mut options.idle_timeout),
    ] {
        match said(ours, theirs).map(|(key, value)| (seconds(&value), key, value)) {
            None => {}
            Some((Some(span), _, _)) => *place = span,
            Some((None, key, value)) => wrong(&key, &value, "1 to 86400 seconds"),
        }
    }
    options
}

fn seconds(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds: u64 = number.parse().ok()?;
    (1..=86_400).contains(&seconds).then(|| Duration::from_secs(seconds))
}

pub fn service(service: &Service) -> ServiceFact {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    ServiceFact {
        name: name(&service.metadata),
        ports: ports
            .filter_map(|port| {
                Some(ServicePortFact {
                    name: port.name.clone().unwrap_or_default(),
                    number: u16::try_from(port.port).ok()?,
                    is_tcp: port.protocol.as_deref().unwrap_or("TCP") == "TCP",
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect(),
        is_external_name: spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName"),
    }
}

/// `None` for a slice that belongs to no Service.
pub fn slice(slice: &EndpointSlice) -> Option<SliceFact> {
    const SERVICE: &str = "kubernetes.io/service-name";
    let service = slice.metadata.labels.as_ref()?.get(SERVICE)?;
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?))
    });
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        // `ready: nil` is to be read as true, says the API.
        conditions.and_then(|c| c.ready).unwrap_or(true)
            && !conditions.and_then(|c| c.terminating).unwrap_or(false)
    });
    Some(SliceFact {
        service: ObjectName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service),
        ports: ports.collect(),
        ready: ready
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|address| address.parse::<IpAddr>().ok())
            .collect(),
    })
}

/// What Ingresses want of Secrets, and get.
#[derive(Debug, Default)]
pub struct Served {
    /// By host.
    pub certificates: Certificates,
    /// What is wrong with the others.
    pub troubles: Vec<Trouble>,
    /// When time alone makes something else of it.
    pub until: Option<Timestamp>,
}

/// Certificates for these Ingresses, oldest first.
pub fn certificates(
    ingresses: &[Arc<Ingress>],
    secrets: &BTreeMap<ObjectName, Arc<Secret>>,
    now: Timestamp,
) -> Served {
    let mut by_age: Vec<&Arc<Ingress>> = ingresses.iter().collect();
    by_age.sort_by_key(|ingress| (created(&ingress.metadata), name(&ingress.metadata)));
    let Served { certificates: mut found, mut troubles, mut until } = Served::default();
    for ingress in by_age {
        let name = name(&ingress.metadata);
        let Some(spec) = &ingress.spec else { continue };
        for tls in spec.tls.iter().flatten() {
            let Some(secret_name) = tls.secret_name.as_ref().filter(|name| !name.is_empty()) else {
                continue;
            };
            let mut tell = |reason, message| {
                let ingress = name.clone();
                troubles.push(Trouble { ingress, reason, message });
            };
            let key = ObjectName::new(&name.namespace, secret_name);
            let turn = secrets.get(&key).and_then(|secret| {
                let data = secret.data.as_ref()?.get("tls.crt")?;
                certificate::next_turn(&data.0, now)
            });
            until = until.into_iter().chain(turn).min();
            let usable = match secrets.get(&key).map(|secret| read(secret, now)) {
                Some(Ok(usable)) => usable,
                Some(Err(unusable)) => {
                    let reason = match unusable {
                        Unusable::Expired(_) => "CertificateExpired",
                        _ => "CertificateInvalid",
                    };
                    tell(
                        reason,
                        format!(
                            "Secret {secret_name} {unusable}; a self-signed certificate is served"
                        ),
                    );
                    continue;
                }
                None => {
                    let text = "does not exist, or is not of type kubernetes.io/tls";
                    tell(
                        "CertificateMissing",
                        format!("Secret {secret_name} {text}; a self-signed certificate is served"),
                    );
                    continue;
                }
            };
            let days = usable.days_left(now);
            if days < SOON_DAYS {
                tell(
                    "CertificateExpiresSoon",
                    format!(
                        "the certificate in Secret {secret_name} expires on {}",
                        usable.expires.to_seconds_text()
                    ),
                );
            }
            let hosts: Vec<String> = match tls.hosts.as_deref() {
                Some(hosts) if !hosts.is_empty() => hosts.to_vec(),
                Some(_) | None => {
                    let rules = spec.rules.iter().flatten().filter_map(|rule| rule.host.clone());
                    let hosts: Vec<String> = rules.collect();
                    if hosts.is_empty() { usable.names.clone() } else { hosts }
                }
            };
            for host in hosts.iter().map(|host| host.to_ascii_lowercase()) {
                if !usable.covers(&host) {
                    tell(
                        "CertificateNotForHost",
                        format!(
                            "the certificate in Secret {secret_name} is for {}, not for {host}; \
                             a self-signed certificate is served",
                            usable.names.join(", ")
                        ),
                    );
                    continue;
                }
                found.entry(host).or_insert_with(|| Arc::clone(&usable.key));
            }
        }
    }
    Served { certificates: found, troubles, until }
}

fn read(secret: &Secret, now: Timestamp) -> Result<certificate::Usable, Unusable> {
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return Err(Unusable::WrongType);
    }
    let data = |key: &'static str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value.map(|bytes| &bytes.0[..]).ok_or(Unusable::Missing(key))
    };
    certificate::read(data("tls.crt")?, data("tls.key")?, now)
}

fn annotation<'a>(ingress: &'a Ingress, key: &str) -> Option<&'a str> {
    ingress.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

type Metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub fn name(metadata: &Metadata) -> ObjectName {
    ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn created(metadata: &Metadata) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(object: serde_json::Value, expected: Expect) {
        let object: Ingress = serde_json::from_value(object).unwrap();
        let (fact, troubles) = ingress(&object);
        let mut text = String::new();
        for rule in &fact.rules {
            for path in &rule.paths {
                let BackendFact { service, port } = &path.backend;
                text.push_str(&format!(
                    "{:?} {:?}{} → {service}:{port}\n",
                    path.kind, rule.host, path.path
                ));
            }
        }
        if let Some(BackendFact { service, port }) = &fact.default {
            text.push_str(&format!("default → {service}:{port}\n"));
        }
        if fact.options != Options::default() {
            text.push_str(&format!("{:?}\n", fact.options));
        }
        for trouble in troubles {
            text.push_str(&format!("{}: {}\n", trouble.reason, trouble.message));
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn the_storys_manifest() {
        check(
            json!({
                "metadata": {"name": "minimal-ingress", "namespace": "default"},
                "spec": {"ingressClassName": "kangaroo", "rules": [{"http": {"paths": [{
                    "path": "/api", "pathType": "Prefix",
                    "backend": {"service": {"name": "kangaroo-backend", "port": {"number": 8080}}}}]}}]}
            }),
            expect![[r#"
                Prefix ""/api → kangaroo-backend:8080
            "#]],
        );
    }

    #[test]
    fn everything_that_can_be_said() {
        check(
            json!({
                "metadata": {"name": "all", "namespace": "shop", "annotations": {
                    "joey.dev/ssl-redirect": "true", "joey.dev/response-timeout": "5s",
                    "nginx.ingress.kubernetes.io/backend-protocol": "GRPC",
                    "nginx.ingress.kubernetes.io/configuration-snippet": "return 200;"}},
                "spec": {
                    "defaultBackend": {"service": {"name": "rest", "port": {"name": "http"}}},
                    "rules": [
                        {"host": "a.example", "http": {"paths": [
                            {"path": "/x", "pathType": "Exact", "backend": {"service": {"name": "x", "port": {"number": 1}}}},
                            {"pathType": "ImplementationSpecific", "backend": {"service": {"name": "y", "port": {"number": 2}}}}]}},
                        {"host": "*.b.example"}]}
            }),
            expect![[r#"
                Exact "a.example"/x → x:1
                Prefix "a.example"/ → y:2
                default → rest:http
                Options { redirect_to_https: true, protocol: Some(H2c), response_timeout: 5s, idle_timeout: 600s }
            "#]],
        );
    }

    #[test]
    fn what_cannot_be_done_is_told() {
        check(
            json!({
                "metadata": {"name": "odd", "namespace": "shop", "annotations": {
                    "joey.dev/ssl-redirect": "maybe", "joey.dev/backend-protocol": "HTTPS",
                    "joey.dev/idle-timeout": "0"}},
                "spec": {"defaultBackend": {"resource": {"kind": "Bucket", "name": "b"}}}
            }),
            expect![[r#"
                AnnotationNotUsed: annotation joey.dev/ssl-redirect: "maybe" is not true or false
                AnnotationNotUsed: annotation joey.dev/backend-protocol: "HTTPS" is not HTTP, H2C or GRPC
                AnnotationNotUsed: annotation joey.dev/idle-timeout: "0" is not 1 to 86400 seconds
                BackendNotSupported: a backend that is a resource is not served; name a Service
            "#]],
        );
    }

    #[test]
    fn only_ready_endpoints_that_stay_are_asked() {
        let object: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": true, "terminating": true}}]
        }))
        .unwrap();
        let fact = slice(&object).unwrap();
        assert_eq!(fact.service, ObjectName::new("shop", "web"));
        assert_eq!(fact.ports, [("http".to_owned(), 8080)]);
        assert_eq!(fact.ready, ["10.0.0.1", "10.0.0.2"].map(|a| a.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn a_bad_certificate_touches_its_own_host_only() {
        let now = Timestamp::from_unix(1_800_000_000, 0);
        let pair = |host: &str| {
            let signed = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
            (signed.cert.pem(), signed.signing_key.serialize_pem())
        };
        let secret = |kind: &str, crt: &str, key: &str| {
            let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
            let data = [("tls.crt".to_owned(), bytes(crt)), ("tls.key".to_owned(), bytes(key))];
            Arc::new(Secret {
                type_: Some(kind.to_owned()),
                data: Some(data.into()),
                ..Secret::default()
            })
        };
        let (good, good_key) = pair("good.example");
        let (_, other_key) = pair("bad.example");
        let secrets: BTreeMap<ObjectName, Arc<Secret>> = [
            ("good", secret("kubernetes.io/tls", &good, &good_key)),
            ("bad", secret("kubernetes.io/tls", &good, &other_key)),
            ("opaque", secret("Opaque", &good, &good_key)),
        ]
        .map(|(name, secret)| (ObjectName::new("shop", name), secret))
        .into();
        let tls = |host: &str, secret: &str| json!({"hosts": [host], "secretName": secret});
        let object: Ingress = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"tls": [tls("good.example", "good"), tls("bad.example", "bad"), tls("o.example", "opaque"),
                tls("gone.example", "gone"), tls("other.example", "good")]}
        }))
        .unwrap();
        let Served { certificates: found, troubles, until } =
            certificates(&[Arc::new(object)], &secrets, now);
        // rcgen's own default: until the year 4096.
        assert!(until.is_some_and(|until| until > now));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["good.example"]);
        let told: Vec<(&str, &str)> =
            troubles.iter().map(|t| (t.reason, t.message.split(';').next().unwrap())).collect();
        assert_eq!(
            told,
            [
                ("CertificateInvalid", "Secret bad holds a key that is not the certificate's"),
                ("CertificateInvalid", "Secret opaque is not of type kubernetes.io/tls"),
                (
                    "CertificateMissing",
                    "Secret gone does not exist, or is not of type kubernetes.io/tls"
                ),
                (
                    "CertificateNotForHost",
                    "the certificate in Secret good is for good.example, not for other.example"
                ),
            ]
        );
    }
}
