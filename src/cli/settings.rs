//! What is in force: every setting with its value and where the value came from.
//!
//! Precedence: flag, then `JOEY_…` in the environment, then the configuration file, then the default.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

mod check;

use crate::model::cidr::Cidr;
use crate::net::ingress::AccessLog;

/// What a listener's setting says when there shall be none.
const OFF: &str = "off";

/// One setting: its flag (without dashes), which is also its key in the file; the environment variable
/// is `JOEY_` and the flag in upper case with underscores.
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub help: &'static str,
    /// Takes several values: a repeated flag, a comma-separated variable, a list in the file.
    pub many: bool,
    check: fn(&str) -> Result<(), String>,
}

/// Every setting, in the order in which `joey config` prints them.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "data-dir",
        default: "/var/lib/joey",
        help: "Directory of everything that outlives a reboot: store, images, certificates, volumes, logs",
        many: false,
        check: check::absolute,
    },
    Setting {
        name: "run-dir",
        default: "/run/joey",
        help: "Directory of everything that a reboot ends: sockets, namespaces, state of running pods",
        many: false,
        check: check::absolute,
    },
    Setting {
        name: "listen",
        default: "127.0.0.1:6443",
        help: "Address and port of the Kubernetes API",
        many: true,
        check: check::socket_address,
    },
    Setting {
        name: "manifests-dir",
        default: "/etc/joey/manifests",
        help: "Directory whose manifests are applied at start and whenever one changes; it may be absent",
        many: false,
        check: check::absolute,
    },
    Setting {
        name: "node-name",
        default: "",
        help: "Name of this host's Node object (default: the host name)",
        many: false,
        check: check::node_name,
    },
    Setting {
        name: "pod-cidr",
        default: "10.42.0.0/16",
        help: "Addresses of pods",
        many: false,
        check: check::cidr,
    },
    Setting {
        name: "service-cidr",
        default: "10.43.0.0/16",
        help: "Addresses of Services",
        many: false,
        check: check::cidr,
    },
    Setting {
        name: "cluster-domain",
        default: "cluster.local",
        help: "DNS domain of the cluster",
        many: false,
        check: check::domain,
    },
    Setting {
        name: "ready-when-listening",
        default: "true",
        help: "Whether a container that declares TCP ports and no readiness probe waits for them to be listened on",
        many: false,
        check: check::boolean,
    },
    Setting {
        name: "ingress-http",
        default: "0.0.0.0:80",
        help: "Where Ingresses are served over HTTP; off: nowhere",
        many: false,
        check: check::address_or_off,
    },
    Setting {
        name: "ingress-https",
        default: "0.0.0.0:443",
        help: "Where Ingresses are served over HTTPS; off: nowhere",
        many: false,
        check: check::address_or_off,
    },
    Setting {
        name: "ingress-trusted",
        default: "",
        help: "Addresses of proxies in front of the ingress, whose X-Forwarded headers are believed",
        many: true,
        check: check::cidr,
    },
    Setting {
        name: "ingress-requests-per-client",
        default: "1024",
        help: "Requests through the ingress that one address (IPv6: /64) may have under way",
        many: false,
        check: check::at_least_one,
    },
    Setting {
        name: "ingress-requests-per-pod",
        default: "4096",
        help: "Requests through the ingress that one pod may have under way, WebSockets included",
        many: false,
        check: check::at_least_one,
    },
    Setting {
        name: "ingress-access-log",
        default: "errors",
        help: "Which requests through the ingress are logged: off, errors or all",
        many: false,
        check: check::access_log,
    },
    Setting {
        name: "metrics-listen",
        default: "127.0.0.1:9464",
        help: "Where Prometheus finds the metrics; off: nowhere. Off the loopback: TLS and a token",
        many: false,
        check: check::address_or_off,
    },
    Setting {
        name: "plain-http-registry",
        default: "",
        help: "Registry host:port that is spoken to over plain HTTP",
        many: true,
        check: check::anything,
    },
    Setting {
        name: "registry-ca-file",
        default: "",
        help: "PEM file with certificate authorities of registries, beside the host's own",
        many: false,
        check: check::anything,
    },
    Setting {
        name: "log-level",
        default: "info",
        help: "error, warn, info, debug or trace",
        many: false,
        check: check::log_level,
    },
    Setting {
        name: "log-format",
        default: "auto",
        help: "auto (journal under systemd, else text), text or json",
        many: false,
        check: check::log_format,
    },
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment(String),
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// The values of all settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, (Vec<String>, Origin)>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// A setting that cannot be used; names the setting and where it stands.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{name} ({origin}): {reason}")]
    Value { name: String, origin: Origin, reason: String },
    #[error(
        "service-cidr ({services_from}): {services} overlaps pod-cidr {pods} ({pods_from}); \
         choose ranges without a common address with --service-cidr and --pod-cidr"
    )]
    Overlap { services: Cidr, services_from: Origin, pods: Cidr, pods_from: Origin },
    #[error("configuration file {path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error(
        "configuration file {path}: unknown key {key:?}; `joey config` lists every key that exists"
    )]
    UnknownKey { path: PathBuf, key: String },
}

/// The sources of settings before they are merged.
pub struct Sources<'a> {
    pub flags: BTreeMap<&'static str, Vec<String>>,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The file's path and text, when there is one.
    pub file: Option<(PathBuf, String)>,
}

pub const DEFAULT_FILE: &str = "/etc/joey/config.yaml";

impl Settings {
    /// Reads the environment and the file and merges them with what was typed.
    pub fn gather(typed: &super::args::SettingFlags) -> anyhow::Result<Settings> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = typed.config.clone().or_else(|| environment("JOEY_CONFIG").map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some((path, text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => None,
            Err(error) => {
                return Err(SettingsError::File { path, reason: error.to_string() }.into());
            }
        };
        Ok(Settings::merge(Sources { flags: typed.flags(), environment: &environment, file })?)
    }

    /// Names in the environment that look like those of settings and mean nothing: typing errors, most likely.
    pub fn unknown_variables() -> Vec<String> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        names.filter(|name| is_unknown(name)).collect()
    }

    /// Applies the precedence and checks every value.
    ///
    /// # Errors
    /// The first value that cannot be used, with its origin.
    pub fn merge(sources: Sources<'_>) -> Result<Settings, SettingsError> {
        let from_file = match &sources.file {
            Some((path, text)) => read_file(path, text)?,
            None => BTreeMap::new(),
        };
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let variable = variable_of(setting.name);
            let (value, origin) = if let Some(value) = sources.flags.get(setting.name) {
                (value.clone(), Origin::Flag)
            } else if let Some(text) = (sources.environment)(&variable) {
                let value = match setting.many {
                    true => text.split(',').map(|part| part.trim().to_owned()).collect(),
                    false => vec![text],
                };
                (value, Origin::Environment(variable))
            } else if let (Some(value), Some((path, _))) =
                (from_file.get(setting.name), &sources.file)
            {
                (value.clone(), Origin::File(path.clone()))
            } else if setting.default.is_empty() {
                (Vec::new(), Origin::Default)
            } else {
                (vec![setting.default.to_owned()], Origin::Default)
            };
            for one in &value {
                (setting.check)(one).map_err(|reason| SettingsError::Value {
                    name: setting.name.to_owned(),
                    origin: origin.clone(),
                    reason,
                })?;
            }
            values.insert(setting.name, (value, origin));
        }
        let settings = Settings { values, file: sources.file.map(|(path, _)| path) };
        settings.keep_ranges_apart()?;
        Ok(settings)
    }

    /// An address is a pod's or a Service's: rules and routes could not tell which.
    fn keep_ranges_apart(&self) -> Result<(), SettingsError> {
        let (pods, services) = (self.pod_cidr(), self.service_cidr());
        match pods.overlaps(services) {
            false => Ok(()),
            true => Err(SettingsError::Overlap {
                services,
                services_from: self.get("service-cidr").1.clone(),
                pods,
                pods_from: self.get("pod-cidr").1.clone(),
            }),
        }
    }

    /// All values of a setting and their origin.
    pub fn get(&self, name: &str) -> (&[String], &Origin) {
        let (values, origin) = self.values.get(name).expect("every name used is in SETTINGS");
        (values, origin)
    }

    fn one(&self, name: &str) -> &str {
        self.get(name).0.first().map_or("", String::as_str)
    }

    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.one("data-dir"))
    }

    pub fn run_dir(&self) -> PathBuf {
        PathBuf::from(self.one("run-dir"))
    }

    pub fn listen(&self) -> Vec<SocketAddr> {
        self.get("listen").0.iter().map(|text| text.parse().expect("checked in merge")).collect()
    }

    pub fn manifests_dir(&self) -> PathBuf {
        PathBuf::from(self.one("manifests-dir"))
    }

    /// `None`: the host name.
    pub fn node_name(&self) -> Option<&str> {
        Some(self.one("node-name")).filter(|name| !name.is_empty())
    }

    pub fn pod_cidr(&self) -> Cidr {
        self.one("pod-cidr").parse().expect("checked in merge")
    }

    pub fn service_cidr(&self) -> Cidr {
        self.one("service-cidr").parse().expect("checked in merge")
    }

    pub fn cluster_domain(&self) -> &str {
        self.one("cluster-domain")
    }

    pub fn ready_when_listening(&self) -> bool {
        self.one("ready-when-listening") == "true"
    }

    pub fn ingress_http(&self) -> Option<SocketAddr> {
        self.address_or_off("ingress-http")
    }

    pub fn ingress_https(&self) -> Option<SocketAddr> {
        self.address_or_off("ingress-https")
    }

    pub fn ingress_trusted(&self) -> Vec<Cidr> {
        let ranges = self.get("ingress-trusted").0.iter();
        ranges.map(|text| text.parse().expect("checked in merge")).collect()
    }

    pub fn ingress_requests_per_client(&self) -> usize {
        self.one("ingress-requests-per-client").parse().expect("checked in merge")
    }

    pub fn ingress_requests_per_pod(&self) -> usize {
        self.one("ingress-requests-per-pod").parse().expect("checked in merge")
    }

    pub fn ingress_access_log(&self) -> AccessLog {
        self.one("ingress-access-log").parse().expect("checked in merge")
    }

    pub fn metrics_listen(&self) -> Option<SocketAddr> {
        self.address_or_off("metrics-listen")
    }

    fn address_or_off(&self, name: &str) -> Option<SocketAddr> {
        match self.one(name) {
            OFF => None,
            text => Some(text.parse().expect("checked in merge")),
        }
    }

    pub fn plain_http_registries(&self) -> Vec<String> {
        self.get("plain-http-registry").0.to_vec()
    }

    pub fn registry_ca_file(&self) -> Option<PathBuf> {
        Some(self.one("registry-ca-file")).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub fn log_level(&self) -> &str {
        self.one("log-level")
    }

    pub fn log_format(&self) -> &str {
        self.one("log-format")
    }
}

/// `data-dir` → `JOEY_DATA_DIR`.
pub fn variable_of(name: &str) -> String {
    format!("JOEY_{}", name.to_uppercase().replace('-', "_"))
}

/// Variables of other things than settings.
const OTHER_VARIABLES: &[&str] = &["JOEY_CONFIG", "JOEY_KUBECTL", "JOEY_REGISTRY_CREDENTIALS"];

fn is_unknown(name: &str) -> bool {
    name.starts_with("JOEY_")
        && !OTHER_VARIABLES.contains(&name)
        && !SETTINGS.iter().any(|setting| variable_of(setting.name) == name)
}

fn read_file(
    path: &Path,
    text: &str,
) -> Result<BTreeMap<&'static str, Vec<String>>, SettingsError> {
    let broken = |reason: String| SettingsError::File { path: path.to_owned(), reason };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(BTreeMap::new());
    }
    let document: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| broken(error.to_string()))?;
    let keys = document
        .as_object()
        .ok_or_else(|| broken("it must hold a map of setting names to values".to_owned()))?;
    let mut values = BTreeMap::new();
    for (key, value) in keys {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == key)
            .ok_or_else(|| SettingsError::UnknownKey { path: path.to_owned(), key: key.clone() })?;
        let scalars = match value {
            serde_json::Value::Array(items) if setting.many => {
                items.iter().map(|item| scalar(setting, item)).collect()
            }
            other => scalar(setting, other).map(|text| vec![text]),
        };
        let texts: Option<Vec<String>> = scalars;
        values.insert(
            setting.name,
            texts.ok_or_else(|| SettingsError::Value {
                name: key.clone(),
                origin: Origin::File(path.to_owned()),
                reason: match setting.many {
                    true => "must be a text or a list of texts".to_owned(),
                    false => "must be one text".to_owned(),
                },
            })?,
        );
    }
    Ok(values)
}

/// The text of a scalar. YAML 1.1 has seven words for each boolean, `off` among them, which some settings take as such.
fn scalar(setting: &Setting, value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Bool(false) if (setting.check)(OFF).is_ok() => Some(OFF.to_owned()),
        serde_json::Value::Bool(value) => Some(value.to_string()),
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(
        flag: Option<&str>,
        variable: Option<&str>,
        file: Option<&str>,
    ) -> Result<Settings, String> {
        let variable = variable.map(str::to_owned);
        let flags = flag.map(|value| ("pod-cidr", vec![value.to_owned()])).into_iter().collect();
        Settings::merge(Sources {
            flags,
            environment: &|name| variable.clone().filter(|_| name == "JOEY_POD_CIDR"),
            file: file.map(|text| (PathBuf::from("/etc/joey/config.yaml"), text.to_owned())),
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_that_is_no_setting_is_found() {
        for (name, expected) in [
            ("JOEY_DATA_DIR", false),
            ("JOEY_INGRESS_HTTP", false),
            ("JOEY_CONFIG", false),
            ("JOEY_DATADIR", true),
            ("JOEY_data_dir", true),
            ("DATA_DIR", false),
        ] {
            assert_eq!(is_unknown(name), expected, "{name}");
        }
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let cases = [
            (
                Some("10.1.0.0/16"),
                Some("10.2.0.0/16"),
                Some("pod-cidr: 10.3.0.0/16"),
                "10.1.0.0/16",
                "flag",
            ),
            (
                None,
                Some("10.2.0.0/16"),
                Some("pod-cidr: 10.3.0.0/16"),
                "10.2.0.0/16",
                "environment JOEY_POD_CIDR",
            ),
            (
                None,
                None,
                Some("pod-cidr: 10.3.0.0/16"),
                "10.3.0.0/16",
                "file /etc/joey/config.yaml",
            ),
            (None, None, Some("# nothing\n"), "10.42.0.0/16", "default"),
            (None, None, None, "10.42.0.0/16", "default"),
        ];
        for (flag, variable, file, value, origin) in cases {
            let settings = merged(flag, variable, file).unwrap();
            assert_eq!(settings.pod_cidr().to_string(), value);
            assert_eq!(settings.get("pod-cidr").1.to_string(), origin);
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_origin() {
        let cases = [
            (
                Some("10.1.0.1/16"),
                None,
                "pod-cidr (flag): \"10.1.0.1/16\" must not have bits set beyond the prefix length",
            ),
            (
                None,
                Some("pod-cidr: [a]"),
                "pod-cidr (file /etc/joey/config.yaml): must be one text",
            ),
            (
                None,
                Some("pod-cidrs: 1"),
                "configuration file /etc/joey/config.yaml: unknown key \"pod-cidrs\"; `joey config` lists every key that exists",
            ),
            (
                None,
                Some("listen: nowhere"),
                "listen (file /etc/joey/config.yaml): \"nowhere\" is not ADDRESS:PORT, such as 127.0.0.1:6443 or [::1]:6443",
            ),
            (
                None,
                Some("data-dir: relative"),
                "data-dir (file /etc/joey/config.yaml): \"relative\" is not an absolute path without `..`",
            ),
            (
                None,
                Some("cluster-domain: A.b"),
                "cluster-domain (file /etc/joey/config.yaml): \"A.b\" is not a lowercase DNS domain",
            ),
        ];
        for (flag, file, message) in cases {
            assert_eq!(merged(flag, None, file).unwrap_err(), message);
        }
    }

    #[test]
    fn ranges_of_pods_and_services_have_no_common_address() {
        let overlap = |services: &str, pods: &str| {
            format!(
                "service-cidr {services} overlaps pod-cidr {pods}; \
                 choose ranges without a common address with --service-cidr and --pod-cidr"
            )
        };
        for (flag, file, refused) in [
            // Within, around, the same.
            (
                None,
                Some("service-cidr: 10.42.7.0/24"),
                Some(("(file /etc/joey/config.yaml): 10.42.7.0/24", "10.42.0.0/16 (default)")),
            ),
            (
                Some("10.43.128.0/17"),
                None,
                Some(("(default): 10.43.0.0/16", "10.43.128.0/17 (flag)")),
            ),
            (Some("10.0.0.0/8"), None, Some(("(default): 10.43.0.0/16", "10.0.0.0/8 (flag)"))),
            (Some("0.0.0.0/0"), None, Some(("(default): 10.43.0.0/16", "0.0.0.0/0 (flag)"))),
            (Some("10.43.0.0/16"), None, Some(("(default): 10.43.0.0/16", "10.43.0.0/16 (flag)"))),
            (Some("10.44.0.0/16"), Some("service-cidr: 10.45.0.0/16"), None),
            (Some("10.42.0.0/17"), Some("service-cidr: 10.42.128.0/17"), None),
        ] {
            let expected = refused.map(|(services, pods)| overlap(services, pods));
            assert_eq!(merged(flag, None, file).err(), expected);
        }
    }

    #[test]
    fn the_booleans_of_yaml_are_the_words_of_settings() {
        let file = "ready-when-listening: false\ningress-http: off\nmetrics-listen: false\n";
        let settings = merged(None, None, Some(file)).unwrap();
        assert_eq!(settings.one("ready-when-listening"), "false");
        assert_eq!(settings.one("ingress-http"), OFF);
        assert_eq!(settings.one("metrics-listen"), OFF);
        let settings = merged(None, None, Some("ready-when-listening: yes")).unwrap();
        assert_eq!(settings.one("ready-when-listening"), "true");
        assert!(merged(None, None, Some("ingress-http: on")).is_err());
    }

    #[test]
    fn a_list_may_be_a_list_or_one_text() {
        let listed = merged(None, None, Some("listen: ['127.0.0.1:1', '[::1]:2']")).unwrap();
        assert_eq!(listed.listen().len(), 2);
        assert_eq!(merged(None, None, Some("listen: 127.0.0.1:1")).unwrap().listen().len(), 1);
    }
}
